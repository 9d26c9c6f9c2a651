//! A listener: accepts within a budget, survives the end of file descriptors, and bounds the connections that
//! have not finished their handshake.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::connection::HalfOpen;
use super::mailbox::Belongs;
use crate::monitor::{Event, Failure};
use crate::sync::atomic::{AtomicUsize, Ordering};
use crate::transport::readiness::{Registry, Token};
use crate::transport::{AcceptFailure, Listener, Stream};

/// Connections one listener accepts in one turn.
const ACCEPTS_PER_TURN: usize = 64;

/// First pause after the operating system ran out of something; doubled up to the last.
const PAUSE_MIN: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// An accepted stream on its way to the reactor that will serve it.
pub(crate) struct Accepted {
    pub(crate) stream: Stream,
    pub(crate) address: String,
    pub(crate) belongs: Belongs,
    pub(crate) permit: HalfOpen,
}

pub(crate) struct ListenerSource {
    pub(crate) belongs: Belongs,
    listener: Listener,
    half_open: Arc<AtomicUsize>,
    /// Accepting rests until then. Readiness is edge-triggered, so a timer must begin it again.
    paused_until: Option<Instant>,
    pause: Duration,
}

impl ListenerSource {
    pub(crate) fn new(belongs: Belongs, listener: Listener) -> Self {
        let half_open = Arc::new(AtomicUsize::new(0));
        Self { belongs, listener, half_open, paused_until: None, pause: PAUSE_MIN }
    }

    pub(crate) fn register(&mut self, registry: &Registry, token: usize) -> std::io::Result<()> {
        self.listener.register(registry, Token(token))
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.paused_until
    }

    /// Accepts what is there. True when there may be more than one turn allows.
    pub(crate) fn accept(&mut self, accepted: &mut Vec<Accepted>, now: Instant) -> bool {
        if self.paused_until.is_some_and(|until| now < until) {
            return false;
        }
        self.paused_until = None;
        let options = Arc::clone(self.belongs.owner.options());
        for _ in 0..ACCEPTS_PER_TURN {
            if self.half_open.load(Ordering::Acquire) >= options.half_open_max {
                self.paused_until = now.checked_add(PAUSE_MIN);
                return false;
            }
            match self.listener.accept(&options.transport) {
                Ok((stream, address)) => {
                    self.pause = PAUSE_MIN;
                    self.half_open.fetch_add(1, Ordering::AcqRel);
                    let permit = HalfOpen(Arc::clone(&self.half_open));
                    let belongs = self.belongs.clone();
                    belongs.owner.report(Event::Accepted {
                        endpoint: belongs.endpoint.clone(),
                        address: address.clone(),
                    });
                    accepted.push(Accepted { stream, address, belongs, permit });
                }
                Err(AcceptFailure::WouldBlock) => return false,
                Err(AcceptFailure::Retry) => {}
                Err(AcceptFailure::Exhausted(error) | AcceptFailure::Broken(error)) => {
                    self.rest(&error, now);
                    return false;
                }
            }
        }
        true
    }

    fn rest(&mut self, error: &std::io::Error, now: Instant) {
        self.belongs.owner.report(Event::AcceptFailed {
            endpoint: self.belongs.endpoint.clone(),
            reason: Failure::from(error),
            retry_in: self.pause,
        });
        self.paused_until = now.checked_add(self.pause);
        self.pause = (self.pause * 2).min(PAUSE_MAX);
    }

    /// Stops listening. What was accepted goes on.
    pub(crate) fn finish(self) {
        let Self { belongs, listener, .. } = self;
        // Closed first, so that whoever learns of it may bind the address again.
        drop(listener);
        belongs.owner.report(Event::Unbound { endpoint: belongs.endpoint.clone() });
    }
}
