//! Follows the list of signers: every change as it happens, a look at each connect, and the gateway where the broker's list is of no use.

use std::time::Duration;

use futures_util::StreamExt as _;
use muster_runtime::{http::Readiness, shutdown::Shutdown};
use muster_schemas::{signature::SIGNERS_KEY, subjects::js, time::Timestamp, topology::TRUST};
use tokio::time::Instant;

use super::{ASK_EVERY, Trust};
use crate::{
    identity::{
        Identity,
        end::{End, Ended},
        enrol::{Gateway, Proof},
        registration::Registration,
    },
    js::Js,
    link::Link,
};

/// The check of `/readyz` that fails while no job can be judged.
pub(crate) const CHECK: &str = "signers";

/// Between two registrations for the sake of the list, while there is none.
const ASK_FIRST: Duration = Duration::from_secs(5);

/// What following takes.
#[derive(Debug, Clone)]
pub(crate) struct Follow {
    pub(crate) trust: Trust,
    pub(crate) js: Js,
    pub(crate) link: tokio::sync::watch::Receiver<Link>,
    pub(crate) identity: Identity,
    pub(crate) gateway: Option<Gateway>,
    pub(crate) registration: Registration,
    pub(crate) readiness: Readiness,
    /// Told when the gateway has this agent in another pool.
    pub(crate) ended: Ended,
}

impl Follow {
    /// Follows the list until the shutdown.
    pub(crate) async fn run(mut self, shutdown: Shutdown) -> anyhow::Result<()> {
        let mut changes = self.js.client().subscribe(js::key(TRUST, SIGNERS_KEY)).await?;
        let mut ask_at = Instant::now();
        let mut said = false;
        loop {
            self.show(&mut said);
            let broken = self.trust.0.broken.notified();
            tokio::select! {
                () = shutdown.requested() => return Ok(()),
                Some(message) = changes.next() => {
                    // Deleted: what agents know counts until there is another one.
                    if !message.payload.is_empty() {
                        self.trust.hear(&message.payload);
                    }
                }
                up = self.link.changed() => {
                    up?;
                    if self.link.borrow_and_update().up && let Err(error) = self.trust.look_now(&self.js).await {
                        tracing::warn!(%error, "can't look at the list of signers");
                    }
                }
                () = broken => {}
                () = tokio::time::sleep_until(ask_at), if self.trust.is_broken() => {
                    self.ask().await;
                    let without = self.trust.list().is_none();
                    ask_at = Instant::now() + if without { ASK_FIRST } else { ASK_EVERY };
                }
                else => anyhow::bail!("the subscription ended"),
            }
        }
    }

    /// Registers once more: the answer has the list, and [`Gateway::register`] pins it.
    async fn ask(&self) {
        let Some(gateway) = &self.gateway else { return };
        let stored = self.identity.stored();
        match gateway.register(&Proof::Key(self.identity.api_key()), &stored.seed, &self.registration).await {
            Ok(answer) => match self.identity.registered(answer.registered, &answer.told, Timestamp::now()) {
                Ok(()) => tracing::info!("registered again for the list of signers"),
                Err(pool) => self.ended.say(End::Elsewhere(pool)),
            },
            Err(error) => tracing::warn!(%error, "can't ask the gateway for the list of signers"),
        }
    }

    fn show(&self, said: &mut bool) {
        let state = if self.trust.is_blind() {
            let how = if self.gateway.is_some() {
                "asking the gateway for it"
            } else {
                "set AGENT_API_URL so that the gateway can give it, or TRUSTED_SIGNERS"
            };
            Err(format!("this agent has no list of whose jobs to run, so it runs nothing; {how}"))
        } else {
            Ok(())
        };
        if let Err(why) = &state
            && !std::mem::replace(said, true)
        {
            tracing::error!("{why}");
        }
        self.readiness.set(CHECK, state);
    }
}
