//! The input: which files, in which pieces, and what a word is.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use super::Problem;

/// Text of one message, in bytes, unless a single word is longer.
const PIECE_BYTES: usize = 32 * 1024;
/// Longest word, in bytes: it has to fit into memory.
const WORD_BYTES_MAX: usize = 16 * 1024 * 1024;
/// A file with a zero byte among its first bytes is not text.
const PROBE_BYTES: u64 = 8 * 1024;
/// Directories of the default input that are made, not written.
const NOT_SOURCES: [&str; 2] = ["target", ".git"];

/// How often each word occurs.
pub(crate) type Counts = HashMap<String, u64>;

/// Adds the words of `text` to `counts` and returns how many there were.
///
/// A word is a maximal run of alphanumeric characters, lower-cased. Bytes that are not UTF-8 separate words.
pub(crate) fn count_words(text: &[u8], counts: &mut Counts) -> u64 {
    let text = String::from_utf8_lossy(text);
    let mut words = 0_u64;
    let mut lower = String::new();
    for word in text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()) {
        lower.clear();
        if word.is_ascii() {
            lower.push_str(word);
            lower.make_ascii_lowercase();
        } else {
            lower = word.to_lowercase();
        }
        words += 1;
        match counts.get_mut(&lower) {
            Some(count) => *count += 1,
            None => drop(counts.insert(lower.clone(), 1)),
        }
    }
    words
}

/// Counts all the input on this thread, line by line: what the workers' sum must be equal to. A whole line is held in
/// memory.
pub(crate) fn count_alone(input: &Input) -> Result<(u64, Counts), Problem> {
    let mut counts = Counts::new();
    let mut words = 0;
    let mut line = Vec::new();
    for path in input.files() {
        let path = path?;
        let named = |error: io::Error| format!("{}: {error}", path.display());
        let mut reader = BufReader::new(File::open(&path).map_err(named)?);
        while reader.read_until(b'\n', &mut line).map_err(named)? > 0 {
            words += count_words(&line, &mut counts);
            line.clear();
        }
    }
    Ok((words, counts))
}

/// What is counted.
#[derive(Clone, Debug)]
pub(crate) struct Input {
    paths: Vec<PathBuf>,
    skipped_directories: &'static [&'static str],
}

impl Input {
    /// The files and directories named, or the repository's own text without any.
    pub(crate) fn new(paths: Vec<PathBuf>) -> Self {
        if !paths.is_empty() {
            return Self { paths, skipped_directories: &[] };
        }
        // Cargo tells where the repository is; a program that was started otherwise takes the current directory.
        let root = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| ".".into());
        Self { paths: vec![root.into()], skipped_directories: &NOT_SOURCES }
    }

    /// Its files: those named, and all text files below the directories named. Symbolic links are not followed.
    pub(crate) fn files(&self) -> Files {
        let mut open: Vec<_> = self.paths.iter().map(|path| (path.clone(), true)).collect();
        open.reverse();
        Files { open, skipped_directories: self.skipped_directories }
    }
}

/// Walks through directories, depth first, in the order of names.
pub(crate) struct Files {
    /// Paths to look at, the next one last, and whether the user named them.
    open: Vec<(PathBuf, bool)>,
    skipped_directories: &'static [&'static str],
}

impl Iterator for Files {
    type Item = Result<PathBuf, Problem>;

    fn next(&mut self) -> Option<Self::Item> {
        while let Some((path, named)) = self.open.pop() {
            match self.look_at(&path, named) {
                Ok(true) => return Some(Ok(path)),
                Ok(false) => {}
                Err(error) => return Some(Err(format!("{}: {error}", path.display()).into())),
            }
        }
        None
    }
}

impl Files {
    /// Whether the path is a file to count. A directory's entries are put on the list.
    fn look_at(&mut self, path: &Path, named: bool) -> io::Result<bool> {
        let metadata = if named { fs::metadata(path)? } else { fs::symlink_metadata(path)? };
        if metadata.is_dir() {
            let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
            if named || !self.skipped_directories.contains(&name) {
                let entries = fs::read_dir(path)?.map(|entry| Ok(entry?.path()));
                let mut entries = entries.collect::<io::Result<Vec<_>>>()?;
                entries.sort_unstable_by(|a, b| b.cmp(a));
                self.open.extend(entries.into_iter().map(|entry| (entry, false)));
            }
            return Ok(false);
        }
        Ok(named || metadata.is_file() && is_text(path)?)
    }
}

fn is_text(path: &Path) -> io::Result<bool> {
    let mut probe = Vec::new();
    File::open(path)?.take(PROBE_BYTES).read_to_end(&mut probe)?;
    Ok(!probe.contains(&0))
}

/// A part of a file that cuts no word: whole lines, or a part of a long one.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) text: Vec<u8>,
    /// Lines that begin in this piece.
    pub(crate) lines: u64,
}

/// Cuts a stream of bytes into pieces.
pub(crate) struct Pieces<R> {
    reader: R,
    buffer: Vec<u8>,
    at_line_start: bool,
}

impl Pieces<File> {
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self::new(File::open(path)?))
    }
}

impl<R: Read> Pieces<R> {
    pub(crate) fn new(reader: R) -> Self {
        Self { reader, buffer: Vec::new(), at_line_start: true }
    }

    /// The next piece; `None` at the end.
    pub(crate) fn next_piece(&mut self) -> io::Result<Option<Piece>> {
        let mut wanted = PIECE_BYTES;
        loop {
            let room = wanted.saturating_sub(self.buffer.len()) as u64;
            (&mut self.reader).take(room).read_to_end(&mut self.buffer)?;
            if self.buffer.len() < wanted {
                let text = std::mem::take(&mut self.buffer);
                return Ok((!text.is_empty()).then(|| self.piece(text)));
            }
            if let Some(end) = last_boundary(&self.buffer) {
                let rest = self.buffer.split_off(end);
                let text = std::mem::replace(&mut self.buffer, rest);
                return Ok(Some(self.piece(text)));
            }
            if wanted >= WORD_BYTES_MAX {
                let text = format!("a word longer than {WORD_BYTES_MAX} bytes");
                return Err(io::Error::new(io::ErrorKind::InvalidData, text));
            }
            wanted *= 2;
        }
    }

    fn piece(&mut self, text: Vec<u8>) -> Piece {
        let newlines = text.iter().filter(|&&byte| byte == b'\n').count() as u64;
        let ends_line = text.last() == Some(&b'\n');
        let lines = u64::from(self.at_line_start) + newlines - u64::from(ends_line);
        self.at_line_start = ends_line;
        Piece { text, lines }
    }
}

/// Where to cut so that no word and no character is cut: after the last line, or else after the last
/// character that is part of no word.
fn last_boundary(text: &[u8]) -> Option<usize> {
    let separates = |byte: &u8| byte.is_ascii() && !byte.is_ascii_alphanumeric();
    let line = text.iter().rposition(|&byte| byte == b'\n');
    let ascii = || text.iter().rposition(separates);
    if let Some(last) = line.or_else(ascii) {
        return Some(last + 1);
    }
    let mut boundary = None;
    let mut at = 0;
    for chunk in text.utf8_chunks() {
        let valid = chunk.valid();
        let last = valid.char_indices().rfind(|(_, c)| !c.is_alphanumeric());
        boundary = last.map(|(index, c)| at + index + c.len_utf8()).or(boundary);
        at += valid.len() + chunk.invalid().len();
    }
    boundary
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces_of(text: &[u8]) -> Vec<Piece> {
        let mut pieces = Pieces::new(text);
        std::iter::from_fn(|| pieces.next_piece().unwrap()).collect()
    }

    /// Pieces put together are the text, no piece cuts a word, and lines are counted once.
    fn check_pieces(text: &[u8]) -> usize {
        let pieces = pieces_of(text);
        let joined: Vec<u8> = pieces.iter().flat_map(|piece| piece.text.clone()).collect();
        assert!(joined == text);
        let lines: u64 = pieces.iter().map(|piece| piece.lines).sum();
        let separators = text.iter().filter(|&&byte| byte == b'\n').count() as u64;
        assert_eq!(lines, separators + u64::from(!text.is_empty() && !text.ends_with(b"\n")));
        let (mut whole, mut parts) = (Counts::new(), Counts::new());
        count_words(text, &mut whole);
        let words: u64 = pieces.iter().map(|piece| count_words(&piece.text, &mut parts)).sum();
        assert_eq!(words, parts.values().sum::<u64>());
        assert!(whole == parts);
        pieces.len()
    }

    #[test]
    fn a_word_is_a_lower_cased_run_of_alphanumeric_characters() {
        let mut counts = Counts::new();
        let words = count_words("Na\u{ef}ve NA\u{cf}VE x2,x2\u{2014}don't".as_bytes(), &mut counts);
        assert_eq!(words, 6);
        let expected = [("na\u{ef}ve", 2), ("x2", 2), ("don", 1), ("t", 1)];
        assert_eq!(counts, expected.map(|(word, n)| (word.to_owned(), n)).into());
    }

    #[test]
    fn bytes_that_are_not_utf_8_separate_words() {
        let mut counts = Counts::new();
        assert_eq!(count_words(b"one\xFFtwo\xC3", &mut counts), 2);
    }

    #[test]
    fn short_lines_are_gathered_and_never_cut() {
        let text = "the quick brown fox\n".repeat(10_000);
        assert!(check_pieces(text.as_bytes()) > 5);
        assert!(pieces_of(text.as_bytes()).iter().all(|piece| piece.text.ends_with(b"fox\n")));
    }

    #[test]
    fn a_long_line_is_cut_between_words() {
        assert!(check_pieces("lorem ipsum ".repeat(10_000).as_bytes()) > 3);
        assert_eq!(check_pieces(b"no newline at the end"), 1);
        assert_eq!(check_pieces(b""), 0);
    }

    #[test]
    fn text_without_ascii_separators_is_cut_at_its_own() {
        let text = "\u{6f22}\u{5b57}\u{3002}".repeat(20_000);
        assert!(check_pieces(text.as_bytes()) > 3);
    }

    #[test]
    fn a_word_longer_than_a_piece_stays_whole() {
        let word = "w".repeat(5 * PIECE_BYTES);
        assert!(check_pieces(format!("a b {word} c").as_bytes()) >= 1);
    }

    #[test]
    fn an_endless_word_is_an_error_and_does_not_fill_the_memory() {
        let mut pieces = Pieces::new(io::repeat(b'w'));
        assert_eq!(pieces.next_piece().unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
