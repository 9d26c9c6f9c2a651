//! Apache Kafka's own tool reads what a log leaves on the medium, and finds every batch, index and snapshot sound.
//!
//! Runs when `PEERMQ_KAFKA_LIBS` names a directory with Kafka's jars (`tests/kafka/fetch.sh` gets them), and says that it
//! was skipped otherwise. With the variable set, a tool that cannot be started is a failure.

#![cfg(feature = "log")]
#![allow(clippy::unwrap_used)]

#[path = "log/program.rs"]
mod program;
#[path = "log/support.rs"]
mod support;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use peermq::log::format::batch::Producer;
use peermq::log::format::{BatchBuilder, BatchOptions};
use peermq::log::inspect::Inspector;
use peermq::log::{
    Codec, HeaderRef, Level, Log, ManualClock, MemberOptions, NewRecord, OffsetCommit, Position,
    TimestampType, Topic, TopicOptions,
};
use program::Directory;
use support::{Random, small};

/// When everything happens, unless a test says otherwise.
const NOW_MS: i64 = 1_700_000_000_000;
/// How long tombstones stay.
const DELETE_RETENTION_MS: i64 = 60_000;

/// Kafka's tool for dumping segments.
struct Tool {
    jars: String,
}

impl Tool {
    /// The tool; `None`, with a word about it, where nobody has said where it is.
    fn find() -> Option<Self> {
        let Some(libs) = std::env::var_os("PEERMQ_KAFKA_LIBS") else {
            println!("skipped: PEERMQ_KAFKA_LIBS names no directory with Kafka's jars");
            return None;
        };
        Some(Self { jars: format!("{}/*", libs.to_str().unwrap()) })
    }

    /// Whether it comes to its end, what it says about that, and what it prints about files.
    fn run(&self, flags: &[&str], files: &[&str]) -> (bool, String, String) {
        let output = Command::new("java")
            .args(["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-cp", &self.jars])
            .arg("org.apache.kafka.tools.DumpLogSegments")
            .args(flags)
            .args(["--files", &files.join(",")])
            .output()
            .unwrap_or_else(|error| panic!("java cannot be started: {error}"));
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.success(), text(output.stderr), text(output.stdout))
    }

    /// What it prints about files. Whatever it complains of fails the test, but for records that are missing where some
    /// were removed.
    fn dump(&self, flags: &[&str], files: &[PathBuf], gaps: bool) -> String {
        assert!(!files.is_empty());
        let files: Vec<&str> = files.iter().map(|file| file.to_str().unwrap()).collect();
        let (success, said, text) = self.run(flags, &files);
        assert!(success, "{said}\n{text}");
        for file in files {
            assert!(text.contains(&format!("Dumping {file}\n")), "{file} is not in\n{text}");
        }
        // All that it can find wrong with a segment, an index or a snapshot.
        for complaint in [
            "isvalid: false",
            "Mismatches in",
            "out of order timestamp",
            "invalid bytes",
            "Exception",
            "Could not",
            "corrupt",
        ] {
            let met = text.contains(complaint) || said.contains(complaint);
            assert!(!met, "{complaint}:\n{said}\n{text}");
        }
        // To the tool a batch without records has no time; a broker's cleaner, like ours, keeps it, in the index too.
        let wrong = |line: &&str| {
            let emptied = gaps && line.ends_with("log timestamp: -1");
            line.contains("Index timestamp: ") && !emptied
        };
        let wrong = said.lines().chain(text.lines()).find(wrong);
        assert!(wrong.is_none(), "{wrong:?}:\n{said}\n{text}");
        // Of each segment that does not begin at 0 it says that its first offset does not follow -1; of a broker's too.
        let gap = |line: &&str| line.contains(" is followed by ") && !line.contains(" -1 is");
        let gap = said.lines().chain(text.lines()).find(gap);
        assert!(gaps || gap.is_none(), "{gap:?}:\n{text}");
        text
    }
}

/// A record: offset, time, key, value, names of headers.
type Row = (i64, i64, Option<String>, Option<String>, Vec<String>);

/// The records in what the tool printed. Keys and values have no `: ` in these tests.
fn rows(dump: &str) -> Vec<Row> {
    let field = |line: &str, name: &str| {
        let rest = line.split_once(&format!(" {name}: "))?.1;
        Some(rest.split_once(' ').map_or(rest, |(field, _)| field).to_owned())
    };
    let row = |line: &str| {
        let number = |name| field(line, name)?.parse().ok();
        let time = number("CreateTime").or_else(|| number("LogAppendTime")).unwrap();
        let (head, value) = line.split_once(" payload: ").unwrap_or((line, ""));
        let key = head.split_once(" key: ").map_or("", |(_, key)| key);
        let present = |size, text: &str| (number(size).unwrap() >= 0).then(|| text.to_owned());
        let headers = field(line, "headerKeys").unwrap();
        let headers = headers.trim_matches(['[', ']']).split(',').filter(|name| !name.is_empty());
        let headers = headers.map(str::to_owned).collect();
        (
            number("offset").unwrap(),
            time,
            present("keySize", key),
            present("valueSize", value),
            headers,
        )
    };
    dump.lines().filter(|line| line.starts_with("| offset: ")).map(row).collect()
}

/// All records of a partition as the log itself reads them.
fn read(log: &Log, topic: &str, partition: u32) -> Vec<Row> {
    let text =
        |bytes: Option<bytes::Bytes>| bytes.map(|bytes| String::from_utf8(bytes.to_vec()).unwrap());
    let reader = log.topic(topic).unwrap().read(partition, Position::Earliest).unwrap();
    let row = |record: peermq::log::LogRecord| {
        let headers = record.headers.iter().map(|header| header.key.to_string()).collect();
        (record.offset, record.timestamp_ms, text(record.key), text(record.value), headers)
    };
    reader.map(|record| row(record.unwrap())).collect()
}

/// The files of one partition with this ending, from the first on.
fn files(log: &str, partition: &str, ending: &str) -> Vec<PathBuf> {
    let directory = Path::new(log).join(partition);
    let files = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> =
        files.filter(|path| path.extension().is_some_and(|found| found == ending)).collect();
    files.sort();
    files
}

/// Opens a log on real files at a time.
fn open(log: &str, now_ms: i64) -> Log {
    let options = Log::options().linger(None).clock(Arc::new(ManualClock::new(now_ms)));
    options.open(log).unwrap()
}

fn compacted() -> TopicOptions {
    let delete_retention = Duration::from_millis(DELETE_RETENTION_MS as u64);
    small().compact(true).min_dirty_percent(0).delete_retention(delete_retention)
}

/// Records of every kind: without key, without value, with headers, dated earlier than the one before.
fn fill(topic: &Topic, count: i64) {
    let headers =
        [HeaderRef { key: "trace", value: Some(b"7") }, HeaderRef { key: "none", value: None }];
    let mut random = Random(count.cast_unsigned());
    for n in 0..count {
        let (key, value) =
            (format!("k{}", n % 7), format!("value {n} {}", "x".repeat(n as usize % 50)));
        let record = match n % 5 {
            0 if !topic.options().compact => NewRecord::new(&value),
            1 => NewRecord::tombstone(&key),
            2 => NewRecord::new(&value).key(&key).headers(&headers),
            _ => NewRecord::new(&value).key(&key),
        };
        let record = record.timestamp_ms(NOW_MS + n * 10 + random.below(40) as i64);
        let ticket = topic.append_to(0, Level::Written, record).unwrap();
        if random.below(3) == 0 {
            ticket.wait().unwrap();
        }
    }
    topic.sync().unwrap();
}

/// Three records of an idempotent producer.
fn produced(id: i64, epoch: i16, sequence: i32, codec: Codec) -> Vec<u8> {
    let producer = Producer { id, epoch, base_sequence: sequence };
    let mut builder = BatchBuilder::new(BatchOptions { producer, codec, ..Default::default() });
    for n in 0..3 {
        builder.append(NOW_MS + n, Some(b"produced"), Some(b"by a client"), []).unwrap();
    }
    builder.finish().unwrap()
}

/// Lets the tool look at everything of a partition, and compares its records with those that the log reads.
fn compare(tool: &Tool, log: &str, partition: &str, expected: &[Row], gaps: bool) -> String {
    let segments = files(log, partition, "log");
    let dump = tool.dump(&["--deep-iteration", "--print-data-log"], &segments, gaps);
    // What is before the start of the log may be there still.
    let start = expected.first().map_or(0, |row| row.0);
    let rows: Vec<Row> = rows(&dump).into_iter().filter(|row| row.0 >= start).collect();
    assert_eq!(rows, expected, "{partition}");
    check_batches(&dump);
    let mut indexes = files(log, partition, "index");
    indexes.extend(files(log, partition, "timeindex"));
    if !indexes.is_empty() {
        let printed = tool.dump(&[], &indexes, gaps);
        assert!(printed.contains("offset: "), "{printed}");
        tool.dump(&["--verify-index-only"], &indexes, gaps);
        let sane = tool.dump(&["--index-sanity-check"], &indexes, gaps);
        // One without entries is neither.
        let sane_or_empty =
            sane.matches(" passed sanity check.").count() + sane.matches(" is empty.").count();
        assert_eq!(sane_or_empty, indexes.len(), "{sane}");
    }
    dump
}

/// Each batch goes on where the one before ended, in offsets as in positions; all are whole.
fn check_batches(dump: &str) {
    let number = |line: &str, name: &str| -> i64 {
        let rest = line.split_once(&format!("{name}: ")).unwrap().1;
        rest.split(' ').next().unwrap().parse().unwrap()
    };
    let (mut next_offset, mut next_position) = (None, 0);
    for line in dump.lines() {
        if line.starts_with("Log starting offset: ") {
            next_position = 0;
        }
        if !line.starts_with("baseOffset: ") {
            continue;
        }
        let (base, position) = (number(line, "baseOffset"), number(line, "position"));
        assert_eq!((next_offset.unwrap_or(base), next_position), (base, position), "{line}");
        assert!(line.ends_with("isvalid: true"), "{line}");
        next_offset = Some(number(line, "lastOffset") + 1);
        next_position = position + number(line, "size");
    }
    assert!(next_offset.is_some(), "{dump}");
}

#[test]
fn kafka_reads_every_record_of_segments_in_every_codec_and_finds_their_indexes_sound() {
    let Some(tool) = Tool::find() else { return };
    let directory = Directory::new("kafka-codecs");
    let path = directory.join("log");
    let log = open(&path, NOW_MS);
    for codec in Codec::ALL.into_iter().filter(|codec| codec.is_available()) {
        for times in [TimestampType::Create, TimestampType::Append] {
            let name = format!("{codec}-{times:?}");
            let options = small().codec(codec).timestamps(times).segment_bytes(4_000);
            let topic = log.create_topic(&name, options.batch_bytes(400)).unwrap();
            fill(&topic, 150);
            topic
                .append_batch(0, Level::Durable, &produced(7, 3, 0, codec))
                .unwrap()
                .wait()
                .unwrap();
            fill(&topic, 50);
        }
    }
    let topics = log.topics();
    let expected: Vec<_> = topics.iter().map(|name| read(&log, name, 0)).collect();
    log.close().unwrap();
    for (name, expected) in topics.iter().zip(&expected) {
        assert_eq!(expected.len(), 203);
        let dump = compare(&tool, &path, &format!("{name}-0"), expected, false);
        let codec = name.split_once('-').unwrap().0;
        let by = |codec| {
            let line = format!("compresscodec: {codec} ");
            dump.lines().filter(|found| found.contains(&line)).count()
        };
        let batches = dump.lines().filter(|line| line.starts_with("baseOffset: ")).count();
        // What a codec would not make smaller is plain.
        let plain = if codec == "none" { 0 } else { by("none") };
        assert_eq!(by(codec) + plain, batches, "{dump}");
        assert!(by(codec) > plain, "{dump}");
    }
}

#[test]
fn kafka_reads_what_compaction_left_and_knows_until_when_tombstones_stay() {
    let Some(tool) = Tool::find() else { return };
    let directory = Directory::new("kafka-compacted");
    let path = directory.join("log");
    let log = open(&path, NOW_MS);
    let topic = log.create_topic("t", compacted().codec(Codec::None)).unwrap();
    // One of whom nothing is left but an empty batch, and one who goes on.
    topic.append_batch(0, Level::Durable, &produced(7, 3, 0, Codec::None)).unwrap().wait().unwrap();
    topic.append_batch(0, Level::Durable, &produced(8, 0, 0, Codec::None)).unwrap().wait().unwrap();
    fill(&topic, 100);
    topic.append_batch(0, Level::Durable, &produced(8, 0, 3, Codec::None)).unwrap().wait().unwrap();
    fill(&topic, 30);
    assert!(log.maintain().unwrap().compacted_records > 50);
    let expected = read(&log, "t", 0);
    drop(topic);
    log.close().unwrap();
    assert!(expected.iter().any(|row| row.3.is_none()), "tombstones wait");
    let dump = compare(&tool, &path, "t-0", &expected, true);
    let horizon = format!("deleteHorizonMs: OptionalLong[{}]", NOW_MS + DELETE_RETENTION_MS);
    assert!(dump.contains(&horizon), "{dump}");
    assert!(dump.contains("count: 0 "), "no batch without records:\n{dump}");

    let log = open(&path, NOW_MS + DELETE_RETENTION_MS + 1);
    fill(&log.topic("t").unwrap(), 20);
    log.maintain().unwrap();
    let later = read(&log, "t", 0);
    log.close().unwrap();
    assert!(later.len() < expected.len() + 20);
    compare(&tool, &path, "t-0", &later, true);
}

#[test]
fn kafka_reads_what_a_cut_front_and_a_torn_tail_left() {
    let Some(tool) = Tool::find() else { return };
    let directory = Directory::new("kafka-cut");
    let path = directory.join("log");
    let log = open(&path, NOW_MS);
    let topic = log.create_topic("t", small().segment_bytes(3_000)).unwrap();
    fill(&topic, 120);
    topic.truncate_front(0, 51).unwrap();
    drop(topic);
    log.close().unwrap();
    let log = open(&path, NOW_MS);
    let expected = read(&log, "t", 0);
    log.close().unwrap();
    assert_eq!(expected[0].0, 51);
    compare(&tool, &path, "t-0", &expected, false);

    // As after a kill: the end of a batch is missing, and no marker tells of a clean stop.
    fs::remove_file(Path::new(&path).join(".kafka_cleanshutdown")).unwrap();
    let last = files(&path, "t-0", "log").pop().unwrap();
    let whole = fs::read(&last).unwrap();
    fs::OpenOptions::new().append(true).open(&last).unwrap().write_all(&whole[..50]).unwrap();
    let log = open(&path, NOW_MS);
    assert_eq!(read(&log, "t", 0), expected);
    fill(&log.topic("t").unwrap(), 40);
    let longer = read(&log, "t", 0);
    log.close().unwrap();
    assert_eq!(longer.len(), expected.len() + 40);
    compare(&tool, &path, "t-0", &longer, false);
}

/// Copies a log as a kill of its process would leave it.
fn copy(from: &str, to: &str) {
    for directory in fs::read_dir(from).unwrap().map(|entry| entry.unwrap().path()) {
        let (name, to) = (directory.file_name().unwrap(), Path::new(to));
        if directory.is_file() {
            fs::create_dir_all(to).unwrap();
            fs::copy(&directory, to.join(name)).unwrap();
            continue;
        }
        fs::create_dir_all(to.join(name)).unwrap();
        for file in fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path()) {
            fs::copy(&file, to.join(name).join(file.file_name().unwrap())).unwrap();
        }
    }
}

#[test]
fn kafka_reads_what_a_killed_process_left_once_it_was_opened_again() {
    let Some(tool) = Tool::find() else { return };
    let directory = Directory::new("kafka-killed");
    // So many that the indexes of the active segment were saved in part; and few, in several segments.
    for (count, segment_bytes) in [(1_500, 1 << 20), (61, 3_000)] {
        let (path, killed) = (directory.join("log"), directory.join("killed"));
        let log = open(&path, NOW_MS);
        let topic = log.create_topic("t", small().segment_bytes(segment_bytes)).unwrap();
        fill(&topic, count);
        // The last records are not the latest ones.
        fill(&topic, 5);
        copy(&path, &killed);
        drop((topic, log));
        let log = open(&killed, NOW_MS);
        fill(&log.topic("t").unwrap(), 7);
        let expected = read(&log, "t", 0);
        log.close().unwrap();
        assert_eq!(expected.len() as i64, count + 12);
        compare(&tool, &killed, "t-0", &expected, false);
        fs::remove_dir_all(&path).unwrap();
        fs::remove_dir_all(&killed).unwrap();
    }
}

#[test]
fn kafka_reads_the_parts_and_the_offsets_of_transactions_and_our_intents() {
    let Some(tool) = Tool::find() else { return };
    let directory = Directory::new("kafka-transactions");
    let path = directory.join("log");
    let log = open(&path, NOW_MS);
    log.create_topic("source", small()).unwrap();
    log.create_topic("a", small().partitions(2)).unwrap();
    fill(&log.topic("source").unwrap(), 20);
    let member = log.group("packers").unwrap().join(MemberOptions::new(["source"])).unwrap();
    for n in 0..10 {
        let mut transaction = log.transaction();
        let (value, key) = (format!("value {n}"), format!("k{n}"));
        for partition in 0..2 {
            transaction.append_to("a", partition, NewRecord::new(&value).key(&key)).unwrap();
        }
        let offset = OffsetCommit::new("source", 0, n + 1);
        transaction.commit_offsets(&member.membership(), &[offset]).unwrap();
        transaction.commit().unwrap();
    }
    let expected: Vec<_> = (0..2).map(|partition| read(&log, "a", partition)).collect();
    drop(member);
    log.close().unwrap();
    for (partition, expected) in expected.iter().enumerate() {
        assert_eq!(expected.len(), 10);
        let dump = compare(&tool, &path, &format!("a-{partition}"), expected, false);
        assert!(dump.contains(&format!("producerId: {} ", i64::MAX)), "{dump}");
    }
    let intents = tool.dump(&["--deep-iteration"], &files(&path, "__transactions-0", "log"), false);
    check_batches(&intents);
    let offsets = files(&path, "__offsets-0", "log");
    let decoded = tool.dump(&["--offsets-decoder"], &offsets, false);
    check_batches(&decoded);
    for text in ["packers", "source"] {
        assert!(decoded.contains(text), "{text}:\n{decoded}");
    }
    for offset in 1..=10 {
        let committed = format!("\"offset\":{offset},");
        assert!(decoded.contains(&committed), "{committed}\n{decoded}");
    }
}

#[test]
fn kafka_finds_our_snapshots_of_idempotent_producers_sound() {
    let Some(tool) = Tool::find() else { return };
    let directory = Directory::new("kafka-producers");
    let path = directory.join("log");
    let log = open(&path, NOW_MS);
    let topic = log.create_topic("t", small()).unwrap();
    for sequence in 0..20 {
        let batch = produced(7, 3, 3 * sequence, Codec::None);
        topic.append_batch(0, Level::Durable, &batch).unwrap().wait().unwrap();
    }
    topic
        .append_batch(0, Level::Durable, &produced(8, 0, i32::MAX - 1, Codec::None))
        .unwrap()
        .wait()
        .unwrap();
    drop(topic);
    log.close().unwrap();
    let snapshots = files(&path, "t-0", "snapshot");
    assert!(snapshots.len() > 1);
    let dump = tool.dump(&[], &snapshots, false);
    let last = dump.rsplit("Dumping ").next().unwrap();
    for (id, epoch, sequence, offset) in [(7, 3, 59, 59), (8, 0, 0, 62)] {
        let producer = format!("producerId: {id} producerEpoch: {epoch} ");
        // One for each of its last batches, of which the last one counts.
        let line = last.lines().rfind(|line| line.starts_with(&producer)).unwrap();
        for text in [format!("lastSequence: {sequence} "), format!("lastOffset: {offset} ")] {
            assert!(line.contains(&text), "{text}: {line}");
        }
    }
}

#[test]
fn kafka_reads_a_log_that_was_salvaged_from_a_damaged_one() {
    let Some(tool) = Tool::find() else { return };
    let directory = Directory::new("kafka-salvaged");
    let (path, out) = (directory.join("log"), directory.join("out"));
    let log = open(&path, NOW_MS);
    let topic = log.create_topic("t", small().segment_bytes(3_000)).unwrap();
    fill(&topic, 120);
    drop(topic);
    log.close().unwrap();
    let damaged = files(&path, "t-0", "log").swap_remove(1);
    let mut bytes = fs::read(&damaged).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&damaged, bytes).unwrap();
    Inspector::new().salvage(&path, &out).unwrap();
    let log = open(&out, NOW_MS);
    let expected = read(&log, "t", 0);
    log.close().unwrap();
    assert!((100..120).contains(&expected.len()), "{} records", expected.len());
    compare(&tool, &out, "t-0", &expected, true);
}

#[test]
fn kafka_reads_all_records_of_a_segment_in_use_and_stops_where_zeros_are_written_ahead() {
    let Some(tool) = Tool::find() else { return };
    let directory = Directory::new("kafka-ahead");
    let path = directory.join("log");
    let log = open(&path, NOW_MS);
    let topic = log.create_topic("t", TopicOptions::default()).unwrap();
    for n in 0..20 {
        topic.append(&format!("value {n}")).unwrap().wait().unwrap();
    }
    let segments = files(&path, "t-0", "log");
    assert!(fs::read(&segments[0]).unwrap().ends_with(&[0; 1000]));
    let expected = read(&log, "t", 0);
    let flags = ["--deep-iteration", "--print-data-log"];
    let (success, said, text) = tool.run(&flags, &[segments[0].to_str().unwrap()]);
    assert_eq!(rows(&text), expected, "{said}\n{text}");
    check_batches(&text);
    assert!(!success && said.contains("Found record size 0 "), "{said}");
    log.close().unwrap();
    compare(&tool, &path, "t-0", &expected, false);
}
