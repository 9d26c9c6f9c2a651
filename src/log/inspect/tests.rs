//! Tests of the walk past damage; those of what is built on it are in `tests/log_inspect.rs`.

use std::path::Path;
use std::sync::Arc;

use super::walk::{Piece, Walk};
use crate::log::format::{BatchBuilder, BatchOptions};
use crate::log::storage::{MemoryStorage, OpenMode, Storage, StorageFile};

/// A batch of so many records.
fn batch(base_offset: i64, records: usize) -> Vec<u8> {
    let mut builder = BatchBuilder::new(BatchOptions { base_offset, ..Default::default() });
    for n in 0..records {
        builder.append(5, None, Some(format!("record {n}").as_bytes()), []).unwrap();
    }
    builder.finish().unwrap()
}

fn file_of(batches: &[Vec<u8>]) -> Arc<dyn StorageFile> {
    let file = MemoryStorage::new().open(Path::new("/s"), OpenMode::Create).unwrap();
    file.write_at(&batches.concat(), 0).unwrap();
    file
}

/// The offsets that a walk finds, and the bytes that it finds bad.
fn walked(file: &Arc<dyn StorageFile>, limit: Option<i64>) -> (Vec<i64>, Vec<(u64, u64)>) {
    let (mut offsets, mut bad) = (Vec::new(), Vec::new());
    let mut walk = Walk::new(&**file, file.len().unwrap(), 0, limit);
    while let Some(piece) = walk.next() {
        match piece {
            Piece::Batch(batch) => offsets.push(batch.header.base_offset),
            Piece::Bad(range) => bad.push((range.position, range.to)),
            Piece::Ahead { .. } => {}
        }
    }
    (offsets, bad)
}

#[test]
fn a_wrong_offset_is_put_right_by_its_neighbours_wherever_the_batch_is() {
    let offsets = [0, 2, 4, 6];
    for wrong in 0..offsets.len() {
        let batches: Vec<Vec<u8>> = (0..)
            .zip(offsets)
            .map(|(n, offset)| batch(if n == wrong { offset + 1024 } else { offset }, 2))
            .collect();
        let file = file_of(&batches);
        let found = walked(&file, Some(8));
        assert_eq!(found, (offsets.to_vec(), vec![]), "batch {wrong}, with a segment behind");
        let found = walked(&file, None);
        assert_eq!(found, (offsets.to_vec(), vec![]), "batch {wrong}, at the end");
    }
}

#[test]
fn a_gap_that_all_batches_behind_it_confirm_is_a_gap() {
    let batches = [batch(0, 2), batch(10, 2), batch(12, 2), batch(14, 2)];
    let found = walked(&file_of(&batches), None);
    assert_eq!(found.0, [0, 10, 12, 14]);
}

#[test]
fn the_walk_goes_on_at_the_next_batch_however_much_is_destroyed() {
    let batches = [batch(0, 2), batch(2, 2), batch(4, 2), batch(6, 2)];
    let (from, to) = (batches[0].len() as u64, batches[..2].concat().len() as u64);
    for destroyed in 2..=(to - from) as usize {
        let file = file_of(&batches);
        // From the length on, so that more is wrong than can be put right.
        let noise = vec![0xa5; destroyed.min((to - from) as usize - 8)];
        file.write_at(&noise, from + 8).unwrap();
        let found = walked(&file, None);
        assert_eq!(found, (vec![0, 4, 6], vec![(from, to)]), "{destroyed} bytes");
    }
}

#[test]
fn one_wrong_bit_outside_the_crc_costs_no_batch() {
    let batches = [batch(0, 2), batch(2, 2), batch(4, 2)];
    let from = batches[0].len();
    // Base offset, length, epoch and magic byte.
    for bit in 0..17 * 8 {
        let mut bytes = batches.concat();
        bytes[from + bit / 8] ^= 1 << (bit % 8);
        let found = walked(&file_of(&[bytes]), None);
        assert_eq!(found, (vec![0, 2, 4], vec![]), "bit {bit}");
    }
}
