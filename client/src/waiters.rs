//! Who waits for which result. One subscription to a pool's stored results serves all who wait for jobs of it.
//!
//! It only hears: asking for what was stored earlier, or missed, is the business of [`crate::wait`]. The subscription is
//! made before [`Waiters::register`] returns, so what is published afterwards on the same connection cannot be missed.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak, atomic::Ordering},
    time::Duration,
};

use async_nats::{Message, Subscriber};
use futures_util::StreamExt;
use muster_schemas::{
    names::{JobId, PoolName},
    subjects::About,
};
use tokio::{
    sync::{oneshot, watch},
    time::{Instant, MissedTickBehavior},
};

use crate::Error;

/// The most jobs that one client waits for at once: some 30 MB of bookkeeping.
const WAITING_MAX: usize = 100_000;
/// How long a subscription stays after the last waiter, so that one job after the other does not make one each.
const LINGER: Duration = Duration::from_secs(30);
/// How often a listener looks whether the connection was lost in between. async-nats tells of that only by a callback that
/// is set before connecting, which a connection that was handed in already has.
const TICK: Duration = Duration::from_secs(1);

/// All waiters of a client, by pool.
#[derive(Debug)]
pub(crate) struct Waiters {
    nats: async_nats::Client,
    pools: Mutex<HashMap<PoolName, Arc<Listener>>>,
    /// Held while a subscription is made, so that a pool never gets two.
    opening: tokio::sync::Mutex<()>,
}

/// The waiters of one pool.
#[derive(Debug)]
struct Listener {
    waiting: Mutex<Waiting>,
    connects: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Waiting {
    jobs: HashMap<JobId, Vec<(u64, oneshot::Sender<Message>)>>,
    count: usize,
    next: u64,
    closed: bool,
}

/// A place in the line. Dropping it gives it up.
pub(crate) struct Ticket {
    listener: Arc<Listener>,
    id: JobId,
    number: u64,
    stored: oneshot::Receiver<Message>,
    connects: watch::Receiver<u64>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic while holding it could only come from running out of memory; the map is whole at every step.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Waiters {
    pub(crate) fn new(nats: async_nats::Client) -> Arc<Self> {
        Arc::new(Self { nats, pools: Mutex::default(), opening: tokio::sync::Mutex::default() })
    }

    /// Waits for a job's result from now on.
    pub(crate) async fn register(self: &Arc<Self>, pool: &PoolName, id: &JobId) -> Result<Ticket, Error> {
        if let Some(ticket) = self.join(pool, id)? {
            return Ok(ticket);
        }
        let opening = self.opening.lock().await;
        if let Some(ticket) = self.join(pool, id)? {
            return Ok(ticket);
        }
        let subject = About::Done.pool(pool);
        let subscriber = self.nats.subscribe(subject).await.map_err(|error| Error::Closed(error.to_string()))?;
        let listener = Arc::new(Listener {
            waiting: Mutex::default(),
            connects: watch::channel(self.nats.statistics().connects.load(Ordering::Relaxed)).0,
        });
        let ticket = listener.join(id)?;
        lock(&self.pools).insert(pool.clone(), Arc::clone(&listener));
        drop(opening);
        let task = listen(self.nats.clone(), subscriber, listener, Arc::downgrade(self));
        #[allow(clippy::disallowed_methods, reason = "a library for strangers does not bring muster-runtime along; this is its only task")]
        tokio::spawn(task);
        ticket.ok_or_else(|| Error::Closed("the listener closed at once".into()))
    }

    fn join(&self, pool: &PoolName, id: &JobId) -> Result<Option<Ticket>, Error> {
        let listener = lock(&self.pools).get(pool).cloned();
        listener.map_or(Ok(None), |listener| listener.join(id))
    }
}

impl Listener {
    /// `None` when it has closed, and a new one is needed.
    fn join(self: &Arc<Self>, id: &JobId) -> Result<Option<Ticket>, Error> {
        let (sender, stored) = oneshot::channel();
        let mut waiting = lock(&self.waiting);
        if waiting.closed {
            return Ok(None);
        }
        if waiting.count >= WAITING_MAX {
            return Err(Error::TooManyWaiting(WAITING_MAX));
        }
        waiting.count += 1;
        waiting.next += 1;
        let number = waiting.next;
        waiting.jobs.entry(id.clone()).or_default().push((number, sender));
        drop(waiting);
        Ok(Some(Ticket { listener: Arc::clone(self), id: id.clone(), number, stored, connects: self.connects.subscribe() }))
    }

    /// Hands a stored result to all who wait for it.
    fn deliver(&self, message: &Message) {
        let Some((_, id)) = About::Done.parse(&message.subject) else { return };
        let mut waiting = lock(&self.waiting);
        let senders = waiting.jobs.remove(&id).unwrap_or_default();
        waiting.count -= senders.len();
        drop(waiting);
        for (_, sender) in senders {
            // Whoever stopped waiting in this moment needs no result.
            let _ = sender.send(message.clone());
        }
    }

    /// Closes if nobody waits; from then on [`Listener::join`] refuses.
    fn close_if_idle(&self) -> bool {
        let mut waiting = lock(&self.waiting);
        waiting.closed |= waiting.count == 0;
        waiting.closed
    }

    fn is_idle(&self) -> bool {
        lock(&self.waiting).count == 0
    }
}

impl Ticket {
    /// The stored result, raw. Waits for ever when none comes. Safe to cancel.
    pub(crate) async fn stored(&mut self) -> Message {
        stored(&mut self.stored).await
    }

    /// The stored result, raw; `None` when the connection was lost and made again, so that it may have been missed. Safe to cancel.
    pub(crate) async fn stored_or_reconnected(&mut self) -> Option<Message> {
        tokio::select! {
            biased;
            message = stored(&mut self.stored) => Some(message),
            Ok(()) = self.connects.changed() => None,
        }
    }
}

async fn stored(receiver: &mut oneshot::Receiver<Message>) -> Message {
    match receiver.await {
        Ok(message) => message,
        // The connection has closed for good. Asking then fails, and says so.
        Err(_) => std::future::pending().await,
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut waiting = lock(&self.listener.waiting);
        let Some(senders) = waiting.jobs.get_mut(&self.id) else { return };
        let before = senders.len();
        senders.retain(|(number, _)| *number != self.number);
        let (left, gone) = (senders.len(), before - senders.len());
        waiting.count -= gone;
        if left == 0 {
            waiting.jobs.remove(&self.id);
        }
    }
}

/// Serves one pool until nobody has waited for [`LINGER`], the client is gone, or the connection is closed for good.
async fn listen(nats: async_nats::Client, mut results: Subscriber, listener: Arc<Listener>, client: Weak<Waiters>) {
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut busy_at = Instant::now();
    loop {
        tokio::select! {
            message = results.next() => match message {
                Some(message) => listener.deliver(&message),
                None => {
                    let mut waiting = lock(&listener.waiting);
                    waiting.closed = true;
                    waiting.count = 0;
                    waiting.jobs.clear();
                    return;
                }
            },
            now = tick.tick() => {
                let connects = nats.statistics().connects.load(Ordering::Relaxed);
                listener.connects.send_if_modified(|last| std::mem::replace(last, connects) != connects);
                if !listener.is_idle() {
                    busy_at = now;
                }
                let unwanted = client.strong_count() == 0 || now.duration_since(busy_at) >= LINGER;
                if unwanted && listener.close_if_idle() {
                    let _ = results.unsubscribe().await;
                    return;
                }
            }
        }
    }
}
