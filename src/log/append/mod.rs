//! The way of a record into the log: it gathers with others in a batch, is written by whoever is first to need it
//! written, and made durable together with all that came meanwhile.
//!
//! There is no thread between a caller who waits and the medium: the caller that finds nobody writing writes, the caller
//! that finds no sync in flight syncs, and all others get the benefit ([`commit`], [`queue`]). Only for those who do not
//! wait in a thread (tasks, or nobody at all) there is a [`keeper`].

pub(super) mod commit;
pub(super) mod gather;
pub(super) mod keeper;
mod queue;
mod record;
pub(super) mod spares;
mod ticket;

pub use record::NewRecord;
pub(super) use ticket::Group;
pub use ticket::Ticket;

#[cfg(test)]
mod tests;
