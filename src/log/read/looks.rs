//! Whether what a reader met is damage. In a log that is open for reading only it may be that another process has replaced
//! segments or removed them: then what they are now is read.

use crate::log::error::LogError;
use crate::log::partition::Partition;

/// What a reader has found out that failed. Only what two looks one after the other agree on is true.
#[derive(Debug, Default)]
pub(super) struct Looks {
    last: Option<Seen>,
}

/// What a look found of the segment that could not be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Seen {
    /// That this one is not there any more, or it is not known which one it is.
    Gone(Option<i64>),
    /// That it is the last one. It grows, but is never replaced.
    Active(i64),
    /// Where it begins and what comes behind it, and its bytes.
    Sealed(i64, i64, u64),
}

impl Looks {
    /// Looks anew what there is.
    ///
    /// # Errors
    /// The same one, if that does not help; failures of the look.
    #[cold]
    pub(super) fn again(&mut self, partition: &Partition, error: LogError) -> Result<(), LogError> {
        let suspect = segment_of(&error);
        if error.is_out_of_range() || !partition.reload(suspect)? {
            return Err(error);
        }
        let seen = look(partition, suspect);
        if self.last.replace(seen) == Some(seen) { Err(error) } else { Ok(()) }
    }
}

/// The segment that an error is about.
fn segment_of(error: &LogError) -> Option<i64> {
    match error {
        LogError::Corrupt { place, .. } | LogError::Storage { place, .. } => place.segment,
        _ => None,
    }
}

fn look(partition: &Partition, suspect: Option<i64>) -> Seen {
    let view = partition.view();
    let at = view.segments.iter().position(|segment| Some(segment.base_offset) == suspect);
    let Some((at, segment)) = at.and_then(|at| Some((at, view.segments.get(at)?))) else {
        return Seen::Gone(suspect);
    };
    match view.segments.get(at + 1) {
        Some(next) => Seen::Sealed(segment.base_offset, next.base_offset, segment.end()),
        None => Seen::Active(segment.base_offset),
    }
}
