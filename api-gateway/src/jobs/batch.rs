//! Many jobs in one request, each accepted or refused on its own.
//!
//! Jobs are sent to the broker side by side and not one after the other: what takes the time is the broker's flush to disk, and it
//! flushes once for all that have come meanwhile.

use futures_util::{StreamExt as _, stream};
use muster_runtime::trace::TraceContext;
use muster_schemas::{
    api::{BATCH_MAX, Batch, BatchEntry, Submit},
    code::Code,
    time::Timestamp,
};
use serde_json::Value;

use super::{order::Order, place};
use crate::{app::App, problem::ApiError};

/// How many jobs of a batch are on their way to the broker at once.
const AT_ONCE: usize = 64;

/// Submits each job of a batch; the answers are in the order of the jobs.
pub(crate) async fn submit(app: &App, batch: Batch, trace: &TraceContext, request_id: &str) -> Result<Vec<BatchEntry>, ApiError> {
    if !(1..=BATCH_MAX).contains(&batch.jobs.len()) {
        let detail = format!("field `jobs`: it takes 1 to {BATCH_MAX} jobs, and got {}", batch.jobs.len());
        return Err(ApiError::new(Code::FieldInvalid, detail));
    }
    let entries = stream::iter(batch.jobs).map(|job| async move {
        match one(app, job, trace).await {
            Ok(placed) => BatchEntry { job: Some(placed.view), problem: None },
            Err(error) => BatchEntry { job: None, problem: Some(error.problem(request_id)) },
        }
    });
    Ok(entries.buffered(AT_ONCE).collect().await)
}

async fn one(app: &App, job: Value, trace: &TraceContext) -> Result<place::Placed, ApiError> {
    let order = match check(job) {
        Ok(order) => order,
        Err(error) => {
            app.desk.submits.with([error.code.as_str()]).inc();
            return Err(error);
        }
    };
    place::place(app, &order, trace).await
}

fn check(job: Value) -> Result<Order, ApiError> {
    // Without this a job would also be read from an array, field by field.
    if !job.is_object() {
        return Err(ApiError::new(Code::FieldInvalid, "a job is an object"));
    }
    let submit: Submit = serde_json::from_value(job)
        .map_err(|error| ApiError::new(Code::FieldInvalid, format!("a field of the job does not fit: {error}")))?;
    Order::check(&submit, None, Timestamp::now())
}
