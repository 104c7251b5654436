//! Ends the commands to an agent that is removed: those that wait, those put off, and those that it was given and has not ended.

use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use muster_runtime::nats::Broker;
use muster_schemas::{
    code::Code,
    names::{AgentId, AgentName, JobId, PoolName},
    queue::Queue,
    result::{ErrorInfo, Outcome},
    subjects,
    topology::COMMANDS,
};

use super::WardenError;
use crate::{
    broker::{self, Stored},
    cancel,
    held::{self, Held},
    lease::keeper::Leadership,
    signing::Signing,
};

/// Commands that are ended at once: each waits for the broker's disk.
const AT_ONCE: usize = 16;

/// Ends all of them, with a stored result each, and answers how many.
pub(super) async fn end(
    broker: &Broker,
    leadership: &Leadership,
    signing: &Signing,
    (pool, agent, name): (&PoolName, &AgentId, &AgentName),
) -> Result<usize, WardenError> {
    let (client, ended) = (broker.client(), AtomicUsize::new(0));
    let filter = subjects::commands_to(pool, agent);
    loop {
        // What was ended has left the stream.
        let page = held::page(client, COMMANDS, &filter, 1).await?;
        if page.is_empty() {
            return Ok(ended.into_inner());
        }
        let end_one = |held: Held| {
            let ended = &ended;
            async move {
                if !leadership.is_mine() {
                    return Err(WardenError::NotActive);
                }
                let token = held.subject.rsplit('.').next().and_then(|token| token.parse::<JobId>().ok());
                let Some(id) = token else {
                    // No result can be stored under it, and whoever sent it knows no id to ask for.
                    return Ok(broker::delete(client, COMMANDS, held.sequence).await?);
                };
                let waiting = cancel::waiting(client, pool, &id, Queue::Agent(agent.clone()), held).await?;
                let why = ErrorInfo::new(Code::AgentDeleted, format!("agent `{name}` ({agent}), which it was for, was removed"));
                if waiting.end(client, signing, Outcome::Cancelled, why).await? == Stored::Now {
                    ended.fetch_add(1, Ordering::Relaxed);
                }
                Ok(())
            }
        };
        stream::iter(page).map(end_one).buffer_unordered(AT_ONCE).try_collect::<()>().await?;
    }
}
