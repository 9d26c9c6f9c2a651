//! `log serve`: the log of a directory, for other processes.

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use peermq::Context;
use peermq::log::LogServer;
use signal_hook::consts::TERM_SIGNALS;
use signal_hook::iterator::Signals;

use crate::{Outcome, open_existing};

/// Serves until the process is told to end (SIGINT, SIGTERM, SIGQUIT), and closes the log then. If it is killed instead
/// whatever was acknowledged before is in the log.
pub(crate) fn run(directory: &Path, endpoint: &str) -> Outcome {
    // First of all: who knows the endpoint may tell it to end.
    let mut signals = Signals::new(TERM_SIGNALS)?;
    let log = open_existing(directory)?;
    let context = Context::new();
    let server = LogServer::bind(&context, &log, endpoint)?;
    let mut out = io::stdout().lock();
    // The port may have been left to the system.
    writeln!(out, "serving {} at {}", directory.display(), server.endpoint())?;
    out.flush()?;
    drop(out);
    signals.forever().next();
    drop(server);
    log.close()?;
    Ok(ExitCode::SUCCESS)
}
