//! Scripts of one directory, checked against an oracle that keeps nothing but a plain copy of everything after every
//! step, and derives from the rules of the medium what may be found after a power cut.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
enum Step {
    Create(u8),
    Write { name: u8, position: u64, bytes: usize },
    SetLen(u8, u64),
    SyncData(u8),
    Rename(u8, u8),
    Remove(u8),
    SyncDir,
}

/// The plain copy. Files are known by number, whatever their name.
#[derive(Debug, Clone, Default, PartialEq)]
struct Plain {
    names: BTreeMap<u8, usize>,
    files: Vec<Vec<u8>>,
}

/// The plain copies after each step, and where the last syncs were.
#[derive(Default)]
struct Oracle {
    states: Vec<Plain>,
    /// By state: that at the last sync of the directory, and of each file (0: as it was created).
    synced: Vec<(usize, Vec<usize>)>,
}

fn steps(max: usize) -> impl Strategy<Value = Vec<Step>> {
    let name = || 0..3u8;
    let position = || prop_oneof![Just(0), Just(512), 0..1500u64];
    let step = prop_oneof![
        3 => name().prop_map(Step::Create),
        6 => (name(), position(), 1..700usize)
            .prop_map(|(name, position, bytes)| Step::Write { name, position, bytes }),
        2 => (name(), position()).prop_map(|(name, len)| Step::SetLen(name, len)),
        2 => name().prop_map(Step::SyncData),
        2 => (name(), name()).prop_map(|(from, to)| Step::Rename(from, to)),
        1 => name().prop_map(Step::Remove),
        2 => Just(Step::SyncDir),
    ];
    prop::collection::vec(step, 1..max)
}

fn path(name: u8) -> PathBuf {
    PathBuf::from(name.to_string())
}

impl Oracle {
    fn new() -> Self {
        Self { states: vec![Plain::default()], synced: vec![(0, Vec::new())] }
    }

    /// Takes a step on both sides, if it makes sense; every one that does is one recorded operation.
    fn step(&mut self, storage: &FaultyStorage, step: &Step, number: usize) {
        let mut state = self.states.last().unwrap().clone();
        let mut synced = self.synced.last().unwrap().clone();
        let now = self.states.len();
        let open = |name: u8| storage.open(&path(name), OpenMode::Write).unwrap();
        match *step {
            Step::Create(name) if !state.names.contains_key(&name) => {
                storage.open(&path(name), OpenMode::CreateNew).unwrap();
                state.names.insert(name, state.files.len());
                state.files.push(Vec::new());
                synced.1.push(now);
            }
            Step::Rename(from, to) if from != to && state.names.contains_key(&from) => {
                storage.rename(&path(from), &path(to)).unwrap();
                let file = state.names.remove(&from).unwrap();
                state.names.insert(to, file);
            }
            Step::Remove(name) if state.names.remove(&name).is_some() => {
                storage.remove_file(&path(name)).unwrap();
            }
            Step::SyncDir => {
                storage.sync_dir(p("/")).unwrap();
                synced.0 = now;
            }
            Step::Write { name, position, bytes } if state.names.contains_key(&name) => {
                let data = vec![number as u8 + 1; bytes];
                open(name).write_at(&data, position).unwrap();
                let file = &mut state.files[state.names[&name]];
                let (start, end) = (position as usize, position as usize + bytes);
                file.resize(file.len().max(end), 0);
                file[start..end].copy_from_slice(&data);
            }
            Step::SetLen(name, len) if state.names.contains_key(&name) => {
                open(name).set_len(len).unwrap();
                state.files[state.names[&name]].resize(len as usize, 0);
            }
            Step::SyncData(name) if state.names.contains_key(&name) => {
                open(name).sync_data().unwrap();
                synced.1[state.names[&name]] = now;
            }
            _ => return,
        }
        self.states.push(state);
        self.synced.push(synced);
        assert_eq!(storage.recorded() + 1, self.states.len());
    }

    /// Whether a file may look like this after a power cut at this point.
    fn allows_file(&self, point: usize, file: usize, found: &[u8]) -> bool {
        let since: Vec<&Vec<u8>> = self.states[self.synced[point].1[file]..=point]
            .iter()
            .map(|state| &state.files[file])
            .collect();
        let sure = since.iter().map(|bytes| bytes.len()).min().unwrap();
        let wild = sure.next_multiple_of(512);
        since.iter().any(|bytes| bytes.len() == found.len())
            && found.iter().enumerate().all(|(at, byte)| {
                at >= wild
                    || (at >= sure && *byte == 0)
                    || since.iter().any(|bytes| bytes.get(at) == Some(byte))
            })
    }

    /// What is wrong with an image.
    fn objection(&self, image: &CrashImage) -> Option<String> {
        let point = image.crash_point();
        let since = &self.states[self.synced[point].0..=point];
        let mut found: BTreeMap<u8, Vec<u8>> = BTreeMap::new();
        for (path, bytes) in image.contents() {
            found.insert(path.to_str().unwrap().parse().unwrap(), bytes.unwrap());
        }
        // Who may be behind each name: what had it at some time and may look like that.
        let candidates: Vec<(u8, BTreeSet<usize>)> = found
            .iter()
            .map(|(name, bytes)| {
                let owners = since.iter().filter_map(|state| state.names.get(name).copied());
                let fitting = owners.filter(|file| self.allows_file(point, *file, bytes));
                (*name, fitting.collect())
            })
            .collect();
        for (name, files) in &candidates {
            if files.is_empty() {
                return Some(format!("nothing explains {name}"));
            }
        }
        for (name, file) in &since[0].names {
            let always = since.iter().all(|state| state.names.get(name) == Some(file));
            if always
                && !candidates.iter().any(|(other, files)| other == name && files.contains(file))
            {
                return Some(format!("{name} is lost"));
            }
            let somewhere = since.iter().all(|state| state.names.values().any(|f| f == file));
            if somewhere && !candidates.iter().any(|(_, files)| files.contains(file)) {
                return Some(format!("the file that was {name} is lost"));
            }
        }
        None
    }
}

fn run(steps: &[Step]) -> (FaultyStorage, Oracle) {
    let (storage, mut oracle) = (FaultyStorage::new(), Oracle::new());
    for (number, step) in steps.iter().enumerate() {
        oracle.step(&storage, step, number);
    }
    (storage, oracle)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn no_image_breaks_the_rules(steps in steps(40), seed in any::<u64>()) {
        let (storage, oracle) = run(&steps);
        let history = storage.history();
        for number in 0..100 {
            let image = history.sample(seed.wrapping_add(number));
            let objection = oracle.objection(&image);
            prop_assert!(objection.is_none(), "{objection:?} {image:?} {:#?}", history.describe());
        }
    }

    #[test]
    fn every_image_holds_what_a_sample_finds_and_breaks_no_rule(
        steps in steps(8),
        seed in any::<u64>(),
    ) {
        let (storage, oracle) = run(&steps);
        let history = storage.history();
        // What is too much to try is for the samples of the test above.
        let Ok(images) = history.every_image(3000) else { return Ok(()) };
        let mut all = BTreeSet::new();
        for image in images {
            let objection = oracle.objection(&image);
            prop_assert!(objection.is_none(), "{objection:?} {image:?} {:#?}", history.describe());
            prop_assert!(all.insert(image.fingerprint()));
        }
        for number in 0..100 {
            let image = history.sample(seed.wrapping_add(number));
            prop_assert!(all.contains(&image.fingerprint()), "{image:?}");
        }
    }

    #[test]
    fn a_kill_shows_everything_written_at_every_point(steps in steps(30)) {
        let (storage, oracle) = run(&steps);
        let history = storage.history();
        for (point, state) in oracle.states.iter().enumerate() {
            let killed = history.killed_at(point);
            let listed = killed.list(p("/")).unwrap();
            prop_assert_eq!(listed.len(), state.names.len());
            for (name, file) in &state.names {
                prop_assert_eq!(&content(&killed, &name.to_string()), &state.files[*file]);
            }
        }
    }
}

#[test]
fn samples_reach_every_image_of_a_short_script() {
    let storage = FaultyStorage::new();
    let file = durable_file(&storage, "f");
    file.write_at(&[1; 700], 0).unwrap();
    file.sync_data().unwrap();
    file.write_at(&[2; 900], 300).unwrap();
    file.set_len(1000).unwrap();
    storage.open(p("g"), OpenMode::Create).unwrap();
    storage.rename(p("f"), p("h")).unwrap();
    // Only the last crash point, so that no image is rare.
    storage.forget_history();
    let history = storage.history();
    let all: BTreeSet<_> =
        history.every_image(10_000).unwrap().map(|image| image.fingerprint()).collect();
    let sampled: BTreeSet<_> = (0..20_000).map(|seed| history.sample(seed).fingerprint()).collect();
    assert!(all.len() >= 80, "{}", all.len());
    assert_eq!(sampled, all);
}

/// A long script in the manner of a log: appends to a file with syncs now and then, files rolled, old ones removed.
/// With it the crash points at which each file was finished.
fn long_script() -> (FaultyStorage, Vec<usize>) {
    let storage = FaultyStorage::new();
    let mut finished = Vec::new();
    storage.create_dir_all(p("topic-0")).unwrap();
    for segment in 0..8u8 {
        let name = format!("topic-0/{segment:020}.log");
        let file = durable_file(&storage, &name);
        for batch in 0..30u64 {
            file.write_at(&[segment + 1; 900], batch * 900).unwrap();
            if batch % 10 == 9 {
                file.sync_data().unwrap();
            }
        }
        finished.push(storage.recorded());
        if segment >= 4 {
            storage.remove_file(p(&format!("topic-0/{:020}.log", segment - 4))).unwrap();
        }
    }
    (storage, finished)
}

#[test]
fn a_hundred_thousand_images_of_a_long_script_keep_what_was_synced() {
    let (storage, finished) = long_script();
    let history = storage.history();
    assert!(history.len() > 250);
    for seed in 0..100_000 {
        let image = history.sample(seed);
        let storage = image.storage();
        let finished = finished.iter().filter(|point| **point <= image.crash_point()).count();
        let Some(last) = finished.checked_sub(1) else { continue };
        let path = format!("topic-0/{last:020}.log");
        let file = storage.open(p(&path), OpenMode::Read).unwrap();
        assert_eq!(file.len().unwrap(), 27_000, "seed {seed}");
        if seed % 20 == 0 {
            assert!(content(&storage, &path) == vec![last as u8 + 1; 27_000], "seed {seed}");
        }
    }
}
