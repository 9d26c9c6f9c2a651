//! Ids of topics and log directories: 128 bits, as text in URL-safe base64 without padding, 22 characters.

use std::fmt;
use std::str::FromStr;

use super::error::{Fault, Field, FormatError};

/// Characters of an id's text.
const TEXT_BYTES: usize = 22;
const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// An id of 128 bits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Id(u128);

impl Id {
    /// The id with these bits; where they come from (a random source) is the caller's business. Kafka's own ids are
    /// version 4 UUIDs.
    pub const fn from_bits(bits: u128) -> Self {
        Self(bits)
    }

    /// The bits.
    pub const fn bits(self) -> u128 {
        self.0
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // 22 digits have 132 bits: the lowest four of the last one are zero.
        let mut text = [0; TEXT_BYTES];
        let mut left = self.0;
        for digit in &mut text {
            *digit = DIGITS[(left >> 122) as usize];
            left <<= 6;
        }
        f.pad(std::str::from_utf8(&text).map_err(|_| fmt::Error)?)
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Id {
    type Err = FormatError;

    /// Reads the 22 characters; any other text, and unused bits that are set, are `Malformed`.
    fn from_str(text: &str) -> Result<Self, FormatError> {
        let malformed = |position| FormatError::new(Field::TopicId, position, Fault::Malformed);
        if text.len() != TEXT_BYTES {
            return Err(malformed(0));
        }
        let mut bits = 0u128;
        for (position, byte) in text.bytes().enumerate() {
            let digit = DIGITS.iter().position(|digit| *digit == byte);
            let digit = digit.ok_or_else(|| malformed(position))? as u128;
            if position + 1 < TEXT_BYTES {
                bits = (bits << 6) | digit;
            } else if digit & 0xf == 0 {
                bits = (bits << 2) | (digit >> 4);
            } else {
                return Err(malformed(position));
            }
        }
        Ok(Self(bits))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ids_of_a_real_broker_read_and_write_alike() {
        for text in ["nsRZX1wyTUOPyhWDxRQlbQ", "h-TQVVWZEgV7uasyOvyKOw", "AAAAAAAAAAAAAAAAAAAAAA"] {
            assert_eq!(text.parse::<Id>().unwrap().to_string(), text);
        }
        assert_eq!(Id::from_bits(u128::MAX).to_string(), "_____________________w");
        assert_eq!(Id::from_bits(1).to_string(), "AAAAAAAAAAAAAAAAAAAAAQ");
    }

    #[test]
    fn other_texts_are_refused_at_the_character_that_is_wrong() {
        for (text, position) in [
            ("", 0),
            ("nsRZX1wyTUOPyhWDxRQlb", 0),
            ("nsRZX1wyTUOPyhWDxRQlbQ==", 0),
            ("nsRZX1wyTU+PyhWDxRQlbQ", 10),
            ("nsRZX1wyTUOPyhWDxRQlbR", 21),
        ] {
            let error = text.parse::<Id>().unwrap_err();
            assert_eq!((error.position, error.fault), (position, Fault::Malformed), "{text}");
        }
    }

    proptest! {
        #[test]
        fn every_id_reads_back(bits in any::<u128>()) {
            let id = Id::from_bits(bits);
            prop_assert_eq!(id.to_string().parse::<Id>(), Ok(id));
        }

        #[test]
        fn any_text_is_refused_or_is_the_text_of_its_id(text in "[A-Za-z0-9_-]{22}|.{0,24}") {
            if let Ok(id) = text.parse::<Id>() {
                prop_assert_eq!(id.to_string(), text);
            }
        }
    }
}
