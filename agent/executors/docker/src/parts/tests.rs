//! Tests of [`super`].
#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
use super::*;
use proptest::prelude::*;

#[test]
fn ports_are_read_with_and_without_their_ends() {
    let port = |host_ip: Option<&str>, host, container, protocol| Port {
        host_ip: host_ip.map(|ip| ip.parse().unwrap()),
        host,
        container,
        protocol,
    };
    for (text, expected) in [
        ("80", port(None, None, 80, "tcp")),
        ("8080:80/udp", port(None, Some(8080), 80, "udp")),
        ("127.0.0.1:8080:80", port(Some("127.0.0.1"), Some(8080), 80, "tcp")),
        ("127.0.0.1::80", port(Some("127.0.0.1"), None, 80, "tcp")),
        ("[::1]:8080:80", port(Some("::1"), Some(8080), 80, "tcp")),
    ] {
        assert_eq!(text.parse::<Port>(), Ok(expected), "{text}");
    }
    for text in ["", "0", "65536", "80-90", "8000-8010:80", "h:80:80", "80/icmp", "a", ":", "1:2:3:4"] {
        assert!(text.parse::<Port>().is_err(), "{text}");
    }
}

#[test]
fn names_can_not_leave_their_place_in_a_path() {
    for text in ["web", "web_1.a-b", "0a", &"a".repeat(255)] {
        assert!(name(text).is_ok(), "{text}");
    }
    for text in ["", "-a", ".a", "a/b", "../a", "a?x", "a b", "ü", "a\n", &"a".repeat(256)] {
        assert!(name(text).is_err(), "{text}");
    }
}

#[test]
fn networks_that_are_namespaces_of_others_are_refused() {
    assert!(network("web").is_ok() && network("none").is_ok() && network("bridge").is_ok());
    for text in ["host", "container:web", "ns:/proc/1/ns/net", "../x"] {
        assert!(network(text).is_err(), "{text}");
    }
}

#[test]
fn sizes_and_times_are_those_of_compose() {
    for (text, size) in [("1024", 1024), ("64m", 64 << 20), ("1.5GB", 3 << 29), ("10kb", 10_240), ("7b", 7)] {
        assert_eq!(bytes(text), Ok(size), "{text}");
    }
    for text in ["", "m", "-1m", "1x", "1 m m", "1e400", "99999999t"] {
        assert!(bytes(text).is_err(), "{text}");
    }
    for (text, time) in [("5s", 5_000_000_000), ("1m30s", 90_000_000_000), ("500ms", 500_000_000), ("2h", 7_200_000_000_000)] {
        assert_eq!(nanoseconds(text), Ok(time), "{text}");
    }
    for text in ["", "5", "s", "1.5s", "5d", "-1s", "99999999999h", "1m 3s"] {
        assert!(nanoseconds(text).is_err(), "{text}");
    }
}

#[test]
fn restart_policies_are_words() {
    assert_eq!("on-failure:3".parse(), Ok(Restart::OnFailure(Some(3))));
    assert_eq!("unless-stopped".parse(), Ok(Restart::UnlessStopped));
    for text in ["", "yes", "on-failure:", "on-failure:-1", "Always"] {
        assert!(text.parse::<Restart>().is_err(), "{text}");
    }
}

proptest! {
    #[test]
    fn reading_parts_never_panics(text in "\\PC{0,24}") {
        let _ = (text.parse::<Port>(), text.parse::<Restart>(), bytes(&text), nanoseconds(&text), name(&text), text.parse::<mounts::Mount>());
    }
}
