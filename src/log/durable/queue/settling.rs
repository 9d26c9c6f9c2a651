//! Waiting until what became of deliveries has its level.

use std::collections::BTreeSet;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use super::core::Spot;
use super::{DurableQueue, QueueError};
use crate::log::append::Ticket;
use crate::log::error::LogError;
use crate::log::peer::protocol::{Outcome, RemoteError, Reply, Settled};

/// Deliveries that are being settled.
#[derive(Debug)]
pub(in crate::log) struct Settling {
    pub(super) ticket: Option<Ticket>,
    pub(super) failed: Option<LogError>,
    pub(super) refused: Vec<Option<QueueError>>,
    /// Records that die and have to be brought to the dead letters first, by a thread that may block.
    pub(super) dying: Option<(DurableQueue, BTreeSet<Spot>)>,
}

impl Settling {
    /// Whether it has to be [`outcome`](Self::outcome) in a thread that may block.
    pub(in crate::log) fn blocks(&self) -> bool {
        self.dying.is_some()
    }

    pub(super) fn wait(&mut self) -> Result<(), LogError> {
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        if let Some((queue, spots)) = self.dying.take() {
            queue.bury_these(&spots)?;
        }
        self.ticket.take().map_or(Ok(()), |ticket| ticket.wait().map(drop))
    }

    /// The first refusal is told in full. Of the others, which may be very many, it is clear by their places.
    fn reply(&self) -> Reply {
        let mut refused: Vec<_> =
            self.refused.iter().map(|error| error.as_ref().map(RemoteError::from)).collect();
        for further in refused.iter_mut().flatten().skip(1) {
            (further.topic, further.text) = (None, String::new());
        }
        Settled { refused }.into()
    }

    /// Waits for it; how the request of a worker ends.
    pub(in crate::log) fn outcome(mut self) -> Outcome {
        let waited = self.wait();
        waited.map(|()| self.reply()).map_err(|error| RemoteError::from(&error))
    }

    /// How the request of a worker ends, once that is known; if it does not block.
    pub(in crate::log) fn poll_outcome(&mut self, waker: &Waker) -> Poll<Outcome> {
        if let Some(error) = &self.failed {
            return Poll::Ready(Err(RemoteError::from(error)));
        }
        let Some(ticket) = &mut self.ticket else { return Poll::Ready(Ok(self.reply())) };
        let polled = Pin::new(ticket).poll(&mut Context::from_waker(waker));
        polled.map(|done| match done {
            Ok(_) => Ok(self.reply()),
            Err(error) => Err(RemoteError::from(&error)),
        })
    }
}
