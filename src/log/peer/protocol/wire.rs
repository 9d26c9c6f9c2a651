//! The bytes of single fields: big-endian numbers, sized texts and lists. What a peer claims is believed only as far as
//! its bytes reach: a count or length never makes anything larger than the message it came in.

use crate::log::format::Id;
use crate::log::options::Level;

/// Why the bytes of a message make no sense.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Malformed {
    /// A field reaches beyond the end of the message.
    #[error("the message ends within a field")]
    Truncated,
    /// Bytes follow the last field.
    #[error("{bytes} bytes follow the last field")]
    Trailing {
        /// How many.
        bytes: usize,
    },
    /// A list is longer than `LIST_MAX`.
    #[error("a list of {count} entries, of which there may be 65,536")]
    List {
        /// Its entries.
        count: usize,
    },
    /// A text is not UTF-8.
    #[error("a text is not UTF-8")]
    NotUtf8,
    /// A field has a value that means nothing.
    #[error("a field has the meaningless value {found}")]
    Value {
        /// The value.
        found: u64,
    },
    /// The kind of the request or answer is unknown.
    #[error("the kind {found} is unknown")]
    Kind {
        /// The kind.
        found: u8,
    },
    /// The message is of another version of the protocol.
    #[error("the protocol version {found} is not spoken here")]
    Version {
        /// The version.
        found: u8,
    },
    /// The number of frames does not fit the kind.
    #[error("the number of frames does not fit the kind")]
    Frames,
}

/// Entries of a list in a message. In memory, and in the answer, an entry may be many times as large as on the wire.
pub(in crate::log) const LIST_MAX: usize = 1 << 16;

/// The bytes that are left to be decoded.
#[derive(Clone, Debug)]
pub(in crate::log) struct Input<'a> {
    left: &'a [u8],
    list_max: usize,
}

impl<'a> Input<'a> {
    /// What a peer has sent.
    pub(in crate::log) fn new(bytes: &'a [u8]) -> Self {
        Self { left: bytes, list_max: LIST_MAX }
    }

    /// What this process, or one before it, has written itself: lists are as long as they are.
    pub(in crate::log) fn of_own(bytes: &'a [u8]) -> Self {
        Self { left: bytes, list_max: usize::MAX }
    }

    fn bytes(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let (taken, left) = self.left.split_at_checked(count).ok_or(Malformed::Truncated)?;
        self.left = left;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (taken, left) = self.left.split_first_chunk::<N>().ok_or(Malformed::Truncated)?;
        self.left = left;
        Ok(*taken)
    }

    /// A count or length, which nothing that is left contradicts.
    fn count(&mut self, bytes_each: usize) -> Result<usize, Malformed> {
        let count = u32::take(self)? as usize;
        if count > self.left.len() / bytes_each.max(1) {
            return Err(Malformed::Truncated);
        }
        Ok(count)
    }

    /// Refuses bytes that nobody has asked for.
    pub(in crate::log) fn end(self) -> Result<(), Malformed> {
        match self.left.len() {
            0 => Ok(()),
            bytes => Err(Malformed::Trailing { bytes }),
        }
    }
}

/// A value with a fixed form on the wire.
pub(in crate::log) trait Wire: Sized {
    /// No value takes less. At least 1, so that a list cannot be longer than its message.
    const BYTES_MIN: usize;

    /// Appends the value.
    fn put(&self, out: &mut Vec<u8>);

    /// Decodes the next value.
    fn take(input: &mut Input<'_>) -> Result<Self, Malformed>;
}

macro_rules! numbers {
    ($($number:ty),*) => {$(
        impl Wire for $number {
            const BYTES_MIN: usize = size_of::<$number>();

            fn put(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_be_bytes());
            }

            fn take(input: &mut Input<'_>) -> Result<Self, Malformed> {
                Ok(<$number>::from_be_bytes(input.array()?))
            }
        }
    )*};
}
numbers!(u8, u16, u32, u64, i16, i32, i64);

impl Wire for Id {
    const BYTES_MIN: usize = size_of::<u128>();

    fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.bits().to_be_bytes());
    }

    fn take(input: &mut Input<'_>) -> Result<Self, Malformed> {
        Ok(Self::from_bits(u128::from_be_bytes(input.array()?)))
    }
}

impl Wire for bool {
    const BYTES_MIN: usize = 1;

    fn put(&self, out: &mut Vec<u8>) {
        out.push(u8::from(*self));
    }

    fn take(input: &mut Input<'_>) -> Result<Self, Malformed> {
        match u8::take(input)? {
            0 => Ok(false),
            1 => Ok(true),
            found => Err(Malformed::Value { found: found.into() }),
        }
    }
}

/// Appends a length. Nothing that is encoded here comes near 4 GiB; if it did, it would be cut.
fn put_len(len: usize, out: &mut Vec<u8>) -> usize {
    let len = u32::try_from(len).unwrap_or(u32::MAX);
    len.put(out);
    len as usize
}

impl Wire for String {
    const BYTES_MIN: usize = 4;

    fn put(&self, out: &mut Vec<u8>) {
        let len = put_len(self.len(), out);
        out.extend_from_slice(self.as_bytes().get(..len).unwrap_or_default());
    }

    fn take(input: &mut Input<'_>) -> Result<Self, Malformed> {
        let count = input.count(1)?;
        let text = std::str::from_utf8(input.bytes(count)?).map_err(|_| Malformed::NotUtf8)?;
        Ok(text.to_owned())
    }
}

impl<T: Wire> Wire for Option<T> {
    const BYTES_MIN: usize = 1;

    fn put(&self, out: &mut Vec<u8>) {
        self.is_some().put(out);
        if let Some(value) = self {
            value.put(out);
        }
    }

    fn take(input: &mut Input<'_>) -> Result<Self, Malformed> {
        if bool::take(input)? { T::take(input).map(Some) } else { Ok(None) }
    }
}

impl<T: Wire> Wire for Box<T> {
    const BYTES_MIN: usize = T::BYTES_MIN;

    fn put(&self, out: &mut Vec<u8>) {
        T::put(self, out);
    }

    fn take(input: &mut Input<'_>) -> Result<Self, Malformed> {
        T::take(input).map(Self::new)
    }
}

impl<T: Wire> Wire for Vec<T> {
    const BYTES_MIN: usize = 4;

    fn put(&self, out: &mut Vec<u8>) {
        let len = put_len(self.len(), out);
        self.iter().take(len).for_each(|item| item.put(out));
    }

    fn take(input: &mut Input<'_>) -> Result<Self, Malformed> {
        let count = input.count(T::BYTES_MIN)?;
        if count > input.list_max {
            return Err(Malformed::List { count });
        }
        // Grows with what is really there: an item may be much larger here than on the wire.
        let mut items = Self::new();
        for _ in 0..count {
            items.push(T::take(input)?);
        }
        Ok(items)
    }
}

impl<A: Wire, B: Wire> Wire for (A, B) {
    const BYTES_MIN: usize = A::BYTES_MIN + B::BYTES_MIN;

    fn put(&self, out: &mut Vec<u8>) {
        self.0.put(out);
        self.1.put(out);
    }

    fn take(input: &mut Input<'_>) -> Result<Self, Malformed> {
        Ok((A::take(input)?, B::take(input)?))
    }
}

impl Wire for Level {
    const BYTES_MIN: usize = 1;

    fn put(&self, out: &mut Vec<u8>) {
        let code: u8 = match self {
            Self::Buffered => 0,
            Self::Written => 1,
            Self::Durable => 2,
        };
        code.put(out);
    }

    fn take(input: &mut Input<'_>) -> Result<Self, Malformed> {
        match u8::take(input)? {
            0 => Ok(Self::Buffered),
            1 => Ok(Self::Written),
            2 => Ok(Self::Durable),
            found => Err(Malformed::Value { found: found.into() }),
        }
    }
}

/// Declares a structure whose form on the wire is its fields one behind the other.
macro_rules! wire_struct {
    ($(#[$doc:meta])* $vis:vis struct $name:ident {
        $($(#[$field_doc:meta])* $field:ident: $type:ty,)*
    }) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Debug)]
        $vis struct $name { $($(#[$field_doc])* $vis $field: $type,)* }

        impl $crate::log::peer::protocol::wire::Wire for $name {
            const BYTES_MIN: usize = {
                let fields = 0 $(+ <$type as $crate::log::peer::protocol::wire::Wire>::BYTES_MIN)*;
                if fields == 0 { 1 } else { fields }
            };

            fn put(&self, out: &mut Vec<u8>) {
                let _ = &out;
                $($crate::log::peer::protocol::wire::Wire::put(&self.$field, out);)*
            }

            fn take(
                input: &mut $crate::log::peer::protocol::wire::Input<'_>,
            ) -> Result<Self, $crate::log::peer::protocol::wire::Malformed> {
                let _ = &input;
                Ok(Self {
                    $($field: $crate::log::peer::protocol::wire::Wire::take(input)?,)*
                })
            }
        }
    };
}
pub(in crate::log) use wire_struct;

/// Declares an enumeration of structures, each told by a code.
macro_rules! wire_kinds {
    ($(#[$doc:meta])* $vis:vis enum $name:ident {
        $($(#[$kind_doc:meta])* $code:literal $kind:ident($type:ty),)*
    }) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Debug)]
        $vis enum $name { $($(#[$kind_doc])* $kind($type),)* }

        impl $name {
            /// The code of its kind.
            $vis fn code(&self) -> u8 {
                match self { $(Self::$kind(_) => $code,)* }
            }

            /// The name of its kind.
            #[allow(dead_code, reason = "not all kinds are named to people")]
            $vis fn name(&self) -> &'static str {
                match self { $(Self::$kind(_) => stringify!($kind),)* }
            }

            fn put_fields(&self, out: &mut Vec<u8>) {
                match self { $(Self::$kind(fields) => fields.put(out),)* }
            }

            fn take_fields(code: u8, input: &mut Input<'_>) -> Result<Self, Malformed> {
                match code {
                    $($code => <$type>::take(input).map(Self::$kind),)*
                    found => Err(Malformed::Kind { found }),
                }
            }
        }

        $(impl From<$type> for $name {
            fn from(fields: $type) -> Self {
                Self::$kind(fields)
            }
        })*
    };
}
pub(in crate::log) use wire_kinds;
