//! Keeps the lease, or tries to get it: the shell around [`super::Lease`].
//!
//! One request at a time; every request has a time-out, so the state machine is never left waiting. Whether this process leads is told by
//! a [`Leadership`], which looks at the clock and at the connection each time it is asked, so that it is right even while this task is
//! stuck.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use muster_runtime::{nats::Broker, shutdown::Shutdown};
use muster_schemas::{
    records::LeaseRecord,
    time::Timestamp,
    topology::{DISPATCHER_LEASE, LEASES},
    wire::{self, V},
};
use tokio::sync::watch;

use super::{Command, Event, Holder, Lease, Sent};
use crate::{
    broker::{self, BrokerError, Write},
    fixed::Fixed,
};

/// How long a request may take. Three of them fit into the time that a lease is trusted.
const PATIENCE: Duration = Duration::from_secs(1);

/// Whether this process is the active dispatcher; clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Leadership {
    held: watch::Receiver<Option<(Instant, u64)>>,
    broker: Broker,
}

impl Leadership {
    /// Whether it is now: the lease is young enough, and was written on the connection there is.
    pub(crate) fn is_mine(&self) -> bool {
        self.connection().is_some()
    }

    /// The number of the connection on which it is.
    pub(crate) fn connection(&self) -> Option<u64> {
        let (until, connection) = (*self.held.borrow())?;
        let status = self.broker.status();
        (Instant::now() < until && status.connected && status.connects == connection).then_some(connection)
    }

    /// Waits until the lease was taken, renewed or lost. Safe to cancel.
    pub(crate) async fn changed(&mut self) {
        if self.held.changed().await.is_err() {
            // The keeper has ended; nothing will change any more.
            std::future::pending::<()>().await;
        }
    }
}

/// The task that keeps the lease.
#[derive(Debug)]
pub(crate) struct Keeper {
    lease: Lease,
    held: watch::Sender<Option<(Instant, u64)>>,
    broker: Broker,
    fixed: Arc<Fixed>,
    instance: String,
}

impl Keeper {
    /// A keeper for this run of the dispatcher, and what tells of its success.
    pub(crate) fn new(broker: Broker, fixed: Arc<Fixed>, instance: String) -> (Self, Leadership) {
        let (held, receiver) = watch::channel(None);
        let leadership = Leadership { held: receiver, broker: broker.clone() };
        (Self { lease: Lease::new(Instant::now()), held, broker, fixed, instance }, leadership)
    }

    /// Keeps or seeks the lease until the shutdown, then gives it back.
    pub(crate) async fn run(mut self, shutdown: Shutdown) -> anyhow::Result<()> {
        let mut connection = 0;
        while !shutdown.is_requested() {
            tokio::select! {
                () = tokio::time::sleep_until(self.lease.next().into()) => {}
                status = self.broker.wait_for(|status| status.connected && status.connects != connection) => {
                    connection = status.connects;
                    self.lease.reconnected(Instant::now());
                }
                () = shutdown.requested() => break,
            }
            let mut command = self.apply(Event::Tick);
            while let Some(asked) = command.filter(|_| !shutdown.is_requested()) {
                let event = self.perform(asked).await;
                command = self.apply(event);
            }
        }
        self.give_back().await;
        Ok(())
    }

    fn apply(&mut self, event: Event) -> Option<Command> {
        let had = self.lease.holds().is_some();
        let command = self.lease.apply(event, Instant::now());
        let holds = self.lease.holds();
        self.held.send_if_modified(|held| std::mem::replace(held, holds) != holds);
        match (had, holds.is_some()) {
            (false, true) => tracing::info!(instance = self.instance, "this dispatcher is the active one now"),
            (true, false) => tracing::warn!(instance = self.instance, ?event, "this dispatcher is not the active one any longer"),
            _ => {}
        }
        command
    }

    async fn perform(&self, command: Command) -> Event {
        let status = self.broker.status();
        if !status.connected {
            // The client would send it after the reconnect, when it means nothing any longer.
            return Event::Failed;
        }
        let sent = Sent { at: Instant::now(), connection: status.connects };
        let answer = match command {
            Command::Write(revision) => self.write(revision).await.map(|write| match write {
                Write::Stored(revision) => Event::Stored(revision, sent),
                Write::Refused => Event::Refused,
            }),
            Command::Look => self.look().await,
        };
        match answer {
            Ok(event) => event,
            Err(BrokerError::Missing(_)) => {
                self.fixed.ensure(&self.broker).await;
                Event::NoBucket
            }
            Err(error) => {
                tracing::debug!(error = &error as &dyn std::error::Error, ?command, "no answer about the lease");
                Event::Failed
            }
        }
    }

    async fn write(&self, revision: u64) -> Result<Write, BrokerError> {
        let record = LeaseRecord { v: V, holder: self.instance.clone(), renewed_at: Timestamp::now() };
        broker::write(self.broker.client(), LEASES, DISPATCHER_LEASE, Some(wire::encode(&record)), revision, PATIENCE).await
    }

    async fn look(&self) -> Result<Event, BrokerError> {
        let entry = broker::entry(self.broker.client(), LEASES, DISPATCHER_LEASE, PATIENCE).await?;
        Ok(match entry {
            None => Event::Seen(Holder::Nobody, 0),
            Some(entry) => {
                let holder = match entry.value.map(|value| wire::decode::<LeaseRecord>(&value)) {
                    None => Holder::Nobody,
                    Some(Ok(record)) if record.holder == self.instance => Holder::Me,
                    // What can't be read is somebody else's; like any other lease, it vanishes if it is not renewed.
                    Some(_) => Holder::Other,
                };
                Event::Seen(holder, entry.revision)
            }
        })
    }

    /// Deletes the key, so that another dispatcher need not wait until it vanishes.
    async fn give_back(&mut self) {
        self.held.send_replace(None);
        let Some(revision) = self.lease.revision() else { return };
        match broker::write(self.broker.client(), LEASES, DISPATCHER_LEASE, None, revision, PATIENCE).await {
            Ok(_) => tracing::debug!("gave the lease back"),
            Err(error) => tracing::debug!(error = &error as &dyn std::error::Error, "could not give the lease back; it will vanish"),
        }
    }
}
