//! Consumer groups: partitions are divided among members, and each group remembers how far it has come.
//!
//! The coordinator of all groups is the process that has the log open for writing. Members in that process use
//! [`Group::join`]; others send their requests to it somehow and have them answered by [`Group::heartbeat`] and its
//! neighbours. What is decided is decided by a state machine without I/O (`coordinator.rs`) and the divisions it uses
//! (`assign/`); `registry.rs` keeps generations and committed offsets in the internal topic `__offsets` (`records.rs`) and
//! in memory (`offsets.rs`); `member.rs` is a member in this process.

mod assign;
mod beats;
mod coordinator;
mod handle;
mod locked;
mod member;
mod offsets;
mod records;
mod registry;
mod signal;
mod types;
mod watch;

pub(in crate::log) use beats::Beating;
pub use handle::{CommitTicket, Group};
pub(in crate::log) use member::lanes::{Lane, Lanes};
pub use member::{GroupMember, MemberOptions};
pub(in crate::log) use registry::{Committer, Groups};
pub(in crate::log) use signal::Signal;
pub use types::{
    Committed, Fencing, GroupDescription, GroupEvent, GroupOffset, GroupRecord, HeartbeatReply,
    HeartbeatRequest, MemberDescription, Membership, OffsetCommit, Polled, Strategy,
    TopicPartition,
};
pub(in crate::log) use watch::GroupWatch;
