//! The joint of two in-process pipes: each is the other's stream, and one of them ends the session of both.
//!
//! J1: a session in process ends exactly once, for both ends, by whoever asks first; not before both ends are attached. Only
//! then can an end be joined anew, so nobody ends a session that it does not mean.

use std::sync::{Arc, Weak};

use super::Pipe;
use crate::sync::{Fault, Mutex, lock, planted};

pub(crate) struct Joint {
    ends: [Weak<Pipe>; 2],
    state: Mutex<State>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// The two sockets attach their ends, one after the other.
    Joining,
    /// One end asked for the end meanwhile; whoever joins does it afterwards.
    EndAsked,
    Joined,
    Ended,
}

impl Joint {
    /// Joins two pipes. `settle` must follow when their sockets have attached them.
    pub(crate) fn join(here: &Arc<Pipe>, there: &Arc<Pipe>) -> Arc<Self> {
        let joint = Arc::new(Self {
            ends: [Arc::downgrade(here), Arc::downgrade(there)],
            state: Mutex::new(State::Joining),
        });
        here.set_joint(&joint);
        there.set_joint(&joint);
        joint
    }

    /// The end that is not `pipe`, while the session lasts.
    pub(crate) fn other_end(&self, pipe: &Pipe) -> Option<Arc<Pipe>> {
        if *lock(&self.state) == State::Ended {
            return None;
        }
        let mut ends = self.ends.iter().filter_map(Weak::upgrade);
        ends.find(|end| !std::ptr::eq(Arc::as_ptr(end), pipe))
    }

    /// Both ends are attached (`attached`), or one socket refused. Ends the session if that is due.
    pub(crate) fn settle(self: &Arc<Self>, attached: bool) {
        let end = {
            let mut state = lock(&self.state);
            let end = !attached || *state == State::EndAsked;
            *state = if end { State::Ended } else { State::Joined };
            end
        };
        if end {
            self.end_both();
        }
    }

    /// Ends the session, unless it has ended or is to be ended already.
    pub(crate) fn end(self: &Arc<Self>) {
        {
            let mut state = lock(&self.state);
            match *state {
                State::EndAsked | State::Ended if !planted(Fault::EndedTwice) => return,
                State::Joining if !planted(Fault::EndedWhileJoining) => *state = State::EndAsked,
                _ => *state = State::Ended,
            }
            if *state != State::Ended {
                return;
            }
        }
        self.end_both();
    }

    fn end_both(&self) {
        for end in self.ends.iter().filter_map(Weak::upgrade) {
            end.end_inproc_session();
        }
    }
}
