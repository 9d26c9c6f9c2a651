//! Kafka's checkpoint files: a version line, a line with the number of entries, a line per entry.

use std::fmt::Write;

use super::error::{Fault, Field, FormatError};
use super::names::{PARTITION_MAX, is_valid_topic};

/// The version that all of them have.
const VERSION: i64 = 0;

/// An entry of `recovery-point-offset-checkpoint`, `log-start-offset-checkpoint` or `cleaner-offset-checkpoint`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PartitionOffset {
    /// The topic's name.
    pub topic: String,
    /// The partition's number.
    pub partition: u32,
    /// An offset, not negative.
    pub offset: i64,
}

/// An entry of `leader-epoch-checkpoint`: since when a writer appends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EpochStart {
    /// The leader epoch, not negative.
    pub epoch: i32,
    /// First offset that was appended in it, not negative.
    pub start_offset: i64,
}

/// The text of a file of partition offsets.
///
/// # Errors
/// `Malformed` topic, `Invalid` partition or offset of an entry that [`decode_offsets`] would refuse; its position is the
/// entry's number, from 0.
pub fn encode_offsets(entries: &[PartitionOffset]) -> Result<String, FormatError> {
    let mut text = head(entries.len());
    for (n, PartitionOffset { topic, partition, offset }) in entries.iter().enumerate() {
        if !is_valid_topic(topic) {
            return Err(malformed(Field::Topic, n));
        }
        at_most(Field::Partition, n, i64::from(*partition), PARTITION_MAX.into())?;
        at_most(Field::Offset, n, *offset, i64::MAX)?;
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{topic} {partition} {offset}");
    }
    Ok(text)
}

/// Reads a file of partition offsets, the whole of it.
///
/// # Errors
/// A version other than 0, a count that differs from the lines, a line that is not exactly `topic partition offset`.
pub fn decode_offsets(text: &[u8]) -> Result<Vec<PartitionOffset>, FormatError> {
    decode(text, |line| {
        let start = line.position;
        let topic = line.word(Field::Topic)?;
        if !is_valid_topic(topic) {
            return Err(malformed(Field::Topic, start));
        }
        let partition = line.number(Field::Partition, PARTITION_MAX.into())? as u32;
        let offset = line.number(Field::Offset, i64::MAX)?;
        Ok(PartitionOffset { topic: topic.to_owned(), partition, offset })
    })
}

/// The text of a file of leader epochs.
///
/// # Errors
/// `Invalid` epoch or offset if it is negative or does not rise from entry to entry (offsets may stay); the position is the
/// entry's number, from 0.
pub fn encode_epochs(entries: &[EpochStart]) -> Result<String, FormatError> {
    let mut text = head(entries.len());
    let mut before = None;
    for (n, entry) in entries.iter().enumerate() {
        at_most(Field::Epoch, n, entry.epoch.into(), i32::MAX.into())?;
        at_most(Field::Offset, n, entry.start_offset, i64::MAX)?;
        rises(before, *entry, n)?;
        before = Some(*entry);
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{} {}", entry.epoch, entry.start_offset);
    }
    Ok(text)
}

/// Reads a file of leader epochs, the whole of it.
///
/// # Errors
/// A version other than 0, a count that differs from the lines, a line that is not exactly `epoch offset`, epochs that do
/// not rise, offsets that fall.
pub fn decode_epochs(text: &[u8]) -> Result<Vec<EpochStart>, FormatError> {
    let mut before = None;
    decode(text, |line| {
        let start = line.position;
        let epoch = line.number(Field::Epoch, i32::MAX.into())? as i32;
        let start_offset = line.number(Field::Offset, i64::MAX)?;
        let entry = EpochStart { epoch, start_offset };
        rises(before, entry, start)?;
        before = Some(entry);
        Ok(entry)
    })
}

fn rises(before: Option<EpochStart>, entry: EpochStart, at: usize) -> Result<(), FormatError> {
    let Some(before) = before else { return Ok(()) };
    if entry.epoch <= before.epoch {
        let fault = Fault::Invalid { found: entry.epoch.into() };
        return Err(FormatError::new(Field::Epoch, at, fault));
    }
    if entry.start_offset < before.start_offset {
        let fault = Fault::Invalid { found: entry.start_offset };
        return Err(FormatError::new(Field::Offset, at, fault));
    }
    Ok(())
}

fn head(count: usize) -> String {
    format!("{VERSION}\n{count}\n")
}

fn at_most(field: Field, position: usize, value: i64, max: i64) -> Result<(), FormatError> {
    if (0..=max).contains(&value) {
        return Ok(());
    }
    Err(FormatError::new(field, position, Fault::Invalid { found: value }))
}

/// Reads version, count and lines. Allocates by the lines that are there, whatever the count says.
fn decode<T>(
    text: &[u8],
    mut entry: impl FnMut(&mut Line<'_>) -> Result<T, FormatError>,
) -> Result<Vec<T>, FormatError> {
    let text = std::str::from_utf8(text)
        .map_err(|error| FormatError::new(Field::File, error.valid_up_to(), Fault::NotUtf8))?;
    let mut lines = Lines { text, position: 0 };
    let version = lines.only_number(Field::Version)?;
    if version != VERSION {
        let fault = Fault::Invalid { found: version };
        return Err(FormatError::new(Field::Version, 0, fault));
    }
    let count_at = lines.position;
    let count = lines.only_number(Field::EntryCount)?;
    let mut entries = Vec::new();
    while lines.position < text.len() {
        let mut line = lines.next(Field::File)?;
        entries.push(entry(&mut line)?);
        line.end()?;
    }
    let expected = entries.len() as i64;
    if count != expected {
        let fault = Fault::Mismatch { expected, found: count };
        return Err(FormatError::new(Field::EntryCount, count_at, fault));
    }
    Ok(entries)
}

/// Cuts a text into lines, each of which must end with a line feed.
#[derive(Debug)]
struct Lines<'a> {
    text: &'a str,
    position: usize,
}

impl<'a> Lines<'a> {
    fn next(&mut self, field: Field) -> Result<Line<'a>, FormatError> {
        let rest = self.text.get(self.position..).unwrap_or_default();
        let Some((line, _)) = rest.split_once('\n') else {
            let available = rest.len() as u64;
            let fault = Fault::Truncated { needed: available + 1, available };
            return Err(FormatError::new(field, self.position, fault));
        };
        let position = self.position;
        self.position += line.len() + 1;
        Ok(Line { rest: Some(line), position })
    }

    /// A line that is one number.
    fn only_number(&mut self, field: Field) -> Result<i64, FormatError> {
        let mut line = self.next(field)?;
        let number = line.number(field, i64::MAX)?;
        line.end()?;
        Ok(number)
    }
}

/// The words of one line, one space between them.
#[derive(Debug)]
struct Line<'a> {
    /// What follows the words that were taken; `None` after the last.
    rest: Option<&'a str>,
    /// Where `rest` begins in the file.
    position: usize,
}

impl<'a> Line<'a> {
    fn word(&mut self, field: Field) -> Result<&'a str, FormatError> {
        let rest = self.rest.ok_or_else(|| malformed(field, self.position))?;
        let (word, after) = match rest.split_once(' ') {
            Some((word, after)) => (word, Some(after)),
            None => (rest, None),
        };
        if word.is_empty() {
            return Err(malformed(field, self.position));
        }
        self.rest = after;
        self.position += word.len() + 1;
        Ok(word)
    }

    /// A decimal number from 0 to `max`, without sign or leading zeros.
    fn number(&mut self, field: Field, max: i64) -> Result<i64, FormatError> {
        let start = self.position;
        let word = self.word(field)?;
        let digits = word.bytes().all(|byte| byte.is_ascii_digit());
        let canonical = word == "0" || !word.starts_with('0');
        let number = word.parse().ok().filter(|_| digits && canonical);
        number.filter(|number| *number <= max).ok_or_else(|| malformed(field, start))
    }

    fn end(&self) -> Result<(), FormatError> {
        match self.rest {
            None => Ok(()),
            Some(_) => Err(malformed(Field::File, self.position)),
        }
    }
}

fn malformed(field: Field, position: usize) -> FormatError {
    FormatError::new(field, position, Fault::Malformed)
}

#[cfg(test)]
mod tests;
