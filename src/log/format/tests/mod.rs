//! Tests of the storage format as a whole: against another implementation, and against files that are kept.

mod golden;
mod independent;
pub(super) mod samples;
