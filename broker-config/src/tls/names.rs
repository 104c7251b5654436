//! A name by which a server is reached: a DNS name or an IP address.

use std::{fmt, net::IpAddr, str::FromStr};

use rcgen::SanType;

/// A DNS name or an IP address, as it stands in a server's certificate.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsName {
    /// A DNS name, in lower case; it may begin with `*.`.
    Dns(String),
    /// An address.
    Ip(IpAddr),
}

/// Not a name of a server.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is neither a DNS name nor an IP address")]
pub struct NameError(String);

impl TlsName {
    /// The names by which every broker and gateway is reached: on its own machine, and in docker-compose.
    pub fn defaults() -> Vec<Self> {
        let dns = ["localhost", "broker", "gateway"].map(|name| Self::Dns(name.into()));
        let local = [IpAddr::from([127, 0, 0, 1]), IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1])].map(Self::Ip);
        dns.into_iter().chain(local).collect()
    }

    pub(super) fn to_san(&self) -> Result<SanType, rcgen::Error> {
        Ok(match self {
            Self::Dns(name) => SanType::DnsName(name.as_str().try_into()?),
            Self::Ip(address) => SanType::IpAddress(*address),
        })
    }
}

impl fmt::Display for TlsName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dns(name) => f.write_str(name),
            Self::Ip(address) => address.fmt(f),
        }
    }
}

impl FromStr for TlsName {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        if let Ok(address) = text.trim_start_matches('[').trim_end_matches(']').parse() {
            return Ok(Self::Ip(address));
        }
        let name = text.to_ascii_lowercase();
        let plain = name.strip_prefix("*.").unwrap_or(&name);
        let label = |label: &str| {
            let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_';
            (1..=63).contains(&label.len()) && label.chars().all(inner) && !label.starts_with('-') && !label.ends_with('-')
        };
        if name.len() > 253 || !plain.split('.').all(label) {
            return Err(NameError(text.chars().take(80).collect()));
        }
        Ok(Self::Dns(name))
    }
}
