//! The property list that READY carries (RFC 37, "metadata").
//!
//! A property is a name with a one-byte length and a value with a four-byte length. The handshake
//! writes ours with [`put_property`] and reads the peer's into a [`Metadata`], which messages
//! received from that peer can show to the application.

use super::error::ProtocolError;
use super::limits::WireLimits;

/// Property that names the sender's socket type.
pub(super) const SOCKET_TYPE: &str = "Socket-Type";
/// Property that carries the sender's routing id.
pub(super) const IDENTITY: &str = "Identity";

/// Bytes that the two lengths of a property take.
const LENGTHS_BYTES: usize = 1 + 4;

/// What a peer said about itself when it connected.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Metadata {
    /// Names (in the peer's spelling) and values in the peer's order.
    properties: Vec<(Box<str>, Box<[u8]>)>,
}

impl Metadata {
    /// The value of the first property with this name, in any letter case.
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.iter().find(|(other, _)| other.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// All properties in the order in which the peer sent them.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.properties.iter().map(|(name, value)| (&**name, &**value))
    }

    /// Reads a whole property list.
    ///
    /// # Errors
    /// `MalformedMetadata` if a length passes the end, a name is not one, a limit is exceeded, or
    /// `Socket-Type` or `Identity` comes twice (two readers could then disagree about the peer).
    pub(super) fn parse(input: &[u8], limits: &WireLimits) -> Result<Self, ProtocolError> {
        if input.len() > limits.metadata_bytes_max {
            return Err(malformed("the property list is too long"));
        }
        let mut metadata = Self::default();
        let mut rest = input;
        while !rest.is_empty() {
            let (name, value, behind) = split_property(rest)?;
            let is_single =
                [SOCKET_TYPE, IDENTITY].iter().any(|single| name.eq_ignore_ascii_case(single));
            if is_single && metadata.get(name).is_some() {
                return Err(malformed("Socket-Type or Identity comes twice"));
            }
            if metadata.properties.len() >= limits.metadata_properties_max {
                return Err(malformed("there are too many properties"));
            }
            metadata.properties.push((name.into(), value.into()));
            rest = behind;
        }
        Ok(metadata)
    }
}

/// Whether RFC 37 allows this as a property name: 1 to 255 letters, digits and `-_.+`.
pub(crate) fn is_property_name(name: &str) -> bool {
    (1..=255).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.+".contains(&byte))
}

/// Appends one property. The name must be a property name and the value shorter than 2 GiB;
/// whoever takes them from the application checks that.
pub(super) fn put_property(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    debug_assert!(is_property_name(name));
    debug_assert!(i32::try_from(value.len()).is_ok());
    let (Ok(name_len), Ok(value_len)) = (u8::try_from(name.len()), u32::try_from(value.len()))
    else {
        return;
    };
    out.reserve(LENGTHS_BYTES + name.len() + value.len());
    out.push(name_len);
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(&value_len.to_be_bytes());
    out.extend_from_slice(value);
}

/// Splits one property from the front: name, value, what is behind it.
fn split_property(input: &[u8]) -> Result<(&str, &[u8], &[u8]), ProtocolError> {
    let past_end = || malformed("a property passes the end");
    let (&name_len, rest) = input.split_first().ok_or_else(past_end)?;
    let (name, rest) = rest.split_at_checked(usize::from(name_len)).ok_or_else(past_end)?;
    let name = std::str::from_utf8(name)
        .ok()
        .filter(|name| is_property_name(name))
        .ok_or_else(|| malformed("a property name is empty or has forbidden characters"))?;
    let (value_len, rest) = rest.split_first_chunk::<4>().ok_or_else(past_end)?;
    let value_len = usize::try_from(u32::from_be_bytes(*value_len)).map_err(|_| past_end())?;
    let (value, rest) = rest.split_at_checked(value_len).ok_or_else(past_end)?;
    Ok((name, value, rest))
}

/// Short form of the error.
const fn malformed(reason: &'static str) -> ProtocolError {
    ProtocolError::MalformedMetadata { reason }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Parses with default limits.
    fn parse(input: &[u8]) -> Result<Metadata, ProtocolError> {
        Metadata::parse(input, &WireLimits::default())
    }

    /// Encodes a list of properties.
    fn encode(properties: &[(&str, &[u8])]) -> Vec<u8> {
        let mut out = Vec::new();
        for (name, value) in properties {
            put_property(&mut out, name, value);
        }
        out
    }

    #[test]
    fn a_property_has_the_bytes_of_the_rfc() {
        let out = encode(&[(SOCKET_TYPE, b"PUB")]);
        assert_eq!(out, b"\x0bSocket-Type\0\0\0\x03PUB");
    }

    #[test]
    fn names_are_found_in_any_letter_case() {
        let metadata = parse(&encode(&[("x-Tag", b"1"), ("X-TAG", b"2")])).unwrap();
        assert_eq!(metadata.get("X-tag"), Some(&b"1"[..]));
        assert_eq!(metadata.get("X-ta"), None);
        assert_eq!(metadata.iter().count(), 2);
    }

    #[test]
    fn a_second_socket_type_or_identity_is_malformed_in_any_letter_case() {
        for (first, second) in [("Socket-Type", "SOCKET-TYPE"), ("Identity", "identity")] {
            assert!(parse(&encode(&[(first, b""), (second, b"")])).is_err());
        }
    }

    #[test]
    fn empty_and_forbidden_names_are_malformed() {
        for input in [&b"\0\0\0\0\0"[..], b"\x01 \0\0\0\0", b"\x01\xff\0\0\0\0", b"\x01=\0\0\0\0"] {
            assert!(parse(input).is_err(), "{input:?}");
        }
        assert!(is_property_name("aZ09-_.+"));
        assert!(!is_property_name(&"a".repeat(256)));
    }

    #[test]
    fn a_huge_value_length_is_malformed_not_allocated() {
        assert!(parse(b"\x01a\x7f\xff\xff\xff").is_err());
        assert!(parse(b"\x01a\xff\xff\xff\xffxx").is_err());
    }

    #[test]
    fn length_and_count_limits_hold_exactly() {
        let list = encode(&[("a", b""), ("b", b"")]);
        let bytes_exact = WireLimits { metadata_bytes_max: list.len(), ..Default::default() };
        let bytes_less = WireLimits { metadata_bytes_max: list.len() - 1, ..Default::default() };
        let count_exact = WireLimits { metadata_properties_max: 2, ..Default::default() };
        let count_less = WireLimits { metadata_properties_max: 1, ..Default::default() };
        for (limits, accepted) in
            [(bytes_exact, true), (bytes_less, false), (count_exact, true), (count_less, false)]
        {
            assert_eq!(Metadata::parse(&list, &limits).is_ok(), accepted);
        }
    }

    proptest! {
        #[test]
        fn a_property_list_reads_back_as_written_and_never_when_cut(
            list in prop::collection::vec(
                ("X-[A-Za-z0-9_.+-]{0,20}", prop::collection::vec(any::<u8>(), 0..40)), 0..10),
            cut: prop::sample::Index,
        ) {
            let mut out = Vec::new();
            let mut ends = vec![0];
            for (name, value) in &list {
                put_property(&mut out, name, value);
                ends.push(out.len());
            }
            let metadata = parse(&out).unwrap();
            let read: Vec<_> = metadata.iter().collect();
            let written: Vec<_> = list.iter().map(|(n, v)| (n.as_str(), v.as_slice())).collect();
            prop_assert_eq!(read, written);
            let cut = cut.index(out.len() + 1);
            prop_assert_eq!(parse(&out[..cut]).is_ok(), ends.contains(&cut));
        }

        #[test]
        fn any_bytes_are_read_without_panic(input in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = parse(&input);
        }
    }
}
