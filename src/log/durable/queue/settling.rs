//! Waiting until what became of deliveries has its level.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use super::QueueError;
use crate::log::append::Ticket;
use crate::log::error::LogError;
use crate::log::peer::protocol::{Outcome, RemoteError, Reply, Settled};

/// Deliveries that are being settled.
#[derive(Debug)]
pub(in crate::log) struct Settling {
    pub(super) ticket: Option<Ticket>,
    pub(super) failed: Option<LogError>,
    pub(super) refused: Vec<Option<QueueError>>,
}

impl Settling {
    pub(super) fn wait(&mut self) -> Result<(), LogError> {
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        self.ticket.take().map_or(Ok(()), |ticket| ticket.wait().map(drop))
    }

    fn reply(&self) -> Reply {
        let refused = self.refused.iter().map(|error| error.as_ref().map(RemoteError::from));
        Settled { refused: refused.collect() }.into()
    }

    /// Waits for it; how the request of a worker ends.
    pub(in crate::log) fn outcome(mut self) -> Outcome {
        let waited = self.wait();
        waited.map(|()| self.reply()).map_err(|error| RemoteError::from(&error))
    }

    /// How the request of a worker ends, once that is known.
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
