//! Acks that wait a moment. The result of their job is stored, and should the job be given out again, that result answers it.
//!
//! An ack costs the broker a flush to its disk. Where the dispatcher says so in this agent's standing, the acks of jobs that came from a lane wait: it
//! removes finished jobs from the front of their queue together, for one flush, and the ack of a removed job costs nothing. Nothing depends on that
//! happening: those that have waited long enough are sent, many at once. Which acks may wait at all is decided in [`crate::attempt`] and by the
//! rules of [`Acks::keep`].
//!
//! An ack is of a place in a queue as the broker knew it on one connection. A broker that has lost the end of a queue uses the same places again, so
//! what waits when the connection goes is dropped, and its job comes again after its lease.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use muster_runtime::shutdown::Shutdown;
use muster_schemas::{standing::ACK_DELAY_MAX_MS, topology::ACK_WAIT};
use tokio::sync::Notify;

use crate::{attempt::delivery, js::Js};

/// So many wait at most; more go at once. Enough for the longest delay at 4000 jobs a second, and half a megabyte.
const MOST: usize = 4096;

// The last sign of life of a job is at most a third of its lease old when its ack begins to wait.
const _: () = assert!(ACK_DELAY_MAX_MS as u128 <= ACK_WAIT.as_millis() / 3);

/// The acks that wait; clones share them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Acks(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    kept: Mutex<Kept>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Kept {
    /// For how long one waits at most; zero is not at all.
    delay: Duration,
    /// No ack waits any more, whatever is said.
    closed: bool,
    /// The oldest first.
    waiting: VecDeque<Ack>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Ack {
    since: Instant,
    connection: u64,
    reply: String,
}

impl Acks {
    /// Takes the dispatcher's word: acks may wait for so many milliseconds.
    pub(crate) fn told(&self, delay_ms: u32) {
        self.kept().delay = Duration::from_millis(delay_ms.min(ACK_DELAY_MAX_MS).into());
        self.0.changed.notify_one();
    }

    /// Whether any may wait.
    pub(crate) fn may_wait(&self) -> bool {
        let kept = self.kept();
        !kept.closed && !kept.delay.is_zero()
    }

    /// Keeps the ack of a job that came over this connection, and whose result was stored over it. False when it is to be sent at once.
    pub(crate) fn keep(&self, reply: &str, connection: u64, now: Instant) -> bool {
        let kept = self.kept().keep(Ack { since: now, connection, reply: reply.to_owned() });
        if kept == Keep::First {
            self.0.changed.notify_one();
        }
        kept != Keep::Not
    }

    /// Sends what has waited long enough, until the shutdown.
    pub(crate) async fn run(self, js: Js, shutdown: Shutdown) -> anyhow::Result<()> {
        loop {
            let wake = self.kept().wake_at();
            let due = async {
                match wake {
                    Some(at) => tokio::time::sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = shutdown.requested() => return Ok(()),
                () = self.0.changed.notified() => {}
                () = due => {}
            }
            let due = self.kept().due(Instant::now());
            send(&js, due).await;
        }
    }

    /// Sends all that wait, and lets no other wait from here on: the agent ends.
    pub(crate) async fn close(&self, js: &Js) {
        let all = self.kept().close();
        send(js, all).await;
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sends acks, which the connection writes together, unless it has changed or is gone.
async fn send(js: &Js, acks: Vec<Ack>) {
    let mut dropped = 0_usize;
    for ack in acks {
        if js.is_connected() && ack.connection == js.connects() {
            js.answer(ack.reply, delivery::ACK).await;
        } else {
            dropped += 1;
        }
    }
    if dropped > 0 {
        tracing::info!(
            dropped,
            "the connection was lost before the acks of finished jobs went out; these jobs come again, and their results answer them"
        );
    }
}

/// What became of an ack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Keep {
    /// It may not wait.
    Not,
    /// It waits behind others.
    Behind,
    /// It waits, and none did.
    First,
}

impl Kept {
    fn keep(&mut self, ack: Ack) -> Keep {
        if self.closed || self.delay.is_zero() || self.waiting.len() >= MOST {
            return Keep::Not;
        }
        let first = self.waiting.is_empty();
        self.waiting.push_back(ack);
        if first { Keep::First } else { Keep::Behind }
    }

    /// When the oldest has waited as long as it may.
    fn wake_at(&self) -> Option<Instant> {
        self.waiting.front().map(|oldest| oldest.since + self.delay)
    }

    /// Those to be sent, once the oldest must: with it go those that have waited nearly as long, so that a few writes a second carry all of them, and
    /// each had its chance to become free.
    fn due(&mut self, now: Instant) -> Vec<Ack> {
        if self.wake_at().is_none_or(|at| at > now) {
            return Vec::new();
        }
        let least = self.delay * 3 / 4;
        let count = self.waiting.iter().take_while(|ack| ack.since + least <= now).count();
        self.waiting.drain(..count).collect()
    }

    fn close(&mut self) -> Vec<Ack> {
        self.closed = true;
        self.waiting.drain(..).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn ack(since: Instant) -> Ack {
        Ack { since, connection: 1, reply: "r".to_owned() }
    }

    fn kept(delay: Duration) -> Kept {
        Kept { delay, ..Kept::default() }
    }

    #[test]
    fn none_waits_unless_the_dispatcher_says_so_and_none_longer_than_is_allowed() {
        let (acks, now) = (Acks::default(), Instant::now());
        assert!(!acks.may_wait() && !acks.keep("r", 1, now));
        acks.told(u32::MAX);
        assert!(acks.may_wait() && acks.keep("r", 1, now));
        assert_eq!(acks.kept().wake_at(), Some(now + MS * ACK_DELAY_MAX_MS));
        acks.told(0);
        assert!(!acks.may_wait() && !acks.keep("r", 1, now));
        assert_eq!(acks.kept().due(now), [ack(now)], "what waited goes at once");
    }

    #[test]
    fn those_that_have_waited_nearly_as_long_go_with_the_oldest() {
        let (mut kept, start) = (kept(400 * MS), Instant::now());
        for after in [0, 50, 100, 101, 399] {
            assert_ne!(kept.keep(ack(start + after * MS)), Keep::Not);
        }
        assert_eq!(kept.due(start + 399 * MS), []);
        assert_eq!(kept.due(start + 400 * MS), [0, 50, 100].map(|after| ack(start + after * MS)));
        assert_eq!(kept.wake_at(), Some(start + 501 * MS));
        assert_eq!(kept.due(start + 800 * MS).len(), 2);
        assert_eq!((kept.wake_at(), kept.due(start + 900 * MS)), (None, vec![]));
    }

    #[test]
    fn so_many_wait_at_most_and_none_once_the_agent_ends() {
        let (mut kept, now) = (kept(400 * MS), Instant::now());
        assert_eq!(kept.keep(ack(now)), Keep::First);
        for _ in 1..MOST {
            assert_eq!(kept.keep(ack(now)), Keep::Behind);
        }
        assert_eq!(kept.keep(ack(now)), Keep::Not);
        assert_eq!((kept.close().len(), kept.wake_at()), (MOST, None));
        assert_eq!(kept.keep(ack(now)), Keep::Not);
    }
}
