//! Ephemeral agents that leave for good say so over the broker, and are removed.
//!
//! Who leaves is in the subject, which the broker checks against the agent's permissions.

use async_nats::Message;
use futures_util::StreamExt as _;
use muster_schemas::{
    audit::{Actor, ActorKind, AuditEntry, AuditOutcome},
    code::Code,
    control::{LeaveAnswer, LeaveRequest},
    names::AgentId,
    records::AgentRecord,
    result::ErrorInfo,
    subjects,
    time::Timestamp,
    wire::{self, V},
};

use super::{ending, states, store};
use crate::{app::App, identity::QUEUE, problem::ApiError};

/// Words answered at once.
const AT_ONCE: usize = 16;

/// Answers agents that leave.
pub(crate) async fn run(app: App) -> anyhow::Result<()> {
    let words = app.nats.queue_subscribe(subjects::leavings(), QUEUE.into()).await?;
    words.for_each_concurrent(AT_ONCE, |word| answer(&app, word)).await;
    anyhow::bail!("the subscription for agents that leave ended")
}

async fn answer(app: &App, word: Message) {
    // An answer to any other subject would be sent with the gateway's rights instead of the agent's.
    let Some(reply) = word.reply.clone().filter(|reply| subjects::is_inbox(reply)) else { return };
    let left = leave(app, &word).await;
    audit(app, &word.subject, &left).await;
    let error = left.as_ref().err().map(|error| {
        tracing::warn!(subject = %word.subject, code = %error.code, detail = error.detail, "an agent that leaves was not removed");
        ErrorInfo::new(error.code, error.detail.clone())
    });
    if let Err(error) = app.nats.publish(reply, wire::encode(&LeaveAnswer { v: V, error }).into()).await {
        tracing::warn!(%error, "cannot answer an agent that leaves");
    }
    let Ok(record) = left else { return };
    // Behind the answer: nothing reaches the agent once its keys are refused. The dispatcher does the rest, this too if we die here.
    if let Err(error) = ending::refuse_keys(app, &record).await {
        tracing::warn!(agent = %record.id, code = %error.code, "the public keys of an agent that left could not be refused");
    }
    tracing::info!(agent = %record.id, name = %record.name, "an ephemeral agent left");
}

/// Writes into the audit trail that it left, or why not.
async fn audit(app: &App, subject: &str, left: &Result<AgentRecord, ApiError>) {
    let Some(id) = subjects::parse_leave(subject) else { return };
    let actor = Actor::new(ActorKind::Agent, id.as_str());
    let outcome = left.as_ref().err().map_or(AuditOutcome::Done, ApiError::outcome);
    let entry = AuditEntry {
        target: Some(id.to_string()),
        code: left.as_ref().err().map(|error| error.code),
        ..AuditEntry::new("agents.leave", actor, outcome, Timestamp::now())
    };
    // An agent may ask again and again.
    app.audit.write_folded(entry).await;
}

async fn leave(app: &App, word: &Message) -> Result<AgentRecord, ApiError> {
    let id: AgentId = subjects::parse_leave(&word.subject).ok_or_else(|| ApiError::new(Code::NameInvalid, "the subject names no agent"))?;
    wire::decode::<LeaveRequest>(&word.payload)?;
    if !store::there(app, &id).await?.record.ephemeral {
        return Err(ApiError::new(Code::Forbidden, "the agent is not ephemeral: an operator removes it"));
    }
    let record = states::leaving(app, &id).await?;
    ending::forget_secrets(app, &id).await?;
    Ok(record)
}
