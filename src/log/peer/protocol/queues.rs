//! Requests and answers about queues.

use super::remote::RemoteError;
use super::wire::{Input, Malformed, Wire, wire_struct};
use crate::log::format::Id;

wire_struct! {
    /// Asks a queue for deliveries.
    pub(in crate::log) struct Acquire {
        queue: String,
        count_max: u32,
        lock_ms: u32,
        wait_ms: u32,
    }
}

wire_struct! {
    /// A delivery of a queue, named.
    pub(in crate::log) struct WireDelivery {
        partition: u32,
        offset: i64,
        attempt: u32,
        topic: Id,
    }
}

/// What becomes of a delivery.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::log) enum Verdict {
    /// It is dealt with and never comes again.
    Ack,
    /// It goes to the next worker.
    Release,
    /// It cannot be dealt with and goes to the dead letters.
    Reject,
    /// Its lock is to last so many milliseconds from now.
    Renew(u32),
}

impl Wire for Verdict {
    const BYTES_MIN: usize = 1;

    fn put(&self, out: &mut Vec<u8>) {
        match self {
            Self::Ack => out.push(0),
            Self::Release => out.push(1),
            Self::Reject => out.push(2),
            Self::Renew(lock_ms) => {
                out.push(3);
                lock_ms.put(out);
            }
        }
    }

    fn take(input: &mut Input<'_>) -> Result<Self, Malformed> {
        match u8::take(input)? {
            0 => Ok(Self::Ack),
            1 => Ok(Self::Release),
            2 => Ok(Self::Reject),
            3 => u32::take(input).map(Self::Renew),
            found => Err(Malformed::Value { found: found.into() }),
        }
    }
}

wire_struct! {
    /// Settles deliveries.
    pub(in crate::log) struct Settle {
        queue: String,
        verdict: Verdict,
        deliveries: Vec<WireDelivery>,
    }
}

wire_struct! {
    /// Names a queue.
    pub(in crate::log) struct QueueName {
        queue: String,
    }
}

wire_struct! {
    /// Deliveries; the record of each is a batch in a frame of its own.
    pub(in crate::log) struct Acquired {
        deliveries: Vec<WireDelivery>,
    }
}

wire_struct! {
    /// What became of each delivery that was to be settled.
    pub(in crate::log) struct Settled {
        /// `None` where all is well.
        refused: Vec<Option<RemoteError>>,
    }
}

wire_struct! {
    /// What a queue has done and has.
    pub(in crate::log) struct QueueState {
        delivered: u64,
        redelivered: u64,
        acknowledged: u64,
        dead: u64,
        missed: u64,
        available: u64,
        locked: u64,
        waiting: u64,
        unburied: u64,
    }
}
