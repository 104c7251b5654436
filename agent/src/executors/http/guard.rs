//! Keeps `http.request` off private networks: checks addresses in URLs, and every answer of the DNS before the client
//! may use it. The client connects only to addresses that came through here, so a name that changes between check and
//! connect (DNS rebinding) gains nothing.
//!
//! One forbidden address among good ones refuses the name as a whole. The ranges are in `ranges`.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use url::{Host, Url};

use super::ports;
use super::ranges::{Special, special_use};

/// A look-up of a name's addresses.
type Lookup = dyn Fn(String) -> Pin<Box<dyn Future<Output = io::Result<Vec<SocketAddr>>> + Send>> + Send + Sync;

/// The policy of one agent. Cheap to clone.
#[derive(Clone)]
pub(super) struct Guard {
    allow_private: bool,
    lookup: Arc<Lookup>,
    /// [`special_use`]; tests have no public address to serve from and replace it.
    special_use: fn(IpAddr) -> Option<Special>,
}

/// An address or port that may not be used.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{host}: {problem}{hint}")]
pub(super) struct Forbidden {
    host: String,
    problem: String,
    hint: &'static str,
}

const HINT: &str = "; this agent does not allow private networks (ALLOW_PRIVATE_NETWORK)";

impl Forbidden {
    /// The refusal somewhere in the causes of a client's error.
    pub(super) fn find(error: &(dyn std::error::Error + 'static)) -> Option<Self> {
        let mut cause = Some(error);
        while let Some(error) = cause {
            if let Some(found) = error.downcast_ref::<Self>() {
                return Some(found.clone());
            }
            cause = error.source();
        }
        None
    }
}

impl Guard {
    pub(super) fn new(allow_private: bool) -> Self {
        Self::with_lookup(allow_private, |name| Box::pin(async move { Ok(tokio::net::lookup_host((name, 0)).await?.collect()) }))
    }

    pub(super) fn with_lookup(
        allow_private: bool,
        lookup: impl Fn(String) -> Pin<Box<dyn Future<Output = io::Result<Vec<SocketAddr>>> + Send>> + Send + Sync + 'static,
    ) -> Self {
        Self { allow_private, lookup: Arc::new(lookup), special_use }
    }

    /// Other ranges, for tests.
    #[cfg(test)]
    pub(super) fn with_ranges(self, special_use: fn(IpAddr) -> Option<Special>) -> Self {
        Self { special_use, ..self }
    }

    /// Checks what a URL says by itself: its port, and its host when that is an address in whatever spelling (the URL
    /// parser has brought `0x7f.1`, `2130706433` and their like into one form). A name passes; the DNS will tell.
    pub(super) fn check_url(&self, url: &Url) -> Result<(), Forbidden> {
        let host = url.host_str().unwrap_or_default();
        let literal = match url.host() {
            Some(Host::Ipv4(v4)) => Some(IpAddr::V4(v4)),
            Some(Host::Ipv6(v6)) => Some(IpAddr::V6(v6)),
            Some(Host::Domain(name)) => known_name(name.trim_end_matches('.')),
            None => None,
        };
        if let Some(address) = literal {
            self.check(host, address)?;
        }
        match url.port_or_known_default() {
            Some(port) if !self.allow_private && ports::speaks_another_protocol(port) => {
                Err(Forbidden { host: host.to_owned(), problem: format!("port {port} is not for HTTP"), hint: HINT })
            }
            _ => Ok(()),
        }
    }

    fn check(&self, host: &str, address: IpAddr) -> Result<(), Forbidden> {
        match (self.special_use)(address) {
            Some(special) if special.always || !self.allow_private => Err(Forbidden {
                host: host.to_owned(),
                problem: format!("{address} is forbidden ({})", special.name),
                hint: if special.always { "" } else { HINT },
            }),
            _ => Ok(()),
        }
    }

    async fn addresses(self, name: String) -> Result<Addrs, Box<dyn std::error::Error + Send + Sync>> {
        let addresses = (self.lookup)(name.clone()).await?;
        for address in &addresses {
            self.check(&name, address.ip())?;
        }
        if addresses.is_empty() {
            return Err(format!("{name} has no address").into());
        }
        Ok(Box::new(addresses.into_iter()))
    }
}

/// The address of a name that needs no DNS: this machine's own (RFC 6761), and one that is an address, which the URL
/// parser does not leave here; should it ever, the client would not ask the resolver.
fn known_name(name: &str) -> Option<IpAddr> {
    let is_local = name == "localhost" || name.ends_with(".localhost");
    if is_local { Some(Ipv4Addr::LOCALHOST.into()) } else { name.parse().ok() }
}

impl Resolve for Guard {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(self.clone().addresses(name.as_str().to_owned()))
    }
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guard").field("allow_private", &self.allow_private).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
