//! The ZMTP greeting: the first 64 bytes of a connection in each direction (RFC 37).
//!
//! ```text
//! 0      1..9     9      10     11     12..32     32         33..64
//! 0xFF   padding  0x7F   major  minor  mechanism  as-server  filler
//! ```
//!
//! [`encode`] makes ours; [`GreetingParser`] reads the peer's in whatever pieces it arrives and
//! refuses it at the first byte that settles the matter.

use super::error::{ProtocolError, escaped_ascii};

/// Bytes of a greeting.
pub(super) const GREETING_BYTES: usize = 64;
/// First byte of every ZMTP greeting since 2.0.
const SIGNATURE_FIRST: u8 = 0xFF;
/// Last byte of the signature; bit 0 tells a versioned greeting from a ZMTP 1.0 frame.
const SIGNATURE_LAST: u8 = 0x7F;
/// Bytes of the mechanism field.
const MECHANISM_BYTES: usize = 20;
/// Bytes of a foreign protocol that are kept for the error text.
const FOREIGN_BYTES_MAX: usize = 16;

/// The protocol version spoken on a connection: the lower of both sides'.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Version {
    /// ZMTP 3.0 (RFC 23): subscriptions travel as messages.
    V3_0,
    /// ZMTP 3.1 (RFC 37): subscriptions travel as commands.
    V3_1,
}

/// A security mechanism.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Mechanism {
    /// No authentication and no confidentiality.
    Null,
}

impl Mechanism {
    /// The name in the greeting.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Null => "NULL",
        }
    }

    /// The greeting's mechanism field: the name padded with zero bytes.
    fn field(self) -> [u8; MECHANISM_BYTES] {
        let mut field = [0; MECHANISM_BYTES];
        for (to, from) in field.iter_mut().zip(self.name().bytes()) {
            *to = from;
        }
        field
    }
}

/// Our greeting, version 3.1. It is sent whole, without waiting for the peer's.
pub(super) fn encode(mechanism: Mechanism, as_server: bool) -> [u8; GREETING_BYTES] {
    let mut greeting = [0; GREETING_BYTES];
    greeting[0] = SIGNATURE_FIRST;
    greeting[9] = SIGNATURE_LAST;
    greeting[10] = 3;
    greeting[11] = 1;
    greeting[12..32].copy_from_slice(&mechanism.field());
    greeting[32] = u8::from(as_server);
    greeting
}

/// Reads the peer's greeting piece by piece.
#[derive(Debug)]
pub(super) struct GreetingParser {
    /// What has arrived; only the first `filled` bytes count.
    bytes: [u8; GREETING_BYTES],
    /// Bytes arrived, at most 64.
    filled: usize,
}

impl GreetingParser {
    /// A parser that has seen nothing.
    pub(super) const fn new() -> Self {
        Self { bytes: [0; GREETING_BYTES], filled: 0 }
    }

    /// Takes what belongs to the greeting from the front of `input` and returns how many bytes
    /// that were, with the version to speak once all 64 are there.
    ///
    /// # Errors
    /// `NotZmtp`, `VersionTooOld` or `MechanismMismatch`, as soon as the deciding byte is there.
    /// Padding, as-server and filler are never looked at: RFC 37 forbids it, and libzmq fills
    /// them in its own way.
    pub(super) fn receive(
        &mut self,
        input: &[u8],
        mechanism: Mechanism,
    ) -> Result<(usize, Option<Version>), ProtocolError> {
        if self.filled == 0 && input.first().is_some_and(|&first| first != SIGNATURE_FIRST) {
            let first_bytes = input.get(..FOREIGN_BYTES_MAX).unwrap_or(input);
            return Err(ProtocolError::NotZmtp { first_bytes: escaped_ascii(first_bytes) });
        }
        let mut consumed = 0;
        for (to, &from) in self.bytes.iter_mut().skip(self.filled).zip(input) {
            *to = from;
            consumed += 1;
        }
        self.filled += consumed;
        check_version(self.arrived())?;
        check_mechanism(self.arrived(), mechanism)?;
        let complete = self.filled == GREETING_BYTES;
        Ok((consumed, complete.then(|| version(self.bytes[10], self.bytes[11]))))
    }

    /// The bytes seen so far.
    fn arrived(&self) -> &[u8] {
        self.bytes.get(..self.filled).unwrap_or(&self.bytes)
    }
}

/// Refuses peers older than ZMTP 3.0.
///
/// Byte 10 is the major version only since 3.0. Before it was a revision: 0 for versioned 1.0,
/// 1 for 2.0.
fn check_version(arrived: &[u8]) -> Result<(), ProtocolError> {
    if arrived.get(9).is_some_and(|last| last & 1 == 0) {
        return Err(ProtocolError::VersionTooOld { major: 1, minor: 0 });
    }
    match arrived.get(10) {
        Some(0) => Err(ProtocolError::VersionTooOld { major: 1, minor: 0 }),
        Some(1 | 2) => Err(ProtocolError::VersionTooOld { major: 2, minor: 0 }),
        _ => Ok(()),
    }
}

/// Compares all 20 bytes of the mechanism field once they are there, so that nothing hides behind
/// the first zero byte.
fn check_mechanism(arrived: &[u8], ours: Mechanism) -> Result<(), ProtocolError> {
    let Some(theirs) = arrived.get(12..32) else { return Ok(()) };
    if theirs == ours.field() {
        return Ok(());
    }
    let name_len = theirs.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
    let name = theirs.get(..name_len).unwrap_or(theirs);
    Err(ProtocolError::MechanismMismatch {
        ours: ours.name().to_owned(),
        theirs: escaped_ascii(name),
    })
}

/// The version to speak with a peer of this version, which is 3.0 or newer.
const fn version(major: u8, minor: u8) -> Version {
    if major == 3 && minor == 0 { Version::V3_0 } else { Version::V3_1 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Feeds `stream` in pieces of the given sizes (the last one again and again).
    fn parse(stream: &[u8], sizes: &[usize]) -> Result<(usize, Option<Version>), ProtocolError> {
        let mut parser = GreetingParser::new();
        let mut at = 0;
        let mut sizes = sizes.iter().copied().chain(std::iter::repeat(1));
        while at < stream.len() {
            let piece_end = (at + sizes.next().unwrap()).min(stream.len());
            let (consumed, version) = parser.receive(&stream[at..piece_end], Mechanism::Null)?;
            at += consumed;
            if version.is_some() {
                return Ok((at, version));
            }
        }
        Ok((at, None))
    }

    #[test]
    fn our_greeting_has_the_bytes_of_the_rfc() {
        let mut expected = vec![0xFF, 0, 0, 0, 0, 0, 0, 0, 0, 0x7F, 3, 1];
        expected.extend_from_slice(b"NULL");
        expected.resize(64, 0);
        assert_eq!(encode(Mechanism::Null, false).as_slice(), expected);
        assert_eq!(encode(Mechanism::Null, true)[32], 1);
    }

    #[test]
    fn libzmq_steps_of_ten_one_and_the_rest_are_understood() {
        let mut greeting = encode(Mechanism::Null, false);
        greeting[8] = 1;
        assert_eq!(parse(&greeting, &[10, 1, 53]), Ok((64, Some(Version::V3_1))));
    }

    #[test]
    fn bytes_after_the_greeting_are_left_alone() {
        let mut stream = encode(Mechanism::Null, false).to_vec();
        stream.extend_from_slice(b"more");
        assert_eq!(parse(&stream, &[68]), Ok((64, Some(Version::V3_1))));
    }

    #[test]
    fn the_lower_of_both_versions_is_spoken() {
        for (major, minor, spoken) in
            [(3, 0, Version::V3_0), (3, 1, Version::V3_1), (3, 9, Version::V3_1)]
        {
            let mut greeting = encode(Mechanism::Null, false);
            greeting[10] = major;
            greeting[11] = minor;
            assert_eq!(parse(&greeting, &[64]), Ok((64, Some(spoken))));
        }
        let mut greeting = encode(Mechanism::Null, false);
        greeting[10] = 4;
        greeting[11] = 0;
        assert_eq!(parse(&greeting, &[64]), Ok((64, Some(Version::V3_1))));
        assert!(Version::V3_0 < Version::V3_1);
    }

    #[test]
    fn an_http_request_is_recognisable_in_the_error() {
        let error = parse(b"GET / HTTP/1.1\r\nHost: x\r\n", &[25]).unwrap_err();
        assert_eq!(
            error,
            ProtocolError::NotZmtp { first_bytes: "GET / HTTP/1.1\\r\\n".to_owned() }
        );
        assert_eq!(parse(b"G", &[1]), Err(ProtocolError::NotZmtp { first_bytes: "G".into() }));
    }

    #[test]
    fn an_old_peer_is_refused_as_soon_as_its_deciding_byte_arrives() {
        let unversioned = [0xFF, 0, 0, 0, 0, 0, 0, 0, 5, 0];
        let too_old = |major| Err(ProtocolError::VersionTooOld { major, minor: 0 });
        assert_eq!(parse(&unversioned, &[]), too_old(1));
        for (revision, major) in [(0, 1), (1, 2), (2, 2)] {
            let versioned = [0xFF, 0, 0, 0, 0, 0, 0, 0, 1, 0x7F, revision];
            assert_eq!(parse(&versioned, &[]), too_old(major));
        }
    }

    #[test]
    fn junk_behind_the_mechanism_name_is_a_mismatch() {
        let mut greeting = encode(Mechanism::Null, false);
        greeting[31] = b'x';
        let Err(ProtocolError::MechanismMismatch { ours, theirs }) = parse(&greeting, &[32]) else {
            panic!("accepted");
        };
        assert_eq!(ours, "NULL");
        assert!(theirs.starts_with("NULL\\x00") && theirs.ends_with('x'));
        greeting[12..32].fill(0);
        greeting[12..17].copy_from_slice(b"CURVE");
        assert_eq!(
            parse(&greeting, &[]),
            Err(ProtocolError::MechanismMismatch { ours: "NULL".into(), theirs: "CURVE".into() })
        );
    }

    proptest! {
        #[test]
        fn any_split_of_a_greeting_gives_the_same_result(
            edits in prop::collection::vec((0usize..64, any::<u8>()), 0..3),
            sizes in prop::collection::vec(1usize..40, 0..20),
        ) {
            let mut greeting = encode(Mechanism::Null, false);
            for (at, byte) in edits {
                greeting[at] = byte;
            }
            let whole = parse(&greeting, &[64]);
            let split = parse(&greeting, &sizes);
            // Only the quotation of a foreign protocol may depend on what had arrived.
            match (whole, split) {
                (Err(ProtocolError::NotZmtp { .. }), Err(ProtocolError::NotZmtp { .. })) => {}
                (whole, split) => prop_assert_eq!(whole, split),
            }
        }
    }
}
