//! Hostile URLs and DNS answers, with a property test over the spellings of loopback addresses.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail by panicking")]
use proptest::prelude::*;

use super::super::params;
use super::*;

/// Whether a job with this URL would get as far as the network.
fn passes(guard: &Guard, url: &str) -> bool {
    params::url(url).is_ok_and(|url| guard.check_url(&url).is_ok())
}

/// Attacks T10, as they would stand in a URL.
const HOSTILE_HOSTS: &[&str] = &[
    "127.0.0.1",
    "2130706433",
    "0x7f000001",
    "0X7F000001",
    "0177.0.0.1",
    "017700000001",
    "127.1",
    "127.0.1",
    "0x7f.1",
    "127.0.0.1.",
    "0x7f.0.0.1.",
    "１２７.０.０.１",
    "127。0。0。1",
    "127．0．0．1",
    "127｡0｡0｡1",
    "①②⑦.⓪.⓪.①",
    "①②⑦.0.0.1",
    "%31%32%37.0.0.1",
    "127.0.0.%31",
    "0x0000000007f.1",
    "0000177.0.0.1",
    "localhost",
    "LOCALHOST.",
    "x.localhost",
    "ｌocalhost",
    "0",
    "0.0.0.0",
    "0x0",
    "00",
    "0.",
    "10.0.0.1",
    "012.0.0.1",
    "172.16.0.1",
    "192.168.1.1",
    "0xc0a80101",
    "3232235777",
    "169.254.169.254",
    "0xa9fea9fe",
    "2852039166",
    "100.64.0.1",
    "192.0.0.1",
    "192.0.0.192",
    "198.18.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "4294967295",
    "224.0.0.1",
    "203.0.113.1",
    "[::]",
    "[::1]",
    "[0:0:0:0:0:0:0:1]",
    "[::127.0.0.1]",
    "[::ffff:127.0.0.1]",
    "[::FFFF:7F00:1]",
    "[0:0:0:0:0:ffff:127.0.0.1]",
    "[64:ff9b::7f00:1]",
    "[64:ff9b:1::1]",
    "[2002:7f00:1::]",
    "[2001::1]",
    "[fe80::5efe:127.0.0.1]",
    "[2a00::5efe:7f00:1]",
    "[fc00::1]",
    "[fd00:ec2::254]",
    "[fe80::1]",
    "[fec0::1]",
    "[ff02::1]",
    "[5f00::1]",
];

#[test]
fn no_spelling_of_a_forbidden_address_passes() {
    let guard = Guard::new(false);
    for host in HOSTILE_HOSTS {
        for url in [
            format!("http://{host}/"),
            format!("https://{host}:8443/x?y#z"),
            format!("http:\\\\{host}\\"),
            format!("HTTP:/\\/{host}/"),
            format!("http:{host}"),
        ] {
            assert!(!passes(&guard, &url), "{url} passes");
        }
    }
}

#[test]
fn a_refusal_says_which_address_was_meant_and_which_setting_allows_it() {
    let refusal = Guard::new(false).check_url(&Url::parse("http://0x7f.1/").unwrap()).unwrap_err().to_string();
    assert!(refusal.contains("127.0.0.1 is forbidden (loopback)") && refusal.contains("ALLOW_PRIVATE_NETWORK"), "{refusal}");
    let refusal = Guard::new(true).check_url(&Url::parse("http://0/").unwrap()).unwrap_err().to_string();
    assert!(!refusal.contains("ALLOW_PRIVATE_NETWORK"), "{refusal}");
}

#[test]
fn urls_that_only_look_harmless_are_refused() {
    let guard = Guard::new(false);
    for url in [
        "http://a@127.0.0.1:80\\@evil.com/",
        "http://evil.com@127.0.0.1/",
        "http://user:password@example.com/",
        "http://@@127.0.0.1/",
        "http://127.0.0.1#@example.com/",
        "http://127.0.0.1?@example.com/",
        "http://\t127.0.0.1/",
        "ht\ntp://127.0.0.1/",
        " http://127.0.0.1/ ",
        "file:///etc/passwd",
        "ftp://example.com/",
        "gopher://example.com/",
        "javascript:alert(1)",
        "data:text/plain,x",
        "unix:///run/docker.sock",
        "ws://example.com/",
        "//example.com/",
        "/etc/passwd",
        "",
        "http://",
        "http:///",
        "http://[::1",
        "http://exa mple.com/",
    ] {
        assert!(!passes(&guard, url), "{url:?} passes");
    }
}

#[test]
fn names_and_public_addresses_pass_and_ports_of_other_protocols_do_not() {
    let guard = Guard::new(false);
    for url in [
        "http://example.com/",
        "https://1.1.1.1:8443/",
        "http://[2606:4700::1111]:8080/",
        "http://0x7f.example/",
        "http://127.0.0.1.nip.io/",
        "http://localhost.example.com/",
    ] {
        assert!(passes(&guard, url), "{url} is refused");
    }
    for port in [0, 1, 22, 25, 53, 110, 6000, 6667, 10080] {
        assert!(!passes(&guard, &format!("http://example.com:{port}/")), "port {port} passes");
        assert!(
            passes(&Guard::new(true), &format!("http://example.com:{port}/")),
            "port {port} is refused where private networks are allowed"
        );
    }
}

#[test]
fn where_private_networks_are_allowed_only_what_names_no_host_is_refused() {
    let guard = Guard::new(true);
    for host in ["127.0.0.1", "10.0.0.1", "[::1]", "[fd00:ec2::254]", "[::ffff:127.0.0.1]", "192.168.0.1"] {
        assert!(passes(&guard, &format!("http://{host}/")), "{host}");
    }
    for host in ["0", "0.0.0.0", "255.255.255.255", "224.0.0.1", "[::]", "[ff02::1]", "[::ffff:0.0.0.0]"] {
        assert!(!passes(&guard, &format!("http://{host}/")), "{host}");
    }
}

/// A guard whose DNS always gives these.
fn dns(addresses: &[&str]) -> Guard {
    let addresses: Vec<SocketAddr> = addresses.iter().map(|address| SocketAddr::new(address.parse().unwrap(), 0)).collect();
    Guard::with_lookup(false, move |_| {
        let addresses = addresses.clone();
        Box::pin(async move { Ok(addresses) })
    })
}

#[tokio::test]
async fn one_forbidden_address_among_a_names_addresses_refuses_the_name() {
    for addresses in [
        &["127.0.0.1"][..],
        &["1.1.1.1", "10.0.0.1"],
        &["10.0.0.1", "1.1.1.1"],
        &["2606:4700::1111", "::1"],
        &["1.1.1.1", "::ffff:169.254.169.254"],
    ] {
        let error = dns(addresses).addresses("rebind.example".to_owned()).await.err().unwrap();
        assert!(error.downcast_ref::<Forbidden>().is_some(), "{addresses:?}: {error}");
    }
    assert!(dns(&[]).addresses("empty.example".to_owned()).await.is_err());
    let good: Vec<_> = dns(&["1.1.1.1", "2606:4700::1111"]).addresses("good.example".to_owned()).await.unwrap().collect();
    assert_eq!(good.len(), 2);
}

#[tokio::test]
async fn this_machines_own_name_is_refused_by_the_real_resolver() {
    let error = Guard::new(false).addresses("localhost".to_owned()).await.err().unwrap();
    assert!(error.downcast_ref::<Forbidden>().is_some(), "{error}");
}

/// One part of an IPv4 address in one of the ways in which parsers read it.
fn spelled(value: u64, how: u8) -> String {
    let text = match how % 6 {
        0 => value.to_string(),
        1 => format!("0x{value:x}"),
        2 => format!("0X{value:X}"),
        3 => format!("0{value:o}"),
        4 => format!("0x000{value:X}"),
        _ => format!("000{value:o}"),
    };
    match how / 6 % 4 {
        0 => text,
        // Other digits that IDNA maps to these.
        1 => text.chars().map(|c| if c.is_ascii_alphanumeric() { char::from_u32(c as u32 + 0xfee0).unwrap() } else { c }).collect(),
        2 => text.chars().map(|c| c.to_digit(10).map_or(c, |d| char::from_u32(0x1d7ce + d).unwrap())).collect(),
        _ => text.bytes().map(|b| format!("%{b:02x}")).collect(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn no_spelling_of_a_loopback_address_passes(
        low in 0_u32..1 << 24,
        parts in 1_usize..=4,
        how in prop::array::uniform4(0_u8..24),
        dot in prop::sample::select(vec![".", "。", "．", "｡", "%2e"]),
        end in prop::sample::select(vec!["", ".", "。"]),
        scheme in prop::sample::select(vec!["http://", "https://", "hTTp:\\\\", "http:/", "http:", "\thttp:///"]),
        tail in prop::sample::select(vec!["", "/", ":80/", "/x?y#z", "\\@example.com/", "?a=1"]),
    ) {
        let bytes = Ipv4Addr::from_bits(127 << 24 | low).octets().map(u64::from);
        // The last of fewer than four parts stands for all that is left.
        let rest = bytes[parts - 1..].iter().fold(0, |acc, byte| acc << 8 | byte);
        let numbers = bytes[..parts - 1].iter().copied().chain([rest]);
        let host = numbers.zip(how).map(|(number, how)| spelled(number, how)).collect::<Vec<_>>().join(dot);
        let url = format!("{scheme}{host}{end}{tail}");
        prop_assert!(!passes(&Guard::new(false), &url), "{} passes", url);
    }

    #[test]
    fn no_url_passes_whose_host_the_client_would_take_for_a_forbidden_address(host in "[0-9a-fA-FxX.:%①②⑦０-９。\\[\\]@-]{1,24}") {
        let text = format!("http://{host}/");
        if let Ok(url) = params::url(&text) && Guard::new(false).check_url(&url).is_ok() {
            // The client parses the URL's text again, and skips the resolver for what it takes for an address.
            let uri: axum::http::Uri = url.as_str().parse().unwrap();
            let literal = uri.host().unwrap_or_default().trim_matches(['[', ']']).parse::<IpAddr>().ok();
            prop_assert_eq!(literal.and_then(special_use), None, "{} as {}", text, url);
        }
    }
}
