//! Every option and limit once: its field, unit, default and range. The builder's methods document what
//! each is for.

use std::time::Duration;

use crate::error::OptionError;
use crate::transport::TransportOptions;
use crate::wire::WireLimits;

/// Longest routing id, in bytes (RFC 37).
pub(crate) const ROUTING_ID_BYTES_MAX: usize = 255;

/// Longest topic, in bytes: what a PUB of this crate takes from a peer.
pub(crate) const TOPIC_BYTES_MAX: usize = 65_536;

/// Longest TTL that fits a PING command: 16 bits of tenths of a second.
const HEARTBEAT_TTL_MAX: Duration = Duration::from_millis(6_553_500);

/// High-water marks of one direction of one peer. A queue is full when it holds that many messages or that
/// many bytes; an empty queue, or one whose writing has not begun, takes one message of any allowed size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Marks {
    pub(crate) messages: usize,
    pub(crate) bytes: usize,
}

impl Default for Marks {
    fn default() -> Self {
        Self { messages: 1_000, bytes: 16 * 1024 * 1024 }
    }
}

impl Marks {
    /// Whether a queue of this content takes a further message of `message_bytes`.
    #[inline]
    pub(crate) fn admit(&self, messages: usize, bytes: usize, message_bytes: usize) -> bool {
        messages < self.messages
            && (messages == 0 || bytes.saturating_add(message_bytes) <= self.bytes)
    }

    /// Whether a queue that was full has drained far enough to go on: to half of both marks.
    pub(crate) fn drained(&self, messages: usize, bytes: usize) -> bool {
        messages <= self.messages / 2 && bytes <= self.bytes / 2
    }
}

/// All options of one socket.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) send_marks: Marks,
    pub(crate) recv_marks: Marks,
    pub(crate) linger: Duration,
    pub(crate) send_timeout: Option<Duration>,
    pub(crate) recv_timeout: Option<Duration>,
    pub(crate) routing_id: Vec<u8>,
    pub(crate) immediate: bool,
    pub(crate) reconnect_interval: Duration,
    pub(crate) reconnect_interval_max: Duration,
    pub(crate) reconnect: bool,
    pub(crate) handshake_timeout: Duration,
    pub(crate) connect_timeout: Duration,
    pub(crate) heartbeat_interval: Option<Duration>,
    pub(crate) heartbeat_timeout: Option<Duration>,
    pub(crate) heartbeat_ttl: Duration,
    pub(crate) conflate: bool,
    pub(crate) mandatory: bool,
    pub(crate) handover: bool,
    pub(crate) no_drop: bool,
    pub(crate) peers_max: usize,
    pub(crate) half_open_max: usize,
    pub(crate) subscriptions: Vec<Vec<u8>>,
    pub(crate) limits: WireLimits,
    pub(crate) transport: TransportOptions,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            send_marks: Marks::default(),
            recv_marks: Marks::default(),
            linger: Duration::from_secs(30),
            send_timeout: None,
            recv_timeout: None,
            routing_id: Vec::new(),
            immediate: false,
            reconnect_interval: Duration::from_millis(100),
            reconnect_interval_max: Duration::from_secs(5),
            reconnect: true,
            handshake_timeout: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(30),
            heartbeat_interval: None,
            heartbeat_timeout: None,
            heartbeat_ttl: Duration::ZERO,
            conflate: false,
            mandatory: false,
            handover: false,
            no_drop: false,
            peers_max: 65_536,
            half_open_max: 1_024,
            subscriptions: Vec::new(),
            limits: WireLimits::default(),
            transport: TransportOptions::default(),
        }
    }
}

impl Options {
    /// Refuses values outside their range, naming the builder's method.
    pub(crate) fn check(&self) -> Result<(), OptionError> {
        let hint = "must be at least 1; usize::MAX means no mark";
        at_least_one("send_hwm", self.send_marks.messages, hint)?;
        at_least_one("send_hwm_bytes", self.send_marks.bytes, hint)?;
        at_least_one("recv_hwm", self.recv_marks.messages, hint)?;
        at_least_one("recv_hwm_bytes", self.recv_marks.bytes, hint)?;
        at_least_one("max_message_bytes", self.limits.message_bytes_max, "must be at least 1")?;
        at_least_one("max_frames", self.limits.frames_per_message_max, "must be at least 1")?;
        at_least_one("max_peers", self.peers_max, "must be at least 1")?;
        at_least_one("max_half_open", self.half_open_max, "must be at least 1")?;
        positive("handshake_timeout", Some(self.handshake_timeout))?;
        positive("connect_timeout", Some(self.connect_timeout))?;
        positive("heartbeat_interval", self.heartbeat_interval)?;
        positive("heartbeat_timeout", self.heartbeat_timeout)?;
        self.check_routing_id()?;
        if self.heartbeat_ttl > HEARTBEAT_TTL_MAX {
            return Err(OptionError {
                option: "heartbeat_ttl",
                value: format!("{:?}", self.heartbeat_ttl),
                reason: "must be at most 6553.5 seconds",
            });
        }
        if self.reconnect_interval_max < self.reconnect_interval {
            return Err(OptionError {
                option: "reconnect_interval_max",
                value: format!("{:?}", self.reconnect_interval_max),
                reason: "must not be below reconnect_interval",
            });
        }
        self.subscriptions.iter().try_for_each(|topic| check_topic(topic))?;
        self.check_transport()
    }

    fn check_routing_id(&self) -> Result<(), OptionError> {
        let reason = match self.routing_id.first() {
            _ if self.routing_id.len() > ROUTING_ID_BYTES_MAX => "must be at most 255 bytes",
            Some(0) => "must not begin with a zero byte, which marks automatic ids",
            _ => return Ok(()),
        };
        let value = self.routing_id.escape_ascii().to_string();
        Err(OptionError { option: "routing_id", value, reason })
    }

    fn check_transport(&self) -> Result<(), OptionError> {
        const KERNEL_BYTES_MAX: usize = i32::MAX as usize;
        let reason = "must be between 1 and 2147483647";
        for (option, value) in [
            ("kernel_send_buffer", self.transport.send_buffer_bytes),
            ("kernel_recv_buffer", self.transport.recv_buffer_bytes),
            ("backlog", Some(self.transport.backlog as usize)),
        ] {
            if let Some(bytes) = value
                && !(1..=KERNEL_BYTES_MAX).contains(&bytes)
            {
                return Err(OptionError { option, value: bytes.to_string(), reason });
            }
        }
        Ok(())
    }

    /// How long a peer may be silent after a PING: as long as the interval unless set.
    pub(crate) fn heartbeat_timeout(&self) -> Duration {
        self.heartbeat_timeout.or(self.heartbeat_interval).unwrap_or_default()
    }
}

/// Refuses a topic that no publisher would take.
pub(crate) fn check_topic(topic: &[u8]) -> Result<(), OptionError> {
    if topic.len() <= TOPIC_BYTES_MAX {
        return Ok(());
    }
    let value = format!("{} bytes", topic.len());
    Err(OptionError { option: "topic", value, reason: "must be at most 65536 bytes" })
}

fn at_least_one(
    option: &'static str,
    value: usize,
    reason: &'static str,
) -> Result<(), OptionError> {
    if value == 0 {
        return Err(OptionError { option, value: value.to_string(), reason });
    }
    Ok(())
}

fn positive(option: &'static str, value: Option<Duration>) -> Result<(), OptionError> {
    match value {
        Some(Duration::ZERO) => Err(OptionError {
            option,
            value: "0s".to_owned(),
            reason: "must be longer than zero; Duration::MAX means no limit",
        }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_within_their_own_ranges() {
        assert_eq!(Options::default().check(), Ok(()));
    }

    #[test]
    fn a_value_out_of_range_is_named_with_its_option() {
        type Spoil = fn(&mut Options);
        let cases: [(&str, Spoil); 9] = [
            ("topic", |o| o.subscriptions.push(vec![7; TOPIC_BYTES_MAX + 1])),
            ("send_hwm", |o| o.send_marks.messages = 0),
            ("recv_hwm_bytes", |o| o.recv_marks.bytes = 0),
            ("routing_id", |o| o.routing_id = vec![1; 256]),
            ("routing_id", |o| o.routing_id = vec![0, 1]),
            ("heartbeat_ttl", |o| o.heartbeat_ttl = Duration::from_secs(6554)),
            ("heartbeat_interval", |o| o.heartbeat_interval = Some(Duration::ZERO)),
            ("reconnect_interval_max", |o| o.reconnect_interval_max = Duration::ZERO),
            ("kernel_send_buffer", |o| o.transport.send_buffer_bytes = Some(0)),
        ];
        for (option, spoil) in cases {
            let mut options = Options::default();
            spoil(&mut options);
            assert_eq!(options.check().map_err(|error| error.option), Err(option));
        }
    }

    #[test]
    fn an_empty_queue_takes_one_message_of_any_size() {
        let marks = Marks { messages: 1, bytes: 10 };
        assert!(marks.admit(0, 0, 1_000));
        assert!(!marks.admit(1, 5, 1));
        let marks = Marks { messages: 9, bytes: 10 };
        assert!(marks.admit(1, 5, 5));
        assert!(!marks.admit(1, 5, 6));
    }
}
