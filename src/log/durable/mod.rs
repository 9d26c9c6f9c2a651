//! What a log adds to messaging: publications that can be replayed, and queues whose work survives.

mod queue;

pub(in crate::log) use queue::{Acquiring, Settling};
pub use queue::{Delivery, DeliveryId, DurableQueue, QueueError, QueueOptions, QueueStats};
