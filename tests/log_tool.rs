//! The example `log` as its users meet it: every command as a process of its own, judged by output and exit status.

#![cfg(feature = "log")]
#![allow(clippy::unwrap_used)]

#[path = "harness/ports.rs"]
mod ports;
#[path = "log/program.rs"]
mod program;

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::Child;
use std::time::Duration;

use peermq::log::{Level, Log, MemberOptions, OffsetCommit, TopicOptions};
use program::{Directory, Finished, command, run, run_with};

/// What a run printed, which must have gone well.
fn ok(finished: Finished) -> String {
    assert_eq!(finished.status, Some(0), "{finished:#?}");
    finished.out
}

/// What a run says on stderr, without how far it is: it tells that once a second, if it takes so long.
fn complaints(finished: &Finished) -> Vec<&str> {
    let is_progress =
        |line: &str| [" records appended", " records", " MB"].iter().any(|end| line.ends_with(end));
    finished.err.lines().filter(|line| !is_progress(line)).collect()
}

/// A log with the topic `t`.
fn created(name: &str, partitions: &str) -> (Directory, String) {
    let directory = Directory::new(name);
    let log = directory.join("log");
    assert_eq!(ok(run(&["create", &log, "t", partitions])), "");
    (directory, log)
}

#[test]
fn lines_become_records_and_come_back_in_order() {
    let (_directory, log) = created("lines", "1");
    let out = ok(run_with(b"one\ntwo\n\nlast without line feed", &["append", &log, "t"]));
    assert_eq!(out, "", "no acknowledgements without --acks");
    let acks = ok(run_with(b"five\n", &["append", &log, "t", "--acks"]));
    assert_eq!(acks, "0 4\n");
    let all = "0\t0\t\tone\n0\t1\t\ttwo\n0\t2\t\t\n0\t3\t\tlast without line feed\n0\t4\t\tfive\n";
    assert_eq!(ok(run(&["tail", &log, "t"])), all);
    assert_eq!(ok(run(&["tail", &log, "t", "--from", "earliest"])), all);
    assert_eq!(ok(run(&["tail", &log, "t", "--from", "4"])), "0\t4\t\tfive\n");
    assert_eq!(ok(run(&["tail", &log, "t", "--from", "1", "--max", "1"])), "0\t1\t\ttwo\n");
    assert_eq!(ok(run(&["tail", &log, "t", "--from", "latest"])), "");
    assert_eq!(ok(run(&["tail", &log, "t", "--from", "5"])), "");
    assert_eq!(ok(run(&["tail", &log, "t", "--from", "@0"])), all);
    assert_eq!(ok(run(&["tail", &log, "t", "--from", "@99999999999999"])), "");
}

#[test]
fn keys_decide_the_partition_and_acknowledgements_tell_it() {
    let (_directory, log) = created("keys", "3");
    let mut input = String::new();
    for n in 0..3000 {
        input.push_str(&format!("key {}:value: {n}\n", n % 50));
    }
    input.push_str("no separator\n");
    for level in ["buffered", "written", "durable"] {
        let arguments = ["append", &log, "t", "--key-separator", ":", "--acks", "--level", level];
        let acks = ok(run_with(input.as_bytes(), &arguments));
        let mut next = BTreeMap::<&str, i64>::new();
        assert_eq!(acks.lines().count(), 3001);
        for ack in acks.lines() {
            let (partition, offset) = ack.split_once(' ').unwrap();
            let offset: i64 = offset.parse().unwrap();
            let next = next.entry(partition).or_insert(offset);
            assert_eq!(offset, *next, "{level}");
            *next += 1;
        }
        assert_eq!(next.len(), 3);
    }
    let mut partitions = BTreeMap::<String, &str>::new();
    let out = ok(run(&["tail", &log, "t"]));
    assert_eq!(out.lines().count(), 3 * 3001);
    for line in out.lines() {
        let fields: Vec<&str> = line.split('\t').collect();
        let [partition, _, key, value] = fields[..] else { panic!("{line}") };
        if key.is_empty() {
            assert_eq!(value, "no separator");
            continue;
        }
        assert!(value.starts_with("value: "), "{line}");
        assert_eq!(*partitions.entry(key.to_owned()).or_insert(partition), partition);
    }
    assert_eq!(partitions.len(), 50);
}

#[test]
fn tabs_and_backslashes_do_not_break_the_fields() {
    let (_directory, log) = created("escapes", "1");
    let separator = ["append", &log, "t", "--key-separator", "=>"];
    ok(run_with(b"a\tb=>c\\d\re\n\xff\n", &separator));
    let mut out = command(&["tail", &log, "t"]).spawn().unwrap();
    let mut bytes = Vec::new();
    out.stdout.take().unwrap().read_to_end(&mut bytes).unwrap();
    assert!(out.wait().unwrap().success());
    assert_eq!(bytes, b"0\t0\ta\\tb\tc\\\\d\\re\n0\t1\t\t\xff\n");
}

#[test]
fn acknowledgements_come_while_the_input_stays_open_and_a_follower_sees_the_records() {
    let (_directory, log) = created("follow", "2");
    let mut follower = command(&["tail", &log, "t", "--follow", "--max", "3"]).spawn().unwrap();
    let mut seen = BufReader::new(follower.stdout.take().unwrap()).lines();
    let mut appender = command(&["append", &log, "t", "--acks"]).spawn().unwrap();
    let mut stdin = appender.stdin.take().unwrap();
    let mut acks = BufReader::new(appender.stdout.take().unwrap()).lines();
    for n in 0..3 {
        writeln!(stdin, "record {n}").unwrap();
        let ack = acks.next().unwrap().unwrap();
        let line = seen.next().unwrap().unwrap();
        let (partition, offset) = ack.split_once(' ').unwrap();
        assert_eq!(line, format!("{partition}\t{offset}\t\trecord {n}"));
    }
    assert!(follower.wait().unwrap().success());
    let second = run_with(b"x\n", &["append", &log, "t"]);
    assert_eq!(second.status, Some(1));
    assert!(second.err.contains("is in use by process"), "{}", second.err);
    drop(stdin);
    assert!(acks.next().is_none());
    assert!(appender.wait().unwrap().success());
}

#[test]
fn a_follower_from_an_offset_passes_over_what_comes_before_it_in_any_partition() {
    let (_directory, log) = created("from", "2");
    let open = Log::open(&log).unwrap();
    let append = |partition, value: &str| {
        let topic = open.topic("t").unwrap();
        topic.append_to(partition, Level::Durable, value).unwrap().wait().unwrap();
    };
    append(0, "a");
    append(0, "b");
    let arguments = ["tail", &log, "t", "--from", "1", "--follow", "--max", "2"];
    let mut follower = command(&arguments).spawn().unwrap();
    let mut seen = BufReader::new(follower.stdout.take().unwrap()).lines();
    assert_eq!(seen.next().unwrap().unwrap(), "0\t1\t\tb");
    // It has partition 1 open by now, too.
    append(1, "before");
    append(1, "wanted");
    assert_eq!(seen.next().unwrap().unwrap(), "1\t1\t\twanted");
    assert!(follower.wait().unwrap().success());
}

/// A server, killed with the value.
struct Server {
    child: Child,
    endpoint: String,
}

impl Server {
    fn of(log: &str, endpoint: &str) -> Self {
        let mut child = command(&["serve", log, endpoint]).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let endpoint = line.trim_end().strip_prefix(&format!("serving {log} at ")).unwrap();
        Self { endpoint: endpoint.to_owned(), child }
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have been killed before.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_server_takes_records_and_hands_them_out_and_its_end_loses_nothing() {
    let (_directory, log) = created("serve", "2");
    ok(run_with(b"k:from before\n", &["append", &log, "t", "--key-separator", ":"]));
    // Nobody else gets the port between the end of the first server and the second one.
    let endpoint = format!("tcp://{}", ports::reserve_port());
    let mut server = Server::of(&log, &endpoint);
    assert_eq!(server.endpoint, endpoint);
    let follower =
        command(&["tail", "--connect", &endpoint, "t", "--follow", "--max", "3003"]).spawn();
    let mut follower = follower.unwrap();
    let mut input = String::new();
    for n in 0..3000 {
        input.push_str(&format!("key {}:value {n}\n", n % 50));
    }
    let arguments = ["append", "--connect", &endpoint, "t", "--key-separator", ":", "--acks"];
    let acks = ok(run_with(input.as_bytes(), &arguments));
    assert_eq!(acks.lines().count(), 3000);
    let one = |level: &str| {
        let arguments = ["append", "--connect", &endpoint, "t", "--acks", "--level", level];
        ok(run_with(b"k\tv\n", &arguments))
    };
    assert_eq!(one("written").lines().count(), 1);
    assert_eq!(one("durable").lines().count(), 1);
    let mut seen = String::new();
    follower.stdout.take().unwrap().read_to_string(&mut seen).unwrap();
    assert!(follower.wait().unwrap().success());
    let sorted = |text: &str| {
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    let all = sorted(&seen);
    assert_eq!(all.len(), 3003);
    assert_eq!(sorted(&ok(run(&["tail", "--connect", &endpoint, "t"]))), all);
    let some = ["tail", "--connect", &endpoint, "t", "--from", "10", "--max", "1"];
    assert!(ok(run(&some)).starts_with("0\t10\t"));
    assert_eq!(ok(run(&["tail", "--connect", &endpoint, "t", "--from", "latest"])), "");
    let unknown = run(&["tail", "--connect", &endpoint, "u"]);
    assert_eq!(unknown.status, Some(1));
    assert!(unknown.err.contains("there is no topic u"), "{}", unknown.err);
    let unknown = run_with(b"x\n", &["append", "--connect", &endpoint, "u"]);
    assert_eq!(unknown.status, Some(1));
    assert!(unknown.err.contains("there is no topic u"), "{}", unknown.err);
    let beside = run_with(b"x\n", &["append", &log, "t"]);
    assert!(beside.err.contains("is in use by process"), "{}", beside.err);

    server.kill();
    assert_eq!(run(&["verify", &log]).status, Some(0));
    assert_eq!(sorted(&ok(run(&["tail", &log, "t"]))), all);
    let again = Server::of(&log, &endpoint);
    assert_eq!(again.endpoint, endpoint);
    assert_eq!(sorted(&ok(run(&["tail", "--connect", &endpoint, "t"]))), all);
}

#[test]
fn an_offset_that_nothing_has_reached_is_refused_unless_it_is_waited_for() {
    let (_directory, log) = created("beyond", "2");
    ok(run_with(b"a:1\na:2\na:3\n", &["append", &log, "t", "--key-separator", ":"]));
    let mut server = Server::of(&log, "tcp://127.0.0.1:0");
    let endpoint = server.endpoint.clone();
    for target in [&[log.as_str()][..], &["--connect", &endpoint]] {
        let tail = |from| run(&[&["tail"], target, &["t", "--from", from]].concat());
        assert_eq!(ok(tail("3")), "", "it is at the end");
        let beyond = tail("4");
        assert_eq!((beyond.status, beyond.out.as_str()), (Some(1), ""));
        let said = "log: offset 4 is beyond the end of topic t, which is at 3";
        assert_eq!(complaints(&beyond), [said]);
    }
    let waiting = ["tail", "--connect", &endpoint, "t", "--from", "4", "--follow", "--max", "1"];
    let follower = command(&waiting).spawn().unwrap();
    let arguments = ["append", "--connect", &endpoint, "t", "--key-separator", ":"];
    ok(run_with(b"a:4\na:5\n", &arguments));
    let followed: Finished = follower.wait_with_output().unwrap().into();
    assert!(ok(followed).ends_with("\t4\ta\t5\n"));
    server.kill();
}

#[test]
fn a_topic_that_is_not_there_is_told_though_nothing_is_appended_to_it() {
    let (_directory, log) = created("nothing", "1");
    let mut server = Server::of(&log, "tcp://127.0.0.1:0");
    let endpoint = server.endpoint.clone();
    assert_eq!(ok(run(&["append", "--connect", &endpoint, "t"])), "");
    let remote = run(&["append", "--connect", &endpoint, "nope"]);
    server.kill();
    for finished in [run(&["append", &log, "nope"]), remote] {
        assert_eq!((finished.status, finished.out.as_str()), (Some(1), ""));
        let lines = complaints(&finished);
        assert!(lines.len() == 1 && lines[0].contains("there is no topic nope"), "{lines:?}");
    }
}

#[test]
fn who_waits_for_a_server_is_told_why_and_goes_on_when_it_comes() {
    let (_directory, log) = created("late", "1");
    let endpoint = format!("tcp://{}", ports::reserve_port());
    let mut waiting = command(&["append", "--connect", &endpoint, "t", "--acks"]).spawn().unwrap();
    waiting.stdin.take().unwrap().write_all(b"x\n").unwrap();
    let mut told = String::new();
    BufReader::new(waiting.stderr.as_mut().unwrap()).read_line(&mut told).unwrap();
    for part in [&endpoint, "topic t", "there was never a connection", "trying on"] {
        assert!(told.contains(part), "{told}");
    }
    let _server = Server::of(&log, &endpoint);
    let finished: Finished = waiting.wait_with_output().unwrap().into();
    assert_eq!(ok(finished), "0 0\n");
}

#[test]
fn a_server_that_is_told_to_end_closes_the_log() {
    for signal in ["-INT", "-TERM"] {
        let (_directory, log) = created(&format!("end{signal}"), "1");
        let mut server = Server::of(&log, "tcp://127.0.0.1:0");
        let arguments = ["append", "--connect", &server.endpoint, "t", "--acks"];
        assert_eq!(ok(run_with(b"x\n", &arguments)), "0 0\n");
        let clean = Path::new(&log).join(".kafka_cleanshutdown");
        assert!(!clean.exists());
        let number = server.child.id().to_string();
        assert!(
            std::process::Command::new("kill").args([signal, &number]).status().unwrap().success()
        );
        assert_eq!(server.child.wait().unwrap().code(), Some(0));
        assert!(clean.exists(), "it is closed in order");
        assert_eq!(ok(run(&["tail", &log, "t"])), "0\t0\t\tx\n");
    }
}

#[test]
fn groups_are_shown_with_what_they_have_committed() {
    let (_directory, log) = created("groups", "2");
    assert_eq!(ok(run(&["groups", &log])), "");
    ok(run_with(b"a:1\na:2\na:3\n", &["append", &log, "t", "--key-separator", ":"]));
    let open = Log::open(&log).unwrap();
    let partition = (0..2)
        .find(|partition| open.topic("t").unwrap().describe_partition(*partition).unwrap().end > 0);
    let partition = partition.unwrap();
    let offset = |offset| [OffsetCommit::new("t", partition, offset)];
    open.group("by hand").unwrap().set_offsets(&offset(1)).unwrap();
    let member = open.group("packers").unwrap().join(MemberOptions::new(["t"])).unwrap();
    drop(member);
    open.group("packers").unwrap().set_offsets(&offset(3)).unwrap();
    let generation = open.group("packers").unwrap().describe().unwrap().generation;
    // Also while the log is in use.
    let used = ok(run(&["groups", &log]));
    open.topic("t").unwrap().truncate_front(partition, 2).unwrap();
    open.close().unwrap();
    let start = "group by hand generation 0\n";
    let packers = format!("group packers generation {generation}\n");
    assert_eq!(
        used,
        format!(
            "{start}  t {partition}: committed 1 of 0 to 3, lag 2\n\
             {packers}  t {partition}: committed 3 of 0 to 3, lag 0\n"
        )
    );
    assert_eq!(
        ok(run(&["groups", &log])),
        format!(
            "{start}  t {partition}: committed 1 of 2 to 3, lag 2, of which 1 were cut off\n\
             {packers}  t {partition}: committed 3 of 2 to 3, lag 0\n"
        )
    );
}

#[test]
fn a_reader_that_has_had_enough_ends_the_program_quietly() {
    let (_directory, log) = created("pipe", "1");
    let input = "x".repeat(1000) + "\n";
    ok(run_with(input.repeat(2000).as_bytes(), &["append", &log, "t", "--level", "written"]));
    let mut child = command(&["tail", &log, "t"]).spawn().unwrap();
    let mut first = [0; 5];
    let mut stdout = child.stdout.take().unwrap();
    stdout.read_exact(&mut first).unwrap();
    drop(stdout);
    let finished: Finished = child.wait_with_output().unwrap().into();
    assert_eq!((finished.status, complaints(&finished)), (Some(0), vec![]));

    let mut child = command(&["append", &log, "t", "--acks"]).spawn().unwrap();
    drop(child.stdout.take());
    let mut stdin = child.stdin.take().unwrap();
    // Its end shows as a broken pipe here, too.
    while stdin.write_all(b"more\n").is_ok() {}
    let finished: Finished = child.wait_with_output().unwrap().into();
    assert_eq!((finished.status, complaints(&finished)), (Some(1), vec![]));
    assert_eq!(run(&["verify", &log]).status, Some(0));
}

#[test]
fn describe_shows_topics_and_partitions() {
    let (_directory, log) = created("describe", "2");
    ok(run(&["create", &log, "other", "1"]));
    ok(run_with(b"a\nb\n", &["append", &log, "t"]));
    let out = ok(run(&["describe", &log]));
    let lines: Vec<&str> = out.lines().collect();
    assert!(lines[0].starts_with("topic other id "), "{out}");
    assert!(lines[2].starts_with("topic t id "), "{out}");
    assert!(lines[2].ends_with(" partitions 2 level durable codec none"), "{out}");
    assert!(
        lines[3].starts_with("  partition 0: offsets 0 to 2, durable to 2, segments 1, bytes ")
    );
    assert!(
        lines[4].starts_with("  partition 1: offsets 0 to 0, durable to 0, segments 1, bytes 0")
    );
}

#[test]
fn describe_shows_what_is_kept_and_from_where_on() {
    let (_directory, log) = created("kept", "1");
    let open = Log::open(&log).unwrap();
    let options = TopicOptions::default().segment_bytes(200).retention_bytes(Some(300));
    let kept = open.create_topic("kept", options.retention(Some(Duration::from_secs(60)))).unwrap();
    open.create_topic("latest", TopicOptions::default().compact(true)).unwrap();
    for _ in 0..20 {
        kept.append("value").unwrap().wait().unwrap();
    }
    open.maintain().unwrap();
    let earliest = kept.describe().partitions[0].earliest;
    assert!(earliest > 10, "{earliest}");
    drop(kept);
    open.close().unwrap();
    let out = ok(run(&["describe", &log]));
    assert!(out.contains(" codec none retention-bytes 300 retention-ms 60000\n"), "{out}");
    assert!(out.contains(" codec none compacted\n"), "{out}");
    assert!(out.contains(&format!("  partition 0: offsets {earliest} to 20, ")), "{out}");
    ok(run(&["verify", &log]));
}

fn segment(log: &str) -> std::path::PathBuf {
    Path::new(log).join("t-0/00000000000000000000.log")
}

#[test]
fn damage_is_found_shown_and_what_is_left_is_saved() {
    let (directory, log) = created("damage", "1");
    for value in ["first", "second", "third"] {
        ok(run_with(format!("{value}\n").as_bytes(), &["append", &log, "t"]));
    }
    let sound = run(&["verify", &log]);
    assert!(
        ok(sound).starts_with("sound: 1 topics, 1 partitions, 1 segments, 3 batches, 3 records")
    );
    let dumped = ok(run(&["dump", segment(&log).to_str().unwrap()]));
    assert!(dumped.contains("  offset 1 time ") && dumped.contains(" key null value \"second\"\n"));

    let mut bytes = fs::read(segment(&log)).unwrap();
    let at = bytes.windows(6).position(|window| window == b"second").unwrap();
    bytes[at] ^= 1;
    fs::write(segment(&log), &bytes).unwrap();
    let damaged = run(&["verify", &log]);
    assert_eq!(damaged.status, Some(1));
    for part in ["unsound: topic t, partition 0, segment 0, offset 1, ", "CRC", "DAMAGED"] {
        assert!(damaged.out.contains(part), "{damaged:?}");
    }
    assert_eq!(run(&["dump", segment(&log).to_str().unwrap()]).status, Some(1));
    let out = directory.join("saved");
    let saved = run(&["salvage", &log, &out]);
    assert_eq!((saved.status, complaints(&saved)), (Some(1), vec![]), "not all of it is saved");
    let saved = saved.out;
    assert!(saved.contains("lost: t 0 offsets 1 to 1\n"), "{saved}");
    assert!(saved.contains("saved: 1 topics, 2 batches, 2 records, 0 batches mended"), "{saved}");
    assert_eq!(fs::read(segment(&log)).unwrap(), bytes, "the old log is as it was");
    assert_eq!(run(&["verify", &out]).status, Some(0));
    assert_eq!(ok(run(&["tail", &out, "t"])), "0\t0\t\tfirst\n0\t2\t\tthird\n");
    let again = run(&["salvage", &log, &out]);
    assert_eq!(again.status, Some(1));
    assert!(again.err.contains("is not empty"), "{}", again.err);
}

#[test]
fn every_file_of_a_log_can_be_dumped() {
    let (_directory, log) = created("dump", "1");
    ok(run_with(b"a\n", &["append", &log, "t"]));
    let mut dumped = 0;
    for directory in [log.clone(), format!("{log}/t-0")] {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                ok(run(&["dump", path.to_str().unwrap()]));
                dumped += 1;
            }
        }
    }
    assert!(dumped > 8, "{dumped}");
}

#[test]
fn perf_prints_one_line_for_appending_and_for_reading() {
    let directory = Directory::new("perf");
    let log = directory.join("log");
    for (level, callers, records) in
        [("written", "1", "20000"), ("buffered", "3", "20000"), ("durable", "4", "200")]
    {
        let sizes = ["--records", records, "--size", "100"];
        let rest = ["--level", level, "--callers", callers];
        let out = ok(run(&[&["perf", &log, "append"], &sizes[..], &rest[..]].concat()));
        check_perf(
            &out,
            &format!("append records={records} size=100 level={level} callers={callers} "),
        );
    }
    let out = ok(run(&["perf", &log, "read", "--records", "40200", "--size", "100"]));
    check_perf(&out, "read records=40200 size=100 level=written callers=1 ");
    let more = run(&["perf", &log, "read", "--records", "40201", "--size", "100"]);
    assert_eq!(more.status, Some(1));
}

fn check_perf(out: &str, start: &str) {
    let rest = out.strip_prefix(start).unwrap_or_else(|| panic!("{out}"));
    let fields: Vec<&str> = rest.trim_end().split(' ').collect();
    let [records, "records/s", bytes, "MB/s", p50, p99, "us"] = fields[..] else { panic!("{out}") };
    let number = |text: &str| text.parse::<f64>().unwrap();
    // Records of 100 bytes. Both are rounded, to nothing on a medium that is slow enough.
    let (records, bytes) = (number(records), number(bytes));
    assert!(records >= 0.0 && (bytes - records * 100.0 / 1e6).abs() < 0.1, "{out}");
    let (p50, p99) = (p50.strip_prefix("p50=").unwrap(), p99.strip_prefix("p99=").unwrap());
    assert!(number(p50) <= number(p99), "{out}");
}

#[test]
fn usage_is_told_to_whoever_asks() {
    for arguments in [&["--help"][..], &["create", "--help"]] {
        let usage = ok(run(arguments));
        assert!(usage.starts_with("usage: log COMMAND") && usage.ends_with('\n'), "{usage}");
    }
}

#[test]
fn wrong_usage_is_explained_with_status_2_and_failures_with_status_1() {
    let (directory, log) = created("usage", "1");
    let usage: &[&[&str]] = &[
        &[],
        &["sing"],
        &["create", &log, "t"],
        &["create", &log, "t", "many"],
        &["create", &log, "t", "1", "more"],
        &["append", &log],
        &["append", &log, "t", "--level", "high"],
        &["append", &log, "t", "--key-separator", ""],
        &["append", &log, "t", "--colour"],
        &["append", &log, "t", "--key-separator", "--acks"],
        &["append", &log, "t", "--level"],
        &["append", &log, "--acks", "t"],
        &["append", &log, ""],
        &["append", "--acks", &log, "t"],
        &["create", &log, "--follow", "1"],
        &["tail", "t", "--connect", "tcp://127.0.0.1:1"],
        &["tail", "--connect", "--follow", "t"],
        &["tail", &log, "t", "more"],
        &["tail", &log, "t", "--max", "-1"],
        &["tail", &log, "t", "--from", "--follow"],
        &["describe", "--connect", "tcp://127.0.0.1:1"],
        &["serve", &log, ""],
        &["--follow"],
        &["append", "--connect", "tcp://127.0.0.1:1"],
        &["tail", "--connect"],
        &["serve", &log],
        &["groups"],
        &["tail", &log, "t", "--from", "-1"],
        &["tail", &log, "t", "--from", "@x"],
        &["tail", &log, "t", "--max"],
        &["verify"],
        &["verify", ""],
        &["create", "", "t", "1"],
        &["salvage", &log],
        &["perf", &log, "append", "--records", "5"],
        &["perf", &log, "write", "--records", "5", "--size", "5"],
        &["perf", &log, "append", "--records", "0", "--size", "5"],
        &["perf", &log, "append", "--records", "9", "--size", "5", "--callers", "0"],
        &["perf", &log, "append", "--records", "9", "--size", "5", "--callers", "100000"],
    ];
    for arguments in usage {
        let finished = run(arguments);
        assert_eq!((finished.status, finished.out.as_str()), (Some(2), ""), "{arguments:?}");
        assert!(finished.err.contains("usage: log COMMAND"), "{arguments:?}");
    }
    let (nowhere, photo) = (directory.join("nowhere"), directory.join("photo.jpg"));
    fs::write(&photo, b"no log").unwrap();
    let failures: &[(&[&str], &str)] = &[
        (&["create", &log, "t", "1"], "topic t exists already"),
        (&["create", &log, "a b", "1"], "is not 1 to 249 of"),
        (&["create", &log, "zero", "0"], "partitions"),
        (&["append", &nowhere, "t"], "is not a log"),
        (&["append", &log, "u"], "there is no topic u"),
        (&["tail", &log, "u"], "there is no topic u"),
        (&["tail", &nowhere, "t"], "is not a log"),
        (&["describe", &nowhere], "is not a log"),
        (&["groups", &nowhere], "is not a log"),
        (&["serve", &nowhere, "tcp://127.0.0.1:0"], "is not a log"),
        (&["serve", &log, "nonsense"], "nonsense"),
        (&["tail", "--connect", "nonsense", "t"], "nonsense"),
        (&["verify", &nowhere], "No such file"),
        (&["salvage", &nowhere, &log], "No such file"),
        (&["salvage", &log, "/dev/null/out"], "log: cannot "),
        (&["create", &nowhere, "bad/name", "1"], "is not 1 to 249 of"),
        (&["create", &nowhere, "__own", "1"], "begins with"),
        (&["create", &nowhere, "none", "0"], "partitions"),
        (&["dump", &nowhere], "No such file"),
        (&["dump", &log], "is a directory"),
        (&["dump", &photo], "is not named like a file of a log"),
        (&["perf", &log, "read", "--records", "1", "--size", "1"], "there is no topic perf"),
    ];
    for (arguments, text) in failures {
        let finished = run(arguments);
        assert_eq!((finished.status, finished.out.as_str()), (Some(1), ""), "{arguments:?}");
        let lines = complaints(&finished);
        assert!(lines.len() == 1 && lines[0].contains(text), "{arguments:?}: {lines:?}");
    }
    assert!(!Path::new(&nowhere).exists());
    let mut input = b"before\n".to_vec();
    input.extend(std::iter::repeat_n(b'x', 2 << 20));
    let too_large = run_with(&input, &["append", &log, "t", "--acks"]);
    assert_eq!((too_large.status, too_large.out.as_str()), (Some(1), "0 0\n"));
    let expected = "log: line 2: topic t, partition 0: 2097";
    assert!(too_large.err.starts_with(expected), "{}", too_large.err);
    let endless = run_with(&vec![b'x'; (64 << 20) + 1], &["append", &log, "t"]);
    assert_eq!(endless.status, Some(1));
    assert!(endless.err.contains("line 1: a line is longer than"), "{}", endless.err);
    Log::open(&log).unwrap().close().unwrap();
}
