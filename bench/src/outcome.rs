//! Errors: any library's, carried as text to the report.

use std::error::Error;
use std::fmt;

/// Any failure of a measurement; it ends as a reason in the report.
pub(crate) type Failure = Box<dyn Error + Send + Sync>;

/// What fallible steps return.
pub(crate) type Outcome<T = ()> = Result<T, Failure>;

/// Makes any printable error a [`Failure`].
pub(crate) fn failure(error: impl fmt::Display) -> Failure {
    error.to_string().into()
}
