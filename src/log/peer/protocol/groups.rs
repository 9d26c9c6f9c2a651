//! Requests and answers about consumer groups.

use super::wire::{Input, Malformed, Wire, wire_struct};
use crate::log::groups::{Fencing, TopicPartition};

wire_struct! {
    /// A member lives, says what it wants and has; it joins with generation 0.
    pub(in crate::log) struct Heartbeat {
        group: String,
        member: String,
        instance: Option<String>,
        generation: i32,
        sequence: u64,
        topics: Vec<String>,
        strategy: String,
        session_ms: u32,
        owned: Vec<(String, u32)>,
    }
}

wire_struct! {
    /// A member leaves.
    pub(in crate::log) struct Leave {
        group: String,
        member: String,
    }
}

wire_struct! {
    /// An offset of a group.
    pub(in crate::log) struct Offset {
        topic: String,
        partition: u32,
        offset: i64,
        metadata: String,
        /// When it was committed; 0 in a request.
        timestamp_ms: i64,
    }
}

wire_struct! {
    /// Commits offsets: of a member in a generation, or of a group without members.
    pub(in crate::log) struct Commit {
        group: String,
        member: Option<(String, i32)>,
        offsets: Vec<Offset>,
    }
}

wire_struct! {
    /// Asks for all committed offsets of a group.
    pub(in crate::log) struct ListOffsets {
        group: String,
    }
}

wire_struct! {
    /// The answer to a heartbeat.
    pub(in crate::log) struct Membership {
        member: String,
        generation: i32,
        assigned: Vec<(String, u32)>,
        revoked: Vec<(String, u32)>,
        awaited: u32,
        interval_ms: u32,
        /// The group's version that this is of.
        version: u64,
    }
}

wire_struct! {
    /// Asks to be told when the group has another version: the member should not wait with its next heartbeat then.
    pub(in crate::log) struct AwaitGroup {
        group: String,
        version: u64,
        wait_ms: u32,
    }
}

wire_struct! {
    /// The group's version now.
    pub(in crate::log) struct GroupVersion {
        version: u64,
    }
}

wire_struct! {
    /// Names a group.
    pub(in crate::log) struct GroupName {
        group: String,
    }
}

wire_struct! {
    /// The names of all groups.
    pub(in crate::log) struct GroupNames {
        groups: Vec<String>,
    }
}

wire_struct! {
    /// A member of a group.
    pub(in crate::log) struct MemberState {
        member: String,
        instance: Option<String>,
        topics: Vec<String>,
        strategy: String,
        assigned: Vec<(String, u32)>,
        revoked: Vec<(String, u32)>,
        awaited: Vec<(String, u32)>,
        silent_ms: u64,
    }
}

wire_struct! {
    /// A group's progress in a partition.
    pub(in crate::log) struct ProgressState {
        topic: String,
        partition: u32,
        /// Offset, text, time.
        committed: Option<(i64, (String, i64))>,
        earliest: i64,
        end: i64,
    }
}

wire_struct! {
    /// What a group is and has.
    pub(in crate::log) struct GroupState {
        group: String,
        generation: i32,
        strategy: Option<String>,
        settled: bool,
        members: Vec<MemberState>,
        offsets: Vec<ProgressState>,
    }
}

wire_struct! {
    /// A member in the generation that it knows.
    pub(in crate::log) struct MemberName {
        group: String,
        member: String,
        generation: i32,
    }
}

wire_struct! {
    /// Batches for one partition.
    pub(in crate::log) struct TransactPart {
        topic: String,
        partition: u32,
        /// How many of the frames are for it.
        batches: u32,
    }
}

wire_struct! {
    /// Appends the batches in further frames, in the order of the parts, and commits offsets: all or nothing.
    pub(in crate::log) struct Transact {
        member: Option<MemberName>,
        offsets: Vec<Offset>,
        parts: Vec<TransactPart>,
    }
}

impl Transact {
    /// Frames that go with it.
    pub(in crate::log) fn frames(&self) -> usize {
        let frames = self.parts.iter().map(|part| part.batches as usize);
        frames.fold(0, usize::saturating_add)
    }
}

wire_struct! {
    /// Where the batches of a transaction are.
    pub(in crate::log) struct Transacted {
        /// The first offset of each batch; -1 if it is not there any more.
        offsets: Vec<i64>,
        /// Of each topic that has records of it, as that of a topic's state.
        fingerprints: Vec<(String, u64)>,
    }
}

wire_struct! {
    /// Which request of which member was refused, and why.
    #[non_exhaustive]
    pub struct MemberFencing {
        /// The group's name.
        group: String,
        /// The member's id.
        member: String,
        /// The generation of its request.
        generation: i32,
        /// What speaks against it.
        why: Fencing,
    }
}

impl Wire for TopicPartition {
    const BYTES_MIN: usize = <(String, u32)>::BYTES_MIN;

    fn put(&self, out: &mut Vec<u8>) {
        self.topic.put(out);
        self.partition.put(out);
    }

    fn take(input: &mut Input<'_>) -> Result<Self, Malformed> {
        Ok(Self { topic: String::take(input)?, partition: u32::take(input)? })
    }
}

impl Wire for Fencing {
    const BYTES_MIN: usize = 1;

    fn put(&self, out: &mut Vec<u8>) {
        match self {
            Self::UnknownMember => out.push(0),
            Self::WrongGeneration { partition, since, current } => {
                out.push(1);
                partition.put(out);
                since.put(out);
                current.put(out);
            }
            Self::NotOwner { partition } => {
                out.push(2);
                partition.put(out);
            }
            Self::Replaced { instance } => {
                out.push(3);
                instance.put(out);
            }
        }
    }

    fn take(input: &mut Input<'_>) -> Result<Self, Malformed> {
        match u8::take(input)? {
            0 => Ok(Self::UnknownMember),
            1 => Ok(Self::WrongGeneration {
                partition: TopicPartition::take(input)?,
                since: i32::take(input)?,
                current: i32::take(input)?,
            }),
            2 => TopicPartition::take(input).map(|partition| Self::NotOwner { partition }),
            3 => String::take(input).map(|instance| Self::Replaced { instance }),
            found => Err(Malformed::Value { found: found.into() }),
        }
    }
}

wire_struct! {
    /// Committed offsets.
    pub(in crate::log) struct Offsets {
        offsets: Vec<Offset>,
    }
}
