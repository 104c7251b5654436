//! Removes a pool, without losing a job that was accepted.
//!
//! First its record goes, so that gateways take no more submits for it; then its lanes are closed, so that the broker takes none either,
//! whoever publishes; only then it counts whether the queue is empty, and the stream goes. When jobs turn up after all, everything is put
//! back. Jobs that have ended and are still in their queue, since their acks wait or never came, keep nothing and are taken out. With `force` the others are cancelled instead: each gets its result. So are groups that run, which would send into a pool that is gone. Commands to the pool's agents wait in a stream of all pools, which stays: they
//! are counted and cancelled as the jobs are, but one that is sent in the same moment may be left, and expires.

use std::{collections::BTreeSet, time::Duration};

use async_nats::jetstream::kv;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use muster_broker_config::provision;
use muster_schemas::{
    api::QueueView,
    code::Code,
    names::{AgentId, ExecutorName, GroupId, JobId, PoolName},
    records::{AgentState, PoolRecord},
    standing::Status,
    subjects::{self, About, broker::StreamApi},
    topology::{self, COMMANDS, RESULTS},
};
use tokio::time::Instant;

use super::{lanes, queue};
use crate::{
    app::{App, Held, create, read},
    groups,
    jobs::{cancel, view::Queued},
    problem::ApiError,
    schedules,
    stored::{self, StoreError, Stored, walk},
};

const DOING: &str = "remove the pool";
/// How long one request cancels jobs before it answers that there are more.
const CANCEL_FOR: Duration = Duration::from_secs(30);
/// Jobs that are read, and cancelled side by side, at a time.
const AT_ONCE: usize = 128;
/// The oldest jobs of a queue that are looked at for whether they have ended. More wait for their acks only after agents were killed.
const ENDED_MAX: usize = 1024;

/// Removes a pool. With `force`, jobs in its queue are cancelled, and agents that are offline are no obstacle.
///
/// # Errors
/// `pool_not_found`; `pool_not_empty` with what is in it; `broker_unavailable`, then it is safe to repeat.
pub(crate) async fn remove(app: &App, pool: &PoolName, force: bool) -> Result<(), ApiError> {
    let (task, name) = (app.clone(), pool.clone());
    // A caller that hangs up does not leave it half done.
    let running = app.desk.group().spawn(async move { run(&task, &name, force).await });
    running.await.unwrap_or_else(|error| Err(ApiError::internal(DOING, error)))
}

async fn run(app: &App, pool: &PoolName, force: bool) -> Result<(), ApiError> {
    let there = read::<PoolRecord>(&app.buckets.pools, pool.as_str()).await?;
    let jobs = jobs(app, pool).await?;
    // A stream without a record is a removal that was interrupted: go on with it.
    let (None, None) = (&there, jobs) else {
        return take_away(app, pool, there, jobs.unwrap_or(0), force).await;
    };
    Err(ApiError::new(Code::PoolNotFound, format!("there is no pool `{pool}`")))
}

async fn take_away(app: &App, pool: &PoolName, there: Option<Held<PoolRecord>>, jobs: u64, force: bool) -> Result<(), ApiError> {
    let (agents, commands, groups) = (agents(app, pool, force), commands(app, pool).await?, groups::running_in(app, pool).await?);
    // With `force` they stay, and their firings are refused.
    let schedules = if force { 0 } else { schedules::naming(app, pool).await? };
    if agents > 0 || ((jobs + commands + schedules > 0 || !groups.is_empty()) && !force) {
        let has = Has { lost: lost(app, there.as_ref(), jobs).await?, commands, groups, agents, schedules };
        return Err(not_empty(pool, &has, force));
    }
    if let Some(held) = &there {
        delete_record(app, pool, held.revision).await?;
    }
    close(app, pool, there.as_ref().map(|held| &held.record)).await?;
    if force {
        // Before their commands: what is sent after this is cancelled by who sent it.
        groups::cancel_with_pool(app, &groups).await?;
        let until = Instant::now() + CANCEL_FOR;
        cancel_all(app, &topology::jobs_stream(pool), &subjects::jobs_of(pool), until).await?;
        cancel_all(app, COMMANDS, &subjects::commands_of(pool), until).await?;
    }
    let (late, commands) = (self::jobs(app, pool).await?.unwrap_or(0), self::commands(app, pool).await?);
    let groups = groups::running_in(app, pool).await?;
    if late + commands > 0 || !groups.is_empty() {
        let lost = lost(app, there.as_ref(), late).await?;
        restore(app, pool, there).await?;
        return Err(not_empty(pool, &Has { lost, commands, groups, agents: 0, schedules: 0 }, force));
    }
    provision::remove_pool(&app.nats, pool).await.map_err(|error| lanes::failed(DOING, error))
}

/// What is in the queue: how many of its jobs wait and how many run.
async fn lost(app: &App, there: Option<&Held<PoolRecord>>, jobs: u64) -> Result<QueueView, ApiError> {
    match there {
        Some(held) => queue::look(app, &held.record).await.map_err(|error| error.while_doing(DOING)),
        // Without a record nobody knows its lanes.
        None => Ok(QueueView { pending: jobs, ..QueueView::default() }),
    }
}

/// What keeps a pool.
struct Has {
    lost: QueueView,
    commands: u64,
    groups: Vec<GroupId>,
    agents: usize,
    schedules: u64,
}

fn not_empty(pool: &PoolName, has: &Has, force: bool) -> ApiError {
    let Has { lost: QueueView { pending, running, .. }, commands, groups, agents, schedules } = has;
    let (commands, agents, schedules) = (*commands, *agents, *schedules);
    let mut has = format!("pool `{pool}` has {pending} waiting and {running} running jobs");
    if commands > 0 {
        has = format!("{has}, {commands} commands for its agents");
    }
    if let Some(first) = groups.first() {
        has = format!("{has}, {} groups that are not over (`{first}` is the newest)", groups.len());
    }
    if schedules > 0 {
        has = format!("{has}, {schedules} schedules that would find no pool");
    }
    let detail = match force {
        true if agents > 0 => format!("{has}, and {agents} agents that are there; stop these first"),
        true => format!("{has} left; repeat the request"),
        false => format!(
            "{has} and {agents} agents. With ?force=true the jobs and groups would be cancelled, waiting and running ones alike, and the agents be \
             without a pool; those that are there have to be stopped first. Schedules stay, and their firings are refused"
        ),
    };
    ApiError::new(Code::PoolNotEmpty, detail)
}

/// Jobs in the pool's queue that have not ended. `None` when there is no queue.
async fn jobs(app: &App, pool: &PoolName) -> Result<Option<u64>, ApiError> {
    let failed = |error: StoreError| error.while_doing(DOING);
    let mut state = queue::state(app, pool).await.map_err(failed)?;
    if state.as_ref().is_some_and(|state| state.messages > 0) && clear_ended(app, pool).await.map_err(failed)? {
        state = queue::state(app, pool).await.map_err(failed)?;
    }
    Ok(state.map(|state| state.messages))
}

/// Takes jobs that have a result out of the queue. Says whether there were any.
async fn clear_ended(app: &App, pool: &PoolName) -> Result<bool, StoreError> {
    let name = &topology::jobs_stream(pool);
    let oldest = match stored::from(&app.nats, name, &subjects::jobs_of(pool), 1, ENDED_MAX).await {
        Err(StoreError::NoStream(_)) => return Ok(false),
        oldest => oldest?,
    };
    let cleared = stream::iter(oldest).map(|message| async move {
        let Some(id) = subjects::parse_job(&message.subject).and_then(|address| address.id.parse::<JobId>().ok()) else { return Ok(false) };
        let result = stored::last(&app.nats, RESULTS, &About::Result.job(pool, &id)).await?;
        // One from before it was queued is of an earlier job of the same id.
        if result.is_none_or(|result| result.at < message.at) {
            return Ok(false);
        }
        walk::delete(&app.nats, name, &message).await.map(|()| true)
    });
    cleared.buffer_unordered(AT_ONCE).try_fold(false, |any, cleared| async move { Ok(any || cleared) }).await
}

/// Commands to the pool's agents that have not ended.
async fn commands(app: &App, pool: &PoolName) -> Result<u64, ApiError> {
    let behind = walk::behind(&app.nats, COMMANDS, &subjects::commands_of(pool), 1).await;
    Ok(behind.map_err(|error| error.while_doing(DOING))?.map_or(0, |behind| behind + 1))
}

/// Agents that keep the pool: all that are not revoked, or with `force` those that are there.
fn agents(app: &App, pool: &PoolName, force: bool) -> usize {
    let members = app.mirror.agents.all().into_iter().filter(|(_, agent)| agent.pool == *pool && agent.state != AgentState::Revoked);
    let there = |id: &AgentId| app.mirror.standings.get(id).is_some_and(|standing| standing.status != Status::Offline);
    members.filter(|(id, _)| !force || there(id)).count()
}

async fn delete_record(app: &App, pool: &PoolName, revision: u64) -> Result<(), ApiError> {
    let deleted = app.buckets.pools.delete_expect_revision(pool.as_str(), Some(revision)).await;
    deleted.map_err(|error| match error.kind() {
        kv::UpdateErrorKind::WrongLastRevision => ApiError::broker(DOING, "somebody changed it at the same moment"),
        _ => ApiError::broker(DOING, error),
    })?;
    // The next list of this gateway does not have it any more.
    if let Ok(Some(tombstone)) = app.buckets.pools.entry(pool.as_str()).await {
        app.mirror.pools.caught_up(tombstone.revision).await;
    }
    Ok(())
}

/// Takes the lanes' subjects from the stream, so that a job for it is refused as one for a pool that does not exist. The broker then gives
/// the stream its own name as its subject, which nobody publishes to. **[measured on 2.15.1: messages and consumers stay.]**
async fn close(app: &App, pool: &PoolName, record: Option<&PoolRecord>) -> Result<(), ApiError> {
    let max_queued = record.map_or(topology::QUEUED_DEFAULT, |record| record.limits.max_queued);
    let closed = topology::jobs(pool, &BTreeSet::<ExecutorName>::new(), max_queued);
    let closing = stored::call(&app.nats, StreamApi::Update.subject(&closed.name), &closed).await;
    closing.map(drop).map_err(|error| error.while_doing(DOING))
}

/// Puts record and lanes back.
async fn restore(app: &App, pool: &PoolName, there: Option<Held<PoolRecord>>) -> Result<(), ApiError> {
    let Some(held) = there else { return Ok(()) };
    create(&app.buckets.pools, pool.as_str(), &held.record).await?;
    provision::ensure_lanes(&app.nats, pool, &BTreeSet::new()).await.map(drop).map_err(|error| lanes::failed("put the pool back", error))
}

/// Gives every job that a stream holds below a subject a `cancelled` result and takes it out.
async fn cancel_all(app: &App, name: &str, filter: &str, until: Instant) -> Result<(), ApiError> {
    while Instant::now() < until {
        let batch = match stored::from(&app.nats, name, filter, 1, AT_ONCE).await {
            Ok(batch) => batch,
            Err(StoreError::NoStream(_)) => return Ok(()),
            Err(error) => return Err(error.while_doing(DOING)),
        };
        if batch.is_empty() {
            return Ok(());
        }
        let mut cancelled = stream::iter(batch).map(|message| cancel_one(app, name, message)).buffer_unordered(AT_ONCE);
        while let Some(one) = cancelled.next().await {
            one?;
        }
    }
    Ok(())
}

async fn cancel_one(app: &App, stream: &str, message: Stored) -> Result<(), ApiError> {
    if let Some(queued) = Queued::read(message.clone(), None) {
        match cancel::fence(app, &queued).await {
            Ok(_) => {}
            // It has just ended by itself.
            Err(error) if error.code == Code::JobFinished => {}
            Err(error) => return Err(error),
        }
    }
    walk::delete(&app.nats, stream, &message).await.map_err(|error| error.while_doing(DOING))
}
