//! Cancels a job: a queued one never runs, a running one is stopped.
//!
//! In this order, and each step safe to repeat:
//! 1. **Fence.** A `cancelled` result is stored. The first result wins, so from here on the job has exactly one outcome, whatever an
//!    agent does; if the broker refuses it, the job has ended otherwise and is left alone.
//! 2. **Clear.** The job's message leaves the queue, so that nobody is given it any more. Were this done first, a job would be lost
//!    without a result when the gateway dies between the two.
//! 3. **Order.** Agents are told to stop the job, or to drop it if its delivery is under way to them. Only when they have heard is the cancel
//!    answered, so nothing starts after the answer.
//!
//! It runs as a task of its own: a caller that hangs up does not leave it half done. A step that fails is tried again in the background.

use std::time::Duration;

use async_nats::HeaderMap;
use futures_util::future::join_all;
use muster_client::atomic::Outgoing;
use muster_schemas::{
    api::JobView,
    code::Code,
    control::{self, What},
    event::EventKind,
    headers::{CONTENT_TYPE, MSGPACK, REPLY_TO, SIGNATURE, TTL},
    job::Job,
    names::{AgentId, JobId, PoolName},
    queue,
    records::AgentState,
    result::{ErrorInfo, JobResult, Outcome},
    signature::{Mark, Signed},
    subjects::{self, About},
    time::Timestamp,
    topology::{RESULT_TTL, RESULTS},
    wire::{self, V},
};

use super::{
    lookup::{self, Found},
    outcome::{self, Marked},
    view::{self, Queued},
};
use crate::{
    agents::ping,
    app::App,
    problem::ApiError,
    stored::{self, Kept, StoreError, walk},
};

/// Orders go to every agent of a pool up to this many, since the agent that told of the job last may have lost it to another one. In
/// larger pools only that one is told, if it is known.
const AGENTS_TOLD: usize = 100;
/// How long agents have to say that they have heard of a cancel. One that is frozen starts nothing either.
const HEARD_WITHIN: Duration = Duration::from_secs(1);
/// How often, and how long apart, a cancel whose steps failed is tried again.
const TRIES: u32 = 60;
const APART: Duration = Duration::from_secs(1);
/// The most cancels that are tried again in the background at once.
const LATER_MAX: usize = 1000;

/// Cancels a job and answers it as it is then. Cancelling a cancelled job is no error.
///
/// # Errors
/// `job_not_found`, `job_ambiguous`; `job_finished` when it has ended otherwise; `broker_unavailable`, then it is safe to repeat.
pub(crate) async fn cancel(app: &App, id: &JobId, pool: Option<&PoolName>) -> Result<JobView, ApiError> {
    let (task, job, of) = (app.clone(), id.clone(), pool.cloned());
    let running = app.desk.group().spawn(async move { run(&task, &job, of.as_ref()).await });
    let cancelled = running.await.unwrap_or_else(|error| Err(ApiError::internal("cancel the job", error)));
    app.desk.cancels.with([cancelled.as_ref().map_or_else(|error| error.code.as_str(), |_| "cancelled")]).inc();
    cancelled
}

async fn run(app: &App, id: &JobId, pool: Option<&PoolName>) -> Result<JobView, ApiError> {
    match lookup::get(app, id, pool).await? {
        Found::Finished { pool, result } => {
            let result = still_cancelled(id, *result)?;
            // An earlier cancel may have stored its fence and then lost the broker.
            let [lanes, commands] = queue::places(&pool, id);
            tokio::try_join!(clear(app, &lanes.0, &lanes.1), clear(app, &commands.0, &commands.1))?;
            Ok(view::finished(pool, id.clone(), result))
        }
        Found::Queued(queued) => {
            let stopped = stop(app, &queued).await;
            if stopped.as_ref().is_err_and(|error| error.code == Code::BrokerUnavailable) {
                later(app, *queued);
            }
            stopped
        }
    }
}

/// The three steps.
pub(crate) async fn stop(app: &App, queued: &Queued) -> Result<JobView, ApiError> {
    let result = fence(app, queued).await?;
    clear(app, &queued.queue.stream(&queued.pool), &queued.subject).await?;
    tell(app, queued).await;
    Ok(view::finished(queued.pool.clone(), queued.id.clone(), result))
}

/// Stores the `cancelled` result, and answers it or the one of an earlier cancel.
pub(crate) async fn fence(app: &App, queued: &Queued) -> Result<Marked, ApiError> {
    let failed = |error: stored::StoreError| error.while_doing("store that the job is cancelled");
    let result = cancelled(queued, Timestamp::now());
    let ttl = queued.job.as_ref().map_or(RESULT_TTL, Job::result_ttl);
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, MSGPACK);
    headers.insert(TTL, format!("{}s", ttl.as_secs()));
    if let Some(reply_to) = queued.headers.get(REPLY_TO) {
        headers.insert(REPLY_TO, reply_to.clone());
    }
    let (subject, payload) = (About::Result.job(&queued.pool, &queued.id), wire::encode(&result));
    // A gateway that can't sign can cancel all the same: it counts for nobody, and is shown as not signed.
    let signature = app.signing.sign(Signed::Result, &subject, &payload);
    if let Some(signature) = &signature {
        headers.insert(SIGNATURE, signature.to_string());
    }
    let mark = if signature.is_some() { Mark::Valid } else { Mark::Missing };
    let message = Outgoing { subject: subject.clone(), headers, payload: payload.into() };
    match stored::store(&app.nats, &message).await.map_err(failed)? {
        Kept::Stored => Ok(Marked { result, signature: Some(mark) }),
        Kept::Taken => match stored::last(&app.nats, RESULTS, &subject).await.map_err(failed)? {
            Some(first) => still_cancelled(&queued.id, outcome::marked(app, &first.into()).await),
            // It was kept for a moment only, and is forgotten already.
            None => Err(ApiError::new(Code::JobFinished, format!("job `{}` has just ended", queued.id))),
        },
        kept @ (Kept::Full | Kept::Nowhere) => Err(ApiError::broker("store that the job is cancelled", format!("{kept:?}"))),
    }
}

/// The result if it says `cancelled`, else `job_finished`.
fn still_cancelled(id: &JobId, result: Marked) -> Result<Marked, ApiError> {
    if result.outcome == Outcome::Cancelled {
        return Ok(result);
    }
    let detail = format!("job `{id}` has already ended: {} at {}", result.outcome, result.finished_at);
    Err(ApiError::new(Code::JobFinished, detail))
}

async fn clear(app: &App, stream: &str, subject: &str) -> Result<(), ApiError> {
    // By sequence: see `docs/decisions/0033-no-purge-of-a-queue.md`.
    let taken_out = async {
        while let Some(message) = stored::last(&app.nats, stream, subject).await? {
            walk::delete(&app.nats, stream, &message).await?;
        }
        Ok::<_, StoreError>(())
    };
    taken_out.await.map_err(|error| error.while_doing("take the cancelled job out of its queue"))
}

/// Tells agents to stop the job, or to drop it if it is on its way to them, and waits a moment for them to have heard. Nothing else depends on
/// it: an agent that misses it finds the stored result after its next reconnect, or its own result is refused.
async fn tell(app: &App, queued: &Queued) {
    let order = control::Order { v: V, what: What::Cancel { job_id: queued.id.clone() } };
    let body = bytes::Bytes::from(wire::encode(&order));
    let agents = told(app, queued);
    for agent in &agents {
        if let Err(error) = app.nats.publish(subjects::control(agent), body.clone()).await {
            tracing::warn!(%error, job_id = %queued.id, agent_id = %agent, "cannot tell the agent to stop the job");
        }
    }
    if let Err(error) = app.nats.flush().await {
        tracing::warn!(%error, job_id = %queued.id, "cannot tell agents to stop the job");
    }
    if agents.len() <= AGENTS_TOLD {
        // One that is not connected is known at once not to have it.
        join_all(agents.iter().map(|agent| ping::ask(app, agent, HEARD_WITHIN))).await;
    }
}

/// Who may run the job, or be about to.
fn told(app: &App, queued: &Queued) -> Vec<AgentId> {
    if let Some(agent) = queued.queue.agent() {
        return vec![agent.clone()];
    }
    let agents = app.mirror.agents.all().into_iter();
    let mut told: Vec<AgentId> =
        agents.filter(|(_, agent)| agent.pool == queued.pool && agent.state != AgentState::Revoked).map(|(id, _)| id).collect();
    if let Some(runs) = queued.event.as_ref().filter(|event| event.kind == EventKind::Started).map(|event| &event.agent_id) {
        if told.len() > AGENTS_TOLD {
            told.clear();
        }
        if !told.contains(runs) {
            told.push(runs.clone());
        }
    }
    told
}

/// The result of a job that is cancelled now.
fn cancelled(queued: &Queued, now: Timestamp) -> JobResult {
    let error = ErrorInfo::new(Code::Cancelled, "the job was cancelled on request");
    let (job, told) = (queued.job.as_ref().ok(), queued.event.as_ref());
    JobResult::ended_in(&queued.queue, job, told, Outcome::Cancelled, error, (queued.at, now))
}

/// Goes on with a cancel that lost the broker: its fence may be stored or on its way, so its job must leave the queue.
fn later(app: &App, queued: Queued) {
    if app.desk.group().count() > LATER_MAX {
        tracing::error!(job_id = %queued.id, "too many cancels wait for the broker; this one is given up and has to be repeated");
        return;
    }
    let task = app.clone();
    // Nobody waits for it: whoever asked was told to repeat.
    drop(app.desk.group().spawn(async move {
        for _ in 0..TRIES {
            tokio::time::sleep(APART).await;
            task.broker.connected().await;
            match stop(&task, &queued).await {
                Err(error) if error.code == Code::BrokerUnavailable => {}
                Ok(_) | Err(_) => return,
            }
        }
        tracing::error!(job_id = %queued.id, "the job could not be cancelled");
    }));
}
