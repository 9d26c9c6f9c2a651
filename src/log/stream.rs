//! Followers as streams, for combinators of the async world (feature `stream`).
//!
//! A stream ends after an error, so that who collects or flattens one comes to an end; polled again after that it goes on
//! where it was, as [`Follow::poll_next`] and [`RemoteReader::poll_next`] do.

use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_core::Stream;

use super::error::LogError;
use super::peer::{PeerError, RemoteReader};
use super::read::{Follow, LogRecord};

impl Stream for Follow {
    type Item = Result<LogRecord, LogError>;

    fn poll_next(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<LogRecord, LogError>>> {
        Follow::poll_next(self.get_mut(), context)
    }
}

/// It waits at the end for more, whether it was told to [`follow`](RemoteReader::follow) or not.
impl Stream for RemoteReader {
    type Item = Result<LogRecord, PeerError>;

    fn poll_next(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<LogRecord, PeerError>>> {
        let reader = self.get_mut();
        if mem::take(&mut reader.failed) {
            return Poll::Ready(None);
        }
        let polled = RemoteReader::poll_next(reader, context);
        reader.failed = matches!(polled, Poll::Ready(Err(_)));
        polled.map(Some)
    }
}
