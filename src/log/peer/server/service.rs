//! The thread of a server: takes requests, starts their work, goes on with what is woken, sends answers ([`answers`]).

mod administer;
mod answers;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;

use administer::{administer, queue_state, topic_state};

use super::blocking::Blocking;
use super::clients::{Client, Clients, Deferred, Kind};
use super::commits::{CommitWork, Lines, Makes};
use super::deadlines::Deadlines;
use super::limits::Limits;
use super::work::{BATCHES_MAX, FetchWork, OffsetWork, Work, fingerprint, refused};
use super::{CONTROL, Control, LogServerOptions, groups};
use crate::error::SetupError;
use crate::log::durable::{Chores, DurableQueue};
use crate::log::groups::{Beating, GroupWatch};
use crate::log::options::Level;
use crate::log::peer::alarm::Alarm;
use crate::log::peer::protocol::{
    self, Append, AwaitGroup, Commit, Done, Heartbeat, Malformed, Nothing, Outcome, ProducerId,
    RemoteCode, RemoteError, Reply, Request, Settle, TopicNames, Verdict, WirePosition,
};
use crate::log::{Log, threads};
use crate::message::Message;
use crate::pattern::{Router, RoutingId};
use crate::peer::PeerId;
use crate::socket::{RecvFromFuture, Socket};
use crate::sync::{Mutex, lock};
use crate::transport::now;

/// The task that receives.
const RECEIVE: u64 = 0;
/// Requests taken before others get their turn.
const REQUESTS_PER_TURN: usize = 256;

/// Numbers producers; together with the incarnation of the log no number comes twice.
static PRODUCERS: AtomicU32 = AtomicU32::new(0);

/// What a task's number stands for.
#[derive(Debug)]
enum Task {
    Request { peer: PeerId, correlation: u64, deadline: Instant, work: Work },
    Send(PeerId),
}

/// What becomes of a request at once.
enum Step {
    Done(Outcome),
    Wait(Work, Duration),
}

/// The state of the thread.
pub(super) struct Service {
    socket: Socket<Router>,
    receiving: RecvFromFuture,
    log: Log,
    limits: Limits,
    queues: BTreeMap<String, DurableQueue>,
    alarm: Arc<Alarm>,
    control: Arc<Control>,
    blocking: Blocking,
    /// For what is asked of groups: a heartbeat must not wait until a topic is made.
    coordinating: Arc<Blocking>,
    /// Commits that it has not taken yet.
    commits: Lines,
    /// For what queues wait for: dead letters, and their journals.
    tending: Blocking,
    clients: Clients,
    tasks: HashMap<u64, Task>,
    /// When tasks must be looked at though nobody woke them.
    deadlines: Deadlines,
    next_task: u64,
    /// Requests whose clients have read enough for them to be looked at.
    resumed: Vec<(PeerId, Deferred)>,
    /// Clients that have read enough for tasks of theirs that are held.
    roomy: BTreeSet<PeerId>,
    /// Clients that are gone, as far as the socket has not let go of them when that was told.
    ended: BTreeSet<PeerId>,
}

impl Service {
    pub(super) fn new(
        socket: Socket<Router>,
        log: &Log,
        options: LogServerOptions,
        alarm: Arc<Alarm>,
        control: Arc<Control>,
    ) -> Result<Self, SetupError> {
        let receiving = socket.recv_from_async();
        let blocking = Blocking::start("peermq-log-admin", Arc::clone(&alarm))?;
        let coordinating = Arc::new(Blocking::start("peermq-log-group", Arc::clone(&alarm))?);
        let tending = Blocking::start("peermq-log-queue", Arc::clone(&alarm))?;
        let LogServerOptions { queues, limits } = options;
        let named = |queue: DurableQueue| (queue.name().to_owned(), queue);
        Ok(Self {
            socket,
            receiving,
            log: log.clone(),
            limits,
            queues: queues.into_iter().map(named).collect(),
            alarm,
            control,
            blocking,
            coordinating,
            commits: Lines::default(),
            tending,
            clients: Clients::new(),
            tasks: HashMap::new(),
            deadlines: Deadlines::default(),
            next_task: CONTROL + 1,
            resumed: Vec::new(),
            roomy: BTreeSet::new(),
            ended: BTreeSet::new(),
        })
    }

    /// Serves until it is told to stop, or the socket is closed.
    pub(super) fn run(mut self) {
        threads::begin_service();
        let mut woken = vec![RECEIVE];
        while !self.control.stop.load(Ordering::SeqCst) {
            for task in woken {
                match task {
                    RECEIVE => {}
                    CONTROL => self.forget_gone(),
                    task => self.go_on(task, false),
                }
            }
            self.expire();
            while let Some(peer) = self.roomy.pop_first() {
                self.release(peer);
            }
            while let Some((peer, (correlation, request, body, beating))) = self.resumed.pop() {
                self.begin(peer, correlation, request, body, beating);
                // It may have to wait, and its answer with it.
                self.resume(peer);
            }
            // Always, and last: it also sends out what has gathered.
            let Some(more) = self.receive() else { return };
            self.publish_counts();
            let next = self.deadlines.first();
            let at_once = more || !self.resumed.is_empty() || !self.roomy.is_empty();
            woken = self.alarm.wait(if at_once { Some(now()) } else { next });
        }
    }

    fn publish_counts(&self) {
        // By clients, as there may be very many tasks.
        let sends = self.clients.values().filter(|client| client.sending_task().is_some()).count();
        let requests = self.tasks.len().saturating_sub(sends);
        self.control.waiting.store(requests as u64, Ordering::Relaxed);
        self.control.clients.store(self.clients.len() as u64, Ordering::Relaxed);
    }

    /// Takes requests; `None` when the socket is closed, else whether there may be more.
    fn receive(&mut self) -> Option<bool> {
        let waker = self.alarm.waker(RECEIVE);
        for _ in 0..REQUESTS_PER_TURN {
            let polled = Pin::new(&mut self.receiving).poll(&mut Context::from_waker(&waker));
            let Poll::Ready(received) = polled else { return Some(false) };
            let (from, message) = received.ok()?;
            self.receiving = self.socket.recv_from_async();
            self.take(from, &message);
        }
        Some(true)
    }

    fn take(&mut self, from: RoutingId, message: &Message) {
        let Some(peer) = message.peer().map(|peer| peer.id()) else { return };
        let decoded = protocol::decode_request(message);
        if self.is_in_vain(peer, decoded.as_ref().ok().map(|(_, request, _)| request)) {
            return;
        }
        let client = self.clients.entry(peer).or_insert_with(|| Client::new(from, peer));
        let limits = self.limits;
        let mut version = protocol::VERSION;
        let (correlation, error) = match decoded {
            Ok((correlation, request, body)) => {
                if client.has_asked(correlation) {
                    // Sent again over the same connection: the first one is answered.
                    return;
                }
                let kind = Kind::of(&request);
                let is_poll = kind == Kind::Poll;
                let bytes = message.body_bytes();
                let has_room = match is_poll {
                    true => client.in_flight() + client.polls() < limits.polls_max(),
                    false => client.in_flight() < limits.requests_max,
                };
                if has_room && client.takes(kind, bytes, limits.request_bytes_max) {
                    self.control.requests.fetch_add(1, Ordering::Relaxed);
                    client.ask(kind, correlation, bytes);
                    // Nor does one overtake those that are about to be looked at.
                    let follows = self.resumed.iter().any(|(resumed, _)| *resumed == peer);
                    if follows || client.is_over(limits.answer_bytes_max) {
                        let beating = beating_of(&self.log, &request);
                        return client.deferred.push_back((correlation, request, body, beating));
                    }
                    return self.begin(peer, correlation, request, body, None);
                }
                let most = if is_poll { limits.polls_max() } else { limits.requests_max };
                let text = match has_room {
                    true => "too many bytes of requests are in flight already".to_owned(),
                    false => format!("{most} requests are in flight already"),
                };
                (correlation, RemoteError::new(RemoteCode::Busy, text))
            }
            Err(unreadable) => {
                self.control.unreadable.fetch_add(1, Ordering::Relaxed);
                match unreadable.correlation {
                    Some(correlation) => {
                        if let Malformed::Version { found } = unreadable.reason {
                            version = found;
                        }
                        (correlation, malformed(unreadable.reason))
                    }
                    None => return self.forget_if_idle(peer),
                }
            }
        };
        // Refusals are bounded too: who sends on and reads nothing gets no more of them.
        if client.in_flight() >= limits.requests_max.saturating_mul(2) {
            self.control.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        self.refuse(peer, version, correlation, error);
    }

    fn begin(
        &mut self,
        peer: PeerId,
        correlation: u64,
        request: Request,
        body: Vec<Bytes>,
        beating: Option<Beating>,
    ) {
        let task = self.next_task;
        self.next_task += 1;
        // It counts from now on at the latest, however long others keep it waiting.
        let beating = beating.or_else(|| beating_of(&self.log, &request));
        match self.step(peer, task, request, body, beating) {
            Ok(Step::Done(outcome)) => self.finish(peer, correlation, &outcome),
            Err(error) => self.finish(peer, correlation, &Err(error)),
            Ok(Step::Wait(work, wait)) => {
                let wait = wait.min(self.limits.wait_max);
                let deadline = now().checked_add(wait).unwrap_or_else(now);
                self.deadlines.insert(task, deadline);
                self.tasks.insert(task, Task::Request { peer, correlation, deadline, work });
                self.go_on(task, wait.is_zero());
            }
        }
    }

    /// Goes on with a task that was woken, or whose time is up.
    fn go_on(&mut self, task: u64, over: bool) {
        match self.tasks.get_mut(&task) {
            Some(Task::Request { peer, correlation, deadline, work }) => {
                let Some(client) = self.clients.get_mut(peer) else { return };
                if work.is_bulky() && client.is_over(self.limits.answer_bytes_max) {
                    client.held.insert(task);
                    return work.step_back();
                }
                let polled = work.poll(&self.alarm.waker(task), over);
                client.takes_up(task, work.taken_bytes());
                work.chores().into_iter().for_each(|chores| tend(&self.tending, chores));
                let Poll::Ready(outcome) = polled else {
                    self.deadlines.look_again(task, work.look_again_at());
                    return;
                };
                let (peer, correlation, deadline) = (*peer, *correlation, *deadline);
                self.deadlines.remove(task, deadline);
                self.tasks.remove(&task);
                self.finish(peer, correlation, &outcome);
            }
            Some(Task::Send(peer)) => {
                let peer = *peer;
                self.send(peer);
            }
            None => {}
        }
    }

    /// Ends waits whose time is up.
    fn expire(&mut self) {
        let now = now();
        while let Some((task, over)) = self.deadlines.take_due(now) {
            self.go_on(task, over);
        }
    }
}

/// Tells a heartbeat that has come; `None` for other requests.
fn beating_of(log: &Log, request: &Request) -> Option<Beating> {
    let Request::Heartbeat(heartbeat) = request else { return None };
    Some(log.beating(&heartbeat.group, &heartbeat.member))
}

fn malformed(reason: Malformed) -> RemoteError {
    let code = match reason {
        Malformed::Version { .. } => RemoteCode::Version,
        _ => RemoteCode::Malformed,
    };
    RemoteError::new(code, format!("{reason}; version {} is spoken here", protocol::VERSION))
}

impl Service {
    /// Does what is asked, or says what it waits for.
    fn step(
        &mut self,
        peer: PeerId,
        task: u64,
        request: Request,
        body: Vec<Bytes>,
        beating: Option<Beating>,
    ) -> Result<Step, RemoteError> {
        let limits = self.limits;
        Ok(match request {
            Request::NewProducer(_) => done(self.new_producer()),
            Request::Append(append) => self.append(&append, &body)?,
            Request::Fetch(fetch) => {
                let topic = refused(self.log.topic(&fetch.topic))?;
                let partition = refused(topic.inner.partition(fetch.partition))?.clone();
                let wait = Duration::from_millis(fetch.wait_ms.into());
                let (id, bytes_max) = (topic.inner.id, limits.fetch_bytes_max);
                let work = FetchWork::new(fetch, id, partition, bytes_max)?;
                Step::Wait(Work::Fetch(Box::new(work)), wait)
            }
            Request::ListTopics(_) => done(TopicNames { topics: self.log.topics() }),
            Request::DescribeTopic(name) => {
                done(topic_state(&refused(self.log.topic(&name.0.topic))?))
            }
            // What a group has committed may have to wait for the group.
            Request::OffsetAt(at) if !matches!(at.position, WirePosition::Committed(_)) => {
                let topic = refused(self.log.topic(&at.topic))?;
                let work = refused(OffsetWork::new(at, &topic))?;
                Step::Wait(Work::OffsetAt(Box::new(work)), Duration::MAX)
            }
            Request::Acquire(acquire) => {
                let wait = Duration::from_millis(acquire.wait_ms.into());
                let queue = self.queue(&acquire.queue)?;
                limits.check_lock(&acquire.queue, acquire.lock_ms)?;
                let lock = Duration::from_millis(acquire.lock_ms.into());
                // An answer is no longer than that to a fetch.
                let count_max = acquire.count_max.min(BATCHES_MAX as u32);
                let work = queue.acquiring(count_max, limits.fetch_bytes_max, lock);
                Step::Wait(Work::Acquire(Box::new(work)), wait)
            }
            Request::Settle(settle) => self.settle(task, &settle)?,
            Request::Heartbeat(heartbeat) => self.heartbeat(task, heartbeat, beating)?,
            Request::Commit(commit) => self.commit(peer, task, commit),
            Request::AwaitGroup(request) => {
                let wait = Duration::from_millis(request.wait_ms.into());
                Step::Wait(self.await_group(task, request), wait)
            }
            Request::QueueStats(name) => done(queue_state(self.queue(&name.queue)?.stats())),
            blocking => self.step_aside(task, blocking, body),
        })
    }

    fn append(&self, append: &Append, body: &[Bytes]) -> Result<Step, RemoteError> {
        let topic = refused(self.log.topic(&append.topic))?;
        let batch = body.first().map(|batch| &batch[..]).unwrap_or_default();
        let mut ticket = refused(topic.append_batch(append.partition, append.level, batch))?;
        // Who appends to a partition where so much has gathered waits until it is written.
        if refused(topic.inner.partition(append.partition))?.is_crowded() {
            ticket = ticket.at_level(append.level.max(Level::Written));
        }
        let (first_offset, fingerprint) = (ticket.first_offset(), fingerprint(&topic));
        Ok(Step::Wait(Work::Append { ticket, first_offset, fingerprint }, Duration::MAX))
    }

    fn settle(&self, task: u64, settle: &Settle) -> Result<Step, RemoteError> {
        let queue = self.queue(&settle.queue)?;
        if let Verdict::Renew(lock_ms) = settle.verdict {
            self.limits.check_lock(&settle.queue, lock_ms)?;
        }
        // Locks are judged now, whatever is to be waited for then.
        let settling = queue.settling(settle.verdict, &settle.deliveries);
        let work = if settling.blocks() {
            Work::Blocking(self.tending.run(task, Box::new(|| settling.outcome())))
        } else {
            queue.chores().into_iter().for_each(|chores| tend(&self.tending, chores));
            Work::Settle(Box::new(settling))
        };
        Ok(Step::Wait(work, Duration::MAX))
    }

    fn heartbeat(
        &self,
        task: u64,
        heartbeat: Heartbeat,
        mut beating: Option<Beating>,
    ) -> Result<Step, RemoteError> {
        let Limits { members_max, .. } = self.limits;
        self.limits.check_session(&heartbeat.group, heartbeat.session_ms)?;
        let log = self.log.clone();
        let job = move || {
            let taken = groups::heartbeat(&log, &heartbeat, members_max);
            taken.inspect(|_| beating.iter_mut().for_each(Beating::taken))
        };
        let place = self.coordinating.run(task, Box::new(job));
        Ok(Step::Wait(Work::Blocking(place), Duration::MAX))
    }

    fn commit(&self, peer: PeerId, task: u64, commit: Commit) -> Step {
        let (log, lines) = (self.log.clone(), self.commits.clone());
        let (coordinating, alarm) = (Arc::clone(&self.coordinating), Arc::clone(&self.alarm));
        let makes = Makes { log, lines, coordinating, alarm };
        let work = CommitWork::new(task, peer, commit, makes);
        Step::Wait(Work::Commit(Box::new(work)), Duration::MAX)
    }

    /// Hands what blocks to another thread.
    fn step_aside(&self, task: u64, request: Request, body: Vec<Bytes>) -> Step {
        let log = self.log.clone();
        let thread = if request.is_of_group() { &*self.coordinating } else { &self.blocking };
        let job = move || refused(administer(&log, request, body));
        let place = thread.run(task, Box::new(job));
        Step::Wait(Work::Blocking(place), Duration::MAX)
    }

    /// What is known of groups may have to be read, which others should not wait for.
    fn await_group(&self, task: u64, request: AwaitGroup) -> Work {
        let AwaitGroup { group, version, .. } = request;
        if let Some(group) = self.log.known_group(&group) {
            return Work::AwaitGroup { watch: GroupWatch::new(group), version };
        }
        let (log, found) = (self.log.clone(), Arc::new(Mutex::new(None)));
        let finds = Arc::clone(&found);
        let job = move || {
            *lock(&finds) = Some(refused(log.group(&group))?);
            Ok(Done(Nothing {}).into())
        };
        let place = self.coordinating.run(task, Box::new(job));
        Work::FindGroup { place, found, version, over: false }
    }

    fn new_producer(&self) -> ProducerId {
        // Ids from 2^62 on are for transactions.
        let incarnation = i64::from(self.log.inner.shared.epoch.max(0) & (i32::MAX >> 1));
        let number = PRODUCERS.fetch_add(1, Ordering::Relaxed);
        ProducerId { id: incarnation << 32 | i64::from(number), epoch: 0 }
    }

    fn queue(&self, name: &str) -> Result<&DurableQueue, RemoteError> {
        self.queues.get(name).ok_or_else(|| {
            let text = format!("there is no queue {name} here");
            let mut error = RemoteError::new(RemoteCode::UnknownQueue, text);
            error.topic = Some(name.to_owned());
            error
        })
    }
}

/// Has a thread do what a queue has to do beside the requests of its workers.
fn tend(tending: &Blocking, chores: Chores) {
    tending.run_aside(|| chores.run());
}

fn done(reply: impl Into<Reply>) -> Step {
    Step::Done(Ok(reply.into()))
}
