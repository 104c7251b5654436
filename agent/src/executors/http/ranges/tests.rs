//! The edges of every range, and every kind of address of the attack list.
#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
use super::*;

fn name(address: &str) -> Option<&'static str> {
    special_use(address.parse().unwrap()).map(|special| special.name)
}

#[test]
fn the_first_the_last_and_the_neighbours_of_every_ipv4_range() {
    for (first, last, before, after) in [
        ("0.0.0.0", "0.255.255.255", None, Some("1.0.0.0")),
        ("10.0.0.0", "10.255.255.255", Some("9.255.255.255"), Some("11.0.0.0")),
        ("100.64.0.0", "100.127.255.255", Some("100.63.255.255"), Some("100.128.0.0")),
        ("127.0.0.0", "127.255.255.255", Some("126.255.255.255"), Some("128.0.0.0")),
        ("169.254.0.0", "169.254.255.255", Some("169.253.255.255"), Some("169.255.0.0")),
        ("172.16.0.0", "172.31.255.255", Some("172.15.255.255"), Some("172.32.0.0")),
        ("192.0.0.0", "192.0.0.255", Some("191.255.255.255"), Some("192.0.1.0")),
        ("192.0.2.0", "192.0.2.255", Some("192.0.1.255"), Some("192.0.3.0")),
        ("192.88.99.0", "192.88.99.255", Some("192.88.98.255"), Some("192.88.100.0")),
        ("192.168.0.0", "192.168.255.255", Some("192.167.255.255"), Some("192.169.0.0")),
        ("198.18.0.0", "198.19.255.255", Some("198.17.255.255"), Some("198.20.0.0")),
        ("198.51.100.0", "198.51.100.255", Some("198.51.99.255"), Some("198.51.101.0")),
        ("203.0.113.0", "203.0.113.255", Some("203.0.112.255"), Some("203.0.114.0")),
        ("224.0.0.0", "255.255.255.255", Some("223.255.255.255"), None),
    ] {
        for address in [first, last] {
            assert!(name(address).is_some(), "{address} passes");
            assert!(name(&format!("::ffff:{address}")).is_some(), "::ffff:{address} passes");
        }
        for address in [before, after].into_iter().flatten() {
            assert_eq!(name(address), None, "{address}");
        }
    }
}

#[test]
fn every_kind_of_special_ipv6_address_is_known() {
    for (address, expected) in [
        ("::", "unspecified"),
        ("::1", "loopback"),
        ("::127.0.0.1", "IPv4-compatible"),
        ("::8.8.8.8", "IPv4-compatible"),
        ("::ffff:127.0.0.1", "loopback"),
        ("::ffff:7f00:1", "loopback"),
        ("::ffff:a9fe:a9fe", "link-local, cloud metadata"),
        ("::ffff:0:127.0.0.1", "IPv4-translated"),
        ("64:ff9b::7f00:1", "NAT64"),
        ("64:ff9b::8.8.8.8", "NAT64"),
        ("64:ff9b:1::", "local NAT64"),
        ("64:ff9b:1:ffff:ffff:ffff:ffff:ffff", "local NAT64"),
        ("64:ff9b:2::", "not global unicast"),
        ("100::1", "discard"),
        ("2001::", "Teredo"),
        ("2001:0:4136:e378:8000:63bf:3fff:fdd2", "Teredo"),
        ("2001:2::1", "IETF protocols"),
        ("2001:20::1", "IETF protocols"),
        ("2001:1ff:ffff::", "IETF protocols"),
        ("2001:db8::1", "documentation"),
        ("2002:7f00:1::", "6to4"),
        ("2002:808:808::1", "6to4"),
        ("3fff::1", "documentation"),
        ("3fff:fff:ffff::", "documentation"),
        ("5f00::1", "segment routing"),
        ("fc00::1", "unique local"),
        ("fd00:ec2::254", "unique local"),
        ("fe80::1", "link-local"),
        ("febf::1", "link-local"),
        ("fec0::1", "site-local"),
        ("ff02::1", "multicast"),
        ("2a00:1450::5efe:7f00:1", "ISATAP"),
        ("2a00:1450:4001:800:0:5efe:192.168.0.1", "ISATAP"),
        ("2a00:1450:4001:800:200:5efe:8.8.8.8", "ISATAP"),
        ("fe80::5efe:127.0.0.1", "link-local"),
        ("4000::1", "not global unicast"),
        ("1::1", "not global unicast"),
        ("e000::1", "not global unicast"),
    ] {
        assert_eq!(name(address), Some(expected), "{address}");
    }
}

#[test]
fn public_addresses_pass() {
    for address in [
        "1.1.1.1",
        "8.8.8.8",
        "93.184.215.14",
        "::ffff:8.8.8.8",
        "2606:4700:4700::1111",
        "2a00:1450:4001:800::200e",
        "2001:4860:4860::8888",
        "2001:200::1",
        "3ffe::1",
    ] {
        assert_eq!(name(address), None, "{address}");
    }
}

#[test]
fn what_names_no_single_host_is_forbidden_always_and_the_rest_is_for_the_agent_to_allow() {
    for (address, always) in [
        ("0.0.0.0", true),
        ("0.1.2.3", true),
        ("255.255.255.255", true),
        ("240.0.0.1", true),
        ("239.1.1.1", true),
        ("::", true),
        ("ff02::1", true),
        ("::ffff:224.0.0.1", true),
        ("127.0.0.1", false),
        ("10.0.0.1", false),
        ("::1", false),
        ("fd00::1", false),
        ("169.254.1.1", false),
    ] {
        assert_eq!(special_use(address.parse().unwrap()).map(|special| special.always), Some(always), "{address}");
    }
}
