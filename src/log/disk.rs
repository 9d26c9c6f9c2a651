//! Small files that are replaced as a whole, so that a power cut leaves the old one or the new one.

use std::path::Path;

use super::storage::{OpenMode, Storage, StorageError};

/// What a file being written is called before it gets its name.
const TEMPORARY_SUFFIX: &str = ".tmp";

/// Largest small file that is read, in bytes.
const SMALL_FILE_BYTES_MAX: u64 = 1 << 30;

/// Replaces the file `name` in `directory`, or creates it; durable when this returns.
pub(super) fn replace(
    storage: &dyn Storage,
    directory: &Path,
    name: &str,
    bytes: &[u8],
) -> Result<(), StorageError> {
    let temporary = directory.join(format!("{name}{TEMPORARY_SUFFIX}"));
    let file = storage.open(&temporary, OpenMode::Create)?;
    file.set_len(0)?;
    file.write_at(bytes, 0)?;
    file.sync_data()?;
    storage.rename(&temporary, &directory.join(name))?;
    storage.sync_dir(directory)
}

/// Whether this is what an interrupted [`replace`] leaves behind.
pub(super) fn is_temporary(name: &str) -> bool {
    name.ends_with(TEMPORARY_SUFFIX)
}

/// All bytes of a file; `None` if there is none.
pub(super) fn read(storage: &dyn Storage, path: &Path) -> Result<Option<Vec<u8>>, StorageError> {
    read_front(storage, path, SMALL_FILE_BYTES_MAX)
}

/// All bytes of a file, up to so many; `None` if there is none.
pub(super) fn read_front(
    storage: &dyn Storage,
    path: &Path,
    bytes_max: u64,
) -> Result<Option<Vec<u8>>, StorageError> {
    let file = match storage.open(path, OpenMode::Read) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let len = file.len()?.min(bytes_max);
    let mut bytes = vec![0; usize::try_from(len).unwrap_or_default()];
    let read = file.read_at(&mut bytes, 0)?;
    bytes.truncate(read);
    Ok(Some(bytes))
}

/// Removes a file, if it is there. Not durable before the directory is synced.
pub(super) fn remove_if_there(storage: &dyn Storage, path: &Path) -> Result<(), StorageError> {
    match storage.remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::storage::MemoryStorage;

    #[test]
    fn of_a_file_no_more_is_read_than_is_asked_for() {
        let (storage, path) = (MemoryStorage::new(), Path::new("/file"));
        assert_eq!(read_front(&storage, path, 4).unwrap(), None);
        storage.open(path, OpenMode::Create).unwrap().write_at(b"abcdefgh", 0).unwrap();
        assert_eq!(read_front(&storage, path, 4).unwrap().unwrap(), b"abcd");
        assert_eq!(read_front(&storage, path, 9).unwrap().unwrap(), b"abcdefgh");
        assert_eq!(read(&storage, path).unwrap().unwrap(), b"abcdefgh");
    }
}
