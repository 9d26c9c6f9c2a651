//! What a socket's sends leave gathering: who is told of it, and who writes it in the end (invariant O6).

use std::sync::Arc;

use super::answers::{Answer, Tick};
use super::core::{Core, State};
use crate::pattern::{Behaviour, Sending};
use crate::pipe::{Doorbell, Pipe, Ring};

#[cfg(test)]
mod tests;

impl<P: Behaviour> Core<P> {
    /// Remembers gathering pipes for `flush`. A type that only sends leaves them to the reactor's tick.
    pub(super) fn note_gathering(
        &self,
        pipes: impl IntoIterator<Item = Arc<Pipe>>,
        shared_by: usize,
        answer: Answer,
    ) {
        if Self::GATHERS
            && self.answers.note(pipes, shared_by, P::FANS_OUT || answer == Answer::Together)
            && let (Some(owner), Some(slot)) = (self.this.upgrade(), self.context.slots().first())
        {
            slot.ring(Ring::Answers(owner));
        }
    }

    /// Writes what this socket's own sends have gathered: a thread that is about to wait for answers must not make the
    /// requests wait for the reactor's tick.
    pub(crate) fn flush(&self) {
        if Self::GATHERS {
            let pipes = self.answers.take();
            self.distribute();
            pipes.iter().for_each(Pipe::flush);
        }
    }

    /// Hands what the pattern gathered to the peers' queues, and writes it.
    fn distribute(&self) {
        if P::FANS_OUT {
            let sending = Self::distributed(&mut self.locked());
            self.finish(sending);
        }
    }

    /// Hands what the pattern gathered to the peers' queues, before any of these peers goes (O6). `finish` follows, with the
    /// socket's lock released.
    #[must_use]
    pub(super) fn distributed(state: &mut State<P>) -> Sending {
        let mut sending = Sending::new(false, false, P::RECEIVES);
        state.pattern.distribute(&mut sending);
        sending
    }

    /// Writes and counts what a distribution left to do. No lock may be held.
    pub(super) fn finish(&self, sending: Sending) {
        self.count_drops(&sending);
        sending.run();
    }

    /// The keeper's tick over gathered answers. False when it need not come again.
    pub(super) fn tick_answers(&self) -> bool {
        match self.answers.tick() {
            Tick::Over => return false,
            Tick::Wait => {}
            Tick::Flush => self.flush(),
        }
        true
    }
}
