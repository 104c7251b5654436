//! Many jobs in one request, each accepted or refused on its own.
//!
//! Jobs for the same queue are stored in one commit of the broker's, since what takes the time is its flush to disk. What comes of each of
//! them is then dealt with as if it had been submitted alone ([`super::place`]).

use std::{collections::BTreeMap, sync::OnceLock};

use futures_util::{StreamExt as _, future::join_all, stream};
use muster_client::atomic::{self, Outgoing};
use muster_runtime::trace::TraceContext;
use muster_schemas::{
    api::{BATCH_MAX, Batch, BatchEntry, Submit},
    code::Code,
    signature::SHARED_MAX,
    time::Timestamp,
};
use serde_json::Value;

use super::{
    order::{IdFrom, Order},
    place::{self, Placed},
};
use crate::{app::App, connections::named, problem::ApiError, signing, stored};

/// How many jobs of a batch are looked up at once.
const AT_ONCE: usize = 64;

/// What became of one job.
type Answer = Result<Placed, ApiError>;

/// Submits each job of a batch; the answers are in the order of the jobs.
pub(crate) async fn submit(app: &App, batch: Batch, trace: &TraceContext, request_id: &str) -> Result<Vec<BatchEntry>, ApiError> {
    if !(1..=BATCH_MAX).contains(&batch.jobs.len()) {
        let detail = format!("field `jobs`: it takes 1 to {BATCH_MAX} jobs, and got {}", batch.jobs.len());
        return Err(ApiError::new(Code::FieldInvalid, detail));
    }
    let (task, trace) = (app.clone(), trace.clone());
    // A caller that hangs up does not leave jobs behind of which the history was not told.
    let running = app.desk.group().spawn(async move { all(&task, batch.jobs, &trace).await });
    let answers = running.await.map_err(|error| ApiError::internal("submit the batch", error))?;
    let entry = |answer| match answer {
        Ok(Placed { view, .. }) => BatchEntry { job: Some(view), problem: None },
        Err(error) => BatchEntry { job: None, problem: Some(ApiError::problem(&error, request_id)) },
    };
    Ok(answers.into_iter().map(entry).collect())
}

async fn all(app: &App, jobs: Vec<Value>, trace: &TraceContext) -> Vec<Answer> {
    let away = OnceLock::new();
    let looked: Vec<_> = stream::iter(jobs).map(|job| look(app, job, &away)).buffered(AT_ONCE).collect().await;
    let mut answers = Vec::with_capacity(looked.len());
    let mut queues: BTreeMap<String, Vec<(usize, Order)>> = BTreeMap::new();
    for (place, looked) in looked.into_iter().enumerate() {
        match looked {
            Ok((order, None)) => queues.entry(order.queue.stream(&order.pool)).or_default().push((place, order)),
            Ok((_, Some(first))) => answers.push((place, Ok(first))),
            Err(error) => answers.push((place, Err(error))),
        }
    }
    let stored = join_all(queues.into_iter().map(|(stream, orders)| store(app, stream, orders, trace))).await;
    answers.extend(stored.into_iter().flatten());
    answers.sort_by_key(|(place, _)| *place);
    let answers = answers.into_iter().map(|(_, answer)| answer);
    answers.inspect(|answer| place::count(app, answer, |placed| placed.repeated)).collect()
}

/// Checks a job, and looks for an earlier submit of it. `away` is set once the broker does not answer: then the jobs behind do not each
/// wait for it too.
async fn look(app: &App, job: Value, away: &OnceLock<ApiError>) -> Result<(Order, Option<Placed>), ApiError> {
    let mut submit = parse(job)?;
    if let Some(error) = away.get() {
        return Err(error.clone());
    }
    named::settle_pool(app, &mut submit).await?;
    let order = Order::check(&submit, None, Timestamp::now())?;
    match place::before(app, &order).await {
        Ok(first) => Ok((order, first)),
        Err(error) if error.code == Code::BrokerUnavailable => Err(away.get_or_init(|| error).clone()),
        Err(error) => Err(error),
    }
}

/// Stores the jobs of one stream.
async fn store(app: &App, stream: String, orders: Vec<(usize, Order)>, trace: &TraceContext) -> Vec<(usize, Answer)> {
    let mut messages: Vec<Outgoing> = orders.iter().map(|(_, order)| place::message(order, trace, order.id_from != IdFrom::Us)).collect();
    for together in messages.chunks_mut(SHARED_MAX) {
        if let Err(error) = signing::sign_jobs(&app.signing, together) {
            return orders.into_iter().map(|(place, _)| (place, Err(error.clone()))).collect();
        }
        // Other requests have a turn: bodies may be large.
        tokio::task::yield_now().await;
    }
    let timer = app.desk.store_seconds.start_timer();
    let answers = atomic::publish_all(&app.nats, &stream, &messages).await;
    timer.observe_duration();
    let settled = stream::iter(orders.into_iter().zip(answers)).map(|((place, order), answer)| async move {
        let answer = match stored::kept(answer) {
            Ok(kept) => place::settle(app, &order, trace, kept).await,
            Err(error) => Err(place::lost(&order, error)),
        };
        (place, answer)
    });
    settled.buffered(AT_ONCE).collect().await
}

fn parse(job: Value) -> Result<Submit, ApiError> {
    // Without this a job would also be read from an array, field by field.
    if !job.is_object() {
        return Err(ApiError::new(Code::FieldInvalid, "a job is an object"));
    }
    serde_json::from_value(job).map_err(|error| ApiError::new(Code::FieldInvalid, format!("a field of the job does not fit: {error}")))
}
