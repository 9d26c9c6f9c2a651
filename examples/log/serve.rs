//! `log serve`: the log of a directory, for other processes.

use std::io::{self, Write};
use std::path::Path;
use std::thread;

use peermq::Context;
use peermq::log::LogServer;

use crate::{Outcome, open_existing};

/// Serves until the process is killed. Whatever was acknowledged before is in the log.
pub(crate) fn run(directory: &Path, endpoint: &str) -> Outcome {
    let log = open_existing(directory)?;
    let context = Context::new();
    let server = LogServer::bind(&context, &log, endpoint)?;
    let mut out = io::stdout().lock();
    // The port may have been left to the system.
    writeln!(out, "serving {} at {}", directory.display(), server.endpoint())?;
    out.flush()?;
    drop(out);
    loop {
        thread::park();
    }
}
