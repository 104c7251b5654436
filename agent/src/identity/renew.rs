//! Keeps the JWT fresh: at two thirds of its life over NATS, or over REST when NATS no longer accepts it.

use std::time::Duration;

use muster_runtime::{
    http::Readiness,
    nats::{Broker, Status},
    shutdown::Shutdown,
};
use muster_schemas::{
    api::Register,
    code::Code,
    control::{RenewAnswer, RenewRequest},
    names::AgentId,
    subjects,
    time::Timestamp,
    wire::{self, V},
};

use super::{
    Identity, REFUSALS_MEAN_IT,
    enrol::{EnrolError, Gateway, Proof},
    jwt::{Lifetime, renew_after},
};

/// The name of the check that fails while the broker refuses this agent.
pub(crate) const CHECK: &str = "identity";

/// First and longest wait between tries that failed.
const RETRY: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(60));

/// Without an expiry there is nothing to renew; looked at again now and then, since a refusal still counts.
const IDLE: Duration = Duration::from_secs(3600);

/// What renewing takes.
#[derive(Debug, Clone)]
pub(crate) struct Renewal {
    pub(crate) identity: Identity,
    pub(crate) broker: Broker,
    /// Absent when no gateway is configured: then renewal goes over NATS only.
    pub(crate) gateway: Option<Gateway>,
    /// What a registration says of this agent.
    pub(crate) register: Register,
    pub(crate) readiness: Readiness,
}

/// No fresh JWT.
#[derive(Debug, thiserror::Error)]
enum RenewError {
    #[error("the gateway says no ({code}): {message}")]
    Refused { code: Code, message: String },
    #[error(transparent)]
    Rest(#[from] EnrolError),
    #[error("no answer over NATS: {0}")]
    Nats(String),
    #[error("the broker can't be reached, and no gateway is configured (AGENT_API_URL)")]
    Nowhere,
}

impl RenewError {
    fn is_final(&self) -> bool {
        matches!(self, Self::Refused { .. } | Self::Rest(EnrolError::Refused { .. }))
    }
}

impl Renewal {
    /// Renews for ever.
    pub(crate) async fn run(self, shutdown: Shutdown) -> anyhow::Result<()> {
        let mut wait = RETRY.0;
        loop {
            let due = self.due_in();
            tokio::select! {
                () = shutdown.requested() => return Ok(()),
                () = tokio::time::sleep(due) => {}
                _ = self.broker.wait_for(|status| status.refusals > 0) => {}
            }
            let status = self.broker.status();
            if due > Duration::ZERO && status.refusals == 0 {
                // It was refused and accepted again meanwhile, or there is nothing to renew.
                self.show(&status, None);
                continue;
            }
            let outcome = self.renew(&status).await;
            self.show(&self.broker.status(), outcome.as_ref().err());
            match outcome {
                Ok(()) => {
                    tracing::info!("renewed the credential");
                    wait = RETRY.0;
                    // A refusal stands until the next connect, which takes a moment.
                    self.until_accepted(&shutdown).await;
                }
                Err(error) => {
                    tracing::warn!(error = %muster_runtime::process::chain(&error.into()), retry_in = ?wait, "can't renew the credential");
                    tokio::select! {
                        () = shutdown.requested() => return Ok(()),
                        () = tokio::time::sleep(wait) => {}
                    }
                    wait = (wait * 2).min(RETRY.1);
                }
            }
        }
    }

    /// Waits a little for the broker to take the new credential.
    async fn until_accepted(&self, shutdown: &Shutdown) {
        // Also the least time between two renewals, should the gateway ever hand out credentials without a life.
        tokio::select! {
            () = shutdown.requested() => return,
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
        }
        tokio::select! {
            () = shutdown.requested() => {}
            _ = self.broker.wait_for(|status| status.connected) => self.show(&self.broker.status(), None),
            () = tokio::time::sleep(Duration::from_secs(15)) => {}
        }
    }

    fn due_in(&self) -> Duration {
        let stored = self.identity.stored();
        let Some(length) = Lifetime::of(&stored.jwt).and_then(|life| life.length()) else { return IDLE };
        // The same agent always gets the same jitter, so that the moment does not move while it is waited for.
        let random = f64::from(stored.issued_at.micros().unsigned_abs() as u16) / f64::from(u16::MAX);
        renew_after(length, random).saturating_sub(Timestamp::now().since(stored.issued_at))
    }

    async fn renew(&self, status: &Status) -> Result<(), RenewError> {
        let over_nats = if status.connected { self.over_nats().await } else { Err(RenewError::Nowhere) };
        match (over_nats, &self.gateway) {
            (Ok(jwt), _) => {
                self.identity.renewed(jwt, Timestamp::now());
                Ok(())
            }
            (Err(error), None) => Err(error),
            (Err(_), Some(gateway)) => {
                let answer = gateway.register(&Proof::Key(self.identity.api_key()), &self.register).await?;
                self.identity.registered(answer, &self.register, Timestamp::now());
                Ok(())
            }
        }
    }

    async fn over_nats(&self) -> Result<String, RenewError> {
        let agent: AgentId = self.identity.stored().agent_id;
        let request = RenewRequest { v: V, public_key: self.register.public_key.clone(), csr: None };
        let answer = self.broker.client().request(subjects::renew(&agent), wire::encode(&request).into()).await;
        let answer = answer.map_err(|error| RenewError::Nats(error.to_string()))?;
        let answer: RenewAnswer = wire::decode(&answer.payload).map_err(|error| RenewError::Nats(error.to_string()))?;
        match (answer.jwt, answer.error) {
            (Some(jwt), _) if Lifetime::of(&jwt).is_some() => Ok(jwt),
            (_, Some(error)) => Err(RenewError::Refused { code: error.code, message: error.message }),
            _ => Err(RenewError::Nats("the answer has no credential".to_owned())),
        }
    }

    fn show(&self, status: &Status, error: Option<&RenewError>) {
        let refused = status.refusals >= REFUSALS_MEAN_IT || error.is_some_and(RenewError::is_final);
        let state = if refused {
            let why = error.map(ToString::to_string).or_else(|| status.last_refusal.clone()).unwrap_or_default();
            Err(format!("revoked: {why}"))
        } else {
            Ok(())
        };
        self.readiness.set(CHECK, state);
    }
}
