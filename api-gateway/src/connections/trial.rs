//! Trying a connection: a job that has the executor of its kind connect, on one of the pool's agents, waited for.

use std::time::Duration;

use muster_runtime::trace::TraceContext;
use muster_schemas::{
    api::{JobView, Submit},
    names::{AgentId, ConnectionName},
    time::Timestamp,
};
use tokio::time::Instant;

use super::store;
use crate::{
    app::App,
    jobs::{order::Order, place, wait},
    problem::ApiError,
};

/// How long a try is waited for.
const WAIT: Duration = Duration::from_secs(30);
/// Seconds that it may run.
const TIMEOUT_S: i64 = 25;
/// How long it is worth anything: whoever asked has gone after that.
const EXPIRES: Duration = Duration::from_secs(60);
/// What tries a connection.
const TYPE: &str = "probe.connection";

/// Has the connection tried, by this agent or by any of its pool, and answers the job: ended, or after [`WAIT`] as it is.
pub(super) async fn run(app: &App, name: &ConnectionName, agent: Option<&AgentId>, trace: &TraceContext) -> Result<JobView, ApiError> {
    let pool = store::find(app, name).await?.record.pool;
    let now = Timestamp::now();
    let submit = Submit {
        pool: pool.to_string(),
        job_type: TYPE.to_owned(),
        connection: Some(name.to_string()),
        priority: agent.is_none().then(|| "high".to_owned()),
        timeout_s: Some(TIMEOUT_S),
        expires_at: Some(now + EXPIRES),
        ..Submit::default()
    };
    let order = match agent {
        Some(agent) => Order::command(&submit, agent, None, now)?,
        None => Order::check(&submit, None, now)?,
    };
    let deadline = Instant::now() + WAIT;
    // Before the job is published: its result may be there before the broker's acknowledgement of the job is.
    let mut waiter = app.waiters.register(&order.pool, &order.id)?;
    let view = place::place(app, &order, trace).await?.view;
    Ok(wait::until(app, view, &mut waiter, deadline).await)
}
