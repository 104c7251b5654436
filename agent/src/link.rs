//! The one watcher of the connection: tells everybody else, once, that it came up or went down.

use muster_runtime::{nats::Broker, shutdown::Shutdown};
use tokio::sync::watch;

/// The connection to the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Link {
    /// Whether it is up.
    pub(crate) up: bool,
    /// How often it has come up. A change means that everything the broker knew of this connection is gone.
    pub(crate) connects: u64,
}

/// Watches the connection for ever.
pub(crate) async fn watch(broker: Broker, link: watch::Sender<Link>, shutdown: Shutdown) -> anyhow::Result<()> {
    loop {
        let last = *link.borrow();
        let changed = broker.wait_for(|status| Link { up: status.connected, connects: status.connects } != last);
        tokio::select! {
            () = shutdown.requested() => return Ok(()),
            status = changed => {
                link.send_replace(Link { up: status.connected, connects: status.connects });
            }
        }
    }
}
