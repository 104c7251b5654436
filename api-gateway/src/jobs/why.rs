//! Why a job waits: the facts, gathered from the broker and the copies of records; what follows from them is in [`sentence`].
//!
//! The work is bounded, whatever the queue: at most three consumers and two messages are looked at, and the copies in memory. What differs for a
//! command, a job for one agent alone, is in [`command`].

mod command;
mod sentence;

use axum::{Json as Answer, extract::State, http::StatusCode};
use futures_util::{TryStreamExt as _, stream};
use muster_schemas::{
    api::{One, WHY_AGENTS_MAX, Why, WhyAgent, WhyAgents, WhyConnection, WhyFacts, WhyQueue},
    code::Code,
    lane::{Lane, Priority},
    names::{AgentId, ExecutorName, JobId, PoolName},
    queue::Queue,
    records::{AgentRecord, AgentState, Role},
    standing::{Standing, Status},
    subjects::{self, broker::ConsumerApi},
    time::Timestamp,
    topology::{self, LanePause},
};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    lookup::{self, Found},
    view::{self, Queued},
};
use crate::{
    app::App,
    connections,
    endpoint::{Access, Endpoint},
    extract::{Path, Query},
    problem::ApiError,
    stored::{self, StoreError, walk},
};

/// The endpoint.
pub(crate) fn endpoints() -> Vec<Endpoint> {
    vec![
        Endpoint::get("/api/v1/jobs/{id}/why", Access::Role(Role::Viewer), why)
            .about("jobs", "Why a job waits", "One sentence, and the facts behind it.")
            .query::<WhyQuery>()
            .answers::<One<Why>>(StatusCode::OK, "What it waits for; or that it runs, or has ended.")
            .codes(&[Code::NameInvalid, Code::JobNotFound, Code::JobAmbiguous]),
    ]
}

/// Query of an explanation.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct WhyQuery {
    /// The job's pool; needed only when several pools have a job of this id.
    pool: Option<String>,
}

async fn why(State(app): State<App>, Path(id): Path<JobId>, Query(query): Query<WhyQuery>) -> Result<Answer<One<Why>>, ApiError> {
    let pool = query.pool.as_deref().map(str::parse::<PoolName>).transpose()?;
    let (view, facts) = match lookup::get(&app, &id, pool.as_ref()).await? {
        Found::Finished { pool, result } => {
            let agent = result.agent_id.clone().map(|agent| spoken_of(&app, agent));
            let facts = WhyFacts { attempt: result.attempt, agent, since: Some(result.finished_at), ..WhyFacts::default() };
            (view::finished(pool, id.clone(), *result), facts)
        }
        Found::Queued(queued) => {
            let facts = gather(&app, &queued).await.map_err(|error| error.while_doing("look at the job's queue"))?;
            (view::queued(&queued, Timestamp::now()), facts)
        }
    };
    let (reason, sentence) = sentence::conclude(&view, &facts, Timestamp::now());
    Ok(Answer(One { data: Why { id, pool: view.pool, state: view.state, reason, sentence, facts } }))
}

async fn gather(app: &App, queued: &Queued) -> Result<WhyFacts, StoreError> {
    let told = told(app, queued, Timestamp::now());
    let told = WhyFacts { connection: connection(app, queued).await, ..told };
    match &queued.queue {
        Queue::Agent(agent) => command::gather(app, queued, agent, told).await,
        Queue::Lane(lane) => {
            let record = app.mirror.pools.get(&queued.pool);
            Ok(WhyFacts {
                executor: Some(lane.executor.clone()),
                paused: record.and_then(|record| record.paused.clone()),
                queue: Some(queue(app, queued, lane).await?),
                agents: Some(agents(app, &queued.pool, &lane.executor)),
                ..told
            })
        }
    }
}

/// What the job itself and the last event about it tell.
fn told(app: &App, queued: &Queued, now: Timestamp) -> WhyFacts {
    let event = queued.event.as_ref();
    let put_off = queued.job.as_ref().ok().and_then(|job| job.not_before);
    WhyFacts {
        priority: Some(queued.queue.priority()),
        attempt: event.map_or(0, |event| event.attempt),
        agent: event.map(|event| spoken_of(app, event.agent_id.clone())),
        since: Some(event.map_or(queued.at, |event| event.at)),
        next_at: event.and_then(|event| event.next_at).or(put_off).filter(|at| *at > now),
        said: event.and_then(|event| event.reason.clone()),
        ..WhyFacts::default()
    }
}

/// The connection that the job names. `None` also where it can't be looked up now: the rest is told all the same.
async fn connection(app: &App, queued: &Queued) -> Option<WhyConnection> {
    let name = queued.job.as_ref().ok()?.connection.clone()?;
    let held = match connections::known(app, &name).await.ok()? {
        Some(there) => Some(connections::recipients::anybody(app, &there.record, queued.queue.agent()).await.ok()?),
        None => None,
    };
    Some(WhyConnection { name, held })
}

/// An agent that told something of the job.
fn spoken_of(app: &App, id: AgentId) -> WhyAgent {
    let (record, standing) = (app.mirror.agents.get(&id), app.mirror.standings.get(&id));
    agent(id, record.as_deref(), standing.as_deref())
}

fn agent(id: AgentId, record: Option<&AgentRecord>, standing: Option<&Standing>) -> WhyAgent {
    let allowed = record.is_some_and(|record| record.state == AgentState::Active);
    WhyAgent {
        id,
        name: record.map(|record| record.name.clone()),
        state: record.map(|record| record.state),
        status: standing.map(|standing| standing.status),
        accepting: allowed && standing.is_some_and(|standing| standing.accepting),
        reason: standing.and_then(|standing| standing.reason.clone()),
    }
}

/// The pool's agents, as far as they matter to jobs of this executor.
fn agents(app: &App, pool: &PoolName, executor: &ExecutorName) -> WhyAgents {
    let mut found = WhyAgents::default();
    let members = app.mirror.agents.all().into_iter().filter(|(_, record)| record.pool == *pool && record.state != AgentState::Revoked);
    for (id, record) in members {
        found.registered += 1;
        if !record.may_run(executor) {
            continue;
        }
        let standing = app.mirror.standings.get(&id);
        let agent = agent(id, Some(&record), standing.as_deref());
        let online = matches!(agent.status, Some(Status::Online | Status::Degraded));
        found.able += 1;
        found.online += u64::from(online);
        found.accepting += u64::from(online && agent.accepting);
        found.listed.push(agent);
    }
    found.listed.sort_by_key(|agent| (!agent.accepting, agent.status.is_none_or(|status| status == Status::Offline)));
    found.listed.truncate(WHY_AGENTS_MAX);
    found
}

/// What the broker says of a lane, or of the queue of one agent.
#[derive(Debug, Default)]
struct QueueState {
    pending: u64,
    running: u64,
    limit: u64,
    asking: u64,
    /// Up to this sequence jobs were given out.
    delivered: u64,
    no_share: bool,
}

/// `None` without a consumer: it is just being made, and nobody has pulled from it.
async fn state(app: &App, stream: &str, consumer: &str) -> Result<Option<QueueState>, StoreError> {
    let info = stored::call(&app.nats, ConsumerApi::Info.subject(stream, consumer), &json!({})).await?;
    let Some(info) = info else { return Ok(None) };
    let number = |pointer: &str| info.pointer(pointer).and_then(Value::as_u64).unwrap_or(0);
    let until = info.pointer("/config/pause_until").and_then(Value::as_str).and_then(|until| until.parse::<Timestamp>().ok());
    let paused = info.get("paused").and_then(Value::as_bool).unwrap_or(false);
    Ok(Some(QueueState {
        pending: number("/num_pending"),
        running: number("/num_ack_pending"),
        limit: number("/config/max_ack_pending"),
        asking: number("/num_waiting"),
        delivered: number("/delivered/stream_seq"),
        no_share: paused && until.is_some_and(|until| LanePause::read(until) == LanePause::NoShare),
    }))
}

/// What is in the pool's queue before the job.
async fn queue(app: &App, queued: &Queued, lane: &Lane) -> Result<WhyQueue, StoreError> {
    let stream = topology::jobs_stream(&queued.pool);
    let own = ahead(app, queued, &stream, &lane.consumer(), &subjects::lane(&queued.pool, lane)).await?;
    let above = Priority::ALL.into_iter().filter(|priority| *priority < lane.priority);
    let above = above.map(|priority| Lane { priority, executor: lane.executor.clone() });
    let above = stream::iter(above.map(Ok::<_, StoreError>))
        .try_fold(0_u64, |sum, lane| {
            let stream = &stream;
            async move { Ok(sum.saturating_add(state(app, stream, &lane.consumer()).await?.unwrap_or_default().pending)) }
        })
        .await?;
    Ok(WhyQueue { ahead: own.ahead.saturating_add(above), ..own })
}

/// What is before the job among what this consumer gives out. Counted by the broker: what is not given out less what lies behind the job.
/// Without a consumer that is all that matches the filter.
async fn ahead(app: &App, queued: &Queued, stream: &str, consumer: &str, filter: &str) -> Result<WhyQueue, StoreError> {
    let own = match state(app, stream, consumer).await? {
        Some(own) => own,
        None => {
            let all = walk::behind(&app.nats, stream, filter, 1).await?.map_or(0, |behind| behind.saturating_add(1));
            QueueState { pending: all, ..QueueState::default() }
        }
    };
    let message = stored::last(&app.nats, stream, &queued.subject).await?;
    // It may have left the queue this moment: then nothing is ahead of it.
    let given_out = message.as_ref().is_none_or(|message| message.sequence <= own.delivered);
    let ahead = match message.filter(|_| !given_out) {
        Some(message) => {
            let behind = walk::behind(&app.nats, stream, filter, message.sequence).await?.unwrap_or(0);
            own.pending.saturating_sub(behind.saturating_add(1))
        }
        None => 0,
    };
    Ok(WhyQueue { ahead, running: own.running, limit: own.limit, no_share: own.no_share, asking: own.asking, given_out })
}
