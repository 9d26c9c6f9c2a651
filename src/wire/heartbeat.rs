//! The timers of one connection's heartbeat (RFC 37, "PING and PONG").
//!
//! The connection tells it when anything was heard, asks it for the next deadline, and does what
//! [`Heartbeat::poll`] says when that has come. Process input before polling: after a pause of the
//! whole process, what the peer sent meanwhile waits in the kernel and must count.

use std::time::{Duration, Instant};

/// Milliseconds in the unit of a PING's TTL.
const DECISECOND_MS: u64 = 100;

/// When to send PINGs and when to give up.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HeartbeatConfig {
    /// Time between our PINGs; `None` (or zero) sends none.
    pub(crate) interval: Option<Duration>,
    /// How long a PING may stay without anything heard after it; zero waits for ever.
    pub(crate) timeout: Duration,
    /// The silence of ours after which the peer may give up; zero for none. Rounded down to
    /// tenths of a second and capped at 6553.5 s on the wire.
    pub(crate) ttl: Duration,
    /// Whether the peer knows PING, so that it can be shown signs of life while it is not read.
    pub(crate) shows_life: bool,
}

/// What is to be done now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Beat {
    /// Nothing until the next deadline.
    Nothing,
    /// Send a PING.
    SendPing {
        /// The TTL to put in it, in tenths of a second.
        ttl_deciseconds: u16,
    },
    /// The peer was silent for too long.
    Dead,
}

/// Shortest time between two signs of life, whatever pace the peer's PINGs seem to have.
const SIGN_INTERVAL_MIN: Duration = Duration::from_millis(10);

/// Time between two signs of life to a peer whose PINGs, if it sends any, have not been read yet.
const SIGN_INTERVAL_GUESS: Duration = Duration::from_millis(50);

/// The heartbeat of one connection, from the end of its handshake.
#[derive(Debug)]
pub(crate) struct Heartbeat {
    /// Our own settings, with zero durations turned to `None`.
    interval: Option<Duration>,
    /// See [`HeartbeatConfig::timeout`].
    timeout: Option<Duration>,
    /// TTL of our PINGs, in tenths of a second.
    ttl_deciseconds: u16,
    /// When the next PING is due.
    next_ping: Option<Instant>,
    /// When the first PING was sent since anything was heard.
    unanswered_since: Option<Instant>,
    /// The TTL of the peer's last PING, if it set one.
    peer_ttl: Option<Duration>,
    /// When anything was last heard; the peer's TTL runs from here.
    last_heard: Instant,
    /// While we do not read the peer, its silence means nothing.
    is_suspended: bool,
    /// When the peer's last PING came, and how long after the one before it.
    last_ping: Option<Instant>,
    /// See `last_ping`.
    peer_interval: Option<Duration>,
    /// See [`HeartbeatConfig::shows_life`].
    shows_life: bool,
    /// While suspended: when the peer should see a sign of life, for its PINGs are not read and get no answer.
    next_sign: Option<Instant>,
}

impl Heartbeat {
    /// Starts the timers; the first PING is due one interval from now.
    pub(crate) fn new(config: HeartbeatConfig, now: Instant) -> Self {
        let interval = config.interval.filter(|interval| !interval.is_zero());
        let ttl_deciseconds = config.ttl.as_millis() / u128::from(DECISECOND_MS);
        Self {
            interval,
            timeout: Some(config.timeout).filter(|timeout| !timeout.is_zero()),
            ttl_deciseconds: u16::try_from(ttl_deciseconds).unwrap_or(u16::MAX),
            next_ping: after(now, interval),
            unanswered_since: None,
            peer_ttl: None,
            last_heard: now,
            is_suspended: false,
            last_ping: None,
            peer_interval: None,
            shows_life: config.shows_life,
            next_sign: None,
        }
    }

    /// Notes that bytes arrived from the peer, of whatever kind.
    pub(crate) fn heard(&mut self, now: Instant) {
        self.last_heard = now;
        self.unanswered_since = None;
    }

    /// Notes a PING of the peer, whose TTL (0 for none) replaces any earlier one.
    pub(crate) fn ping_received(&mut self, ttl_deciseconds: u16, now: Instant) {
        let ttl = Duration::from_millis(u64::from(ttl_deciseconds) * DECISECOND_MS);
        self.peer_ttl = Some(ttl).filter(|ttl| !ttl.is_zero());
        let interval = self.last_ping.map(|last| now.saturating_duration_since(last));
        self.peer_interval = interval.or(self.peer_interval);
        self.last_ping = Some(now);
        self.heard(now);
    }

    /// We stop reading the peer: nothing it sends can be heard, so it cannot be found dead. Our PINGs go on, and
    /// we add some at the pace of the peer's own: any traffic tells it that we live.
    pub(crate) fn suspend(&mut self, now: Instant) {
        if !self.is_suspended {
            self.is_suspended = true;
            self.next_sign =
                self.shows_life.then(|| after(now, Some(self.sign_interval()))).flatten();
        }
    }

    /// Several times as often as the peer's PINGs, for its timeout may be shorter than its interval; a guess as long as that
    /// is not known.
    fn sign_interval(&self) -> Duration {
        let guess = self.peer_ttl.map_or(SIGN_INTERVAL_GUESS, |ttl| ttl / 2);
        self.peer_interval.map_or(guess, |interval| interval / 4).max(SIGN_INTERVAL_MIN)
    }

    /// We read the peer again: it gets its full time from now. Does nothing if not suspended.
    pub(crate) fn resume(&mut self, now: Instant) {
        if !self.is_suspended {
            return;
        }
        self.is_suspended = false;
        self.next_sign = None;
        self.last_heard = now;
        self.unanswered_since = self.unanswered_since.map(|_| now);
    }

    /// When to poll next; `None` if no timer runs.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.next_ping.into_iter().chain(self.next_sign).chain(self.death()).min()
    }

    /// Says what is due at `now`. Call again after a PING until nothing is.
    pub(crate) fn poll(&mut self, now: Instant) -> Beat {
        if self.death().is_some_and(|death| death <= now) {
            return Beat::Dead;
        }
        let ping = Beat::SendPing { ttl_deciseconds: self.ttl_deciseconds };
        if self.next_sign.is_some_and(|due| due <= now) {
            self.next_sign = after(now, Some(self.sign_interval()));
            return ping;
        }
        if self.next_ping.is_none_or(|due| now < due) {
            return Beat::Nothing;
        }
        self.next_ping = after(now, self.interval);
        self.unanswered_since.get_or_insert(now);
        ping
    }

    /// When the peer counts as dead if nothing more is heard.
    fn death(&self) -> Option<Instant> {
        if self.is_suspended {
            return None;
        }
        let by_timeout = self.unanswered_since.and_then(|since| after(since, self.timeout));
        let by_ttl = after(self.last_heard, self.peer_ttl);
        by_timeout.into_iter().chain(by_ttl).min()
    }
}

/// The instant this much later; `None` for no duration or one beyond the clock.
fn after(start: Instant, duration: Option<Duration>) -> Option<Instant> {
    start.checked_add(duration?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_peer_that_pings_sees_signs_of_life_while_it_is_not_read() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let config = HeartbeatConfig {
            interval: None,
            timeout: Duration::ZERO,
            ttl: Duration::ZERO,
            shows_life: true,
        };
        let mut heartbeat = Heartbeat::new(config, start);
        heartbeat.ping_received(0, at(100));
        heartbeat.ping_received(0, at(200));
        heartbeat.suspend(at(250));
        assert_eq!(heartbeat.next_deadline(), Some(at(275)));
        assert_eq!(heartbeat.poll(at(274)), Beat::Nothing);
        assert_eq!(heartbeat.poll(at(275)), Beat::SendPing { ttl_deciseconds: 0 });
        assert_eq!(heartbeat.poll(at(275)), Beat::Nothing);
        assert_eq!(heartbeat.next_deadline(), Some(at(300)));
        heartbeat.resume(at(290));
        assert_eq!(heartbeat.next_deadline(), None);
    }

    /// A heartbeat with these times in milliseconds (0 for none), and when it began.
    fn heartbeat(interval_ms: u64, timeout_ms: u64) -> (Heartbeat, Instant) {
        let config = HeartbeatConfig {
            interval: Some(Duration::from_millis(interval_ms)),
            timeout: Duration::from_millis(timeout_ms),
            ttl: Duration::from_millis(1_999),
            shows_life: false,
        };
        let start = Instant::now();
        (Heartbeat::new(config, start), start)
    }

    /// Milliseconds.
    const fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    /// The PING that `heartbeat` makes.
    const PING: Beat = Beat::SendPing { ttl_deciseconds: 19 };

    #[test]
    fn the_first_ping_is_due_one_interval_after_the_start() {
        let (mut beat, start) = heartbeat(100, 300);
        assert_eq!(beat.poll(start + ms(99)), Beat::Nothing);
        assert_eq!(beat.next_deadline(), Some(start + ms(100)));
        assert_eq!(beat.poll(start + ms(100)), PING);
        assert_eq!(beat.poll(start + ms(100)), Beat::Nothing);
    }

    #[test]
    fn the_timeout_runs_from_the_first_unanswered_ping_not_from_the_latest() {
        let (mut beat, start) = heartbeat(100, 250);
        for at in [100, 200, 300] {
            assert_eq!(beat.poll(start + ms(at)), PING);
        }
        assert_eq!(beat.next_deadline(), Some(start + ms(350)));
        assert_eq!(beat.poll(start + ms(349)), Beat::Nothing);
        assert_eq!(beat.poll(start + ms(350)), Beat::Dead);
    }

    #[test]
    fn anything_heard_cancels_the_timeout_until_the_next_ping() {
        let (mut beat, start) = heartbeat(100, 50);
        assert_eq!(beat.poll(start + ms(100)), PING);
        beat.heard(start + ms(120));
        assert_eq!(beat.poll(start + ms(199)), Beat::Nothing);
        assert_eq!(beat.poll(start + ms(200)), PING);
        assert_eq!(beat.poll(start + ms(250)), Beat::Dead);
    }

    #[test]
    fn a_ttl_beyond_65_seconds_does_not_wrap() {
        let (mut beat, start) = heartbeat(0, 0);
        assert_eq!(beat.next_deadline(), None);
        beat.ping_received(u16::MAX, start);
        assert_eq!(beat.next_deadline(), Some(start + ms(6_553_500)));
        assert_eq!(beat.poll(start + ms(6_553_499)), Beat::Nothing);
        assert_eq!(beat.poll(start + ms(6_553_500)), Beat::Dead);
    }

    #[test]
    fn the_peers_ttl_is_extended_by_traffic_and_lifted_by_a_ping_without_one() {
        let (mut beat, start) = heartbeat(0, 0);
        beat.ping_received(10, start);
        beat.heard(start + ms(900));
        assert_eq!(beat.poll(start + ms(1_899)), Beat::Nothing);
        assert_eq!(beat.next_deadline(), Some(start + ms(1_900)));
        beat.ping_received(0, start + ms(1_000));
        assert_eq!(beat.next_deadline(), None);
    }

    #[test]
    fn while_suspended_pings_go_on_and_silence_is_not_death() {
        let (mut beat, start) = heartbeat(100, 50);
        beat.ping_received(1, start);
        beat.suspend(start);
        for at in [100, 200, 300] {
            assert_eq!(beat.next_deadline(), Some(start + ms(at)));
            assert_eq!(beat.poll(start + ms(at)), PING);
        }
        beat.resume(start + ms(310));
        assert_eq!(beat.next_deadline(), Some(start + ms(360)));
        beat.resume(start + ms(350));
        assert_eq!(beat.poll(start + ms(360)), Beat::Dead);
    }

    #[test]
    fn absurd_durations_are_no_deadline_instead_of_an_overflow() {
        let start = Instant::now();
        let config = HeartbeatConfig {
            interval: Some(Duration::MAX),
            timeout: Duration::MAX,
            ttl: Duration::MAX,
            shows_life: false,
        };
        let mut beat = Heartbeat::new(config, start);
        assert_eq!(beat.ttl_deciseconds, u16::MAX);
        assert_eq!(beat.next_deadline(), None);
        assert_eq!(beat.poll(start + ms(1)), Beat::Nothing);
    }

    /// One thing that happens to a heartbeat, in the property test below.
    #[derive(Clone, Debug)]
    enum Step {
        Heard,
        Ping(u16),
        Poll,
        Suspend,
        Resume,
    }

    /// Any step, after a pause of up to 400 ms.
    fn step() -> impl Strategy<Value = (u64, Step)> {
        let step = prop_oneof![
            2 => Just(Step::Heard),
            1 => (0u16..6).prop_map(Step::Ping),
            5 => Just(Step::Poll),
            1 => Just(Step::Suspend),
            1 => Just(Step::Resume),
        ];
        (0u64..400, step)
    }

    proptest! {
        #[test]
        fn nobody_heard_within_timeout_and_ttl_is_ever_dead(
            interval_ms in 0u64..300,
            timeout_ms in 0u64..600,
            steps in prop::collection::vec(step(), 1..60),
        ) {
            let (mut beat, mut now) = heartbeat(interval_ms, timeout_ms);
            let (mut heard, mut ttl_ms, mut suspended) = (now, 0, false);
            for (pause_ms, step) in steps {
                now += ms(pause_ms);
                match step {
                    Step::Heard => { beat.heard(now); heard = now; }
                    Step::Ping(ttl) => {
                        beat.ping_received(ttl, now);
                        (heard, ttl_ms) = (now, u64::from(ttl) * 100);
                    }
                    Step::Suspend => { beat.suspend(now); suspended = true; }
                    Step::Resume => { beat.resume(now); suspended = false; }
                    Step::Poll => {
                        let silence = now - heard;
                        let timed_out =
                            interval_ms > 0 && timeout_ms > 0 && silence >= ms(timeout_ms);
                        let outlived = ttl_ms > 0 && silence >= ms(ttl_ms);
                        let deadline = beat.next_deadline();
                        let beat = beat.poll(now);
                        if beat == Beat::Dead {
                            prop_assert!(!suspended && (timed_out || outlived));
                        }
                        let is_due = deadline.is_some_and(|deadline| deadline <= now);
                        prop_assert_eq!(beat != Beat::Nothing, is_due);
                    }
                }
            }
        }
    }
}
