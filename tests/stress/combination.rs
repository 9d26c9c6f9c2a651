//! Which combinations there are, and what a round draws beyond them.

use super::chance::Chance;
use super::executor::{STYLES, Style};

/// What the sockets do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pattern {
    /// DEALER and ROUTER; a client sends a few requests, then receives as many answers.
    LockStep,
    /// DEALER and ROUTER; some send while others receive, against small marks.
    Duplex,
    /// PUSH and PULL, against small marks.
    Pipeline,
    /// PUB and SUB without loss, against small marks.
    FanOut,
}

/// Where the messages travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    /// Through memory.
    Inproc,
    /// Through a Unix socket.
    Ipc,
    /// Through the loopback interface.
    Tcp,
}

/// How many sockets there are and how many workers use each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// One worker on one socket on each side.
    Pair,
    /// Several workers on one socket on each side.
    Crowd,
    /// Several sockets with one or two workers each.
    Many,
}

/// One combination. `None` as a style: each worker has its own.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Combination {
    pub(crate) pattern: Pattern,
    pub(crate) transport: Transport,
    pub(crate) io_threads: usize,
    pub(crate) shape: Shape,
    pub(crate) senders: Option<Style>,
    pub(crate) receivers: Option<Style>,
}

impl Combination {
    /// All combinations, in a fixed order.
    pub(crate) fn all() -> Vec<Self> {
        let styles: Vec<_> = STYLES.into_iter().map(Some).chain([None]).collect();
        let mut all = Vec::new();
        for pattern in [Pattern::LockStep, Pattern::Duplex, Pattern::Pipeline, Pattern::FanOut] {
            for transport in [Transport::Inproc, Transport::Ipc, Transport::Tcp] {
                for io_threads in [1, 2] {
                    for shape in [Shape::Pair, Shape::Crowd, Shape::Many] {
                        for &senders in &styles {
                            all.extend(styles.iter().map(|&receivers| Self {
                                pattern,
                                transport,
                                io_threads,
                                shape,
                                senders,
                                receivers,
                            }));
                        }
                    }
                }
            }
        }
        all
    }
}

/// What a round draws beyond its combination.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Draw {
    /// High-water mark of both directions, in messages.
    pub(crate) mark: usize,
    /// The two sides are in contexts of their own.
    pub(crate) apart: bool,
    /// The kernel's send buffer is small, so that a few messages fill it.
    pub(crate) small_buffer: bool,
    /// The side that sends binds.
    pub(crate) senders_bind: bool,
    pub(crate) sending_sockets: usize,
    pub(crate) receiving_sockets: usize,
    pub(crate) senders_per_socket: usize,
    pub(crate) receivers_per_socket: usize,
    /// Messages per sender.
    pub(crate) count: usize,
}

impl Draw {
    /// Draws for a combination.
    pub(crate) fn new(of: Combination, chance: &mut Chance) -> Self {
        let mut between = |low: u64, high: u64| (low + chance.below(high - low + 1)) as usize;
        let (sending_sockets, receiving_sockets, senders_per_socket, receivers_per_socket) =
            match of.shape {
                Shape::Pair => (1, 1, 1, 1),
                Shape::Crowd => (1, 1, between(1, 4), between(2, 4)),
                Shape::Many => (between(2, 3), between(1, 3), between(1, 2), between(1, 2)),
            };
        let count = 240 / (sending_sockets * senders_per_socket * receiving_sockets);
        Self {
            // The clients of one socket have up to 16 requests under way, and nobody reads while all of them send.
            mark: if of.pattern == Pattern::LockStep { 20 } else { between(1, 8) },
            apart: of.transport != Transport::Inproc && chance.one_in(2),
            small_buffer: chance.one_in(2),
            senders_bind: chance.one_in(3),
            sending_sockets,
            receiving_sockets,
            senders_per_socket,
            receivers_per_socket,
            count,
        }
    }
}
