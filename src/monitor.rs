//! Monitor events: what happens to a socket's connections, named by endpoint and peer.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, SyncSender, TrySendError};
use std::time::Duration;

use crate::error::RecvError;
use crate::peer::{PeerInfo, Refusal};
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::transport::Endpoint;
use crate::wire::ProtocolError;

/// Events a monitor holds that nobody has read yet; later ones are dropped and counted.
const EVENTS_MAX: usize = 4_096;

/// Something that happened to a listener or a connection of a socket.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Event {
    /// The socket listens at this endpoint.
    Listening {
        /// The real endpoint, with the port that was chosen.
        endpoint: Endpoint,
    },
    /// The socket no longer listens at this endpoint.
    Unbound {
        /// The endpoint.
        endpoint: Endpoint,
    },
    /// A connection came in; its handshake begins.
    Accepted {
        /// The endpoint it came to.
        endpoint: Endpoint,
        /// The peer's transport address.
        address: String,
    },
    /// The operating system gave no further connection; accepting goes on after a pause.
    AcceptFailed {
        /// The endpoint.
        endpoint: Endpoint,
        /// What it said.
        reason: Failure,
        /// When accepting is tried again.
        retry_in: Duration,
    },
    /// A connection to the endpoint stands; its handshake begins.
    Connected {
        /// The endpoint connected to.
        endpoint: Endpoint,
        /// The peer's transport address.
        address: String,
    },
    /// No connection to the endpoint could be made.
    ConnectFailed {
        /// The endpoint.
        endpoint: Endpoint,
        /// What was wrong.
        reason: Failure,
        /// When it is tried again; `None` when it is not.
        retry_in: Option<Duration>,
    },
    /// A handshake failed: the peer is not attached to the socket.
    HandshakeFailed {
        /// The endpoint of the connection.
        endpoint: Endpoint,
        /// The peer's transport address.
        address: String,
        /// Why.
        reason: HandshakeFailure,
    },
    /// A peer ended its handshake and is attached to the socket.
    PeerReady {
        /// The endpoint of the connection.
        endpoint: Endpoint,
        /// The peer.
        peer: Arc<PeerInfo>,
    },
    /// The connection of an attached peer ended.
    Disconnected {
        /// The endpoint of the connection.
        endpoint: Endpoint,
        /// The peer, when it was attached.
        peer: Option<Arc<PeerInfo>>,
        /// Why.
        reason: DisconnectReason,
    },
}

impl Event {
    /// The endpoint this event is about.
    pub fn endpoint(&self) -> &Endpoint {
        match self {
            Self::Listening { endpoint }
            | Self::Unbound { endpoint }
            | Self::Accepted { endpoint, .. }
            | Self::AcceptFailed { endpoint, .. }
            | Self::Connected { endpoint, .. }
            | Self::ConnectFailed { endpoint, .. }
            | Self::HandshakeFailed { endpoint, .. }
            | Self::PeerReady { endpoint, .. }
            | Self::Disconnected { endpoint, .. } => endpoint,
        }
    }
}

/// What the operating system said, in a form that can be cloned and compared.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
#[non_exhaustive]
pub struct Failure {
    /// Its class.
    pub kind: io::ErrorKind,
    /// Its text.
    pub message: String,
}

impl From<&io::Error> for Failure {
    fn from(error: &io::Error) -> Self {
        Self { kind: error.kind(), message: error.to_string() }
    }
}

/// Why a handshake failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HandshakeFailure {
    /// The peer broke the protocol, or speaks another one.
    #[error(transparent)]
    Protocol(#[from] ProtocolError),
    /// The peer shook hands properly, but this socket does not take it.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The handshake was not over within `handshake_timeout`.
    #[error("the handshake took longer than {0:?}")]
    Timeout(Duration),
    /// The peer closed the connection before the handshake was over.
    #[error("the peer closed the connection during the handshake")]
    PeerClosed,
    /// The connection broke.
    #[error("the connection broke during the handshake: {0}")]
    Io(Failure),
}

/// Why a connection ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DisconnectReason {
    /// The peer closed it.
    #[error("the peer closed the connection")]
    PeerClosed,
    /// This side closed it.
    #[error("closed by this socket")]
    Closed,
    /// Another peer took over the routing id (`handover`).
    #[error("another peer took over the routing id")]
    HandedOver,
    /// The peer broke the protocol, or was silent for too long.
    #[error(transparent)]
    Protocol(#[from] ProtocolError),
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Io(Failure),
}

/// Receives the events of one socket, from the time it was made; see `Socket::monitor`.
#[derive(Debug)]
pub struct Monitor {
    events: Receiver<Event>,
    dropped: Arc<AtomicU64>,
}

/// The sending side of a monitor.
#[derive(Debug)]
pub(crate) struct Reporter {
    events: SyncSender<Event>,
    dropped: Arc<AtomicU64>,
}

pub(crate) fn monitor() -> (Reporter, Monitor) {
    let (sender, events) = mpsc::sync_channel(EVENTS_MAX);
    let dropped = Arc::new(AtomicU64::new(0));
    (Reporter { events: sender, dropped: Arc::clone(&dropped) }, Monitor { events, dropped })
}

impl Reporter {
    /// Passes an event on; false when the monitor is gone.
    pub(crate) fn report(&self, event: Event) -> bool {
        match self.events.try_send(event) {
            Ok(()) => true,
            Err(TrySendError::Full(_)) => {
                self.dropped.fetch_add(1, Ordering::Relaxed);
                true
            }
            Err(TrySendError::Disconnected(_)) => false,
        }
    }
}

impl Monitor {
    /// Waits for the next event.
    ///
    /// # Errors
    /// [`RecvError::Closed`] once the socket is gone and all events are read.
    pub fn recv(&self) -> Result<Event, RecvError> {
        self.events.recv().map_err(|_| RecvError::Closed)
    }

    /// The next event, if there is one already.
    ///
    /// # Errors
    /// [`RecvError::Empty`] or [`RecvError::Closed`].
    pub fn try_recv(&self) -> Result<Event, RecvError> {
        self.events.try_recv().map_err(|error| match error {
            mpsc::TryRecvError::Empty => RecvError::Empty,
            mpsc::TryRecvError::Disconnected => RecvError::Closed,
        })
    }

    /// Waits for the next event, at most for `timeout`.
    ///
    /// # Errors
    /// [`RecvError::Timeout`] or [`RecvError::Closed`].
    pub fn recv_timeout(&self, timeout: Duration) -> Result<Event, RecvError> {
        self.events.recv_timeout(timeout).map_err(|error| match error {
            mpsc::RecvTimeoutError::Timeout => RecvError::Timeout,
            mpsc::RecvTimeoutError::Disconnected => RecvError::Closed,
        })
    }

    /// All events from now on, waiting for each; ends when the socket is gone.
    pub fn iter(&self) -> impl Iterator<Item = Event> + '_ {
        self.events.iter()
    }

    /// How many events were dropped because nobody read them.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_beyond_the_monitors_room_are_dropped_and_counted() {
        let (reporter, monitor) = monitor();
        let endpoint: Endpoint = "inproc://a".parse().unwrap();
        for _ in 0..EVENTS_MAX + 3 {
            assert!(reporter.report(Event::Listening { endpoint: endpoint.clone() }));
        }
        assert_eq!(monitor.dropped(), 3);
        drop(reporter);
        assert_eq!(monitor.iter().count(), EVENTS_MAX);
        assert_eq!(monitor.try_recv(), Err(RecvError::Closed));
    }

    #[test]
    fn a_reporter_notices_that_its_monitor_is_gone() {
        let (reporter, monitor) = monitor();
        drop(monitor);
        let endpoint = "inproc://a".parse().unwrap();
        assert!(!reporter.report(Event::Listening { endpoint }));
    }
}
