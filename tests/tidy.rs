//! The style of the house, checked: modules depend downwards only, files and functions stay short, the sans-I/O modules
//! stay without I/O, sources are ASCII.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};

/// Modules from low to high; those of one line may use each other. A module uses only those before it, and its own line.
const LAYERS: [&[&str]; 11] = [
    &["sync"],
    &["wire", "transport"],
    &["peer"],
    &["message"],
    &["error", "options", "monitor", "completion"],
    &["pipe"],
    &["pattern"],
    &["reactor"],
    &["socket"],
    &["log"],
    &["loom_models", "stages"],
];

/// Lines of one file, tests in it included.
const FILE_LINES_MAX: usize = 520;

/// Lines of one function.
const FUNCTION_LINES_MAX: usize = 70;

/// Sources of the crate as (path below `src`, text).
fn sources() -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut folders = vec![root.clone()];
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                found.push((path.strip_prefix(&root).unwrap().to_owned(), text));
            }
        }
    }
    assert!(found.len() > 40, "the sources were not found");
    found
}

fn is_test_file(path: &Path) -> bool {
    path.components().any(|part| {
        ["tests", "tests.rs", "loom_models"].iter().any(|name| part.as_os_str() == *name)
    })
}

/// The part of a source before its unit tests.
fn without_tests(text: &str) -> &str {
    text.split("#[cfg(test)]\nmod tests").next().unwrap_or(text)
}

fn module_of(path: &Path) -> String {
    let first = path.components().next().unwrap().as_os_str().to_str().unwrap();
    first.trim_end_matches(".rs").to_owned()
}

fn layer_of(module: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&module))
}

fn check(broken: Vec<String>) {
    assert!(broken.is_empty(), "\n{}", broken.join("\n"));
}

#[test]
fn modules_depend_downwards_only() {
    let mut broken = Vec::new();
    for (path, text) in sources() {
        let module = module_of(&path);
        if ["lib", "context"].contains(&module.as_str()) || is_test_file(&path) {
            continue;
        }
        let own = layer_of(&module).unwrap_or_else(|| panic!("{module} has no layer"));
        for (number, line) in without_tests(&text).lines().enumerate() {
            for used in line.split("crate::").skip(1) {
                let used: String =
                    used.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                if layer_of(&used).is_some_and(|layer| layer > own) {
                    broken.push(format!("{}:{}: uses {used}", path.display(), number + 1));
                }
            }
        }
    }
    check(broken);
}

#[test]
fn protocol_and_routing_know_no_clock_and_no_io() {
    const FORBIDDEN: [&str; 7] = [
        "Instant::now",
        "SystemTime",
        "std::net",
        "std::io",
        "std::thread",
        "mio::",
        "std::sync::Mutex",
    ];
    let mut broken = Vec::new();
    for (path, text) in sources() {
        if !["wire", "pattern"].contains(&module_of(&path).as_str()) || is_test_file(&path) {
            continue;
        }
        for word in FORBIDDEN {
            if without_tests(&text).contains(word) {
                broken.push(format!("{}: {word}", path.display()));
            }
        }
    }
    check(broken);
}

#[test]
fn the_clock_and_the_poller_are_named_in_one_place() {
    let mut broken = Vec::new();
    for (path, text) in sources() {
        let text = without_tests(&text);
        if ["Instant::now", "mio::"].iter().any(|word| text.contains(word))
            && path != Path::new("transport/net.rs")
            && !is_test_file(&path)
        {
            broken.push(path.display().to_string());
        }
    }
    check(broken);
}

#[test]
fn nothing_that_may_come_from_outside_is_unwrapped() {
    let mut broken = Vec::new();
    for (path, text) in sources() {
        if is_test_file(&path) {
            continue;
        }
        for (number, line) in without_tests(&text).lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            let words =
                [".unwrap()", ".expect(", "panic!(", "todo!(", "unimplemented!(", "unreachable!("];
            if words.iter().any(|word| code.contains(word)) {
                broken.push(format!("{}:{}: {}", path.display(), number + 1, line.trim()));
            }
        }
    }
    check(broken);
}

#[test]
fn files_and_functions_stay_short() {
    let mut broken = Vec::new();
    for (path, text) in sources() {
        let lines = text.lines().count();
        if lines > FILE_LINES_MAX {
            broken.push(format!("{}: {lines} lines", path.display()));
        }
        for (name, lines) in functions(without_tests(&text)) {
            if lines > FUNCTION_LINES_MAX {
                broken.push(format!("{}: {name} has {lines} lines", path.display()));
            }
        }
    }
    check(broken);
}

/// Names and lengths of the functions of a formatted source: from `fn` to the brace at the same indentation.
fn functions(text: &str) -> Vec<(String, usize)> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    for (start, line) in lines.iter().enumerate() {
        let indentation = line.len() - line.trim_start().len();
        let Some(name) = line.split("fn ").nth(1).filter(|_| !line.trim_start().starts_with("//"))
        else {
            continue;
        };
        let end = format!("{}}}", " ".repeat(indentation));
        if let Some(length) = lines[start..].iter().position(|line| *line == end) {
            found.push((name.split('(').next().unwrap_or_default().to_owned(), length + 1));
        }
    }
    found
}

#[test]
fn every_file_says_what_it_is_for() {
    let missing = sources().into_iter().filter(|(_, text)| !text.starts_with("//! "));
    check(missing.map(|(path, _)| path.display().to_string()).collect());
}

#[test]
fn sources_are_ascii() {
    let foreign = sources().into_iter().filter(|(_, text)| !text.is_ascii());
    check(foreign.map(|(path, _)| path.display().to_string()).collect());
}

#[test]
fn invariants_cited_in_the_sources_stand_in_the_design() {
    let design = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/design.md");
    let design = fs::read_to_string(design).unwrap();
    let mut broken = Vec::new();
    for (path, text) in sources() {
        for word in text.split(|c: char| !c.is_alphanumeric()) {
            let mut characters = word.chars();
            let letter = characters.next();
            let numbered = word.len() == 2 && characters.all(|c| c.is_ascii_digit());
            if numbered
                && letter.is_some_and(|letter| "OIRJT".contains(letter))
                && !design.contains(&format!("**{word}**"))
            {
                broken.push(format!("{}: {word}", path.display()));
            }
        }
    }
    check(broken);
}
