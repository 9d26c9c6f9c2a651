//! Where reading begins, as clients say it.

use super::wire::{Input, Malformed, Wire};
use crate::log::read::Position;

/// A position, as it travels.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(in crate::log) enum WirePosition {
    Earliest,
    Latest,
    Time(i64),
    Committed(String),
    Offset(i64),
}

impl From<Position> for WirePosition {
    fn from(position: Position) -> Self {
        match position {
            Position::Earliest => Self::Earliest,
            Position::Latest => Self::Latest,
            Position::Time(timestamp_ms) => Self::Time(timestamp_ms),
            Position::Committed(group) => Self::Committed(group),
            Position::Offset(offset) => Self::Offset(offset),
        }
    }
}

impl From<WirePosition> for Position {
    fn from(position: WirePosition) -> Self {
        match position {
            WirePosition::Earliest => Self::Earliest,
            WirePosition::Latest => Self::Latest,
            WirePosition::Time(timestamp_ms) => Self::Time(timestamp_ms),
            WirePosition::Committed(group) => Self::Committed(group),
            WirePosition::Offset(offset) => Self::Offset(offset),
        }
    }
}

impl Wire for WirePosition {
    const BYTES_MIN: usize = 1;

    fn put(&self, out: &mut Vec<u8>) {
        match self {
            Self::Earliest => out.push(0),
            Self::Latest => out.push(1),
            Self::Time(timestamp_ms) => {
                out.push(2);
                timestamp_ms.put(out);
            }
            Self::Committed(group) => {
                out.push(3);
                group.put(out);
            }
            Self::Offset(offset) => {
                out.push(4);
                offset.put(out);
            }
        }
    }

    fn take(input: &mut Input<'_>) -> Result<Self, Malformed> {
        match u8::take(input)? {
            0 => Ok(Self::Earliest),
            1 => Ok(Self::Latest),
            2 => i64::take(input).map(Self::Time),
            3 => String::take(input).map(Self::Committed),
            4 => i64::take(input).map(Self::Offset),
            found => Err(Malformed::Value { found: found.into() }),
        }
    }
}
