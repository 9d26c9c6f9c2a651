//! What a server refuses, as it travels: a code, the fields that matter to a program, and a text for people.

use std::fmt;

use super::VERSION;
use super::groups::MemberFencing;
use super::wire::{Input, Malformed, Wire, wire_struct};
use crate::log::error::{LogError, Place};
use crate::log::groups::Fencing;

/// Declares the codes with their numbers.
macro_rules! codes {
    ($($(#[$doc:meta])* $number:literal $code:ident,)*) => {
        /// Why a server refused a request.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        #[non_exhaustive]
        pub enum RemoteCode {
            $($(#[$doc])* $code,)*
            /// A code that this version does not know.
            Other(u16),
        }

        impl Wire for RemoteCode {
            const BYTES_MIN: usize = 2;

            fn put(&self, out: &mut Vec<u8>) {
                let number: u16 = match self {
                    $(Self::$code => $number,)*
                    Self::Other(number) => *number,
                };
                number.put(out);
            }

            fn take(input: &mut Input<'_>) -> Result<Self, Malformed> {
                Ok(match u16::take(input)? {
                    $($number => Self::$code,)*
                    number => Self::Other(number),
                })
            }
        }
    };
}

codes! {
    /// There is no such topic.
    1 UnknownTopic,
    /// The topic has no such partition.
    2 UnknownPartition,
    /// The topic exists already. After a lost connection it may be the same call that created it.
    3 TopicExists,
    /// Something was given that no topic, group or queue can have.
    4 Invalid,
    /// The record or batch is larger than the topic allows.
    5 TooLarge,
    /// The offset is not there any more, or not yet: `earliest` and `end` say what is.
    6 OffsetOutOfRange,
    /// The batch breaks the format.
    7 BadBatch,
    /// The producer skipped or repeated a sequence number; nothing was appended.
    8 OutOfSequence,
    /// The producer was replaced by a later one.
    9 Fenced,
    /// The server's log is open for reading only.
    10 ReadOnly,
    /// The server's log, or the topic, is closed.
    11 Closed,
    /// The server's medium is full; nothing was appended.
    12 Full,
    /// The server's medium failed.
    13 Storage,
    /// The server's log takes no appends until it is opened anew.
    14 Poisoned,
    /// Stored bytes are damaged.
    15 Corrupt,
    /// Records that the caller has seen are gone from `offset` on: a crash took what was not durable, and others may
    /// have their offsets now.
    16 Diverged,
    /// The request makes no sense.
    17 Malformed,
    /// Client and server speak different versions of the protocol; the text names them.
    18 Version,
    /// The client has too many requests in flight; this one was not looked at.
    19 Busy,
    /// The server offers no such queue.
    20 UnknownQueue,
    /// The lock on a delivery is over: it expired, or the delivery is settled.
    21 LockLost,
    /// Another worker or member is in the way for now.
    22 Conflict,
    /// The member is not, or no longer, in the group. It has to join again, and owns nothing.
    23 UnknownMember,
    /// Another member has joined with the member's instance name, and has its place.
    28 MemberReplaced,
    /// The topic is compacted, and a record has no key.
    24 KeyMissing,
    /// The member owns the partition now, but the request is from a generation before it got it: `fencing` says which.
    25 WrongGeneration,
    /// The member does not own the partition (any more).
    26 NotOwner,
    /// The topic that the caller knows was deleted, and another one has its name.
    27 TopicReplaced,
    /// More than the server allows: a longer session or lock, a further member. The text names what was asked for, and how
    /// much is allowed.
    29 OverLimit,
}

wire_struct! {
    /// What a server says when it refuses a request.
    #[non_exhaustive]
    pub struct RemoteError {
        /// Why.
        code: RemoteCode,
        /// The topic, queue or group concerned.
        topic: Option<String>,
        /// The partition concerned.
        partition: Option<u32>,
        /// The offset concerned.
        offset: Option<i64>,
        /// First offset that is there.
        earliest: Option<i64>,
        /// The offset that the next record will get.
        end: Option<i64>,
        /// Of a member of a group that was refused: who, and why.
        fencing: Option<Box<MemberFencing>>,
        /// The whole of it, for people.
        text: String,
    }
}

impl RemoteError {
    /// A refusal of which nothing but the code and a text is known.
    pub(in crate::log) fn new(code: RemoteCode, text: impl Into<String>) -> Self {
        let (topic, partition, offset) = (None, None, None);
        let (earliest, end, fencing) = (None, None, None);
        Self { code, topic, partition, offset, earliest, end, fencing, text: text.into() }
    }
}

/// What is the same in every version: of a refusal the code and, if it is about the version, all that version 1 had. Whatever
/// follows in other versions is passed over.
impl RemoteError {
    /// The refusal of a version.
    pub(super) fn put_in_all_versions(&self, out: &mut Vec<u8>) {
        self.code.put(out);
        self.topic.put(out);
        self.partition.put(out);
        for offset in [&self.offset, &self.earliest, &self.end] {
            offset.put(out);
        }
        self.text.put(out);
    }

    /// The refusal of a version, if this is one.
    pub(super) fn take_in_all_versions(input: &Input<'_>) -> Option<Self> {
        let mut input = input.clone();
        let code = RemoteCode::take(&mut input).ok().filter(|code| *code == RemoteCode::Version)?;
        Some(Self::take_version(&mut input).unwrap_or_else(|_| {
            let text = format!("version {VERSION} of the protocol is not spoken by the server");
            Self::new(code, text)
        }))
    }

    fn take_version(input: &mut Input<'_>) -> Result<Self, Malformed> {
        let (topic, partition) = (Wire::take(input)?, Wire::take(input)?);
        let (offset, earliest, end) = (Wire::take(input)?, Wire::take(input)?, Wire::take(input)?);
        let text = Wire::take(input)?;
        let (code, fencing) = (RemoteCode::Version, None);
        Ok(Self { code, topic, partition, offset, earliest, end, fencing, text })
    }

    /// What an answer in another version says.
    pub(super) fn of_version(found: u8) -> Self {
        let text = format!(
            "the server answers in version {found} of the protocol; version {VERSION} is spoken here"
        );
        Self::new(RemoteCode::Version, text)
    }
}

impl fmt::Display for RemoteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl From<&LogError> for RemoteError {
    fn from(error: &LogError) -> Self {
        let (code, place) = classify(error);
        let mut remote = Self::new(code, error.to_string());
        if let Some(place) = place {
            remote.topic.clone_from(&place.topic);
            (remote.partition, remote.offset) = (place.partition, place.offset);
        }
        match error {
            LogError::UnknownTopic { topic }
            | LogError::TopicDeleted { topic }
            | LogError::TopicExists { topic } => {
                remote.topic = Some(topic.clone());
            }
            LogError::UnknownPartition { topic, partition }
            | LogError::TooLarge { topic, partition, .. }
            | LogError::KeyMissing { topic, partition } => {
                (remote.topic, remote.partition) = (Some(topic.clone()), Some(*partition));
            }
            LogError::OffsetOutOfRange { earliest, end, .. } => {
                (remote.earliest, remote.end) = (Some(*earliest), Some(*end));
            }
            LogError::MemberFenced { group, member, generation, why } => {
                if let Fencing::WrongGeneration { partition, .. }
                | Fencing::NotOwner { partition } = why
                {
                    remote.topic = Some(partition.topic.clone());
                    remote.partition = Some(partition.partition);
                }
                remote.fencing = Some(Box::new(MemberFencing {
                    group: group.clone(),
                    member: member.clone(),
                    generation: *generation,
                    why: why.clone(),
                }));
            }
            _ => {}
        }
        remote
    }
}

/// The code of an error, and the place it is about.
fn classify(error: &LogError) -> (RemoteCode, Option<&Place>) {
    match error {
        LogError::UnknownTopic { .. } | LogError::TopicDeleted { .. } => {
            (RemoteCode::UnknownTopic, None)
        }
        LogError::UnknownPartition { .. } => (RemoteCode::UnknownPartition, None),
        LogError::TopicExists { .. } => (RemoteCode::TopicExists, None),
        LogError::Invalid { .. } => (RemoteCode::Invalid, None),
        LogError::TooLarge { .. } => (RemoteCode::TooLarge, None),
        LogError::KeyMissing { .. } => (RemoteCode::KeyMissing, None),
        LogError::OffsetOutOfRange { place, .. } => (RemoteCode::OffsetOutOfRange, Some(place)),
        LogError::BadBatch { place, .. } => (RemoteCode::BadBatch, Some(place)),
        LogError::OutOfSequence { place, .. } => (RemoteCode::OutOfSequence, Some(place)),
        LogError::Fenced { place, .. } => (RemoteCode::Fenced, Some(place)),
        LogError::ReadOnly => (RemoteCode::ReadOnly, None),
        LogError::Closed => (RemoteCode::Closed, None),
        LogError::Full { place, .. } => (RemoteCode::Full, Some(place)),
        LogError::Storage { place, .. } => (RemoteCode::Storage, Some(place)),
        LogError::Poisoned { .. } => (RemoteCode::Poisoned, None),
        LogError::Corrupt { place, .. } => (RemoteCode::Corrupt, Some(place)),
        LogError::MemberFenced { why, .. } => match why {
            Fencing::UnknownMember => (RemoteCode::UnknownMember, None),
            Fencing::Replaced { .. } => (RemoteCode::MemberReplaced, None),
            Fencing::WrongGeneration { .. } => (RemoteCode::WrongGeneration, None),
            Fencing::NotOwner { .. } => (RemoteCode::NotOwner, None),
        },
        LogError::GroupNotEmpty { .. } => (RemoteCode::Conflict, None),
        LogError::Locked { .. } | LogError::NotALog { .. } => (RemoteCode::Invalid, None),
    }
}
