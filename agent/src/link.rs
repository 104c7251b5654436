//! The one watcher of the connection: tells everybody else, once, that it came up or went down.

use std::time::Duration;

use muster_runtime::{nats::Broker, shutdown::Shutdown};
use muster_schemas::time::Timestamp;
use tokio::sync::watch;

/// The connection to the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Link {
    /// Whether it is up.
    pub(crate) up: bool,
    /// How often it has come up. A change means that everything the broker knew of this connection is gone.
    pub(crate) connects: u64,
    /// When it last came up, by this machine's clock.
    pub(crate) at: Option<Timestamp>,
}

/// By how much the broker's clock may differ from ours where [`Link::saw_stored`] compares the two.
const SKEW: Duration = Duration::from_secs(1);

impl Link {
    /// Whether a message was stored while this connection was up. What is older may be given out as if for the first time although it was
    /// given out before: a broker that is killed forgets the last deliveries of a consumer, which it writes by a timer **[measured]**.
    pub(crate) fn saw_stored(&self, stored_at: Timestamp) -> bool {
        self.at.is_some_and(|at| stored_at > at + SKEW)
    }
}

/// Watches the connection for ever.
pub(crate) async fn watch(broker: Broker, link: watch::Sender<Link>, shutdown: Shutdown) -> anyhow::Result<()> {
    loop {
        let last = *link.borrow();
        let changed = broker.wait_for(|status| (status.connected, status.connects) != (last.up, last.connects));
        tokio::select! {
            () = shutdown.requested() => return Ok(()),
            status = changed => {
                let at = if status.connected { Some(Timestamp::now()) } else { last.at };
                link.send_replace(Link { up: status.connected, connects: status.connects, at });
            }
        }
    }
}
