//! A pipe is this side's end of one peer: an outbox of framed chunks, the credit of an inbox, and what is
//! known of the peer. Between `pattern`, which chooses pipes, and the stream, which a pipe's writer writes.
//!
//! Lock order, from first to last: a socket's consumer, its state, its answers, an outbox, an inbox credit, a socket's
//! arrivals, a reactor's mailbox. A pipe calls its owner and its doorbell with none of its own locks held.

mod candidate;
mod chunk;
mod inbox;
mod joint;
mod outbox;
mod owner;
mod run;

use std::fmt;
use std::sync::{Arc, Weak};
use std::time::Instant;

pub(crate) use candidate::{Candidate, Place};
pub(crate) use chunk::{Chunk, wire_length};
pub(crate) use inbox::{Inbox, Resume, Source};
pub(crate) use joint::Joint;
pub(crate) use outbox::{Content, Link, Manner, Outbox, OutboxReport, Room};
pub(crate) use owner::{Doorbell, Loss, Owner, Ring};
pub(crate) use run::Run;

use crate::completion::Guard;
use crate::monitor::{DisconnectReason, Event};
use crate::options::Options;
use crate::peer::{PeerId, PeerInfo};
use crate::sync::{Mutex, lock};
use crate::transport::{self, Endpoint};
use crate::wire::{
    Allowance, Command, Established, ProtocolError, Scanner, Subscription, Version, WireLimits,
};
use outbox::{Next, Note, Written};

/// One peer as seen from its socket.
pub(crate) struct Pipe {
    id: PeerId,
    endpoint: Endpoint,
    owner: Weak<dyn Owner>,
    outbox: Outbox,
    inbox: Inbox,
    info: Mutex<Option<Arc<PeerInfo>>>,
    /// In process only: the joint to the other end, whose inbox is this outbox's stream.
    joint: Mutex<Option<Arc<Joint>>>,
    /// In process only: why this end parts.
    parts: Mutex<Option<DisconnectReason>>,
    /// In process only: keeps whoever waits for a close waiting until this end has parted.
    closing: Mutex<Option<Guard>>,
}

impl fmt::Debug for Pipe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}", self.id, self.endpoint)
    }
}

/// What became of an offered message.
pub(crate) enum Offer {
    Accepted,
    /// Accepted, and the caller has become the pipe's writer: it must run the role, with no lock held.
    AcceptedToWrite(WriteRole),
    /// Accepted, and the first of a gathering: the reactor writes it at its next tick, unless the sender flushes.
    AcceptedToGather,
    Full,
}

/// The right and duty to write a pipe's outbox. There is at most one per pipe.
#[must_use]
pub(crate) struct WriteRole(Arc<Pipe>);

impl WriteRole {
    /// Writes until the outbox is empty or the kernel full. No lock may be held.
    pub(crate) fn run(self) {
        self.0.write();
    }
}

impl Pipe {
    pub(crate) fn new(
        id: PeerId,
        endpoint: Endpoint,
        owner: Weak<dyn Owner>,
        options: &Options,
    ) -> Self {
        Self {
            id,
            endpoint,
            owner,
            outbox: Outbox::new(options.send_marks, options.conflate, transport::now()),
            inbox: Inbox::new(options.recv_marks, options.conflate),
            info: Mutex::new(None),
            joint: Mutex::new(None),
            parts: Mutex::new(None),
            closing: Mutex::new(None),
        }
    }

    pub(crate) fn id(&self) -> PeerId {
        self.id
    }

    pub(crate) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    pub(crate) fn inbox(&self) -> &Inbox {
        &self.inbox
    }

    pub(crate) fn owner(&self) -> Option<Arc<dyn Owner>> {
        self.owner.upgrade()
    }

    pub(crate) fn info(&self) -> Option<Arc<PeerInfo>> {
        lock(&self.info).clone()
    }

    pub(crate) fn set_info(&self, info: Arc<PeerInfo>) {
        *lock(&self.info) = Some(info);
    }

    fn set_joint(&self, joint: &Arc<Joint>) {
        *lock(&self.joint) = Some(Arc::clone(joint));
    }

    /// The other end of an in-process pipe, while their session lasts.
    pub(crate) fn other(&self) -> Option<Arc<Self>> {
        let joint = lock(&self.joint).clone();
        joint.and_then(|joint| joint.other_end(self))
    }

    /// Queued messages and bytes, and whether the peer is connected.
    pub(crate) fn outbox_report(&self) -> OutboxReport {
        self.outbox.report()
    }

    /// Offers a message or a framed chunk to the outbox.
    #[inline]
    pub(crate) fn offer(self: &Arc<Self>, content: Content<'_>, manner: Manner) -> Offer {
        let next = if self.outbox.conflates() {
            self.offer_newest(content, manner)
        } else {
            self.outbox.offer(content, manner)
        };
        match next {
            None => Offer::Full,
            Some(Next::Nothing) => Offer::Accepted,
            Some(Next::Write) => Offer::AcceptedToWrite(WriteRole(Arc::clone(self))),
            Some(Next::Gather) => Offer::AcceptedToGather,
            Some(Next::Schedule(link)) => {
                link.doorbell().ring(Ring::Flush(Arc::clone(self)));
                Offer::Accepted
            }
            Some(Next::ScheduleAndTell(link)) => {
                link.doorbell().ring(Ring::Flush(Arc::clone(self)));
                Offer::AcceptedToGather
            }
        }
    }

    #[cold]
    fn offer_newest(&self, content: Content<'_>, manner: Manner) -> Option<Next> {
        let (next, replaced) = self.outbox.offer_newest(content, manner)?;
        let messages: usize = replaced.iter().map(Chunk::messages).sum();
        self.count_loss(Loss::Conflate, messages as u64);
        Some(next)
    }

    /// Offers framed messages, of which as many are taken as there is room for. Returns how many, and the role that comes of it.
    pub(crate) fn offer_front(self: &Arc<Self>, framed: &Chunk) -> (usize, Option<WriteRole>) {
        let (next, taken) = self.outbox.offer_front(framed);
        debug_assert!(
            matches!(next, Next::Nothing | Next::Write),
            "what goes at once is not scheduled"
        );
        (taken, matches!(next, Next::Write).then(|| WriteRole(Arc::clone(self))))
    }

    /// Whether `content` would be taken now; one that would not is remembered, so that `Owner::writable` follows.
    pub(crate) fn has_room(&self, wire_bytes: usize) -> bool {
        self.outbox.has_room(wire_bytes)
    }

    /// What the outbox takes at least.
    pub(crate) fn room(&self) -> Room {
        self.outbox.room()
    }

    /// Bytes of commands that wait to be written.
    pub(crate) fn control_bytes(&self) -> usize {
        self.outbox.control_bytes()
    }

    /// Queues commands ahead of the next chunk, whatever the marks say. Without a session they are dropped: what
    /// a new session must know is told when it is attached.
    pub(crate) fn send_control(self: &Arc<Self>, commands: &[u8]) -> Option<WriteRole> {
        self.outbox.control(commands).then(|| WriteRole(Arc::clone(self)))
    }

    /// Joins the outbox to a new session, whose first bytes are `opening`. The proof that the handshake ended is used up:
    /// a peer that did not end it has no way in.
    pub(crate) fn link(
        self: &Arc<Self>,
        link: Link,
        opening: &[u8],
        _proof: Established,
    ) -> Option<WriteRole> {
        self.outbox.link(link, opening).then(|| WriteRole(Arc::clone(self)))
    }

    /// Ends the session: the half-written message is dropped and counted, the others stay queued.
    pub(crate) fn unlink(&self) {
        let (torn, made_room) = self.outbox.unlink();
        self.inbox.set_source(Source::None);
        self.count_loss(Loss::Disconnect, torn);
        if made_room && let Some(owner) = self.owner() {
            owner.writable(self.id);
        }
    }

    /// Gives up everything that is queued, counts it, and takes nothing any more. Returns the count.
    pub(crate) fn abandon(&self, cause: Loss) -> u64 {
        let lost = self.outbox.abandon(cause);
        self.count_loss(cause, lost);
        lost
    }

    /// Refuses further messages; `Ring::Drained` follows when what is queued has been written.
    pub(crate) fn begin_close(&self) {
        self.outbox.begin_close();
    }

    /// `begin_close` for an in-process pipe, which parts when it is drained.
    pub(crate) fn begin_close_with(&self, guard: Guard) {
        *lock(&self.closing) = Some(guard);
        self.outbox.begin_close();
    }

    /// Claims the writer role because the stream (or the other end's inbox) takes bytes again.
    pub(crate) fn writable(self: &Arc<Self>) {
        if self.outbox.claim_writable() {
            self.write();
        }
    }

    /// The keeper's tick over a scheduled outbox. False when nothing happened since the last tick and the outbox
    /// has left the reactor's list.
    pub(crate) fn tick(self: &Arc<Self>, now: Instant) -> bool {
        let (write, stay) = self.outbox.claim_tick(now);
        if write {
            self.write();
        }
        stay
    }

    /// The role to write what a streaming sender has gathered, if it has.
    pub(crate) fn claim_gathered(self: &Arc<Self>) -> Option<WriteRole> {
        self.outbox.claim_scheduled().then(|| WriteRole(Arc::clone(self)))
    }

    /// Writes at once what a streaming sender has gathered: before its thread goes to wait.
    pub(crate) fn flush(self: &Arc<Self>) {
        if self.outbox.claim_scheduled() {
            self.write();
        }
    }

    /// Whether the socket that was told of a gathering still has something to flush here; if not, it is told anew.
    pub(crate) fn stays_noted(&self) -> bool {
        self.outbox.stays_noted()
    }

    /// The writer's loop. Precondition: this thread holds the writer role.
    fn write(self: &Arc<Self>) {
        for turn in 1.. {
            let Some(mut job) = self.outbox.begin_write() else { return };
            let link = Arc::clone(job.link());
            let written = match &*link {
                Link::Wire { stream, .. } => job.flight().write_to(stream),
                Link::Inproc { .. } => self.hand_over(job.flight_mut()),
                #[cfg(loom)]
                Link::Modelled { kernel, .. } => job.flight().write_with(|s| kernel.write(s)),
            };
            let last = turn >= outbox::WRITES_PER_ROLE_MAX;
            let step = self.outbox.end_write(job, written, last, transport::now);
            self.count_loss(step.cause, step.torn);
            if step.made_room
                && let Some(owner) = self.owner()
            {
                owner.writable(self.id);
            }
            if let Some((link, note)) = step.note {
                self.tell(&link, note);
            }
            if !step.more {
                return;
            }
        }
    }

    fn tell(self: &Arc<Self>, link: &Link, note: Note) {
        let ring = match (link, note) {
            (_, Note::Flush) => Ring::Flush(Arc::clone(self)),
            (Link::Wire { connection, .. }, Note::Drained) => Ring::Drained(*connection),
            (Link::Wire { connection, .. }, Note::Broken) => Ring::Broken(*connection),
            (Link::Inproc { .. }, _) => return self.part(DisconnectReason::Closed),
            #[cfg(loom)]
            (Link::Modelled { .. }, _) => return,
        };
        link.doorbell().ring(ring);
    }

    /// In process: this end has said everything it had to say, or is given up. Ends the session of both ends (J1).
    pub(crate) fn part(&self, why: DisconnectReason) {
        *lock(&self.parts) = Some(why);
        let joint = lock(&self.joint).clone();
        match joint {
            Some(joint) => joint.end(),
            None => drop(lock(&self.closing).take()),
        }
    }

    fn end_inproc_session(self: &Arc<Self>) {
        *lock(&self.joint) = None;
        let peer = lock(&self.info).take();
        self.unlink();
        drop(lock(&self.closing).take());
        let why = lock(&self.parts).take();
        if let Some(owner) = self.owner() {
            if peer.is_some() {
                let reason = why.unwrap_or(DisconnectReason::PeerClosed);
                owner.report(Event::Disconnected { endpoint: self.endpoint.clone(), peer, reason });
            }
            owner.session_lost(self);
        }
    }

    /// Moves as much of the flight as the other end's inbox takes.
    fn hand_over(&self, flight: &mut outbox::Flight) -> std::io::Result<Written> {
        // Without the other end the session is about to end, and whoever ends it takes care of this one. An end without
        // info is not attached yet: whoever joins makes this one writable afterwards.
        let Some((other, info)) =
            self.other().and_then(|other| Some((other.clone(), other.info()?)))
        else {
            return Err(std::io::ErrorKind::WouldBlock.into());
        };
        match flight {
            outbox::Flight::Control { bytes, .. } => {
                other.take_commands(bytes);
                Ok(Written::Bytes(bytes.len()))
            }
            outbox::Flight::Chunk { chunk, .. } => {
                let Some(allowance) = other.inbox.allowance() else {
                    return Err(std::io::ErrorKind::WouldBlock.into());
                };
                let front = chunk.split_front(allowance.messages, allowance.bytes);
                let (messages, wire_bytes) = (front.messages(), front.wire_bytes());
                if let Err(error) = other.deliver(&info, Run::from(front)) {
                    other.report_misbehaviour(error);
                }
                Ok(Written::Moved { messages, wire_bytes })
            }
        }
    }

    /// Counts a run in the inbox and hands it to the socket.
    pub(crate) fn deliver(
        self: &Arc<Self>,
        info: &Arc<PeerInfo>,
        mut run: Run,
    ) -> Result<(), ProtocolError> {
        if self.inbox.conflates() {
            self.count_loss(Loss::Conflate, run.keep_newest());
        }
        self.inbox.admitted(run.messages_left(), run.wire_bytes());
        match self.owner() {
            Some(owner) => owner.deliver(self, info, run),
            None => Ok(()),
        }
    }

    /// Handles commands that came in process: the same bytes as on a wire.
    fn take_commands(self: &Arc<Self>, bytes: &[u8]) {
        let Some(owner) = self.owner() else { return };
        let everything = Allowance { messages: usize::MAX, bytes: usize::MAX };
        let mut changes = Vec::new();
        let taken = Scanner::new(WireLimits::default()).scan(bytes, everything, &mut |body| {
            match Command::parse(body)? {
                Command::Subscribe(topic) => changes.push(Subscription::Subscribe(topic).into()),
                Command::Cancel(topic) => changes.push(Subscription::Cancel(topic).into()),
                _ => {}
            }
            Ok(())
        });
        let taken = taken.map_err(|failure| failure.error);
        if let Err(error) = taken.and_then(|_| owner.subscriptions(self, &changes)) {
            self.report_misbehaviour(error);
        }
    }

    /// In process there is no connection to close: what the peer did wrong is reported and ignored.
    fn report_misbehaviour(&self, error: ProtocolError) {
        if let Some(owner) = self.owner() {
            owner.report(Event::Disconnected {
                endpoint: self.endpoint.clone(),
                peer: self.info(),
                reason: DisconnectReason::Protocol(error),
            });
        }
    }

    /// Counts messages that were accepted, or had arrived, and are gone.
    pub(crate) fn count_loss(&self, cause: Loss, messages: u64) {
        if messages > 0
            && let Some(owner) = self.owner()
        {
            owner.count_loss(cause, messages);
        }
    }
}

/// ZMTP version spoken in process.
pub(crate) const INPROC_VERSION: Version = Version::V3_1;

/// Instant type of the one clock, named here for the outbox's signatures.
type Now = fn() -> Instant;
