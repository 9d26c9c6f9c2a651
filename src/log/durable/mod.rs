//! What a log adds to messaging: publications that can be replayed, and queues whose work survives.

mod live;
mod merge;
mod publisher;
mod queue;
mod subscriber;

pub use publisher::{DurablePublisher, PublishError, PublisherOptions, PublisherStats};
pub(in crate::log) use queue::{Acquiring, Chores, Queues, Settling};
pub use queue::{Delivery, DeliveryId, DurableQueue, QueueError, QueueOptions, QueueStats};
pub use subscriber::{
    BadBookmark, Bookmark, DurableSubscriber, SubscribeError, SubscriberOptions, SubscriberStats,
};
