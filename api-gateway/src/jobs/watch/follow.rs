//! Follows one watched job until it has ended or nobody watches: the only reader of its messages on this gateway.
//!
//! An announcement may come before its message can be read, and may be lost with the connection: so after each one it looks several times,
//! and now and then without any. It ends only with the job's whole log: the result says how many chunks belong to its last attempt.

use std::{sync::Arc, time::Duration};

use async_nats::Subscriber;
use futures_util::{FutureExt as _, StreamExt as _};
use muster_schemas::{
    names::{JobId, PoolName},
    time::Timestamp,
};
use tokio::time::{Instant, sleep_until};

use super::{
    past,
    topic::{End, Topic},
};
use crate::{
    app::App,
    jobs::{
        lookup::{self, Found},
        outcome::Marked,
    },
    problem::ApiError,
    waiters::Waiter,
};

/// After an announcement, how long until each look. A message was readable within 1 ms of it here; a broker under load takes longer.
const LOOKS: [Duration; 4] =
    [Duration::from_millis(2), Duration::from_millis(20), Duration::from_millis(200), Duration::from_millis(1_000)];
/// How often to look without an announcement.
const LOOK_ANYWAY: Duration = Duration::from_secs(5);
/// How often to see whether the job still exists: with its pool it goes without a result.
const EXISTS_EVERY: Duration = Duration::from_secs(30);
/// How long to wait, after a result, for what was told before it and stored by another stream.
const SETTLE: Duration = Duration::from_millis(20);
/// How long to wait for chunks that the result counts. They may never come: what an agent writes without a connection is lost.
const SETTLE_MAX: Duration = Duration::from_secs(1);
/// A result that was stored longer ago than this has all of its log. Its time is by the agent's clock, so this is generous.
const SETTLED: Duration = Duration::from_secs(30);
/// Further away than any watch lasts.
const FAR: Duration = Duration::from_secs(30 * 24 * 3600);

/// Follows a job.
pub(super) async fn follow(app: App, topic: Arc<Topic>, id: JobId, found: Found) {
    let end = tokio::select! {
        end = run(&app, &topic, &id, found) => end,
        // The watchers see that for themselves.
        () = topic.unwatched.cancelled() => return,
        () = app.tasks.shutdown().requested() => return,
    };
    topic.finish(end.unwrap_or_else(|error| {
        tracing::warn!(job_id = %id, code = %error.code, detail = error.detail, "cannot follow a watched job");
        End::Lost("it can't be followed now")
    }));
}

async fn run(app: &App, topic: &Topic, id: &JobId, found: Found) -> Result<End, ApiError> {
    match found {
        Found::Finished { result, .. } => Ok(read_on(app, topic, id, None, Some(Ended::new(*result))).await),
        Found::Queued(queued) => {
            let told = Told::subscribe(app, topic, &queued.pool, id).await?;
            // Again, now that nothing can be missed any more.
            let ended = match lookup::find(app, id, Some(&queued.pool)).await? {
                Some(Found::Finished { result, .. }) => Some(Ended::new(*result)),
                Some(Found::Queued(_)) => None,
                None => return Ok(End::Lost("the job is gone")),
            };
            Ok(read_on(app, topic, id, Some(told), ended).await)
        }
    }
}

/// Reads until the job has ended and all of its log is there.
async fn read_on(app: &App, topic: &Topic, id: &JobId, mut told: Option<Told>, mut ended: Option<Ended>) -> End {
    let mut looks = Looks::new();
    let mut exists = Instant::now() + EXISTS_EVERY;
    loop {
        let began = Instant::now();
        let read = read(app, topic).await;
        if let Some(ended) = ended.as_ref().filter(|ended| read && ended.is_whole(topic.last_chunk(), began)) {
            return End::Done(topic.job.end(ended.result.clone()));
        }
        let Some(told) = told.as_mut().filter(|_| ended.is_none()) else {
            tokio::time::sleep(SETTLE).await;
            continue;
        };
        match told.next(app, &mut looks).await {
            Heard::Something => {}
            Heard::Result(result) => ended = Some(Ended::new(*result)),
            Heard::Nothing if Instant::now() < exists => {}
            Heard::Nothing => {
                exists = Instant::now() + EXISTS_EVERY;
                match lookup::find(app, id, Some(&told.pool)).await {
                    Ok(Some(Found::Finished { result, .. })) => ended = Some(Ended::new(*result)),
                    Ok(None) => return End::Lost("the job is gone"),
                    Ok(Some(Found::Queued(_))) | Err(_) => {}
                }
            }
        }
    }
}

/// Reads all that is stored. Whether it could.
async fn read(app: &App, topic: &Topic) -> bool {
    loop {
        match past::read(app, &topic.job, topic.position()).await {
            Ok(page) => {
                topic.push(page.items);
                if !page.more {
                    return true;
                }
            }
            Err(error) => {
                tracing::debug!(%error, "cannot read a watched job");
                return false;
            }
        }
    }
}

/// What announces news of a job.
struct Told {
    pool: PoolName,
    events: Subscriber,
    logs: Subscriber,
    result: Waiter,
}

enum Heard {
    /// It is time to look.
    Something,
    Result(Box<Marked>),
    /// It is time to look, although nothing was announced.
    Nothing,
}

impl Told {
    async fn subscribe(app: &App, topic: &Topic, pool: &PoolName, id: &JobId) -> Result<Self, ApiError> {
        let failed = |error| ApiError::broker("announce the job's events", error);
        let result = app.waiters.register(pool, id)?;
        let events = app.nats.subscribe(topic.job.events.clone()).await.map_err(failed)?;
        let logs = app.nats.subscribe(topic.job.logs.clone()).await.map_err(failed)?;
        Ok(Self { pool: pool.clone(), events, logs, result })
    }

    /// Waits until it is time to look. Announcements that come close together are one.
    async fn next(&mut self, app: &App, looks: &mut Looks) -> Heard {
        loop {
            tokio::select! {
                // A flood of announcements must not put off the look that they are about.
                biased;
                () = sleep_until(looks.at) => return looks.looked(Instant::now()),
                result = self.result.result(app, Instant::now() + FAR) => {
                    if let Some(result) = result {
                        return Heard::Result(Box::new(result));
                    }
                    // The gateway stops; whoever runs this ends it.
                    std::future::pending::<()>().await;
                }
                Some(_) = self.events.next() => looks.announced(Instant::now()),
                Some(_) = self.logs.next() => {
                    while let Some(Some(_)) = self.logs.next().now_or_never() {}
                    looks.announced(Instant::now());
                }
            }
        }
    }
}

/// When to look.
#[derive(Debug)]
struct Looks {
    at: Instant,
    /// How many looks there were since the last announcement.
    number: usize,
}

impl Looks {
    /// As if something had just been announced.
    fn new() -> Self {
        Self { at: Instant::now() + LOOKS[0], number: 0 }
    }

    fn announced(&mut self, now: Instant) {
        if self.number > 0 {
            *self = Self { at: now + LOOKS[0], number: 0 };
        }
    }

    fn looked(&mut self, now: Instant) -> Heard {
        self.number += 1;
        let next = LOOKS.get(self.number).copied();
        self.at = now + next.unwrap_or(LOOK_ANYWAY);
        if self.number > LOOKS.len() { Heard::Nothing } else { Heard::Something }
    }
}

/// A job's result, and until when its log is waited for.
struct Ended {
    result: Marked,
    earliest: Instant,
    latest: Instant,
}

impl Ended {
    fn new(result: Marked) -> Self {
        let (now, old) = (Instant::now(), Timestamp::now().since(result.finished_at) > SETTLED);
        let wait = |wait| if old { now } else { now + wait };
        Self { result, earliest: wait(SETTLE), latest: wait(SETTLE_MAX) }
    }

    /// Whether everything is there that there will be, given the last chunk that was read and when the reading of it began.
    fn is_whole(&self, last: Option<(u32, u64)>, read: Instant) -> bool {
        let count = self.result.log_chunks;
        let complete = count == 0 || last.is_some_and(|(attempt, seq)| attempt == self.result.attempt && seq + 1 >= count);
        read >= self.latest || (complete && read >= self.earliest)
    }
}

#[cfg(test)]
mod tests {
    use muster_schemas::{
        code::Code,
        result::{ErrorInfo, JobResult, Outcome},
        signature::Mark,
    };

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_flood_of_announcements_does_not_put_off_the_look() {
        let mut looks = Looks::new();
        let first = looks.at;
        looks.announced(first - Duration::from_millis(1));
        assert_eq!(looks.at, first);
        assert!(matches!(looks.looked(first), Heard::Something));
        assert_eq!(looks.at, first + LOOKS[1]);
        looks.announced(first + Duration::from_millis(1));
        assert_eq!(looks.at, first + Duration::from_millis(3));
        for _ in 0..4 {
            assert!(matches!(looks.looked(first), Heard::Something));
        }
        assert!(matches!(looks.looked(first), Heard::Nothing));
        assert_eq!(looks.at, first + LOOK_ANYWAY);
    }

    #[tokio::test(start_paused = true)]
    async fn a_job_is_told_to_its_last_chunk_but_not_waited_for_long() {
        let now = Timestamp::now();
        let mut result = JobResult::never_ran(Outcome::Failed, ErrorInfo::new(Code::ExitNonzero, ""), now, now);
        (result.attempt, result.log_chunks) = (2, 3);
        let ended = |result: &JobResult| Ended::new(Marked { result: result.clone(), signature: Some(Mark::Valid) });
        let (old, ended) = (ended, ended(&result));
        let (soon, late) = (ended.earliest, ended.latest);
        assert!(ended.is_whole(Some((2, 2)), soon) && !ended.is_whole(Some((2, 2)), soon - Duration::from_millis(1)));
        for last in [None, Some((1, 7)), Some((2, 1))] {
            assert!(!ended.is_whole(last, soon) && ended.is_whole(last, late), "{last:?}");
        }
        result.finished_at = Timestamp::from_secs(0);
        assert!(old(&result).is_whole(None, Instant::now()), "what is long over is not waited for");
    }
}
