//! One turn of a reactor: take the jobs, poll, read and write, fire timers.
//!
//! `Turn` is all the state of a turning reactor, held by value by whoever turns it; it needs no lock. Readiness
//! is edge-triggered: a connection that stops before `WouldBlock` is remembered in the run list, and with a
//! non-empty run list the poll does not block (rule R3 of docs/design.md). Input comes before timers, so that a
//! pause of the whole process does not make living peers look dead.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Pool;
use super::connection::{Connection, Ending, Io, Origin, Outcome};
use super::dialer::{Dial, Dialed, Dialer};
use super::errand::Errand;
use super::linger::Lingering;
use super::listener::{Accepted, ListenerSource};
use super::mailbox::{Belongs, Job, Mailbox};
use super::received::Buffers;
use super::resolver::Resolver;
use super::slab::{Slab, WAKER_TOKEN};
use super::slot::{Slot, Turning};
use super::timers::Timers;
use crate::completion::Guard;
use crate::monitor::{DisconnectReason, Event, Failure};
use crate::pipe::Pipe;
use crate::sync::atomic::AtomicUsize;
use crate::transport::readiness::{Events, Interest, Poll, Token, Waker};
use crate::transport::{self, Listener, Stream};

/// One read at most; loopback hands over no more than this at once.
const SCRATCH_BYTES: usize = 64 * 1024;

const EVENTS_PER_POLL: usize = 256;

enum Source {
    Listener(ListenerSource),
    Dialer(Dialer),
    Connection(Box<Connection>),
    Errand(Errand),
}

impl Source {
    fn belongs(&self) -> &Belongs {
        match self {
            Self::Listener(listener) => &listener.belongs,
            Self::Dialer(dialer) => &dialer.belongs,
            Self::Connection(connection) => &connection.belongs,
            Self::Errand(errand) => &errand.belongs,
        }
    }

    fn deadline(&self) -> Option<Instant> {
        match self {
            Self::Listener(listener) => listener.deadline(),
            Self::Dialer(dialer) => dialer.deadline(),
            Self::Connection(connection) => connection.deadline(),
            Self::Errand(errand) => errand.deadline(),
        }
    }
}

/// One event of the poller.
struct Readiness {
    token: usize,
    readable: bool,
    writable: bool,
    closed: bool,
}

pub(crate) struct Turn {
    poll: Poll,
    events: Events,
    scratch: Vec<u8>,
    buffers: Buffers,
    sources: Slab<Source>,
    timers: Timers,
    /// Events that were polled and not served yet.
    ready: VecDeque<Readiness>,
    /// Sources that have more to do than one turn allowed.
    run_list: VecDeque<usize>,
    /// Sources whose deadline has come.
    due: Vec<usize>,
    jobs: Vec<Job>,
    slot: Arc<Slot>,
    mailbox: Arc<Mailbox>,
    pool: Arc<Pool>,
    resolver: Resolver,
    seed: u64,
    /// The context ends: nobody will meet in process any more.
    ending: bool,
}

impl Turn {
    /// A turn and the slot it belongs into.
    ///
    /// # Errors
    /// When the operating system gives no poll handle.
    pub(crate) fn new(
        pool: Arc<Pool>,
        resolver: Resolver,
        tasks: Arc<AtomicUsize>,
        seed: u64,
    ) -> std::io::Result<Self> {
        let poll = Poll::new()?;
        let waker = Waker::new(poll.registry(), Token(WAKER_TOKEN))?;
        let mailbox = Arc::new(Mailbox::new(waker));
        let slot = Arc::new(Slot::new(Arc::clone(&mailbox), tasks));
        Ok(Self {
            poll,
            slot,
            mailbox,
            events: Events::with_capacity(EVENTS_PER_POLL),
            scratch: vec![0; SCRATCH_BYTES],
            buffers: Buffers::default(),
            sources: Slab::new(),
            timers: Timers::default(),
            ready: VecDeque::new(),
            run_list: VecDeque::new(),
            due: Vec::new(),
            jobs: Vec::new(),
            pool,
            resolver,
            seed,
            ending: false,
        })
    }

    pub(crate) fn slot(&self) -> &Arc<Slot> {
        &self.slot
    }
}

impl Turning for Turn {
    fn has_work_within(&self, time: Duration) -> bool {
        self.mailbox.has_jobs()
            || self.timers.next_in(transport::now()).is_some_and(|left| left <= time)
    }

    fn turn(&mut self, limit: Option<Instant>, stop: &dyn Fn() -> bool) {
        self.take_jobs();
        if stop() {
            // A job brought the news already; nothing would pull this thread out of a poll.
            return;
        }
        if self.ready.is_empty() {
            self.poll_events(limit);
        }
        let now = transport::now();
        while let Some(readiness) = self.ready.pop_front() {
            self.on_event(&readiness, now);
            if stop() && !self.ready.is_empty() {
                // Whoever waits here has what it waited for; the next turn begins with the rest.
                return;
            }
        }
        for _ in 0..self.run_list.len() {
            if let Some(token) = self.run_list.pop_front() {
                self.run_again(token, now);
            }
        }
        // Taken out first: a timer that sets itself again at once must not keep this turn from ending.
        while let Some(token) = self.timers.pop_due(&mut self.sources, now) {
            self.due.push(token);
        }
        for token in std::mem::take(&mut self.due) {
            self.on_timer(token, now);
        }
    }
}

impl Turn {
    /// Polls, and blocks only when there is nothing to do.
    fn poll_events(&mut self, limit: Option<Instant>) {
        let mut timeout = self.poll_timeout(limit);
        if timeout != Some(Duration::ZERO) && !self.mailbox.may_sleep() {
            timeout = Some(Duration::ZERO);
        }
        let polled = self.poll.poll(&mut self.events, timeout);
        self.mailbox.awake();
        if let Err(error) = polled {
            debug_assert!(error.kind() == std::io::ErrorKind::Interrupted, "poll: {error}");
            return;
        }
        for event in &self.events {
            let closed = event.is_read_closed() || event.is_error();
            let (readable, mut writable) = (event.is_readable(), event.is_writable());
            // What is left of `ready` may stand by, and a blocked outbox may not.
            if writable
                && let Some(Source::Connection(connection)) = self.sources.get(event.token().0)
                && let Some(pipe) = connection.pipe()
            {
                pipe.writable();
                writable = false;
            }
            self.ready.push_back(Readiness { token: event.token().0, readable, writable, closed });
        }
    }

    fn poll_timeout(&self, limit: Option<Instant>) -> Option<Duration> {
        if !self.run_list.is_empty() {
            return Some(Duration::ZERO);
        }
        let now = transport::now();
        // The poller rounds up, and a deadline is not to be overrun by a millisecond.
        let whole = |left: Duration| {
            Duration::from_secs(left.as_secs()) + Duration::from_millis(left.subsec_millis().into())
        };
        let limit = limit.map(|limit| whole(limit.saturating_duration_since(now)));
        [limit, self.timers.next_in(now)].into_iter().flatten().min()
    }

    fn take_jobs(&mut self) {
        let mut jobs = std::mem::take(&mut self.jobs);
        self.mailbox.take(&mut jobs);
        let now = if jobs.is_empty() { None } else { Some(transport::now()) };
        for job in jobs.drain(..) {
            if let Some(now) = now {
                self.on_job(job, now);
            }
        }
        self.jobs = jobs;
    }

    fn on_job(&mut self, job: Job, now: Instant) {
        match job {
            Job::Resume(token) => self.with_connection(token, now, Connection::resume),
            Job::Drained(token) => {
                self.with_connection(token, now, |connection, io| {
                    connection.leave_if_drained(io.now)
                });
            }
            Job::Broken(token) => {
                self.with_connection(token, now, |connection, io| connection.broken(io));
            }
            Job::Listen { listener, belongs } => self.listen(listener, belongs, now),
            Job::Dial { pipe, belongs } => {
                self.seed = self.seed.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(1);
                let dialer = Dialer::new(belongs, pipe, self.seed, now);
                let token = self.sources.insert(Source::Dialer(dialer));
                self.on_timer(token, now);
            }
            Job::Adopt(accepted) => self.adopt(accepted, now),
            Job::Resolved(Dialed { dialer, addresses }) => {
                if let Some(Source::Dialer(source)) = self.sources.get_mut(dialer) {
                    let dial = source.resolved(addresses, now);
                    self.dial(dialer, dial, now);
                }
            }
            Job::Close { scope, linger, guard } => {
                let tokens = self.sources.tokens_where(|source| {
                    scope.covers(source.belongs(), matches!(source, Source::Listener(_)))
                });
                for token in tokens {
                    self.close(token, linger, &guard, now);
                }
            }
            Job::Errand(errand) if self.ending => errand.give_up(),
            Job::EndErrands => {
                self.ending = true;
                let errands = |source: &Source| matches!(source, Source::Errand(_));
                for token in self.sources.tokens_where(errands) {
                    if let Some(Source::Errand(errand)) = self.sources.remove(token) {
                        errand.give_up();
                    }
                }
            }
            Job::Errand(errand) => {
                let token = self.sources.insert(Source::Errand(errand));
                self.arm(token);
            }
            Job::Evict(pipe) => self.evict(&pipe, now),
        }
    }

    fn on_event(&mut self, event: &Readiness, now: Instant) {
        let Readiness { token, readable, writable, closed } = *event;
        match self.sources.get(token) {
            Some(Source::Connection(_)) => self.with_connection(token, now, |connection, io| {
                connection.ready(readable, writable, closed, io)
            }),
            Some(Source::Listener(_)) => self.accept(token, now),
            _ => {}
        }
    }

    fn run_again(&mut self, token: usize, now: Instant) {
        match self.sources.get_mut(token) {
            Some(Source::Connection(connection)) => {
                connection.listed = false;
                self.with_connection(token, now, Connection::read);
            }
            Some(Source::Listener(_)) => self.accept(token, now),
            _ => {}
        }
    }

    fn on_timer(&mut self, token: usize, now: Instant) {
        match self.sources.get_mut(token) {
            Some(Source::Connection(_)) => {
                self.with_connection(token, now, |connection, io| connection.on_timer(io.now));
            }
            Some(Source::Listener(_)) => self.accept(token, now),
            Some(Source::Dialer(dialer)) => {
                match dialer.on_timer(token, &self.slot, &self.resolver, now) {
                    Ok(dial) => self.dial(token, dial, now),
                    Err(()) => self.end_dialer(token, now),
                }
            }
            Some(Source::Errand(errand)) => {
                if !errand.is_due(now) {
                    self.arm(token);
                } else if let Some(Source::Errand(errand)) = self.sources.remove(token) {
                    errand.run();
                }
            }
            None => {}
        }
    }

    fn arm(&mut self, token: usize) {
        let deadline = self.sources.get(token).and_then(Source::deadline);
        self.timers.arm(&mut self.sources, token, deadline);
    }

    /// Lets a connection work and does what follows from it.
    fn with_connection(
        &mut self,
        token: usize,
        now: Instant,
        work: impl FnOnce(&mut Connection, &mut Io<'_>) -> Outcome,
    ) {
        let Some(Source::Connection(connection)) = self.sources.get_mut(token) else { return };
        let was_open = connection.was_open();
        let (scratch, buffers) = (&mut self.scratch[..], &self.buffers);
        let mut io = Io { scratch, buffers, doorbell: &self.slot, now };
        let outcome = work(connection, &mut io);
        let came_up = !was_open && connection.was_open();
        let dialer = match connection.origin {
            Origin::Dialed { dialer, .. } => Some(dialer),
            Origin::Accepted { .. } => None,
        };
        match outcome {
            Outcome::Wait => self.arm(token),
            Outcome::Again => {
                if !connection.listed {
                    connection.listed = true;
                    self.run_list.push_back(token);
                }
                self.arm(token);
            }
            Outcome::Ended(ending) => return self.end_connection(token, &ending, now),
        }
        if came_up
            && let Some(dialer) = dialer
            && let Some(Source::Dialer(source)) = self.sources.get_mut(dialer)
        {
            source.up(now);
            if let Some((linger, guard)) = source.closing() {
                self.close(token, linger, &guard, now);
            }
        }
    }

    fn end_connection(&mut self, token: usize, ending: &Ending, now: Instant) {
        let Some(Source::Connection(connection)) = self.sources.remove(token) else { return };
        let dialer = match connection.origin {
            Origin::Dialed { dialer, .. } => Some(dialer),
            Origin::Accepted { .. } => None,
        };
        connection.finish(self.poll.registry(), ending);
        let Some(token) = dialer else { return };
        let Some(Source::Dialer(dialer)) = self.sources.get_mut(token) else { return };
        if let Ending::ConnectFailed(error) = ending {
            let dial = dialer.connect_failed(error, now);
            return self.dial(token, dial, now);
        }
        match dialer.connection_lost(now) {
            Ok(()) => self.arm(token),
            Err(()) => self.end_dialer(token, now),
        }
    }

    fn end_dialer(&mut self, token: usize, now: Instant) {
        let Some(Source::Dialer(dialer)) = self.sources.remove(token) else { return };
        let connection = dialer.connection();
        dialer.finish();
        if let Some(connection) = connection {
            let ending = Ending::Disconnected(DisconnectReason::Closed);
            self.end_connection(connection, &ending, now);
        }
    }

    /// Makes a source of the stream that a dialer began, if it did.
    fn dial(&mut self, dialer: usize, dial: Dial, now: Instant) {
        if let Dial::Connecting(mut stream) = dial
            && let Some(Source::Dialer(source)) = self.sources.get_mut(dialer)
        {
            let origin = Origin::Dialed { dialer, pipe: source.pipe.clone() };
            let belongs = source.belongs.clone();
            let token = self.sources.next_token();
            let registered = register(&self.poll, &mut stream, token);
            let connection = Connection::connecting(belongs, origin, stream, token, now);
            self.sources.insert(Source::Connection(Box::new(connection)));
            if let Some(Source::Dialer(source)) = self.sources.get_mut(dialer) {
                source.trying(token);
            }
            match registered {
                Ok(()) => self.arm(token),
                Err(error) => self.end_connection(token, &Ending::ConnectFailed(error), now),
            }
        }
        self.arm(dialer);
    }

    fn listen(&mut self, listener: Listener, belongs: Belongs, now: Instant) {
        let endpoint = belongs.endpoint.clone();
        let owner = Arc::clone(&belongs.owner);
        let mut source = ListenerSource::new(belongs, listener);
        match source.register(self.poll.registry(), self.sources.next_token()) {
            Ok(()) => {
                let token = self.sources.insert(Source::Listener(source));
                owner.report(Event::Listening { endpoint });
                // Whoever connected before the registration makes no further edge.
                self.accept(token, now);
            }
            Err(error) => {
                let reason = Failure::from(&error);
                owner.report(Event::AcceptFailed { endpoint, reason, retry_in: Duration::MAX });
            }
        }
    }

    fn accept(&mut self, token: usize, now: Instant) {
        let Some(Source::Listener(listener)) = self.sources.get_mut(token) else { return };
        let mut accepted = Vec::new();
        if listener.accept(&mut accepted, now) && !self.run_list.contains(&token) {
            self.run_list.push_back(token);
        }
        self.arm(token);
        for stream in accepted {
            match self.pool.next_for_connection(&self.slot) {
                Some(other) => other.post(Job::Adopt(stream)),
                None => self.adopt(stream, now),
            }
        }
    }

    fn adopt(&mut self, accepted: Accepted, now: Instant) {
        let Accepted { mut stream, address, belongs, permit } = accepted;
        let token = self.sources.next_token();
        let registered = register(&self.poll, &mut stream, token);
        let connection = Connection::accepted(belongs, permit, stream, address, token, now);
        self.sources.insert(Source::Connection(Box::new(connection)));
        match registered {
            Ok(()) => self.with_connection(token, now, |connection, io| {
                connection.ready(true, true, false, io)
            }),
            Err(error) => {
                let reason = DisconnectReason::Io(Failure::from(&error));
                self.end_connection(token, &Ending::Disconnected(reason), now);
            }
        }
    }

    fn close(&mut self, token: usize, linger: Duration, guard: &Guard, now: Instant) {
        match self.sources.get_mut(token) {
            Some(Source::Listener(_)) => {
                if let Some(Source::Listener(listener)) = self.sources.remove(token) {
                    listener.finish();
                }
            }
            Some(Source::Connection(_)) => self.with_connection(token, now, |connection, io| {
                connection.close(linger, guard.clone(), io.now)
            }),
            Some(Source::Dialer(dialer)) => {
                let report = dialer.pipe.as_ref().map(|pipe| pipe.outbox_report());
                let progress = report.unwrap_or_default().progress;
                let lingering = Lingering::new(linger, progress, now, guard.clone());
                match dialer.close(lingering) {
                    Ok(()) => self.arm(token),
                    Err(()) => self.end_dialer(token, now),
                }
            }
            Some(Source::Errand(errand)) if errand.ends_with_socket() => {
                self.sources.remove(token);
            }
            Some(Source::Errand(_)) | None => {}
        }
    }

    fn evict(&mut self, pipe: &Arc<Pipe>, now: Instant) {
        let tokens = self.sources.tokens_where(|source| match source {
            Source::Connection(connection) => {
                connection.pipe().is_some_and(|own| Arc::ptr_eq(own, pipe))
            }
            _ => false,
        });
        for token in tokens {
            let ending = Ending::Disconnected(DisconnectReason::HandedOver);
            self.end_connection(token, &ending, now);
        }
    }
}

/// The mailbox ends with the reactor, also when that ends by a panic: what comes later is dropped, and whoever waits for it
/// goes on.
impl Drop for Turn {
    fn drop(&mut self) {
        self.mailbox.close();
    }
}

fn register(poll: &Poll, stream: &mut Stream, token: usize) -> std::io::Result<()> {
    let interest = Interest::READABLE | Interest::WRITABLE;
    stream.register(poll.registry(), Token(token), interest)
}
