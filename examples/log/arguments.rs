//! The command line, taken apart.

use std::ffi::OsString;
use std::path::PathBuf;
use std::str::FromStr;

use peermq::log::{Level, Position};

/// What to do.
pub(crate) enum Command {
    Help,
    Create { directory: PathBuf, topic: String, partitions: u32 },
    Append(Append),
    Tail(Tail),
    Describe { directory: PathBuf },
    Groups { directory: PathBuf },
    Serve { directory: PathBuf, endpoint: String },
    Dump { file: PathBuf },
    Verify { directory: PathBuf },
    Salvage { directory: PathBuf, out: PathBuf },
    Perf(Perf),
}

/// Where the log is.
pub(crate) enum Target {
    Directory(PathBuf),
    /// The endpoint of a server.
    Server(String),
}

pub(crate) struct Append {
    pub(crate) target: Target,
    pub(crate) topic: String,
    /// `None`: that of the topic.
    pub(crate) level: Option<Level>,
    pub(crate) key_separator: Option<String>,
    pub(crate) acks: bool,
}

pub(crate) struct Tail {
    pub(crate) target: Target,
    pub(crate) topic: String,
    pub(crate) from: Position,
    pub(crate) max: Option<u64>,
    pub(crate) follow: bool,
}

pub(crate) struct Perf {
    pub(crate) directory: PathBuf,
    pub(crate) reads: bool,
    pub(crate) records: u64,
    /// Bytes of a value.
    pub(crate) size: usize,
    pub(crate) level: Level,
    pub(crate) callers: usize,
}

/// Largest value that `perf` appends; what a topic allows by default, less the framing.
const SIZE_BYTES_MAX: usize = 1 << 20;

/// Most callers of `perf`.
const CALLERS_MAX: usize = 4096;

impl Command {
    pub(crate) fn parse(arguments: Vec<OsString>) -> Result<Self, String> {
        // In place of a command, or behind one.
        if arguments.iter().take(2).any(|word| word == "--help") {
            return Ok(Self::Help);
        }
        let mut words = Words { words: arguments.into_iter() };
        let name = words.text("a command")?;
        let command = match name.as_str() {
            "create" => Self::Create {
                directory: words.path("DIR")?,
                topic: words.text("TOPIC")?,
                partitions: words.number("PARTITIONS")?,
            },
            "append" => return Self::parse_append(words),
            "tail" => return Self::parse_tail(words),
            "describe" => Self::Describe { directory: words.path("DIR")? },
            "groups" => Self::Groups { directory: words.path("DIR")? },
            "serve" => {
                Self::Serve { directory: words.path("DIR")?, endpoint: words.text("ENDPOINT")? }
            }
            "dump" => Self::Dump { file: words.path("FILE")? },
            "verify" => Self::Verify { directory: words.path("DIR")? },
            "salvage" => Self::Salvage { directory: words.path("DIR")?, out: words.path("OUT")? },
            "perf" => return Self::parse_perf(words),
            other => return Err(format!("there is no command {other:?}")),
        };
        words.end()?;
        Ok(command)
    }

    fn parse_append(mut words: Words) -> Result<Self, String> {
        let (target, topic) = (words.target()?, words.text("TOPIC")?);
        let (level, key_separator) = (None, None);
        let mut job = Append { target, topic, level, key_separator, acks: false };
        while let Some(option) = words.option()? {
            match option.as_str() {
                "--level" => job.level = Some(level_of(&words.text("a level")?)?),
                "--key-separator" => job.key_separator = Some(words.text("the key separator")?),
                "--acks" => job.acks = true,
                other => return Err(format!("append has no option {other}")),
            }
        }
        Ok(Self::Append(job))
    }

    fn parse_tail(mut words: Words) -> Result<Self, String> {
        let (target, topic) = (words.target()?, words.text("TOPIC")?);
        let from = Position::Earliest;
        let mut job = Tail { target, topic, from, max: None, follow: false };
        while let Some(option) = words.option()? {
            match option.as_str() {
                "--from" => job.from = position_of(&words.text("a position")?)?,
                "--max" => job.max = Some(words.number("the number of records")?),
                "--follow" => job.follow = true,
                other => return Err(format!("tail has no option {other}")),
            }
        }
        Ok(Self::Tail(job))
    }

    fn parse_perf(mut words: Words) -> Result<Self, String> {
        let directory = words.path("DIR")?;
        let reads = match words.text("append or read")?.as_str() {
            "append" => false,
            "read" => true,
            other => return Err(format!("perf measures append or read, not {other:?}")),
        };
        let (mut records, mut size) = (None, None);
        let (mut level, mut callers) = (Level::Written, 1);
        while let Some(option) = words.option()? {
            match option.as_str() {
                "--records" => records = Some(words.number("the number of records")?),
                "--size" => size = Some(words.number("the size of a record")?),
                "--level" => level = level_of(&words.text("a level")?)?,
                "--callers" => callers = words.number("the number of callers")?,
                other => return Err(format!("perf has no option {other}")),
            }
        }
        let records: u64 = records.ok_or("perf needs --records")?;
        let size: usize = size.ok_or("perf needs --size")?;
        if records == 0 || size > SIZE_BYTES_MAX {
            return Err(format!("N is positive, SIZE at most {SIZE_BYTES_MAX}"));
        }
        if !(1..=CALLERS_MAX).contains(&callers) {
            return Err(format!("T is in 1..={CALLERS_MAX}: each caller is a thread"));
        }
        Ok(Self::Perf(Perf { directory, reads, records, size, level, callers }))
    }
}

fn level_of(name: &str) -> Result<Level, String> {
    Level::parse(name).ok_or_else(|| format!("there is no level {name:?}"))
}

fn position_of(text: &str) -> Result<Position, String> {
    let number = |text: &str| text.parse::<i64>().ok().filter(|number| *number >= 0);
    let position = match text {
        "earliest" => Some(Position::Earliest),
        "latest" => Some(Position::Latest),
        _ => match text.strip_prefix('@') {
            Some(time) => number(time).map(Position::Time),
            None => number(text).map(Position::Offset),
        },
    };
    position.ok_or_else(|| format!("{text:?} is not earliest, latest, OFFSET or @UNIX_MS"))
}

/// The arguments that are left.
struct Words {
    words: std::vec::IntoIter<OsString>,
}

impl Words {
    /// A directory, or `--connect` with an endpoint in its place.
    fn target(&mut self) -> Result<Target, String> {
        if self.words.as_slice().first().is_none_or(|word| word != "--connect") {
            return Ok(Target::Directory(self.path("DIR")?));
        }
        self.words.next();
        Ok(Target::Server(self.text("ENDPOINT")?))
    }

    fn path(&mut self, what: &str) -> Result<PathBuf, String> {
        let word = self.words.next().ok_or_else(|| format!("{what} is missing"))?;
        let none = word.to_str().is_some_and(|word| word.is_empty() || word.starts_with("--"));
        if none { Err(format!("{what} is missing")) } else { Ok(word.into()) }
    }

    /// A text that is not empty, and no option: who writes one where something else is wanted has forgotten that.
    fn text(&mut self, what: &str) -> Result<String, String> {
        let word = self.words.next().ok_or_else(|| format!("{what} is missing"))?;
        let word = word.into_string().map_err(|word| format!("{} is not UTF-8", word.display()))?;
        let none = word.is_empty() || (word.len() > 2 && word.starts_with("--"));
        if none { Err(format!("{what} is missing")) } else { Ok(word) }
    }

    fn number<T: FromStr>(&mut self, what: &str) -> Result<T, String> {
        let word = self.text(what)?;
        word.parse().map_err(|_| format!("{word:?} is not {what}"))
    }

    fn option(&mut self) -> Result<Option<String>, String> {
        let word = self.words.next().map(OsString::into_string).transpose();
        word.map_err(|word| format!("{} is not UTF-8", word.display()))
    }

    fn end(&mut self) -> Result<(), String> {
        match self.words.next() {
            Some(word) => Err(format!("{} is one argument too many", word.display())),
            None => Ok(()),
        }
    }
}
