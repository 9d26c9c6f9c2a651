//! `log describe`, `log verify`, `log salvage` and `log dump`: what is in a log's directory.

use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::process::ExitCode;

use peermq::log::Log;
use peermq::log::inspect::{DumpError, Inspector, Progress as Seen};

use crate::{Outcome, Progress};

/// A line of progress.
fn seen(seen: &Seen<'_>) -> String {
    let mega = |bytes: u64| bytes / 1_000_000;
    let (topic, partition) = (seen.topic, seen.partition);
    format!("{topic}-{partition}: {} of {} MB", mega(seen.bytes), mega(seen.bytes_total))
}

/// Prints every topic with its options and partitions.
pub(crate) fn describe(directory: &Path) -> Outcome {
    let log = Log::read_only(directory)?;
    let mut out = BufWriter::new(io::stdout().lock());
    for name in log.topics() {
        let topic = log.topic(&name)?.describe();
        let options = &topic.options;
        write!(
            out,
            "topic {name} id {} partitions {} level {} codec {}",
            topic.id,
            options.partitions,
            options.level.name(),
            options.codec,
        )?;
        if let Some(bytes) = options.retention_bytes {
            write!(out, " retention-bytes {bytes}")?;
        }
        if let Some(retention) = options.retention {
            write!(out, " retention-ms {}", retention.as_millis())?;
        }
        writeln!(out, "{}", if options.compact { " compacted" } else { "" })?;
        for (number, partition) in topic.partitions.iter().enumerate() {
            writeln!(
                out,
                "  partition {number}: offsets {} to {}, durable to {}, segments {}, bytes {}",
                partition.earliest,
                partition.end,
                partition.durable_end,
                partition.segments,
                partition.bytes,
            )?;
        }
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

/// Prints how far every group has come. Members are known only to the process that has the log open.
pub(crate) fn groups(directory: &Path) -> Outcome {
    let log = Log::read_only(directory)?;
    let mut out = BufWriter::new(io::stdout().lock());
    for name in log.groups()? {
        let group = log.group(&name)?.describe()?;
        writeln!(out, "group {name} generation {}", group.generation)?;
        for offset in &group.offsets {
            let Some(committed) = &offset.committed else { continue };
            let (partition, end) = (&offset.partition, offset.end);
            write!(
                out,
                "  {} {}: committed {} of {} to {end}, lag {}",
                partition.topic,
                partition.partition,
                committed.offset,
                offset.earliest,
                offset.lag().unwrap_or_default(),
            )?;
            match offset.lost() {
                0 => writeln!(out)?,
                lost => writeln!(out, ", of which {lost} were cut off")?,
            }
        }
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

/// Prints what is wrong, and a summary.
pub(crate) fn verify(directory: &Path) -> Outcome {
    let mut progress = Progress::new();
    let mut inspector = Inspector::new().on_progress(|now| progress.tell(|| seen(&now)));
    let report = inspector.verify(directory)?;
    let mut out = BufWriter::new(io::stdout().lock());
    for finding in &report.findings {
        writeln!(out, "{finding}")?;
    }
    writeln!(
        out,
        "{}: {} topics, {} partitions, {} segments, {} batches, {} records, {} bytes",
        if report.is_sound() { "sound" } else { "DAMAGED" },
        report.topics,
        report.partitions,
        report.segments,
        report.batches,
        report.records,
        report.bytes,
    )?;
    if report.undecoded_batches > 0 {
        let count = report.undecoded_batches;
        writeln!(out, "{count} batches have a codec that is not built in; their CRC is right")?;
    }
    out.flush()?;
    Ok(if report.is_sound() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Prints what was wrong, what is lost, and a summary. Fails if anything is lost, though the rest is saved.
pub(crate) fn salvage(directory: &Path, target: &Path) -> Outcome {
    let mut progress = Progress::new();
    let mut inspector = Inspector::new().on_progress(|now| progress.tell(|| seen(&now)));
    let report = inspector.salvage(directory, target)?;
    let mut out = BufWriter::new(io::stdout().lock());
    for finding in &report.findings {
        writeln!(out, "{finding}")?;
    }
    for lost in &report.lost {
        let (topic, partition, from) = (&lost.topic, lost.partition, lost.from);
        match lost.to {
            Some(to) => writeln!(out, "lost: {topic} {partition} offsets {from} to {}", to - 1)?,
            None => writeln!(out, "lost: {topic} {partition} whatever came from offset {from} on")?,
        }
    }
    writeln!(
        out,
        "saved: {} topics, {} batches, {} records, {} batches mended",
        report.topics, report.batches, report.records, report.mended_batches,
    )?;
    out.flush()?;
    Ok(if report.is_complete() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Prints what is in one file.
pub(crate) fn dump(file: &Path) -> Outcome {
    let mut out = BufWriter::new(io::stdout().lock());
    let sound = match Inspector::new().dump(file, &mut out) {
        Ok(sound) => sound,
        Err(DumpError::Output(error)) => return Err(error.into()),
        Err(error) => return Err(error.into()),
    };
    out.flush()?;
    Ok(if sound { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
