//! The endpoint grammar as tables of good and bad rows, and as a property.

use proptest::prelude::*;

use super::*;

/// Parses text that the test knows to be good.
fn parse(text: &str) -> Endpoint {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

/// The name of the error's variant.
fn variant(error: &EndpointError) -> String {
    let debug = format!("{error:?}");
    debug.split([' ', '{']).next().unwrap_or_default().to_owned()
}

#[test]
fn good_endpoints_parse_and_say_which_role_they_suit() {
    // text, display, may bind, may connect
    let rows = [
        ("tcp://*:*", "tcp://*:*", true, false),
        ("tcp://*:0", "tcp://*:*", true, false),
        ("tcp://*:5555", "tcp://*:5555", true, false),
        ("tcp://127.0.0.1:*", "tcp://127.0.0.1:*", true, false),
        ("tcp://127.0.0.1:5555", "tcp://127.0.0.1:5555", true, true),
        ("tcp://127.0.0.1:05555", "tcp://127.0.0.1:5555", true, true),
        ("tcp://[::1]:65535", "tcp://[::1]:65535", true, true),
        ("tcp://[0:0::1]:1", "tcp://[::1]:1", true, true),
        ("tcp://[fe80::1%eth0]:80", "tcp://[fe80::1%eth0]:80", true, true),
        ("tcp://eth0:5555", "tcp://eth0:5555", true, true),
        ("tcp://eth0.100:5555", "tcp://eth0.100:5555", true, true),
        ("tcp://my-host_1.example.:5555", "tcp://my-host_1.example.:5555", true, true),
        ("tcp://*:0;a.example:5555", "tcp://*:*;a.example:5555", false, true),
        ("tcp://eth0:7;[::1]:5555", "tcp://eth0:7;[::1]:5555", false, true),
        ("tcp://[::1]:7;[::1]:5555", "tcp://[::1]:7;[::1]:5555", false, true),
        ("tcp://10.0.0.1:*;*:5555", "tcp://10.0.0.1:*;*:5555", false, false),
        ("ipc://*", "ipc://*", true, false),
        ("ipc:///run/a.sock", "ipc:///run/a.sock", true, true),
        ("ipc://a b/c", "ipc://a b/c", true, true),
        ("ipc://@name", "ipc://@name", true, true),
        ("inproc://a://b", "inproc://a://b", true, true),
    ];
    for (text, display, binds, connects) in rows {
        let endpoint = parse(text);
        assert_eq!(endpoint.to_string(), display, "{text}");
        assert_eq!(endpoint.check_bind().is_ok(), binds, "bind {text}");
        assert_eq!(endpoint.check_connect().is_ok(), connects, "connect {text}");
        assert_eq!(Endpoint::try_from(text).as_ref(), Ok(&endpoint));
    }
}

#[test]
fn bad_endpoints_are_refused_with_their_reason_and_their_text() {
    let rows = [
        ("", "MissingScheme"),
        ("tcp", "MissingScheme"),
        ("tcp:/127.0.0.1:1", "MissingScheme"),
        ("127.0.0.1:5555", "MissingScheme"),
        ("://127.0.0.1:1", "UnknownTransport"),
        ("TCP://127.0.0.1:1", "UnknownTransport"),
        (" tcp://127.0.0.1:1", "UnknownTransport"),
        ("udp://127.0.0.1:1", "UnknownTransport"),
        ("tcp://", "EmptyAddress"),
        ("ipc://", "EmptyAddress"),
        ("ipc://@", "EmptyAddress"),
        ("inproc://", "EmptyAddress"),
        ("tcp://127.0.0.1", "BadPort"),
        ("tcp://127.0.0.1:", "BadPort"),
        ("tcp://127.0.0.1:65536", "BadPort"),
        ("tcp://127.0.0.1:99999999999999999999", "BadPort"),
        ("tcp://127.0.0.1:+80", "BadPort"),
        ("tcp://127.0.0.1:-1", "BadPort"),
        ("tcp://127.0.0.1: 80", "BadPort"),
        ("tcp://127.0.0.1:80 ", "BadPort"),
        ("tcp://127.0.0.1:80/path", "BadPort"),
        ("tcp://127.0.0.1:http", "BadPort"),
        ("tcp://[::1]", "BadPort"),
        ("tcp://[::1]80", "BadPort"),
        ("tcp://eth0;127.0.0.1:80", "BadPort"),
        ("tcp://:80", "BadHost"),
        ("tcp://;127.0.0.1:80", "BadPort"),
        ("tcp://1:1;2:2;host:3", "BadHost"),
        ("tcp://::1:80", "BadHost"),
        ("tcp://[::1:80", "BadHost"),
        ("tcp://[]:80", "BadHost"),
        ("tcp://[127.0.0.1]:80", "BadHost"),
        ("tcp://[::1%]:80", "BadHost"),
        ("tcp://[::1%a b]:80", "BadHost"),
        ("tcp://1.2.3:80", "BadHost"),
        ("tcp://1.2.3.400:80", "BadHost"),
        ("tcp://a..b:80", "BadHost"),
        ("tcp://-a:80", "BadHost"),
        ("tcp://a b:80", "BadHost"),
        ("tcp://a/b:80", "BadHost"),
        ("tcp://**:80", "BadHost"),
        ("tcp://\u{e4}.example:80", "BadHost"),
        ("ipc://a\0b", "BadPath"),
        ("ipc://@a\0b", "BadPath"),
    ];
    for (text, expected) in rows {
        let error = text.parse::<Endpoint>().expect_err(text);
        assert_eq!(variant(&error), expected, "{text:?}");
        assert!(error.to_string().contains(text), "{error}");
    }
}

#[test]
fn names_and_paths_are_limited_to_the_byte() {
    let row = |prefix: &str, length: usize, suffix: &str| {
        format!("{prefix}{}{suffix}", "a".repeat(length)).parse::<Endpoint>()
    };
    assert!(row("ipc://", IPC_PATH_BYTES_MAX, "").is_ok());
    let (length, limit) = (IPC_PATH_BYTES_MAX + 1, IPC_PATH_BYTES_MAX);
    assert!(matches!(
        row("ipc://", length, ""),
        Err(EndpointError::PathTooLong { length: l, limit: m, .. }) if (l, m) == (length, limit)
    ));
    assert!(row("ipc://@", IPC_PATH_BYTES_MAX - 1, "").is_ok());
    assert!(row("ipc://@", IPC_PATH_BYTES_MAX, "").is_err());
    assert!(row("inproc://", 256, "").is_ok());
    assert!(matches!(row("inproc://", 257, ""), Err(EndpointError::NameTooLong { .. })));
    assert!(row("tcp://", 253, ":1").is_ok());
    assert!(matches!(row("tcp://", 254, ":1"), Err(EndpointError::NameTooLong { .. })));
}

#[test]
fn an_inproc_endpoint_built_by_hand_is_checked_in_both_roles() {
    for name in [String::new(), "a".repeat(257)] {
        assert!(Endpoint::Inproc(name.clone()).check_bind().is_err());
        assert!(Endpoint::Inproc(name).check_connect().is_err());
    }
}

#[test]
fn text_and_endpoints_are_taken_in_every_usual_form() {
    fn take(endpoint: impl ToEndpoint) -> Endpoint {
        endpoint.to_endpoint().unwrap()
    }
    let expected = parse("inproc://a");
    let text = String::from("inproc://a");
    assert_eq!(take("inproc://a"), expected);
    assert_eq!(take(&text), expected);
    assert_eq!(take(text.as_str()), expected);
    assert_eq!(take(text), expected);
    assert_eq!(take(&expected), expected);
    assert_eq!(take(expected.clone()), expected);
    assert!("nonsense".to_endpoint().is_err());
}

/// Any host of the grammar.
fn host() -> impl Strategy<Value = Host> {
    prop_oneof![
        Just(Host::Any),
        "[a-z][a-z0-9_-]{0,10}(\\.[a-z0-9]{1,5}){0,3}".prop_map(Host::Name),
        any::<[u8; 4]>().prop_map(|octets| Host::V4(octets.into())),
        (any::<[u8; 16]>(), proptest::option::of("[a-z][a-z0-9.]{0,8}"))
            .prop_map(|(octets, zone)| Host::V6(octets.into(), zone)),
    ]
}

/// Any endpoint of the grammar.
fn endpoint() -> impl Strategy<Value = Endpoint> {
    let source = proptest::option::of((host(), any::<u16>()));
    prop_oneof![
        (source, host(), any::<u16>()).prop_map(|(source, host, port)| {
            let source = source.map(|(host, port)| TcpHostPort { host, port });
            Endpoint::Tcp(TcpEndpoint { source, host, port })
        }),
        prop_oneof![
            Just(IpcAddress::Wildcard),
            "/[a-z0-9 @*:;/\u{e4}]{0,40}".prop_map(IpcAddress::Path),
            "[a-z0-9 @*:;/]{1,40}".prop_map(IpcAddress::Abstract),
        ]
        .prop_map(|address| Endpoint::Ipc(IpcEndpoint { address })),
        "[^\0]{1,60}".prop_map(Endpoint::Inproc),
    ]
}

proptest! {
    #[test]
    fn parsing_what_display_wrote_gives_the_same_endpoint(endpoint in endpoint()) {
        prop_assert_eq!(endpoint.to_string().parse::<Endpoint>(), Ok(endpoint));
    }

    #[test]
    fn any_text_is_parsed_or_refused_and_display_is_stable(
        text in "(tcp://|ipc://|inproc://|)[\\[\\]a-f0-9:;.%*@]{0,24}",
    ) {
        if let Ok(endpoint) = text.parse::<Endpoint>() {
            let display = endpoint.to_string();
            prop_assert_eq!(display.parse::<Endpoint>(), Ok(endpoint));
        }
    }
}
