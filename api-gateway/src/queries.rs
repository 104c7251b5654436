//! What services ask over NATS: the stored result of a job, and to cancel one.
//!
//! Services have no access to the broker's own interface, whose answers go to a reply subject of the caller's choice and could be stored in
//! another pool's queue. Gateways answer for it, any one of them, and only to inboxes. A service may ask about its own pools only: the
//! broker checks the subject, which names the pool.

use std::sync::Arc;

use async_nats::Message;
use futures_util::StreamExt as _;
use muster_schemas::{
    audit::{Actor, ActorKind, AuditEntry, AuditOutcome},
    code::Code,
    control::QueryAnswer,
    names::{JobId, PoolName},
    result::ErrorInfo,
    subjects::Query,
    time::Timestamp,
    wire::{self, V},
};
use tokio::sync::Semaphore;

use crate::{
    app::App,
    jobs::{
        cancel,
        lookup::{self, Found},
    },
    problem::ApiError,
    replies,
};

/// The gateways among which queries are shared out.
const QUEUE: &str = "gateway";
/// Queries that are answered at once; more wait. Each costs the broker three reads.
const AT_ONCE: usize = 256;

/// Answers services. Ends only with an error.
pub(crate) async fn run(app: App) -> anyhow::Result<()> {
    tokio::try_join!(serve(&app, Query::Result), serve(&app, Query::Cancel))?;
    Ok(())
}

async fn serve(app: &App, verb: Query) -> anyhow::Result<()> {
    let slots = Arc::new(Semaphore::new(AT_ONCE));
    let mut asked = app.nats.queue_subscribe(verb.all(), QUEUE.into()).await?;
    while let Some(message) = asked.next().await {
        let permit = Arc::clone(&slots).acquire_owned().await?;
        let task = app.clone();
        drop(app.desk.group().spawn(async move {
            answer(&task, verb, message).await;
            drop(permit);
        }));
    }
    anyhow::bail!("the subscription to queries ended")
}

async fn answer(app: &App, verb: Query, message: Message) {
    let count = |outcome: &str| app.desk.queries.with([label(verb), outcome]).inc();
    // Without an inbox to answer to, nothing is done: a cancel whose outcome nobody learns is none that we take.
    let Some(reply) = message.reply.filter(|reply| replies::is_plain_inbox(reply)) else { return count("refused") };
    let outcome = match verb.parse(&message.subject) {
        Some((pool, id)) => ask(app, verb, &pool, &id).await,
        None => Err(ApiError::new(Code::NameInvalid, "the subject names no pool and job id")),
    };
    let answer = outcome.unwrap_or_else(|error| QueryAnswer {
        v: V,
        result: None,
        error: Some(ErrorInfo::new(error.code, error.detail)),
        queued: false,
    });
    count(answer.error.as_ref().map_or("answered", |error| error.code.as_str()));
    if let Err(error) = app.nats.publish(reply, wire::encode(&answer).into()).await {
        tracing::warn!(%error, "cannot answer a query");
    }
}

fn label(verb: Query) -> &'static str {
    match verb {
        Query::Result => "result",
        Query::Cancel => "cancel",
    }
}

async fn ask(app: &App, verb: Query, pool: &PoolName, id: &JobId) -> Result<QueryAnswer, ApiError> {
    let (result, queued) = match verb {
        Query::Result => match lookup::get(app, id, Some(pool)).await? {
            Found::Finished { result, .. } => (Some(result.result), false),
            Found::Queued(_) => (None, true),
        },
        Query::Cancel => {
            let cancelled = cancel::cancel(app, id, Some(pool)).await;
            audit(app, id, &cancelled).await;
            (cancelled?.result, false)
        }
    };
    Ok(QueryAnswer { v: V, result, error: None, queued })
}

/// Writes into the audit trail what came of a cancel. Which service asked, the broker does not tell.
async fn audit<T>(app: &App, id: &JobId, outcome: &Result<T, ApiError>) {
    let code = outcome.as_ref().err().map(|error| error.code);
    let outcome = match outcome {
        Ok(_) => AuditOutcome::Done,
        Err(error) => error.outcome(),
    };
    let actor = Actor { kind: ActorKind::Service, id: None, name: None };
    let entry = AuditEntry { target: Some(id.to_string()), code, ..AuditEntry::new("jobs.cancel", actor, outcome, Timestamp::now()) };
    app.audit.write(entry).await;
}
