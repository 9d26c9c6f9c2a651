//! Tests of the checkpoint files.

use proptest::prelude::*;

use super::*;

fn offsets(text: &str) -> Result<Vec<PartitionOffset>, (Field, usize)> {
    decode_offsets(text.as_bytes()).map_err(|error| (error.field, error.position))
}

fn epochs(text: &str) -> Result<Vec<EpochStart>, (Field, usize)> {
    decode_epochs(text.as_bytes()).map_err(|error| (error.field, error.position))
}

#[test]
fn the_files_of_a_real_broker_are_read_and_written_alike() {
    for text in ["0\n0\n", "0\n2\ngolden-zstd 0 80\n__transaction_state 12 9223372036854775807\n"] {
        assert_eq!(encode_offsets(&offsets(text).unwrap()).unwrap(), text);
    }
    for text in ["0\n0\n", "0\n1\n0 0\n", "0\n3\n0 0\n4 17\n5 17\n"] {
        assert_eq!(encode_epochs(&epochs(text).unwrap()).unwrap(), text);
    }
}

#[test]
fn a_file_of_offsets_that_is_not_exact_is_refused_where_it_is_wrong() {
    for (text, field, position) in [
        ("", Field::Version, 0),
        ("0", Field::Version, 0),
        ("1\n0\n", Field::Version, 0),
        ("00\n0\n", Field::Version, 0),
        ("0 \n0\n", Field::File, 2),
        ("0\n", Field::EntryCount, 2),
        ("0\n-1\n", Field::EntryCount, 2),
        ("0\n1\n", Field::EntryCount, 2),
        ("0\n0\na 0 0\n", Field::EntryCount, 2),
        ("0\n9223372036854775807\na 0 0\n", Field::EntryCount, 2),
        ("0\n1\na 0 0", Field::File, 4),
        ("0\n1\na 0 0\n\n", Field::Topic, 10),
        ("0\n1\na  0 0\n", Field::Partition, 6),
        ("0\n1\na 0 0 0\n", Field::File, 10),
        ("0\n1\na 0\n", Field::Offset, 8),
        ("0\n1\na 0 -1\n", Field::Offset, 8),
        ("0\n1\na 0 +1\n", Field::Offset, 8),
        ("0\n1\na 2147483648 1\n", Field::Partition, 6),
        ("0\n1\na 0 9223372036854775808\n", Field::Offset, 8),
        ("0\n1\na/b 0 0\n", Field::Topic, 4),
        ("0\r\n0\r\n", Field::Version, 0),
    ] {
        assert_eq!(offsets(text), Err((field, position)), "{text:?}");
    }
    let error = decode_offsets(b"0\n1\n\xff 0 0\n").unwrap_err();
    assert_eq!((error.position, error.fault), (4, Fault::NotUtf8));
}

#[test]
fn epochs_that_do_not_rise_are_refused_both_ways() {
    for (text, field, position) in [
        ("0\n2\n1 0\n1 5\n", Field::Epoch, 8),
        ("0\n2\n2 0\n1 5\n", Field::Epoch, 8),
        ("0\n2\n1 6\n2 5\n", Field::Offset, 8),
        ("0\n1\n2147483648 0\n", Field::Epoch, 4),
    ] {
        assert_eq!(epochs(text), Err((field, position)), "{text:?}");
    }
    let entry = |epoch, start_offset| EpochStart { epoch, start_offset };
    assert_eq!(encode_epochs(&[entry(1, 0), entry(1, 1)]).unwrap_err().position, 1);
    assert!(encode_epochs(&[entry(-1, 0)]).is_err());
    assert!(encode_epochs(&[entry(1, 1), entry(2, 0)]).is_err());
}

#[test]
fn entries_that_could_not_be_read_back_are_not_written() {
    let entry = |topic: &str, partition, offset| PartitionOffset {
        topic: topic.to_owned(),
        partition,
        offset,
    };
    for (bad, field) in [
        (entry("a b", 0, 0), Field::Topic),
        (entry("a", u32::MAX, 0), Field::Partition),
        (entry("a", 0, -1), Field::Offset),
    ] {
        let error = encode_offsets(&[entry("a", 0, 0), bad]).unwrap_err();
        assert_eq!((error.field, error.position), (field, 1));
    }
}

proptest! {
    #[test]
    fn offsets_read_back(entries in prop::collection::vec(
        ("[a-zA-Z0-9_-]{1,12}", 0..=PARTITION_MAX, 0..=i64::MAX), 0..8,
    )) {
        let entries: Vec<_> = entries.into_iter()
            .map(|(topic, partition, offset)| PartitionOffset { topic, partition, offset }).collect();
        let text = encode_offsets(&entries).unwrap();
        prop_assert_eq!(decode_offsets(text.as_bytes()), Ok(entries));
    }

    #[test]
    fn epochs_read_back(steps in prop::collection::vec((1..100_000, 0..1i64 << 50), 0..8)) {
        let mut last = EpochStart { epoch: -1, start_offset: 0 };
        let entries: Vec<_> = steps.into_iter().map(|(epochs, offsets)| {
            last = EpochStart { epoch: last.epoch + epochs, start_offset: last.start_offset + offsets };
            last
        }).collect();
        let text = encode_epochs(&entries).unwrap();
        prop_assert_eq!(decode_epochs(text.as_bytes()), Ok(entries));
    }

    #[test]
    fn any_text_is_refused_or_written_alike(
        text in "0\n[0-3]\n([a-z.]{1,2} [0-9]{1,2} [0-9]{1,3}\n){0,3}|0\n[0-3]\n([0-9] [0-9]{1,2}\n){0,3}|.*",
        noise: Vec<u8>,
    ) {
        if let Ok(entries) = decode_offsets(text.as_bytes()) {
            prop_assert_eq!(encode_offsets(&entries), Ok(text.clone()));
        }
        if let Ok(entries) = decode_epochs(text.as_bytes()) {
            prop_assert_eq!(encode_epochs(&entries), Ok(text));
        }
        let _ = decode_offsets(&noise);
        let _ = decode_epochs(&noise);
    }
}
