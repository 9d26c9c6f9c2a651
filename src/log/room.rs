//! Deleting on a medium that is full. It has to write a little first: where a partition begins from now on, that a topic is
//! being deleted, that no transaction needs what goes. When there is no room for that, the indexes of what goes make some: an
//! index can be built again, so nothing is lost if a crash, or a failure, keeps the rest.

use super::LogInner;
use super::disk;
use super::error::LogError;
use super::format::names::FileKind;
use super::partition::Partition;

impl LogInner {
    /// Does `work`; if the medium is too full for that, once more when what was written ahead is gone, and once more when
    /// `indexes` of what it deletes are; false from there if there are none.
    ///
    /// # Errors
    /// As `work`. `Full` still if others took the room meanwhile, or there was nothing that could go; trying again may help
    /// then.
    pub(super) fn making_room<T>(
        &self,
        indexes: impl FnOnce() -> Result<bool, LogError>,
        work: impl Fn() -> Result<T, LogError>,
    ) -> Result<T, LogError> {
        let is_full = |done: &Result<T, LogError>| done.as_ref().is_err_and(LogError::is_full);
        let mut done = work();
        if is_full(&done) && self.shared.take_ahead() {
            done = work();
        }
        if is_full(&done) && indexes()? {
            done = work();
        }
        done
    }
}

impl Partition {
    /// Removes the indexes of the sealed segments that lie before an offset as a whole; false if there is no such segment.
    pub(super) fn drop_indexes(&self, offset: i64) -> Result<bool, LogError> {
        // Nobody replaces a segment meanwhile.
        let _upkeep = self.claim_upkeep();
        let view = self.view();
        let Some((_active, sealed)) = view.segments.split_last() else { return Ok(false) };
        let mut some = false;
        for segment in sealed.iter().filter(|segment| segment.next_offset() <= offset) {
            some = true;
            for kind in [FileKind::OffsetIndex, FileKind::TimeIndex] {
                let path = self.home.file(segment.base_offset, kind);
                disk::remove_if_there(&*self.home.storage, &path)
                    .map_err(|error| self.home.failed(error))?;
            }
        }
        Ok(some)
    }
}
