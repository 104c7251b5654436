//! Puts a checked job into its pool's queue, and finds the first job where the same one was submitted before.
//!
//! For a job whose id was made here this is one message to the broker and its acknowledgement, nothing else. With an id of the caller's
//! own (or an `Idempotency-Key`) there is a look first, since an earlier job may have ended; the broker's own refusals (the same
//! `Nats-Msg-Id`, or a message on the same subject) close the gap between the look and the publish.

use async_nats::HeaderMap;
use muster_runtime::trace::TraceContext;
use muster_schemas::{
    api::JobView,
    code::Code,
    headers::{CONTENT_TYPE, FRESH, MSG_ID, MSGPACK},
    subjects,
    time::Timestamp,
};

use super::{
    lookup::{self, Found},
    order::{IdFrom, Order},
    view,
};
use crate::{
    app::App,
    pools::lanes,
    problem::ApiError,
    stored::{self, Kept, StoreError},
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
    let outcome = match &placed {
        Ok(placed) if placed.repeated => "repeated",
        Ok(_) => "accepted",
        Err(error) => error.code.as_str(),
    };
    app.desk.submits.with([outcome]).inc();
    placed
}

async fn try_place(app: &App, order: &Order, trace: &TraceContext) -> Result<Placed, ApiError> {
    stored::reachable(&app.broker).await.map_err(|error| error.while_doing("take the job: nothing is stored"))?;
    lanes::ready(app, &order.pool, &order.lane.executor).await?;
    if order.id_from != IdFrom::Us
        && let Some(first) = lookup::find(app, &order.id, Some(&order.pool)).await?
    {
        return repeated(first, order);
    }
    let mut named = order.id_from != IdFrom::Us;
    let mut declared = false;
    loop {
        match store(app, order, trace, named).await? {
            Kept::Stored => return Ok(Placed { view: view::accepted(order, Timestamp::now()), repeated: false }),
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
            Kept::Full => {
                let detail = format!("pool `{}` has as many jobs in its queue as it may; try again when some have run", order.pool);
                return Err(ApiError::new(Code::QueueFull, detail).retry_after(RETRY));
            }
            Kept::Nowhere if declared => {
                return Err(ApiError::new(Code::PoolNotFound, format!("pool `{}` is being made or deleted; try again", order.pool)));
            }
            Kept::Nowhere => {
                lanes::declare(app, &order.pool, &order.lane.executor).await?;
                declared = true;
            }
        }
    }
}

/// After how long a full queue may have room again.
const RETRY: std::time::Duration = std::time::Duration::from_secs(1);

/// Publishes the job. `named` puts its id where the broker refuses a second one.
async fn store(app: &App, order: &Order, trace: &TraceContext, named: bool) -> Result<Kept, ApiError> {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, MSGPACK);
    trace.write_to(&mut headers);
    match order.id_from {
        IdFrom::Us => headers.insert(FRESH, "1"),
        IdFrom::Caller | IdFrom::Key | IdFrom::Letter if named => headers.insert(MSG_ID, order.id.as_str()),
        IdFrom::Caller | IdFrom::Key | IdFrom::Letter => {}
    }
    let subject = subjects::job(&order.pool, &order.lane, &order.id);
    let timer = app.desk.store_seconds.start_timer();
    let kept = stored::store(&app.nats, subject, headers, order.body.clone()).await;
    timer.observe_duration();
    kept.map_err(|error| lost(order, error))
}

/// The broker gave no answer: the job may be stored or not.
fn lost(order: &Order, error: StoreError) -> ApiError {
    let mut problem = error.while_doing("store the job");
    problem.detail = match order.id_from {
        IdFrom::Us => {
            "the broker did not answer in time, so the job may be queued or not; submit it with an `id` of your own or an Idempotency-Key \
                       and it is safe to repeat"
                .into()
        }
        IdFrom::Caller | IdFrom::Key | IdFrom::Letter => {
            format!("the broker did not answer in time; repeat the request: job `{}` is queued once at most", order.id)
        }
    };
    problem
}

/// Answers the first job, unless it is known that its `Idempotency-Key` was used for another one.
fn repeated(first: Found, order: &Order) -> Result<Placed, ApiError> {
    if order.id_from == IdFrom::Key && differs(&first, order) {
        let detail = format!("this Idempotency-Key was used for another job, `{}`; use a new key", order.id);
        return Err(ApiError::new(Code::JobConflict, detail));
    }
    Ok(Placed { view: first.view(&order.id, Timestamp::now()), repeated: true })
}

/// Whether the first job is certainly another one. Of a finished job its type tells; what else a result says is up to who wrote it.
fn differs(first: &Found, order: &Order) -> bool {
    match first {
        Found::Queued(queued) => queued.lane != order.lane || queued.job.as_ref().is_ok_and(|job| *job != order.job),
        Found::Finished { result, .. } => result.job_type.as_ref().is_some_and(|job_type| *job_type != order.job.job_type),
    }
}
