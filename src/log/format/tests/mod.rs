//! Tests of the storage format as a whole: against another implementation, and against files that are kept.

pub(super) mod samples;
