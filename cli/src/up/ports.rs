//! Ports: the ones asked for, or free ones. Free ones are remembered, so that agents find the stack again the next time.

use std::{io, net::TcpListener, path::Path};

use anyhow::Context as _;
use muster_schemas::time::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{failure::Failure, profile::write_private};

/// Below the ports of outgoing connections, which begin at 32768 on Linux.
const FREE: std::ops::Range<u64> = 20_000..32_000;
/// Ports that are tried before the kernel is asked.
const TRIES: u64 = 50;

/// The ports of a stack, on 127.0.0.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct Ports {
    pub(super) http: u16,
    pub(super) nats: u16,
}

impl Ports {
    /// The ports that were chosen last.
    pub(super) fn last(memory: &Path) -> Option<Self> {
        toml::from_str(&std::fs::read_to_string(memory).ok()?).ok()
    }

    /// Where gateway and broker are.
    pub(super) fn urls(self, tls: bool) -> (String, String) {
        let (http, nats) = if tls { ("https", "tls") } else { ("http", "nats") };
        (format!("{http}://127.0.0.1:{}", self.http), format!("{nats}://127.0.0.1:{}", self.nats))
    }

    /// Chooses, and remembers the choice in `memory`.
    pub(super) fn choose(http: u16, nats: u16, memory: &Path) -> anyhow::Result<Self> {
        // A memory that is damaged is as good as none.
        let last = Self::last(memory).unwrap_or_default();
        let (http, _held) = port(http, last.http, "--http-port")?;
        let (nats, _also_held) = port(nats, last.nats, "--nats-port")?;
        let ports = Self { http, nats };
        write_private(memory, toml::to_string(&ports)?.as_bytes()).with_context(|| format!("can't write {}", memory.display()))?;
        Ok(ports)
    }
}

fn bind(port: u16) -> io::Result<TcpListener> {
    TcpListener::bind(("127.0.0.1", port))
}

/// Any free port, if possible one that the kernel does not give to outgoing connections: between the choice here and the moment
/// when the part listens, one of those could take it.
fn any() -> io::Result<TcpListener> {
    // The clock will do: all that matters is that two stacks do not try the same ones.
    let start = Timestamp::now().micros().unsigned_abs();
    let port = |step: u64| u16::try_from(FREE.start + (start + 7 * step) % (FREE.end - FREE.start)).ok();
    (0..TRIES).filter_map(port).find_map(|port| bind(port).ok()).map_or_else(|| bind(0), Ok)
}

/// A port and what keeps others from it until all are chosen.
fn port(wanted: u16, last: u16, flag: &str) -> anyhow::Result<(u16, TcpListener)> {
    let bound = match (wanted, last) {
        (0, 0) => any(),
        (0, last) => bind(last).or_else(|_| any()),
        (wanted, _) => bind(wanted),
    };
    let listener = bound.map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => Failure::new(format!("port {wanted} is in use by another program"))
            .hint(format!("choose another one with {flag}, or {flag} 0 for any that is free")),
        _ => Failure::new(format!("can't listen on port {wanted}: {error}")).hint(format!("choose another one with {flag}")),
    })?;
    Ok((listener.local_addr()?.port(), listener))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;

    #[test]
    fn a_port_in_use_is_an_error_that_names_its_flag() {
        let dir = tempfile::tempdir().unwrap();
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = taken.local_addr().unwrap().port();
        let error = Ports::choose(0, port, &dir.path().join("ports")).unwrap_err();
        let failure = error.downcast_ref::<Failure>().unwrap();
        assert!(failure.message.contains(&port.to_string()), "{failure}");
        assert!(failure.hint.as_ref().unwrap().contains("--nats-port"), "{failure:?}");
    }

    #[test]
    fn free_ports_are_two_and_stay_the_same_the_next_time() {
        let dir = tempfile::tempdir().unwrap();
        let memory = dir.path().join("ports");
        let first = Ports::choose(0, 0, &memory).unwrap();
        assert!(first.http != 0 && first.nats != 0 && first.http != first.nats);
        assert_eq!(Ports::choose(0, 0, &memory).unwrap(), first);
        let _taken = TcpListener::bind(("127.0.0.1", first.http)).unwrap();
        assert_ne!(Ports::choose(0, 0, &memory).unwrap().http, first.http);
    }
}
