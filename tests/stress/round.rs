//! One round: the sockets of a combination and the workers that use them.

use std::sync::Arc;
use std::time::Duration;

use peermq::{
    Builder, CanReceive, CanSend, Context, Dealer, Endpoint, Pattern as SocketType, Router,
    RoutingId, Socket, Stats,
};

use super::chance::Chance;
use super::combination::{Combination, Draw, Pattern, Transport};
use super::executor::{STYLES, Style, Work};
use super::ledger::{Ledger, Mark, Order};
use super::worker::{Reply, Worker};
use super::{STALL, unique};

/// Most requests that a client of a lock-step echo has under way.
const WINDOW_MAX: u64 = 4;

/// A socket's statistics, whatever its type.
pub(crate) type Probe = Box<dyn Fn() -> Stats>;

/// Everything of one round.
pub(crate) struct Round {
    combination: Combination,
    draw: Draw,
    chance: Chance,
    /// The senders' context and the receivers'; often the same one.
    contexts: [Context; 2],
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) works: Vec<(Style, Work)>,
    pub(crate) probes: Vec<(&'static str, Probe)>,
}

impl Round {
    /// Makes the sockets and the workers; nobody works yet.
    pub(crate) fn new(combination: Combination, draw: Draw, chance: Chance) -> Self {
        let context = || Context::with_io_threads(combination.io_threads).unwrap();
        let senders = context();
        let receivers = if draw.apart { context() } else { senders.clone() };
        let workers = draw.sending_sockets * draw.senders_per_socket;
        let fans_out = combination.pattern == Pattern::FanOut;
        let places = if fans_out { draw.receiving_sockets } else { 1 };
        let mut round = Self {
            combination,
            draw,
            chance,
            contexts: [senders, receivers],
            ledger: Arc::new(Ledger::new(places, workers, draw.count)),
            works: Vec::new(),
            probes: Vec::new(),
        };
        match combination.pattern {
            Pattern::LockStep | Pattern::Duplex => round.echo(),
            Pattern::Pipeline => round.pipeline(),
            Pattern::FanOut => round.fan_out(),
        }
        round
    }

    /// The contexts, each once; what is left of the round is without life then.
    pub(crate) fn into_contexts(self) -> Vec<Context> {
        let [senders, receivers] = self.contexts;
        if self.draw.apart { vec![senders, receivers] } else { vec![senders] }
    }

    /// Ends all waits.
    pub(crate) fn shutdown(&self) {
        self.contexts.iter().for_each(Context::shutdown);
    }

    fn configure<P: SocketType>(&self, builder: Builder<P>) -> Builder<P> {
        let builder = builder.send_hwm(self.draw.mark).recv_hwm(self.draw.mark);
        // Not the receive buffer: TCP with a window below the loopback's segment size goes on by probes, five a second.
        if self.draw.small_buffer { builder.kernel_send_buffer(4096) } else { builder }
    }

    fn open<P: SocketType>(&mut self, name: &'static str, builder: Builder<P>) -> Socket<P> {
        let socket = self.configure(builder).open().unwrap();
        let probed = socket.clone();
        self.probes.push((name, Box::new(move || probed.stats())));
        socket
    }

    fn bind<P: SocketType>(&self, socket: &Socket<P>) -> Endpoint {
        let endpoint = match self.combination.transport {
            Transport::Inproc => unique("inproc://stress"),
            Transport::Ipc => "ipc://*".to_owned(),
            Transport::Tcp => "tcp://127.0.0.1:0".to_owned(),
        };
        socket.bind(endpoint).unwrap()
    }

    /// Connects each of one side with each of the other.
    fn join<A: SocketType, B: SocketType>(&self, binding: &[Socket<A>], others: &[Socket<B>]) {
        for bound in binding {
            let endpoint = self.bind(bound);
            others.iter().for_each(|other| other.connect(&endpoint).unwrap());
        }
    }

    fn worker(&mut self, style: Option<Style>) -> Worker {
        Worker {
            style: style.unwrap_or_else(|| self.chance.pick(&STYLES)),
            chance: Chance::new(self.chance.next()),
            ledger: Arc::clone(&self.ledger),
            pauses_once_in: self.chance.pick(&[3, 30, 300]),
            impatient_once_in: self.chance.pick(&[2, 10, u64::MAX]),
        }
    }

    fn engage(&mut self, style: Style, work: impl Future<Output = ()> + Send + 'static) {
        self.works.push((style, Box::pin(work)));
    }

    /// Workers that send all their messages through each of `sockets`; numbered through from 0.
    fn engage_senders<P: CanSend>(&mut self, sockets: &[Socket<P>]) {
        let per_socket = self.draw.senders_per_socket;
        for (index, socket) in sockets.iter().enumerate() {
            for sender in index * per_socket..(index + 1) * per_socket {
                let (socket, count) = (socket.clone(), self.draw.count);
                let mut worker = self.worker(self.combination.senders);
                self.engage(worker.style, async move {
                    for number in 0..count {
                        let message = Mark { sender, number }.message(&mut worker.chance);
                        if !worker.send(&socket, message).await {
                            return;
                        }
                    }
                });
            }
        }
    }

    /// Workers that receive from `socket` until it is closed. `ordered`: each sender's messages come in order.
    fn engage_receivers<P: CanReceive>(&mut self, socket: &Socket<P>, place: usize, ordered: bool) {
        for _ in 0..self.draw.receivers_per_socket {
            let socket = socket.clone();
            let mut worker = self.worker(self.combination.receivers);
            self.engage(worker.style, async move {
                let mut order = Order::default();
                while let Some(message) = worker.recv(&socket).await {
                    match Mark::of(&message) {
                        None => worker.ledger.fail("a message without a mark".to_owned()),
                        Some(mark) => {
                            if ordered {
                                order.check(mark, &worker.ledger);
                            }
                            worker.ledger.arrived(place, mark);
                        }
                    }
                }
            });
        }
    }

    fn pipeline(&mut self) {
        let pushes: Vec<_> = (0..self.draw.sending_sockets)
            .map(|_| self.open("PUSH", self.contexts[0].push()))
            .collect();
        let pulls: Vec<_> = (0..self.draw.receiving_sockets)
            .map(|_| self.open("PULL", self.contexts[1].pull()))
            .collect();
        if self.draw.senders_bind {
            self.join(&pushes, &pulls);
        } else {
            self.join(&pulls, &pushes);
        }
        self.engage_senders(&pushes);
        pulls.iter().for_each(|pull| self.engage_receivers(pull, 0, true));
    }

    fn fan_out(&mut self) {
        let publishers: Vec<_> = (0..self.draw.sending_sockets)
            .map(|_| self.open("PUB", self.contexts[0].publish().no_drop(true)))
            .collect();
        let subscribers: Vec<_> = (0..self.draw.receiving_sockets)
            .map(|_| self.open("SUB", self.contexts[1].subscribe().topic("")))
            .collect();
        if self.draw.senders_bind {
            self.join(&publishers, &subscribers);
        } else {
            self.join(&subscribers, &publishers);
        }
        for publisher in &publishers {
            if let Err(error) = publisher.wait_for_subscribers(subscribers.len(), STALL) {
                self.ledger.fail(format!("subscribers: {error}"));
            }
        }
        self.engage_senders(&publishers);
        for (place, subscriber) in subscribers.iter().enumerate() {
            self.engage_receivers(subscriber, place, true);
        }
    }

    /// One ROUTER, so that every answer finds its way.
    fn echo(&mut self) {
        let dealers: Vec<_> = (0..self.draw.sending_sockets)
            .map(|_| self.open("DEALER", self.contexts[0].dealer()))
            .collect();
        let mandatory = self.contexts[1].router().mandatory(true);
        let mandatory = match self.chance.below(3) {
            0 => mandatory.send_timeout(Duration::from_millis(1)),
            _ => mandatory,
        };
        let router = self.open("ROUTER", mandatory);
        self.join(std::slice::from_ref(&router), &dealers);
        let servers = self.draw.receivers_per_socket;
        for _ in 0..servers {
            let worker = self.worker(self.combination.receivers);
            self.engage(worker.style, serve(worker, router.clone()));
        }
        if self.combination.pattern == Pattern::Duplex {
            self.engage_senders(&dealers);
            dealers.iter().for_each(|dealer| self.engage_receivers(dealer, 0, servers == 1));
            return;
        }
        let per_socket = self.draw.senders_per_socket;
        for (index, dealer) in dealers.iter().enumerate() {
            for sender in index * per_socket..(index + 1) * per_socket {
                let worker = self.worker(self.combination.senders);
                let (dealer, count) = (dealer.clone(), self.draw.count);
                self.engage(worker.style, ask(worker, dealer, sender, count));
            }
        }
    }
}

/// Sends a few requests, receives as many answers (its own, or those of others on the same socket), and so on.
async fn ask(mut worker: Worker, dealer: Socket<Dealer>, sender: usize, count: usize) {
    let mut number = 0;
    while number < count {
        let window = (1 + worker.chance.below(WINDOW_MAX) as usize).min(count - number);
        for number in number..number + window {
            let message = Mark { sender, number }.message(&mut worker.chance);
            if !worker.send(&dealer, message).await {
                return;
            }
        }
        for _ in 0..window {
            let Some(answer) = worker.recv(&dealer).await else { return };
            match Mark::of(&answer) {
                Some(mark) => worker.ledger.arrived(0, mark),
                None => worker.ledger.fail("an answer without a mark".to_owned()),
            }
        }
        number += window;
    }
}

/// Answers every request with itself, until the socket is closed.
async fn serve(mut worker: Worker, router: Socket<Router>) {
    let mut order = Order::default();
    while let Some(mut request) = worker.recv(&router).await {
        match Mark::of(&request) {
            Some(mark) => order.check(mark, &worker.ledger),
            None => worker.ledger.fail("a request without a mark".to_owned()),
        }
        let answered = if worker.chance.one_in(2) {
            worker.send(&router, request).await
        } else {
            let id = RoutingId::from(request.pop_front().unwrap());
            worker.send(&Reply(&router, id), request).await
        };
        if !answered {
            return;
        }
    }
}
