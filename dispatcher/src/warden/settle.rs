//! Answers gateways that have stored a decision and ask that it be carried out at once.
//!
//! Every dispatcher hears the question; the active one answers. One that is not waits a while: when the active one has just died, it is the
//! next, and nobody has to ask again. An answer that comes twice or too late does no harm.

use std::time::{Duration, Instant};

use async_nats::{Message, Subject};
use futures_util::StreamExt as _;
use muster_runtime::{nats::Broker, shutdown::Shutdown};
use muster_schemas::{
    code::Code,
    control::{SettleAnswer, SettleRequest},
    names::AgentId,
    result::ErrorInfo,
    subjects::{SETTLE, broker::GATEWAY_INBOXES},
    wire::{self, V},
};

use super::{WardenError, removal::Remover, revocations::Revocations, unfinished::Mender};
use crate::lease::keeper::Leadership;

/// A gateway waits 10 s for its answer: so long a dispatcher waits to become the active one.
const DEADLINE: Duration = Duration::from_secs(9);
/// So long one that fails is tried again.
const RETRIES: Duration = Duration::from_secs(5);
/// Time between two looks at who is active, or between two tries.
const AGAIN_AFTER: Duration = Duration::from_millis(100);
/// Questions that are worked on at once; more wait.
const AT_ONCE: usize = 256;

/// The task that answers.
pub(super) struct Settler {
    pub(super) broker: Broker,
    pub(super) leadership: Leadership,
    pub(super) revocations: Revocations,
    pub(super) remover: Remover,
    pub(super) mender: Mender,
}

impl Settler {
    /// Answers until the shutdown.
    pub(super) async fn run(self, shutdown: Shutdown) -> anyhow::Result<()> {
        let questions = self.broker.client().subscribe(SETTLE).await?;
        let answers = questions.for_each_concurrent(AT_ONCE, |message| self.take(message));
        tokio::select! {
            () = shutdown.requested() => Ok(()),
            () = answers => anyhow::bail!("the subscription to what is to be settled ended"),
        }
    }

    async fn take(&self, message: Message) {
        let Some(reply) = message.reply.filter(|reply| reply.starts_with(GATEWAY_INBOXES.trim_end_matches('>'))) else { return };
        let asked = Instant::now();
        let error = match wire::decode::<SettleRequest>(&message.payload) {
            Ok(request) => match self.settle(&request.agent_id, asked).await {
                Some(Ok(())) => None,
                Some(Err(error)) => {
                    tracing::warn!(agent = %request.agent_id, error = &error as &dyn std::error::Error, "a gateway's decision is not carried out yet");
                    Some(ErrorInfo::new(Code::SettlePending, error.to_string()))
                }
                None => return,
            },
            Err(error) if self.leadership.is_mine() => Some(ErrorInfo::new(error.code(), error.to_string())),
            Err(_) => return,
        };
        self.answer(reply, SettleAnswer { v: V, error }).await;
    }

    /// Carries out what the records of an agent say. `None` when this dispatcher was not the active one.
    async fn settle(&self, agent: &AgentId, asked: Instant) -> Option<Result<(), WardenError>> {
        while asked.elapsed() < DEADLINE {
            if self.leadership.is_mine() {
                match self.carry_out(agent).await {
                    Ok(()) => return Some(Ok(())),
                    // Another one is, and has heard the question too.
                    Err(WardenError::NotActive) => {}
                    Err(error) if matches!(error, WardenError::Missing(_)) || asked.elapsed() >= RETRIES => return Some(Err(error)),
                    Err(_) => {}
                }
            }
            tokio::time::sleep(AGAIN_AFTER).await;
        }
        None
    }

    async fn carry_out(&self, agent: &AgentId) -> Result<(), WardenError> {
        self.mender.mend(agent).await?;
        self.revocations.settle().await?;
        self.mender.leave_behind(agent).await?;
        self.remover.remove(agent).await
    }

    async fn answer(&self, reply: Subject, answer: SettleAnswer) {
        if let Err(error) = self.broker.client().publish(reply, wire::encode(&answer).into()).await {
            tracing::warn!(%error, "cannot answer a gateway");
        }
    }
}
