//! The inboxes of the lanes and of the own queue, and how one is closed without losing a job.
//!
//! A delivered message carries the job's subject, not the inbox it came to, so each lane has a subscription of its own.
//!
//! **Draining.** The broker drops a waiting pull as soon as nobody listens on its inbox, so unsubscribing withdraws it; but jobs may be
//! under way, and async-nats forgets a subscription as soon as it is told to, so they would be lost for a whole lease. Instead the
//! subscription is limited to the number of messages received plus all that may still come, plus one; then the agent sends itself as
//! many messages as that leaves. Jobs and own messages together use the number up, and since broker and client count the same
//! messages, both end the subscription behind the same one. [measured on 2.15.1; the broker's "no responders" (503) is the one
//! message that it does not count, so an inbox that got one is closed at once: there is no lane that could send a job]

use std::{
    task::{Context, Poll},
    time::{Duration, Instant},
};

use async_nats::{Message, Subscriber};
use bytes::Bytes;
use futures_util::{FutureExt as _, StreamExt as _};
use muster_schemas::{
    queue::Queue,
    subjects::{self, js},
    topology::PRIORITY_GROUP,
};

use crate::{
    core::Core,
    figures::Figures,
    intake::{Event, LaneIndex},
    js::Js,
};

/// A drain takes a round trip. One that takes this long has lost its own messages, with the connection for example.
const DRAIN_PATIENCE: Duration = Duration::from_secs(5);

/// What the agent sends itself. Without a reply subject, so it can't be taken for a job.
const BARRIER: &[u8] = b"barrier";

/// A message of an inbox, or its end.
pub(super) struct Incoming {
    pub(super) lane: LaneIndex,
    pub(super) epoch: u32,
    pub(super) draining: bool,
    /// `None`: nothing more comes.
    pub(super) message: Option<Message>,
}

struct Inbox {
    lane: LaneIndex,
    epoch: u32,
    subject: String,
    messages: Subscriber,
    /// Messages read so far.
    read: u64,
    /// Messages that may still come for the pulls sent so far.
    due: u64,
    /// Being drained; given up at this time.
    draining: Option<Instant>,
}

/// What can be pulled: a lane, or the own queue.
struct Source {
    name: String,
    /// The subject of its pulls.
    next: String,
    /// Whether others pull it too, so that a pull has a priority.
    shared: bool,
}

impl Source {
    fn of(core: &Core, queue: &Queue) -> Self {
        let consumer = match queue {
            Queue::Lane(lane) => lane.consumer(),
            Queue::Agent(agent) => agent.to_string(),
        };
        let next = js::next(&queue.stream(&core.pool), &consumer);
        Self { name: consumer, next, shared: queue.lane().is_some() }
    }

    /// The body of a pull. The broker refuses one without a group where there are any.
    fn pull(&self, batch: u32, priority: u8, expires: Duration) -> String {
        let expires = expires.as_nanos();
        if self.shared {
            format!(r#"{{"batch":{batch},"expires":{expires},"group":"{PRIORITY_GROUP}","priority":{priority}}}"#)
        } else {
            format!(r#"{{"batch":{batch},"expires":{expires}}}"#)
        }
    }
}

/// All inboxes.
pub(super) struct Inboxes {
    js: Js,
    prefix: String,
    sources: Vec<Source>,
    open: Vec<Inbox>,
    made: u64,
    figures: Figures,
}

impl Inboxes {
    pub(super) fn new(core: &Core, queues: &[Queue]) -> Self {
        let sources = queues.iter().map(|queue| Source::of(core, queue)).collect();
        // With the instance, so that what was sent to an earlier run of this agent never comes to this one.
        let prefix = format!("{}.{}", subjects::agent_inbox(&core.id), core.instance);
        Self { js: core.js.clone(), prefix, sources, open: Vec::new(), made: 0, figures: core.figures.clone() }
    }

    pub(super) fn name(&self, lane: LaneIndex) -> &str {
        self.sources.get(lane).map_or("", |source| &source.name)
    }

    /// Whether other agents pull it too.
    pub(super) fn is_shared(&self, lane: LaneIndex) -> bool {
        self.sources.get(lane).is_some_and(|source| source.shared)
    }

    /// Asks a lane for jobs, to the inbox of this epoch.
    pub(super) async fn pull(&mut self, lane: LaneIndex, epoch: u32, batch: u32, (priority, expires): (u8, Duration)) {
        let Some(source) = self.sources.get(lane) else { return };
        let found = self.open.iter().position(|inbox| inbox.lane == lane && inbox.epoch == epoch && inbox.draining.is_none());
        let at = match found {
            Some(at) => at,
            None => {
                self.made += 1;
                let subject = format!("{}.{}.{}", self.prefix, source.name, self.made);
                let messages = match self.js.client().subscribe(subject.clone()).await {
                    Ok(messages) => messages,
                    Err(error) => return tracing::error!(%error, "can't open an inbox"),
                };
                // In the order of the lanes, so that the most urgent ones are read first.
                let at = self.open.partition_point(|inbox| inbox.lane <= lane);
                self.open.insert(at, Inbox { lane, epoch, subject, messages, read: 0, due: 0, draining: None });
                at
            }
        };
        let Some(inbox) = self.open.get_mut(at) else { return };
        inbox.due += u64::from(batch);
        self.figures.pulls.inc();
        let body = source.pull(batch, priority, expires);
        if let Err(error) = self.js.client().publish_with_reply(source.next.clone(), inbox.subject.clone(), body.into()).await {
            tracing::error!(%error, "can't send a pull");
        }
    }

    /// Begins to drain the inbox of this epoch.
    pub(super) async fn drain(&mut self, lane: LaneIndex, epoch: u32) {
        if let Some(at) = self.open.iter().position(|inbox| inbox.lane == lane && inbox.epoch == epoch) {
            self.drain_at(at).await;
        }
    }

    /// Drains all inboxes, also those that are being drained: on a new connection nothing of it can be relied on.
    pub(super) async fn drain_all(&mut self) {
        for at in 0..self.open.len() {
            self.drain_at(at).await;
        }
    }

    async fn drain_at(&mut self, at: usize) {
        let Some(inbox) = self.open.get_mut(at) else { return };
        self.figures.drains.inc();
        let barriers = inbox.due + 1;
        if let Err(error) = inbox.messages.unsubscribe_after(inbox.read + barriers).await {
            tracing::error!(%error, "can't drain an inbox");
        }
        for _ in 0..barriers {
            if let Err(error) = self.js.client().publish(inbox.subject.clone(), Bytes::from_static(BARRIER)).await {
                tracing::error!(%error, "can't drain an inbox");
            }
        }
        inbox.draining = Some(Instant::now() + DRAIN_PATIENCE);
    }

    /// A pull of the inbox ended early.
    pub(super) fn expired(&mut self, lane: LaneIndex, epoch: u32, pending: u32) {
        if let Some(inbox) = self.open.iter_mut().find(|inbox| inbox.lane == lane && inbox.epoch == epoch) {
            inbox.due = inbox.due.saturating_sub(pending.into());
        }
    }

    /// Closes an inbox of which nothing is expected.
    pub(super) fn close(&mut self, lane: LaneIndex, epoch: u32) {
        self.open.retain(|inbox| inbox.lane != lane || inbox.epoch != epoch);
    }

    /// Closes inboxes whose drain takes too long, and says so.
    pub(super) fn give_up(&mut self, now: Instant) -> Vec<Event> {
        if self.wake_at().is_none_or(|at| at > now) {
            return Vec::new();
        }
        let (late, open): (Vec<_>, Vec<_>) = self.open.drain(..).partition(|inbox| inbox.draining.is_some_and(|until| until <= now));
        self.open = open;
        let drained = |inbox: Inbox| {
            tracing::warn!(
                inbox = inbox.subject,
                "an inbox could not be drained in good order; a job under way comes back after its lease"
            );
            Event::Drained { lane: inbox.lane, epoch: inbox.epoch }
        };
        late.into_iter().map(drained).collect()
    }

    /// Whether there is none left.
    pub(super) fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// When [`Inboxes::give_up`] has something to do.
    pub(super) fn wake_at(&self) -> Option<Instant> {
        self.open.iter().filter_map(|inbox| inbox.draining).min()
    }

    /// The next message of any inbox, the most urgent lane's first. Safe to cancel.
    pub(super) async fn next(&mut self) -> Incoming {
        std::future::poll_fn(|context| self.poll(context)).await
    }

    /// As [`Inboxes::next`], if there is one now.
    pub(super) fn ready(&mut self) -> Option<Incoming> {
        self.next().now_or_never()
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Incoming> {
        for at in 0..self.open.len() {
            let Some(inbox) = self.open.get_mut(at) else { break };
            let Poll::Ready(message) = inbox.messages.poll_next_unpin(context) else { continue };
            let incoming = Incoming { lane: inbox.lane, epoch: inbox.epoch, draining: inbox.draining.is_some(), message };
            match &incoming.message {
                Some(message) => {
                    inbox.read += 1;
                    if message.status.is_none() && message.reply.is_some() {
                        inbox.due = inbox.due.saturating_sub(1);
                    }
                }
                None => drop(self.open.remove(at)),
            }
            return Poll::Ready(incoming);
        }
        Poll::Pending
    }
}
