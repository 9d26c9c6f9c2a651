//! Requests and answers about consumer groups.

use super::wire::wire_struct;

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
    }
}

wire_struct! {
    /// Committed offsets.
    pub(in crate::log) struct Offsets {
        offsets: Vec<Offset>,
    }
}
