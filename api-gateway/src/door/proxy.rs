//! Where a request comes from. Behind a proxy every connection is the proxy's; the caller's address is then in `X-Forwarded-For`, which
//! anybody can send. So only what a configured proxy has appended is believed: the list is read from its end, and the first address
//! there that is no configured proxy's is the caller's. `Forwarded`, `X-Real-IP` and the like are never read.

use std::{fmt, net::IpAddr, str::FromStr};

use axum::http::HeaderMap;
use serde::{Deserialize, Serialize};

/// The header that is read. Its name is the same in any case.
const FORWARDED_FOR: &str = "x-forwarded-for";
/// The most proxies behind each other. A list that goes on with configured proxies for longer was not made by them.
const HOPS_MAX: usize = 16;

/// A network, or a single address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Network {
    address: IpAddr,
    bits: u8,
}

/// No network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no address and no network such as 10.0.0.7, 10.1.0.0/16 or fd00::/8; one of all addresses is not taken")]
pub struct NetworkError(String);

impl Network {
    /// Whether the address is in it. The two writings of an IPv4 address are one.
    fn contains(&self, address: IpAddr) -> bool {
        let same = |length: u32, own: u128, other: u128| (own ^ other) >> (length - u32::from(self.bits)) == 0;
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(own), IpAddr::V4(other)) => same(32, own.to_bits().into(), other.to_bits().into()),
            (IpAddr::V6(own), IpAddr::V6(other)) => same(128, own.to_bits(), other.to_bits()),
            _ => false,
        }
    }
}

impl FromStr for Network {
    type Err = NetworkError;
    fn from_str(text: &str) -> Result<Self, NetworkError> {
        let wrong = || NetworkError(text.into());
        let (address, bits) = text.split_once('/').map_or((text, None), |(address, bits)| (address, Some(bits)));
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let address = if bits.is_none() { address.to_canonical() } else { address };
        let most = if address.is_ipv4() { 32 } else { 128 };
        let bits = bits.map_or(Ok(most), str::parse::<u8>).map_err(|_| wrong())?;
        // One of no bits would believe anybody.
        if (1..=most).contains(&bits) { Ok(Self { address, bits }) } else { Err(wrong()) }
    }
}

impl TryFrom<String> for Network {
    type Error = NetworkError;
    fn try_from(text: String) -> Result<Self, NetworkError> {
        text.parse()
    }
}

impl From<Network> for String {
    fn from(network: Network) -> Self {
        network.to_string()
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.bits)
    }
}

/// The caller's address, given the one at the other end of the connection.
pub(super) fn caller(proxies: &[Network], peer: IpAddr, headers: &HeaderMap) -> IpAddr {
    let trusted = |address: IpAddr| proxies.iter().any(|network| network.contains(address));
    let mut found = peer.to_canonical();
    if !trusted(found) {
        return found;
    }
    // Several lines are one list. `None` is a line of bytes that are no text.
    let lines = headers.get_all(FORWARDED_FOR).iter().rev().map(|line| line.to_str().ok());
    let entries = lines.flat_map(|line| match line {
        Some(line) => line.rsplit(',').map(|entry| Some(entry.trim())).filter(|entry| *entry != Some("")).collect(),
        None => vec![None],
    });
    for entry in entries.take(HOPS_MAX) {
        // What is no address was not appended by a proxy that we know: the last one that is known answers for it.
        let Some(address) = entry.and_then(address) else { return found };
        found = address;
        if !trusted(found) {
            return found;
        }
    }
    found
}

/// The address of an entry: with or without a port, brackets, and the zone of a link-local one.
fn address(entry: &str) -> Option<IpAddr> {
    let bare = match entry.strip_prefix('[') {
        Some(rest) => {
            let (address, port) = rest.split_once(']')?;
            (port.is_empty() || port.strip_prefix(':').is_some_and(is_port)).then_some(address)?
        }
        // More than one colon is an IPv6 address without a port.
        None => match entry.split_once(':') {
            Some((address, port)) if !port.contains(':') => is_port(port).then_some(address)?,
            _ => entry,
        },
    };
    let bare = bare.split_once('%').map_or(bare, |(address, _)| address);
    bare.parse::<IpAddr>().ok().map(|address| address.to_canonical())
}

fn is_port(text: &str) -> bool {
    text.parse::<u16>().is_ok() && text.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use axum::http::HeaderValue;

    use super::*;

    /// Who calls, with these header lines, through the proxy 10.0.0.1. Known are 10.0.0.0/8 and fd00::/8.
    fn through(lines: &[&[u8]]) -> String {
        from("10.0.0.1", lines)
    }

    fn from(peer: &str, lines: &[&[u8]]) -> String {
        let proxies: Vec<Network> = ["10.0.0.0/8", "fd00::/8"].iter().map(|text| text.parse().unwrap()).collect();
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(FORWARDED_FOR, HeaderValue::from_bytes(line).unwrap());
        }
        caller(&proxies, peer.parse().unwrap(), &headers).to_string()
    }

    #[test]
    fn a_header_of_whoever_is_no_known_proxy_is_not_believed() {
        assert_eq!(from("203.0.113.9", &[b"1.2.3.4"]), "203.0.113.9");
        assert_eq!(from("::ffff:203.0.113.9", &[b"1.2.3.4"]), "203.0.113.9");
        assert_eq!(from("11.0.0.1", &[b"1.2.3.4"]), "11.0.0.1");
        assert_eq!(caller(&[], "10.0.0.1".parse().unwrap(), &HeaderMap::new()).to_string(), "10.0.0.1");
    }

    #[test]
    fn the_last_address_that_is_no_known_proxys_is_the_callers() {
        for (lines, expected) in [
            (&[&b"1.2.3.4"[..]][..], "1.2.3.4"),
            (&[b"9.9.9.9, 1.2.3.4"], "1.2.3.4"),
            (&[b"9.9.9.9, 1.2.3.4, 10.9.9.9"], "1.2.3.4"),
            (&[b"9.9.9.9,1.2.3.4 ,\t10.9.9.9,fd00::7"], "1.2.3.4"),
            // Several lines are one list, in their order.
            (&[b"9.9.9.9", b"1.2.3.4"], "1.2.3.4"),
            (&[b"9.9.9.9", b"1.2.3.4, 10.0.0.7", b"10.0.0.8"], "1.2.3.4"),
            (&[b"1.2.3.4", b""], "1.2.3.4"),
            (&[b",, 1.2.3.4 ,,"], "1.2.3.4"),
            // All of them are proxies: the first one called.
            (&[b"10.0.0.3, 10.0.0.2"], "10.0.0.3"),
            (&[], "10.0.0.1"),
            (&[b""], "10.0.0.1"),
        ] {
            assert_eq!(through(lines), expected, "{lines:?}");
        }
    }

    #[test]
    fn an_address_comes_with_ports_brackets_and_zones() {
        for (entry, expected) in [
            ("1.2.3.4:5678", "1.2.3.4"),
            ("2001:db8::1", "2001:db8::1"),
            ("[2001:db8::1]", "2001:db8::1"),
            ("[2001:db8::1]:443", "2001:db8::1"),
            ("fe80::1%eth0", "fe80::1"),
            ("[fe80::1%25eth0]:80", "fe80::1"),
            ("::ffff:1.2.3.4", "1.2.3.4"),
            ("[::ffff:10.1.1.1]:80, 10.0.0.2", "10.1.1.1"),
        ] {
            assert_eq!(through(&[entry.as_bytes()]), expected, "{entry}");
        }
    }

    #[test]
    fn garbage_counts_as_the_proxy_that_passed_it_on() {
        for entry in [
            &b"unknown"[..],
            b"_hidden",
            b"1.2.3",
            b"1.2.3.4.5",
            b"1.2.3.4:x",
            b"1.2.3.4:99999",
            b"1.2.3.4:+80",
            b"[1.2.3.4",
            b"[::1]x",
            b"\"1.2.3.4\"",
            b"for=1.2.3.4",
            b"localhost",
            b"0x7f.1",
            b"1.2.3.4\xff",
            b"\xff",
            b"1.2.3.4; 5.6.7.8",
        ] {
            assert_eq!(through(&[entry]), "10.0.0.1", "{entry:?}");
            // Nothing to the left of it is believed either.
            assert_eq!(through(&[b"9.9.9.9", entry, b"10.0.0.2"]), "10.0.0.2", "{entry:?}");
        }
    }

    #[test]
    fn ten_thousand_entries_are_no_work() {
        let many = vec!["10.0.0.2"; 10_000].join(", ");
        assert_eq!(through(&[format!("9.9.9.9, {many}").as_bytes()]), "10.0.0.2", "not read to the end");
        assert_eq!(through(&[format!("{many}, 1.2.3.4").as_bytes()]), "1.2.3.4");
        assert_eq!(through(&vec![&b"10.0.0.2"[..]; 10_000]), "10.0.0.2");
    }

    #[test]
    fn a_network_of_everybody_or_of_nothing_is_refused() {
        for wrong in ["", "x", "0.0.0.0/0", "::/0", "10.0.0.0/33", "fd00::/129", "10.0.0.0/", "10.0.0.0/-1", "10.0.0/8", "10.0.0.1:80", "*"]
        {
            assert!(wrong.parse::<Network>().is_err(), "{wrong}");
        }
        let one: Network = "10.0.0.7".parse().unwrap();
        assert!(one.contains("10.0.0.7".parse().unwrap()) && one.contains("::ffff:10.0.0.7".parse().unwrap()));
        assert!(!one.contains("10.0.0.8".parse().unwrap()) && !one.contains("::a00:7".parse().unwrap()));
        assert!("fd00::/8".parse::<Network>().unwrap().contains("fdff::1".parse().unwrap()));
        assert!("128.0.0.0/1".parse::<Network>().unwrap().contains("255.0.0.1".parse().unwrap()));
    }
}
