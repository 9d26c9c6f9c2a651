//! Socket types as ZMTP names them, and which of them may talk to each other.
//!
//! Both sides announce their type in READY; the handshake refuses a pair that this table does not
//! hold.

use std::fmt;

/// The type of a ZeroMQ socket, as announced to peers in the `Socket-Type` property.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum SocketKind {
    /// One exclusive peer, both directions (RFC 31).
    Pair,
    /// Publishes to subscribers (RFC 29).
    Pub,
    /// Subscribes to publishers (RFC 29).
    Sub,
    /// Sends requests and receives replies in turn (RFC 28).
    Req,
    /// Receives requests and sends replies in turn (RFC 28).
    Rep,
    /// Spreads messages over peers and collects from them, without an envelope (RFC 28).
    Dealer,
    /// Addresses peers by routing id (RFC 28).
    Router,
    /// Collects messages from pushers (RFC 30).
    Pull,
    /// Spreads messages over pullers (RFC 30).
    Push,
    /// A publisher that shows subscriptions to the application (RFC 29).
    XPub,
    /// A subscriber whose subscriptions are sent as messages (RFC 29).
    XSub,
    /// Addresses clients by routing id, single-frame messages (RFC 41).
    Server,
    /// Talks to servers, single-frame messages (RFC 41).
    Client,
    /// Publishes to groups (RFC 48).
    Radio,
    /// Joins groups (RFC 48).
    Dish,
    /// Collects single-frame messages from scatterers (RFC 49).
    Gather,
    /// Spreads single-frame messages over gatherers (RFC 49).
    Scatter,
    /// Addresses other peers by routing id, single-frame messages (RFC 51).
    Peer,
    /// One exclusive peer, single-frame messages (RFC 52).
    Channel,
}

impl SocketKind {
    /// Every kind once.
    pub(crate) const ALL: [Self; 19] = [
        Self::Pair,
        Self::Pub,
        Self::Sub,
        Self::Req,
        Self::Rep,
        Self::Dealer,
        Self::Router,
        Self::Pull,
        Self::Push,
        Self::XPub,
        Self::XSub,
        Self::Server,
        Self::Client,
        Self::Radio,
        Self::Dish,
        Self::Gather,
        Self::Scatter,
        Self::Peer,
        Self::Channel,
    ];

    /// The name on the wire, such as `"DEALER"`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pair => "PAIR",
            Self::Pub => "PUB",
            Self::Sub => "SUB",
            Self::Req => "REQ",
            Self::Rep => "REP",
            Self::Dealer => "DEALER",
            Self::Router => "ROUTER",
            Self::Pull => "PULL",
            Self::Push => "PUSH",
            Self::XPub => "XPUB",
            Self::XSub => "XSUB",
            Self::Server => "SERVER",
            Self::Client => "CLIENT",
            Self::Radio => "RADIO",
            Self::Dish => "DISH",
            Self::Gather => "GATHER",
            Self::Scatter => "SCATTER",
            Self::Peer => "PEER",
            Self::Channel => "CHANNEL",
        }
    }

    /// The kind with this wire name; upper case only, as libzmq compares it.
    pub(crate) fn from_name(name: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name().as_bytes() == name)
    }

    /// Whether sockets of these two types may be connected. Symmetric.
    pub fn is_compatible_with(self, other: Self) -> bool {
        match self {
            Self::Pair => matches!(other, Self::Pair),
            Self::Pub => matches!(other, Self::Sub | Self::XSub),
            Self::Sub => matches!(other, Self::Pub | Self::XPub),
            Self::Req => matches!(other, Self::Rep | Self::Router),
            Self::Rep => matches!(other, Self::Req | Self::Dealer),
            Self::Dealer => matches!(other, Self::Rep | Self::Dealer | Self::Router),
            Self::Router => matches!(other, Self::Req | Self::Dealer | Self::Router),
            Self::Pull => matches!(other, Self::Push),
            Self::Push => matches!(other, Self::Pull),
            Self::XPub => matches!(other, Self::Sub | Self::XSub),
            Self::XSub => matches!(other, Self::Pub | Self::XPub),
            Self::Server => matches!(other, Self::Client),
            Self::Client => matches!(other, Self::Server),
            Self::Radio => matches!(other, Self::Dish),
            Self::Dish => matches!(other, Self::Radio),
            Self::Gather => matches!(other, Self::Scatter),
            Self::Scatter => matches!(other, Self::Gather),
            Self::Peer => matches!(other, Self::Peer),
            Self::Channel => matches!(other, Self::Channel),
        }
    }

    /// Whether RFC 37 lets a socket of this type announce an `Identity`.
    pub(crate) const fn announces_identity(self) -> bool {
        matches!(self, Self::Req | Self::Dealer | Self::Router)
    }
}

impl fmt::Display for SocketKind {
    /// Writes the wire name.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::SocketKind;

    #[test]
    fn every_name_reads_back_as_its_kind() {
        for kind in SocketKind::ALL {
            assert_eq!(SocketKind::from_name(kind.name().as_bytes()), Some(kind));
            assert_eq!(kind.to_string(), kind.name());
        }
    }

    #[test]
    fn names_in_another_case_or_of_non_zmtp_sockets_are_unknown() {
        for name in ["dealer", "Dealer", "STREAM", "DGRAM", "", "DEALER\0"] {
            assert_eq!(SocketKind::from_name(name.as_bytes()), None, "{name:?}");
        }
    }

    #[test]
    fn compatibility_is_symmetric_for_every_pair() {
        for a in SocketKind::ALL {
            for b in SocketKind::ALL {
                assert_eq!(a.is_compatible_with(b), b.is_compatible_with(a), "{a} and {b}");
            }
        }
    }

    #[test]
    fn every_kind_has_a_partner_and_publishers_never_meet() {
        for a in SocketKind::ALL {
            assert!(SocketKind::ALL.into_iter().any(|b| a.is_compatible_with(b)), "{a}");
        }
        assert!(!SocketKind::Pub.is_compatible_with(SocketKind::XPub));
        assert!(!SocketKind::Req.is_compatible_with(SocketKind::Dealer));
        assert!(SocketKind::Rep.is_compatible_with(SocketKind::Dealer));
    }
}
