//! Keeps the JWT fresh: at two thirds of its life over NATS, or over REST when NATS no longer accepts it.

use std::time::Duration;

use muster_runtime::{
    http::Readiness,
    nats::{Broker, Status},
    shutdown::Shutdown,
};
use muster_schemas::{
    code::Code,
    control::{RenewAnswer, RenewRequest},
    names::{AgentId, PoolName},
    subjects,
    time::Timestamp,
    wire::{self, V},
};

use super::{
    Identity, REFUSALS_MEAN_IT, Skew, Stored,
    certificate::Certificates,
    end::{End, Ended},
    enrol::{EnrolError, Gateway, Proof},
    jwt::{Lifetime, renew_after},
    registration::Registration,
};
use crate::{
    attempt::live::{Live, Stop},
    clock::{Clock, Reading},
};

/// The name of the check that fails while the broker refuses this agent.
pub(crate) const CHECK: &str = "identity";

/// The name of the check that fails while this machine's clock is of no use.
pub(crate) const CLOCK: &str = "clock";

/// Without a gateway to ask, this many refusals in a row (some ten seconds of them) are the end of running jobs: a broker that has just
/// started may refuse an agent once or twice.
const REFUSALS_END_JOBS: u64 = 5;

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
    pub(crate) registration: Registration,
    /// Renewed with the JWT, and sooner where it lives less long.
    pub(crate) certificates: Certificates,
    pub(crate) readiness: Readiness,
    /// Told when the gateway says that this identity is over.
    pub(crate) ended: Ended,
    /// Stopped when the broker's refusals are all there is to go by.
    pub(crate) live: Live,
    pub(crate) clock: Clock,
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
    #[error("this agent is in the pool {0} now")]
    Elsewhere(PoolName),
}

impl RenewError {
    fn is_final(&self) -> bool {
        matches!(self, Self::Refused { .. } | Self::Rest(EnrolError::Refused { .. }))
    }

    /// Whether this is the end of the identity. While the broker still accepts it, only the gateway's plain word that it is gone counts.
    fn end(&self, refused_by_broker: bool) -> Option<End> {
        let (code, detail) = match self {
            Self::Elsewhere(pool) => return Some(End::Elsewhere(pool.clone())),
            Self::Refused { code, message } => (*code, message.as_str()),
            Self::Rest(error) => error.refusal()?,
            Self::Nats(_) | Self::Nowhere => return None,
        };
        let over = match code {
            Code::AgentRevoked | Code::AgentNotFound => true,
            Code::Unauthenticated | Code::KeyRevoked => refused_by_broker,
            _ => false,
        };
        over.then(|| End::Refused { code, detail: detail.to_owned() })
    }
}

impl Renewal {
    /// Renews until the identity is over.
    pub(crate) async fn run(self, shutdown: Shutdown) -> anyhow::Result<()> {
        let mut wait = RETRY.0;
        loop {
            let now = Timestamp::now();
            let due = due_in(&self.identity.stored(), now).min(self.certificates.due_in(now).unwrap_or(IDLE));
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
            let status = self.broker.status();
            if let Some(end) = outcome.as_ref().err().and_then(|error| error.end(status.refusals > 0)) {
                self.ended.say(end);
                return Ok(());
            }
            self.show(&status, outcome.as_ref().err());
            let failed = outcome.is_err();
            match outcome {
                Ok(()) => {
                    tracing::info!("renewed the credential");
                    // A refusal stands until the next connect, which takes a moment.
                    self.until_accepted(&shutdown).await;
                }
                Err(error) => {
                    tracing::warn!(error = %muster_runtime::process::chain(&error.into()), retry_in = ?wait, "can't renew the credential");
                    if self.gateway.is_none() && status.refusals >= REFUSALS_END_JOBS && self.live.count() > 0 {
                        tracing::error!(jobs = self.live.count(), "the broker refuses this agent for good; stopping what it runs");
                        self.live.stop_all(Stop::Ended);
                    }
                }
            }
            // Also where the broker goes on refusing what the gateway gives out.
            if failed || self.broker.status().refusals > 0 {
                wait = tokio::select! {
                    () = shutdown.requested() => return Ok(()),
                    () = tokio::time::sleep(wait) => (wait * 2).min(RETRY.1),
                    // Being cut off is news: then at once.
                    _ = self.broker.wait_for(|status| status.refusals > 0), if status.refusals == 0 => RETRY.0,
                };
            } else {
                wait = RETRY.0;
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

    async fn renew(&self, status: &Status) -> Result<(), RenewError> {
        let over_nats = if status.connected { self.over_nats().await } else { Err(RenewError::Nowhere) };
        match (over_nats, &self.gateway) {
            (Ok(jwt), _) => {
                self.identity.renewed(jwt, Timestamp::now());
                Ok(())
            }
            (Err(error), None) => Err(error),
            (Err(_), Some(gateway)) => {
                let stored = self.identity.stored();
                let answer = gateway.register(&Proof::Key(self.identity.api_key()), &stored.seed, &self.registration).await?;
                self.compare_clocks(answer.skew);
                self.identity.registered(answer.registered, &answer.told, Timestamp::now()).map_err(RenewError::Elsewhere)
            }
        }
    }

    async fn over_nats(&self) -> Result<String, RenewError> {
        let agent: AgentId = self.identity.stored().agent_id;
        let signer = self.identity.signer().ok_or_else(|| RenewError::Nats("the seed is none of a user".to_owned()))?;
        let request = RenewRequest { v: V, public_key: signer.public_key().to_owned(), csr: self.certificates.request() };
        let sent = Timestamp::now();
        let answer = self.broker.client().request(subjects::renew(&agent), wire::encode(&request).into()).await;
        let answer = answer.map_err(|error| RenewError::Nats(error.to_string()))?;
        let answer: RenewAnswer = wire::decode(&answer.payload).map_err(|error| RenewError::Nats(error.to_string()))?;
        if let Some(theirs) = answer.now {
            let reading = Reading::between(sent, Timestamp::now(), theirs);
            self.clock.read(reading);
            self.compare_clocks(reading.skew());
        }
        match (answer.jwt, answer.error) {
            (Some(jwt), _) if Lifetime::of(&jwt).is_some() => {
                self.certificates.keep(answer.certificate.as_ref());
                Ok(jwt)
            }
            (_, Some(error)) => Err(RenewError::Refused { code: error.code, message: error.message }),
            _ => Err(RenewError::Nats("the answer has no credential".to_owned())),
        }
    }

    /// What was found is no end: what is connected goes on.
    fn compare_clocks(&self, skew: Option<Skew>) {
        if let Some(skew) = skew {
            tracing::error!("{skew}");
        }
        show_clock(&self.readiness, skew);
    }

    fn show(&self, status: &Status, error: Option<&RenewError>) {
        let refused = status.refusals >= REFUSALS_MEAN_IT || error.is_some_and(RenewError::is_final);
        if refused {
            let why = error.map(ToString::to_string).or_else(|| status.last_refusal.clone()).unwrap_or_default();
            self.readiness.set(CHECK, Err(format!("refused: {why}")));
        } else if status.connected {
            self.readiness.set(CHECK, Ok(()));
        }
    }
}

/// Shows whether our clock is of use. There is no such check before the first doubt.
pub(crate) fn show_clock(readiness: &Readiness, skew: Option<Skew>) {
    let doubted = || readiness.failing().iter().any(|(check, _)| *check == CLOCK);
    match skew {
        Some(skew) => readiness.set(CLOCK, Err(skew.to_string())),
        None if doubted() => readiness.set(CLOCK, Ok(())),
        None => {}
    }
}

/// How long until the JWT is renewed: a part of its life after it came, so only the length of its life counts, and how much time has passed
/// on our own clock. Whether that clock is right does not matter.
fn due_in(stored: &Stored, now: Timestamp) -> Duration {
    let Some(length) = Lifetime::of(&stored.jwt).and_then(|life| life.length()) else { return IDLE };
    // The same JWT always gets the same jitter, so that the moment does not move while it is waited for.
    let random = f64::from(stored.issued_at.micros().unsigned_abs() as u16) / f64::from(u16::MAX);
    renew_after(length, random).saturating_sub(now.since(stored.issued_at))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

    use super::*;
    use crate::identity::tests::stored;

    const DAY: i64 = 86_400;
    const ISSUED: i64 = 1_800_000_000;

    /// An identity whose JWT the gateway issued at [`ISSUED`], on a machine whose clock is so far off.
    fn on_a_machine(offset: i64) -> Stored {
        let claims = format!(r#"{{"iat":{ISSUED},"exp":{}}}"#, ISSUED + DAY);
        let jwt = format!("head.{}.signature", URL_SAFE_NO_PAD.encode(claims));
        Stored { jwt, issued_at: Timestamp::from_secs(ISSUED + offset), ..stored() }
    }

    #[test]
    fn a_clock_that_is_five_minutes_off_renews_at_the_same_moment() {
        for offset in [-300, 0, 300] {
            let stored = on_a_machine(offset);
            // The jitter comes from the time of issue, so the moment itself is within its bounds, and the rest is exact.
            let first = due_in(&stored, Timestamp::from_secs(ISSUED + offset));
            assert!(first >= Duration::from_secs(86_400).mul_f64(0.95 * 2.0 / 3.0), "{first:?}");
            assert!(first <= Duration::from_secs(86_400).mul_f64(1.05 * 2.0 / 3.0), "{first:?}");
            let later = due_in(&stored, Timestamp::from_secs(ISSUED + offset + 3600));
            assert_eq!(first - later, Duration::from_secs(3600), "{offset}");
            // By the gateway's clock it is always renewed hours before it ends.
            assert_eq!(due_in(&stored, Timestamp::from_secs(ISSUED + offset + DAY * 7 / 10)), Duration::ZERO, "{offset}");
        }
    }

    #[test]
    fn a_clock_that_was_set_back_waits_no_longer_than_from_the_start() {
        let stored = on_a_machine(0);
        let before = Timestamp::from_secs(ISSUED - 7 * DAY);
        assert_eq!(due_in(&stored, before), due_in(&stored, Timestamp::from_secs(ISSUED)));
        assert_eq!(due_in(&stored, Timestamp::from_secs(ISSUED + 7 * DAY)), Duration::ZERO);
    }

    #[test]
    fn what_the_gateway_says_is_the_end_only_where_nothing_can_come_of_it() {
        let said = |code| RenewError::Refused { code, message: "no".into() };
        for code in [Code::AgentRevoked, Code::AgentNotFound] {
            assert!(said(code).end(true).is_some() && said(code).end(false).is_some(), "{code}");
        }
        for code in [Code::Unauthenticated, Code::KeyRevoked] {
            assert!(said(code).end(true).is_some() && said(code).end(false).is_none(), "{code}");
        }
        for code in [Code::Forbidden, Code::ClockSkewed, Code::RateLimited, Code::NameTaken, Code::BrokerUnavailable] {
            assert!(said(code).end(true).is_none(), "{code}");
        }
        assert!(RenewError::Nats("no answer".into()).end(true).is_none() && RenewError::Nowhere.end(true).is_none());
        let later = EnrolError::Later { url: "u".into(), problem: "503".into() };
        assert!(RenewError::Rest(later).end(true).is_none());
    }
}
