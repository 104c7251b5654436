//! One watcher: its position, and the next thing that it is told. It is asked for that only when its caller has taken what came before, so
//! a slow one holds up nobody, and nothing piles up for it.

use std::{collections::VecDeque, convert::Infallible, time::Duration};

use bytes::Bytes;
use futures_util::{Stream, stream};
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until},
};

use super::{
    hub::Seat,
    past,
    position::Position,
    show::{Item, frame},
    topic::{End, Next},
};
use crate::app::App;

/// How often something is sent, so that neither end nor a proxy takes the connection for dead.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// How long one stream lasts. Whoever watches longer resumes, and shows a key that is still good.
const LIFE: Duration = Duration::from_secs(3600);
/// How long to wait for a broker that does not answer.
const PAUSE: Duration = Duration::from_millis(500);

/// The first thing sent: how soon to come back after a stream that broke off, in milliseconds.
const GREETING: &[u8] = b"retry: 1000\n\n";

/// A watcher of one job.
pub(super) struct Watcher {
    app: App,
    seat: Seat,
    position: Position,
    /// What is to be told next.
    items: VecDeque<Item>,
    /// How many of the topic's messages need not be looked at again.
    seen: u64,
    changes: watch::Receiver<u64>,
    /// When something is to be sent in any case.
    beat: Instant,
    /// When the stream has lasted long enough.
    until: Instant,
    greeted: bool,
    over: bool,
}

/// Why a watcher woke.
enum Woken {
    Changed,
    Beat,
    Leave(&'static str),
}

impl Watcher {
    /// A watcher that was told everything up to `position`.
    pub(super) fn new(app: App, seat: Seat, position: Position) -> Self {
        let (changes, now) = (seat.topic.changes(), Instant::now());
        Self {
            app,
            seat,
            position,
            items: VecDeque::new(),
            seen: 0,
            changes,
            beat: now + KEEP_ALIVE,
            until: now + LIFE,
            greeted: false,
            over: false,
        }
    }

    /// The body of the answer.
    pub(super) fn into_stream(self) -> impl Stream<Item = Result<Bytes, Infallible>> + Send {
        stream::unfold(self, async |mut watcher| {
            let part = watcher.next().await?;
            watcher.beat = Instant::now() + KEEP_ALIVE;
            Some((Ok(part), watcher))
        })
    }

    /// The next part of the body; `None` when it is over.
    async fn next(&mut self) -> Option<Bytes> {
        if self.over {
            return None;
        }
        if !std::mem::replace(&mut self.greeted, true) {
            return Some(Bytes::from_static(GREETING));
        }
        loop {
            if self.app.tasks.shutdown().is_requested() {
                return self.leave("the gateway stops");
            }
            while let Some(item) = self.items.pop_front() {
                if self.position.covers(item.place) {
                    continue;
                }
                self.position = self.position.with(item.place);
                if let Some(frame) = item.frame(self.position) {
                    return Some(frame);
                }
            }
            match self.seat.topic.next(self.position, &mut self.seen) {
                Next::Tell(items) => self.items.extend(items),
                Next::CatchUp(base) => self.catch_up(base).await,
                Next::End(End::Done(job)) => {
                    self.over = true;
                    return Some(frame(&self.position.end(), "end", &job));
                }
                Next::End(End::Lost(why)) => return self.leave(why),
                Next::Wait => match self.wake().await {
                    Woken::Changed => {}
                    Woken::Beat => return Some(Bytes::from_static(b": still here\n\n")),
                    Woken::Leave(why) => return self.leave(why),
                },
            }
        }
    }

    /// Reads stored messages that the topic does not keep any more.
    async fn catch_up(&mut self, base: Position) {
        match past::read(&self.app, &self.seat.topic.job, self.position).await {
            // They are gone from the streams, too.
            Ok(page) if page.items.is_empty() => self.position = self.position.max(base),
            Ok(page) => self.items.extend(page.items),
            Err(error) => {
                tracing::debug!(%error, "cannot read a watched job");
                tokio::select! {
                    () = sleep(PAUSE) => {}
                    () = self.app.tasks.shutdown().requested() => {}
                }
            }
        }
    }

    async fn wake(&mut self) -> Woken {
        tokio::select! {
            biased;
            () = self.app.tasks.shutdown().requested() => Woken::Leave("the gateway stops"),
            () = sleep_until(self.until) => Woken::Leave("it has lasted long enough"),
            changed = self.changes.changed() => match changed {
                Ok(()) => Woken::Changed,
                // The topic lives as long as the seat.
                Err(_) => Woken::Leave("it can't be followed now"),
            },
            () = sleep_until(self.beat) => Woken::Beat,
        }
    }

    /// Ends the stream before the job has ended. The watcher comes back by itself, and goes on.
    #[allow(clippy::unnecessary_wraps, reason = "it is the answer of `next`")]
    fn leave(&mut self, why: &str) -> Option<Bytes> {
        self.over = true;
        Some(Bytes::from(format!(": {why}; resume from the last id\n\n")))
    }
}
