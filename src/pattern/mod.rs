//! Pure routing decisions: which peer a message goes to and which peer the next one comes from.
//!
//! In the path of a message this sits between the socket and the pipes. On the way out
//! [`Balance`], [`Subscriptions`] and [`RoutingTable`] choose the peer or peers; on the way in
//! [`FairQueue`] chooses the peer to read from. Nothing here does I/O, takes a lock, reads a clock
//! or starts a thread: the caller brings the lock, and every decision depends on arguments alone.

mod balance;
pub(crate) mod behaviour;
mod dealer;
mod fair_queue;
mod publish;
mod pull;
mod push;
mod router;
mod routing;
mod subscribe;
mod subscriptions;

pub(crate) use balance::Balance;
pub(crate) use behaviour::{Behaviour, Sending, Unsent};
pub use dealer::Dealer;
pub(crate) use fair_queue::{FairQueue, Lane};
pub use publish::Pub;
pub use pull::Pull;
pub use push::Push;
pub use router::{Router, RoutingId};
pub(crate) use router::{To, sender_of};
pub(crate) use routing::{Duplicate, RoutingTable};
pub use subscribe::Sub;
pub(crate) use subscriptions::{LimitExceeded, SubscriptionLimits, Subscriptions};

/// A socket type: [`Push`], [`Pull`], [`Dealer`], [`Router`], [`Pub`] or [`Sub`]. Sealed.
#[allow(private_bounds)]
pub trait Pattern: Behaviour {}

/// Types that send.
pub trait CanSend: Pattern {}
impl CanSend for Push {}
impl CanSend for Dealer {}
impl CanSend for Router {}
impl CanSend for Pub {}

/// Types that receive.
pub trait CanReceive: Pattern {}
impl CanReceive for Pull {}
impl CanReceive for Dealer {}
impl CanReceive for Router {}
impl CanReceive for Sub {}
