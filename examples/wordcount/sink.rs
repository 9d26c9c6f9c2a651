//! The sink: adds up what the workers report, notices who is missing, and reconciles both with what the ventilator says it
//! handed out.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use peermq::{Builder, Context, Event, Message, Monitor, PeerId, Pull, RecvError, Socket};

use super::outcome::{Outcome, WorkerEnd, WorkerOutcome};
use super::protocol::{End, Ids, Partial, Report, Totals};
use super::text::Counts;
use super::{PROGRESS_INTERVAL, Problem};

/// How often the sink looks around when nothing arrives.
const TICK: Duration = Duration::from_millis(50);
/// With everything counted, how long the last goodbyes are waited for.
const GOODBYES: Duration = Duration::from_secs(1);

/// The socket that reports come to. It sends nothing, so there is nothing to wait for when it ends.
pub(crate) fn socket(context: &Context) -> Builder<Pull> {
    context.pull().linger(Duration::ZERO)
}

/// A sink at work. Its memory is bounded by the vocabulary: one count for each different word.
pub(crate) struct Sink {
    socket: Socket<Pull>,
    events: Monitor,
    /// Peers whose connection has ended, while messages of theirs may still be in the socket.
    leaving: Vec<PeerId>,
    counts: Counts,
    words: u64,
    ids: Ids,
    reported: Totals,
    workers: BTreeMap<String, Worker>,
    ventilator: Ventilator,
    silence: Duration,
    /// When the first batch was handed out, or reported.
    started: Option<Instant>,
    last_partial: Option<Instant>,
    last_message: Instant,
}

struct Worker {
    /// Its connection, while there is one.
    peer: Option<PeerId>,
    said_goodbye: bool,
    reported: Totals,
}

#[derive(Default)]
struct Ventilator {
    peer: Option<PeerId>,
    issued: Totals,
    end: Option<End>,
    gone: bool,
}

impl Sink {
    /// A sink that reads from a socket with its monitor, and gives up when nothing arrives for as long as `silence`.
    pub(crate) fn new(socket: Socket<Pull>, events: Monitor, silence: Duration) -> Self {
        Self {
            socket,
            events,
            leaving: Vec::new(),
            counts: Counts::new(),
            words: 0,
            ids: Ids::default(),
            reported: Totals::default(),
            workers: BTreeMap::new(),
            ventilator: Ventilator::default(),
            silence,
            started: None,
            last_partial: None,
            last_message: Instant::now(),
        }
    }

    /// Collects until everything is reported, or nothing more is to be expected.
    pub(crate) fn run(mut self) -> Result<Outcome, Problem> {
        let mut shown = Instant::now();
        loop {
            // In this order: everything that came before a connection ended is in the socket when the event is, and
            // has been read when the socket is empty.
            while let Ok(event) = self.events.try_recv() {
                if let Event::Disconnected { peer: Some(peer), .. } = event {
                    self.leaving.push(peer.id());
                }
            }
            match self.socket.recv_timeout(TICK) {
                Ok(message) => self.take(&message),
                Err(RecvError::Timeout) => {
                    self.part();
                    if self.is_over() {
                        return Ok(self.outcome());
                    }
                }
                Err(error) => return Err(error.into()),
            }
            if self.started.is_some() && shown.elapsed() >= PROGRESS_INTERVAL {
                self.show_progress();
                shown = Instant::now();
            }
        }
    }

    fn take(&mut self, message: &Message) {
        self.last_message = Instant::now();
        let peer = message.peer().map(|peer| peer.id());
        match Report::parse(message) {
            Some(Report::Hello { worker }) => self.worker(worker, peer).said_goodbye = false,
            Some(Report::Goodbye { worker }) => self.worker(worker, peer).said_goodbye = true,
            Some(Report::Partial { worker, partial }) => self.add(worker, peer, partial),
            Some(Report::Issued(issued)) => self.hear_ventilator(peer, issued),
            Some(Report::End(end)) => {
                self.hear_ventilator(peer, end.issued);
                self.ventilator.end = Some(end);
            }
            None => eprintln!("wordcount: a message that is no report is ignored"),
        }
    }

    /// The worker of this name. One that was thought gone is back with the next thing it says.
    fn worker(&mut self, name: String, peer: Option<PeerId>) -> &mut Worker {
        let unknown = Worker { peer, said_goodbye: false, reported: Totals::default() };
        let worker = self.workers.entry(name).or_insert(unknown);
        worker.peer = peer;
        worker
    }

    fn hear_ventilator(&mut self, peer: Option<PeerId>, issued: Totals) {
        self.started.get_or_insert_with(Instant::now);
        self.ventilator.peer = peer;
        self.ventilator.gone = false;
        self.ventilator.issued = issued;
    }

    fn add(&mut self, worker: String, peer: Option<PeerId>, partial: Partial) {
        if !self.ids.absorb(&partial.ids) {
            eprintln!("wordcount: {worker} reported a batch that is counted already; ignored");
            return;
        }
        self.started.get_or_insert_with(Instant::now);
        self.last_partial = Some(Instant::now());
        self.worker(worker, peer).reported.add(partial.totals);
        self.reported.add(partial.totals);
        self.words = self.words.saturating_add(partial.words);
        for (word, count) in partial.counts {
            let sum = self.counts.entry(word).or_insert(0);
            *sum = sum.saturating_add(count);
        }
    }

    /// Takes leave of those whose connection ended before the socket was found empty.
    fn part(&mut self) {
        for peer in self.leaving.drain(..) {
            for worker in self.workers.values_mut().filter(|worker| worker.peer == Some(peer)) {
                worker.peer = None;
            }
            self.ventilator.gone |= self.ventilator.peer == Some(peer);
        }
    }

    /// Whether nothing more is to be expected. Asked when the socket is empty.
    fn is_over(&self) -> bool {
        if self.started.is_none() {
            return false;
        }
        let quiet = self.last_message.elapsed();
        let ended = self.ventilator.end.is_some() || self.ventilator.gone;
        let working = |worker: &Worker| worker.peer.is_some() && !worker.said_goodbye;
        let all_gone = !self.workers.is_empty() && !self.workers.values().any(working);
        let all_counted = self.ids.len() >= self.ventilator.issued.batches;
        // A ventilator that cannot get rid of its work says so after this time, and its word is worth waiting for.
        let silence = if ended { self.silence } else { self.silence.saturating_mul(2) };
        ended && all_gone || ended && all_counted && quiet >= GOODBYES || quiet >= silence
    }

    fn show_progress(&self) {
        let counted = self.reported.bytes as f64 / 1e6;
        // The ventilator's word may be older than the workers'.
        let issued = (self.ventilator.issued.bytes as f64 / 1e6).max(counted);
        let working = self.workers.values().filter(|worker| worker.peer.is_some()).count();
        eprintln!("wordcount: {counted:.1} of {issued:.1} MB counted, {working} workers");
    }

    fn outcome(self) -> Outcome {
        let end_of = |worker: &Worker| match (worker.said_goodbye, worker.peer) {
            (true, _) => WorkerEnd::Goodbye,
            (false, None) => WorkerEnd::Gone,
            (false, Some(_)) => WorkerEnd::Silent,
        };
        let workers = self.workers.iter().map(|(name, worker)| WorkerOutcome {
            name: name.clone(),
            end: end_of(worker),
            reported: worker.reported,
        });
        let seconds = match (self.started, self.last_partial) {
            (Some(start), Some(end)) => end.saturating_duration_since(start).as_secs_f64(),
            _ => 0.0,
        };
        Outcome {
            workers: workers.collect(),
            words: self.words,
            lost_ids: self.ids.missing(self.ventilator.issued.batches),
            issued: self.ventilator.issued,
            reported: self.reported,
            end: self.ventilator.end,
            silence: self.silence,
            seconds,
            counts: self.counts,
        }
    }
}
