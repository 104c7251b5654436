//! Puts a checked job into its queue, and finds the first job where the same one was submitted before.
//!
//! For a job whose id was made here this is one message to the broker and its acknowledgement, nothing else; jobs that come at the same time share a
//! commit ([`crate::stored::Commits`]). With an id of the caller's
//! own (or an `Idempotency-Key`) there is a look first, since an earlier job may have ended; the broker's own refusals (the same
//! `Nats-Msg-Id`, or a message on the same subject) close the gap between the look and the publish.

use async_nats::HeaderMap;
use muster_client::atomic::Outgoing;
use muster_runtime::trace::TraceContext;
use muster_schemas::{
    api::JobView,
    code::Code,
    headers::{CONTENT_TYPE, FRESH, MSG_ID, MSGPACK, msg_id},
    job::Job,
    queue::Queue,
    time::Timestamp,
    topology::COMMANDS_MAX,
};

use super::{
    lookup::{self, Found},
    order::{IdFrom, Order},
    view,
};
use crate::{
    agents::commands,
    app::App,
    connections::named,
    pools::lanes,
    problem::ApiError,
    signing,
    stored::{self, Kept, StoreError},
    types,
};

/// Where a job is after a submit.
pub(crate) struct Placed {
    /// The job.
    pub(crate) view: JobView,
    /// Whether an earlier submit had put it there.
    pub(crate) repeated: bool,
}

/// Submits a checked job.
pub(crate) async fn place(app: &App, order: &Order, trace: &TraceContext) -> Result<Placed, ApiError> {
    let placed = try_place(app, order, trace).await;
    count(app, &placed, |placed| placed.repeated);
    placed
}

/// Counts what became of a submit.
pub(crate) fn count<T>(app: &App, submitted: &Result<T, ApiError>, repeated: impl FnOnce(&T) -> bool) {
    let outcome = match submitted {
        Ok(there) if repeated(there) => "repeated",
        Ok(_) => "accepted",
        Err(error) => error.code.as_str(),
    };
    app.desk.submits.with([outcome]).inc();
}

async fn try_place(app: &App, order: &Order, trace: &TraceContext) -> Result<Placed, ApiError> {
    if let Some(first) = before(app, order).await? {
        return Ok(first);
    }
    let kept = store(app, order, trace, order.id_from != IdFrom::Us).await?;
    settle(app, order, trace, kept).await
}

/// What is looked at before a job is stored: the broker, whether an earlier submit put it there, and only then whether it has a place to go
/// to: what was taken once is answered as it is, also when it would not be taken any more.
pub(super) async fn before(app: &App, order: &Order) -> Result<Option<Placed>, ApiError> {
    stored::reachable(&app.broker).await.map_err(|error| error.while_doing("take the job: nothing is stored"))?;
    if order.id_from != IdFrom::Us
        && let Some(first) = lookup::find(app, &order.id, Some(&order.pool)).await?
    {
        return repeated(first, order).map(Some);
    }
    match &order.queue {
        Queue::Lane(lane) => lanes::ready(app, &order.pool, &lane.executor).await?,
        Queue::Agent(agent) => commands::ready(app, &order.pool, agent, &order.job.job_type).await?,
    }
    let (pool, agent, job) = (&order.pool, order.queue.agent(), &order.job);
    named::ready(app, pool, agent, &job.job_type, job.connection.as_ref()).await?;
    types::check(app, pool, agent, &job.job_type, &job.params)?;
    Ok(None)
}

/// Answers a submit by what became of the first try to store its job; tries again where that helps.
pub(super) async fn settle(app: &App, order: &Order, trace: &TraceContext, mut kept: Kept) -> Result<Placed, ApiError> {
    let mut named = order.id_from != IdFrom::Us;
    let mut declared = false;
    loop {
        match kept {
            Kept::Stored => {
                if let Queue::Agent(agent) = &order.queue {
                    commands::reach(app, &order.pool, agent).await;
                }
                return Ok(Placed { view: view::accepted(order, Timestamp::now()), repeated: false });
            }
            Kept::Taken => {
                if let Some(first) = lookup::find(app, &order.id, Some(&order.pool)).await? {
                    return repeated(first, order);
                }
                if order.id_from == IdFrom::Letter {
                    let detail = format!("the letter was replayed just before, as job `{}`, which has ended", order.id);
                    return Err(ApiError::new(Code::JobFinished, detail));
                }
                // The broker remembers the id for two minutes, but its job has ended and its result is not kept any more: it is free again.
                if !std::mem::replace(&mut named, false) {
                    return Err(ApiError::broker("store the job", "the id is taken and there is no job of it"));
                }
            }
            Kept::Full => return Err(ApiError::new(Code::QueueFull, full(order)).retry_after(RETRY)),
            Kept::Nowhere => match &order.queue {
                Queue::Lane(lane) if !std::mem::replace(&mut declared, true) => lanes::declare(app, &order.pool, &lane.executor).await?,
                Queue::Lane(_) => {
                    return Err(ApiError::new(Code::PoolNotFound, format!("pool `{}` is being made or deleted; try again", order.pool)));
                }
                Queue::Agent(_) => return Err(ApiError::broker("store the command", "its stream takes no commands")),
            },
        }
        kept = store(app, order, trace, named).await?;
    }
}

/// After how long a full queue may have room again.
const RETRY: std::time::Duration = std::time::Duration::from_secs(1);

/// What a full queue means to a caller.
fn full(order: &Order) -> String {
    match &order.queue {
        Queue::Lane(_) => format!("pool `{}` has as many jobs in its queue as it may; try again when some have run", order.pool),
        Queue::Agent(_) => {
            format!("as many commands wait as may, {COMMANDS_MAX} of all agents together; try again when some have run or expired")
        }
    }
}

/// Publishes the job.
async fn store(app: &App, order: &Order, trace: &TraceContext, named: bool) -> Result<Kept, ApiError> {
    let timer = app.desk.store_seconds.start_timer();
    let mut message = message(order, trace, named);
    // Signed anew each time: what is sent differs, and so does when.
    signing::sign_jobs(&app.signing, std::slice::from_mut(&mut message))?;
    let answer = app.commits.store(order.queue.stream(&order.pool), message).await;
    timer.observe_duration();
    stored::kept(answer).map_err(|error| lost(order, error))
}

/// The job as it is published, but for its signature. `named` puts its id where the broker refuses a second one.
pub(super) fn message(order: &Order, trace: &TraceContext, named: bool) -> Outgoing {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, MSGPACK);
    trace.write_to(&mut headers);
    match order.id_from {
        IdFrom::Us => headers.insert(FRESH, "1"),
        IdFrom::Caller | IdFrom::Key | IdFrom::Retry | IdFrom::Letter if named => headers.insert(MSG_ID, msg_id(&order.pool, &order.id)),
        IdFrom::Caller | IdFrom::Key | IdFrom::Retry | IdFrom::Letter => {}
    }
    let subject = order.queue.subject(&order.pool, &order.id);
    Outgoing { subject, headers, payload: order.body.clone() }
}

/// The broker gave no answer: the job may be stored or not.
pub(super) fn lost(order: &Order, error: StoreError) -> ApiError {
    if matches!(error, StoreError::NotSent | StoreError::Busy) {
        return error.while_doing("take the job: nothing is stored");
    }
    let mut problem = error.while_doing("store the job");
    problem.detail = match order.id_from {
        IdFrom::Us => {
            "the broker did not answer in time, so the job may be queued or not; submit it with an `id` of your own or an Idempotency-Key \
                       and it is safe to repeat"
                .into()
        }
        IdFrom::Caller | IdFrom::Key | IdFrom::Retry | IdFrom::Letter => {
            format!("the broker did not answer in time; repeat the request: job `{}` is queued once at most", order.id)
        }
    };
    problem
}

/// Answers the first job, unless it is known that its `Idempotency-Key` was used for another one, or that a command's id is that of a job which is not
/// for the same agent.
fn repeated(first: Found, order: &Order) -> Result<Placed, ApiError> {
    if order.queue.agent().is_some() && elsewhere(&first, order) {
        let detail = format!("a job `{}` of pool `{}` is there already, and is not for this agent; use a new id", order.id, order.pool);
        return Err(ApiError::new(Code::JobConflict, detail));
    }
    if order.id_from == IdFrom::Key && differs(&first, order) {
        let detail = format!("this Idempotency-Key was used for another job, `{}`; use a new key", order.id);
        return Err(ApiError::new(Code::JobConflict, detail));
    }
    Ok(Placed { view: first.view(&order.id, Timestamp::now()), repeated: true })
}

/// Whether the first job is certainly another one. Of a finished job its type tells; what else a result says is up to who wrote it.
fn differs(first: &Found, order: &Order) -> bool {
    match first {
        Found::Queued(queued) => queued.queue != order.queue || queued.job.as_ref().is_ok_and(|job| !same(job, order)),
        Found::Finished { result, .. } => result.job_type.as_ref().is_some_and(|job_type| *job_type != order.job.job_type),
    }
}

/// Whether what was queued asks for the same. A command that does not say when it expires is given a time by the clock, so that a repeated one has
/// another.
fn same(first: &Job, order: &Order) -> bool {
    if order.queue.agent().is_some() {
        return Job { expires_at: None, ..first.clone() } == Job { expires_at: None, ..order.job.clone() };
    }
    *first == order.job
}

/// Whether the first job is certainly for somebody else than the order's agent. A result only tells who ran it.
fn elsewhere(first: &Found, order: &Order) -> bool {
    match first {
        Found::Queued(queued) => queued.queue != order.queue,
        Found::Finished { result, .. } => result.agent_id.as_ref().is_some_and(|ran| Some(ran) != order.queue.agent()),
    }
}
