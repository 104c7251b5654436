//! Queues the job of a dead letter again, and removes the letter once the job is stored.
//!
//! The new job's id is derived from the letter and the pool that it goes to. So two replays of one letter at once, or one that is repeated
//! because its answer was lost, are one job: the broker refuses the second message, and who asked is answered the first job.

use muster_runtime::trace::TraceContext;
use muster_schemas::{
    api::JobView,
    code::Code,
    names::{AgentId, JobId, PoolName},
    subjects::About,
    time::Timestamp,
    topology::{DEAD, EVENTS},
};
use sha2::{Digest as _, Sha256};

use super::letter::Letter;
use crate::{
    app::App,
    jobs::{
        again::{self, Again},
        lookup,
        order::IdFrom,
        place,
    },
    problem::ApiError,
    stored::{self, walk},
};

/// Replays a letter to where it was queued, or to the lanes of a pool, and answers the new job.
///
/// # Errors
/// `body_not_kept` when its body is no job; `job_finished` when it was replayed long ago and only its letter was left, which is gone then;
/// whatever a submit can answer; `broker_unavailable`, then it is safe to repeat.
pub(super) async fn replay(app: &App, letter: Letter, to: Option<&PoolName>, trace: &TraceContext) -> Result<JobView, ApiError> {
    let (task, to, trace) = (app.clone(), to.cloned(), trace.clone());
    // A caller that hangs up does not leave the letter behind its job.
    let running = app.desk.group().spawn(async move { run(&task, &letter, to, &trace).await });
    running.await.unwrap_or_else(|error| Err(ApiError::internal("replay the dead letter", error)))
}

async fn run(app: &App, letter: &Letter, to: Option<PoolName>, trace: &TraceContext) -> Result<JobView, ApiError> {
    // Where nobody names a pool, a command goes to its agent again.
    let agent = letter.target.clone().filter(|_| to.is_none());
    let pool = to.unwrap_or_else(|| letter.pool.clone());
    let id = derived(letter, &pool, agent.as_ref())?;
    let again = Again { body: &letter.body.body, of: &letter.id, pool, agent, priority: letter.priority, id, id_from: IdFrom::Letter };
    let order = again::order(again, Timestamp::now())?;
    let known = async || lookup::find(app, &order.id, Some(&order.pool)).await;
    let before = match known().await? {
        None if was_queued(app, &order.id, &order.pool).await? => match known().await? {
            // Another replay stored it between the two looks.
            Some(first) => Some(Ok(first)),
            // Its result is forgotten; its events are kept for longer.
            None => Some(Err(replayed(&order.id))),
        },
        first => first.map(Ok),
    };
    let before = before.map(|first| first.map(|first| first.view(&order.id, Timestamp::now())));
    let answer = match before {
        Some(answer) => answer,
        None => match place::place(app, &order, trace).await {
            Ok(placed) => Ok(placed.view),
            // Another replay was first, and its job has ended and is forgotten by now.
            Err(error) if error.code == Code::JobFinished => Err(error),
            Err(error) => return Err(error),
        },
    };
    remove(app, letter).await?;
    answer
}

/// Removes the letter: exactly this one, should the job have died anew meanwhile.
pub(super) async fn remove(app: &App, letter: &Letter) -> Result<(), ApiError> {
    let removed = walk::delete(&app.nats, DEAD, &letter.stored).await;
    removed.map_err(|error| error.while_doing("remove the dead letter"))
}

async fn was_queued(app: &App, id: &JobId, pool: &PoolName) -> Result<bool, ApiError> {
    let event = stored::last(&app.nats, EVENTS, &About::Event.job(pool, id)).await;
    Ok(event.map_err(|error| error.while_doing("look whether it was replayed"))?.is_some())
}

fn replayed(id: &JobId) -> ApiError {
    ApiError::new(
        Code::JobFinished,
        format!("the letter was replayed before, as job `{id}`, which has ended and whose result is not kept any more"),
    )
}

/// The id of the job that this letter becomes in this pool, or for this agent of it. The letter's place and time make it another one should the job die anew.
fn derived(letter: &Letter, pool: &PoolName, agent: Option<&AgentId>) -> Result<JobId, ApiError> {
    let mut digest = Sha256::new()
        .chain_update(&letter.stored.subject)
        .chain_update([0])
        .chain_update(letter.stored.sequence.to_be_bytes())
        .chain_update(letter.stored.at.micros().to_be_bytes())
        .chain_update(pool.as_str());
    if let Some(agent) = agent {
        digest = digest.chain_update([0]).chain_update(agent.as_str());
    }
    let hex: String = digest.finalize().iter().take(20).map(|byte| format!("{byte:02x}")).collect();
    Ok(format!("replay-{hex}").parse()?)
}
