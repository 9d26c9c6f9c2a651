//! The attributes of a batch: codec, kind of timestamps, flags.

use std::fmt;

use crate::log::format::compression::Codec;

const CODEC_MASK: u16 = 0b111;
const APPEND_TIME: u16 = 1 << 3;
const TRANSACTIONAL: u16 = 1 << 4;
const CONTROL: u16 = 1 << 5;
const DELETE_HORIZON: u16 = 1 << 6;

/// Who set the timestamps of a batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum TimestampType {
    /// The producer, record by record.
    #[default]
    Create,
    /// The log: all records of the batch have its max timestamp, the time of the append.
    Append,
}

/// The attributes of a batch. Only values whose bits all have a meaning can be made.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Attributes(u16);

impl Attributes {
    /// Attributes without flags.
    pub const fn new(codec: Codec, timestamps: TimestampType) -> Self {
        let time = match timestamps {
            TimestampType::Create => 0,
            TimestampType::Append => APPEND_TIME,
        };
        Self(codec.id() as u16 | time)
    }

    /// From the stored bits; `None` if the codec is unknown or an unused bit is set.
    pub const fn from_bits(bits: u16) -> Option<Self> {
        let known = CODEC_MASK | APPEND_TIME | TRANSACTIONAL | CONTROL | DELETE_HORIZON;
        if bits & !known != 0 || Codec::from_id((bits & CODEC_MASK) as u8).is_none() {
            return None;
        }
        Some(Self(bits))
    }

    /// The stored bits.
    pub const fn bits(self) -> u16 {
        self.0
    }

    /// How the records are packed.
    pub const fn codec(self) -> Codec {
        match Codec::from_id((self.0 & CODEC_MASK) as u8) {
            Some(codec) => codec,
            // No constructor lets an unknown codec in.
            None => Codec::None,
        }
    }

    /// Who set the timestamps.
    pub const fn timestamp_type(self) -> TimestampType {
        if self.0 & APPEND_TIME == 0 { TimestampType::Create } else { TimestampType::Append }
    }

    /// Whether the batch belongs to a transaction.
    pub const fn is_transactional(self) -> bool {
        self.0 & TRANSACTIONAL != 0
    }

    /// Whether the batch holds control records, which are not for consumers.
    pub const fn is_control(self) -> bool {
        self.0 & CONTROL != 0
    }

    /// Whether the base timestamp is the time after which tombstones may go.
    pub const fn has_delete_horizon(self) -> bool {
        self.0 & DELETE_HORIZON != 0
    }

    /// The same with another codec.
    #[must_use]
    pub const fn with_codec(self, codec: Codec) -> Self {
        Self(self.0 & !CODEC_MASK | codec.id() as u16)
    }

    /// The same with other timestamps.
    #[must_use]
    pub const fn with_timestamp_type(self, timestamps: TimestampType) -> Self {
        self.with(APPEND_TIME, matches!(timestamps, TimestampType::Append))
    }

    /// The same, in or out of a transaction.
    #[must_use]
    pub const fn with_transactional(self, on: bool) -> Self {
        self.with(TRANSACTIONAL, on)
    }

    /// The same, for control records or not.
    #[must_use]
    pub const fn with_control(self, on: bool) -> Self {
        self.with(CONTROL, on)
    }

    /// The same, with or without a delete horizon.
    #[must_use]
    pub const fn with_delete_horizon(self, on: bool) -> Self {
        self.with(DELETE_HORIZON, on)
    }

    const fn with(self, bit: u16, on: bool) -> Self {
        Self(if on { self.0 | bit } else { self.0 & !bit })
    }
}

impl fmt::Debug for Attributes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Attributes")
            .field("codec", &self.codec())
            .field("timestamp_type", &self.timestamp_type())
            .field("transactional", &self.is_transactional())
            .field("control", &self.is_control())
            .field("delete_horizon", &self.has_delete_horizon())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_of_the_bits_is_refused_or_read_and_written_alike() {
        let mut accepted = 0;
        for bits in 0..=u16::MAX {
            let Some(attributes) = Attributes::from_bits(bits) else { continue };
            accepted += 1;
            let again = Attributes::new(attributes.codec(), attributes.timestamp_type())
                .with_transactional(attributes.is_transactional())
                .with_control(attributes.is_control())
                .with_delete_horizon(attributes.has_delete_horizon());
            assert_eq!((attributes.bits(), again.bits()), (bits, bits));
        }
        assert_eq!(accepted, 5 * 16, "five codecs, four flags");
    }

    #[test]
    fn each_flag_is_kafkas_bit() {
        let plain = Attributes::new(Codec::Zstd, TimestampType::Create);
        assert_eq!(plain.bits(), 4);
        assert_eq!(plain.with_codec(Codec::Gzip).bits(), 1);
        assert_eq!(plain.with_timestamp_type(TimestampType::Append).bits(), 4 | 8);
        assert_eq!(plain.with_transactional(true).bits(), 4 | 16);
        assert_eq!(plain.with_control(true).bits(), 4 | 32);
        assert_eq!(plain.with_delete_horizon(true).bits(), 4 | 64);
        assert_eq!(plain.with_control(true).with_control(false), plain);
    }
}
