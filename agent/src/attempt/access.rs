//! What an attempt is given of the connection that its job names: the record from the broker, the secrets from the vault.
//!
//! A job whose credentials are not here is not failed, but given back: another agent of the pool may have them, or they are on their way.

use std::time::{Duration, Instant};

use muster_executor::Connection;
use muster_schemas::{
    code::Code,
    connection::{ConnectionRecord, keys},
    headers::KV_OPERATION,
    job::Job,
    names::ConnectionName,
    result::ErrorInfo,
    sealed::Binding,
    subjects::js,
    topology::{CONNECTIONS, bucket_stream},
    wire,
};

use super::{LOOKUP_PATIENCE, count::Past};
use crate::{core::Core, executors::Prepared, vault::VaultError};

/// What comes of looking.
#[derive(Debug)]
pub(super) enum Access {
    /// Run it, with this if the job names one.
    Open(Prepared, Option<Box<Connection>>),
    /// Not here and now, for this reason.
    Elsewhere(String),
    /// Never.
    Refused(ErrorInfo),
    /// The broker does not say.
    Unknown,
}

/// First and longest delay of what is given back when all agents that accept have been asked.
const LATER: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(60));
/// The delay of what is given back for another agent to take at once. Meanwhile this one asks behind the others.
const AT_ONCE: Duration = Duration::from_millis(50);
/// So many times for each other agent: an idle lane of an agent that was served first has two or three requests left.
const EACH: u32 = 3;
/// Agents for which that is done; with more of them than this, whoever has the credentials gets the job some rounds later.
const OTHERS_MAX: u32 = 7;

/// After which time a job comes again that is given back for want of credentials. Jobs are given to the agent that is served first, which may
/// be one without them again and again: so there are rounds, in each of which each of the others gets its chance at once, and after each the
/// wait is longer.
pub(super) fn delay(past: &Past, accepting: u32) -> Duration {
    // How many agents there are is not known without a standing.
    let others = if accepting == 0 { 1 } else { (accepting - 1).min(OTHERS_MAX) };
    let round = u64::from(others * EACH + 1);
    if past.releases % round < round - 1 {
        return AT_ONCE;
    }
    let (first, most) = LATER;
    let doublings = u32::try_from(past.releases / round).unwrap_or(u32::MAX).min(8);
    (first * 2_u32.pow(doublings)).min(most)
}

/// Looks for the connection of a job.
pub(super) async fn access(core: &Core, job: &Job, prepared: Prepared) -> Access {
    let Some(name) = &job.connection else { return Access::Open(prepared, None) };
    // Before the record: then credentials that are delivered in between look too old, never too new.
    let held = match core.vault.credentials(name).await {
        Ok(held) => Ok(held),
        Err(error @ VaultError::Closed(_)) => Err(format!("this agent can't use its vault: {error}")),
        Err(error) => {
            core.figures.error(format!("connection `{name}`: {error}"));
            Err(format!("this agent can't read the credentials of `{name}`: {error}"))
        }
    };
    let record = match record(core, name).await {
        Ok(Some(record)) => record,
        Ok(None) => {
            let message = format!("field `connection`: there is no connection `{name}` in pool `{}`", core.pool);
            return Access::Refused(ErrorInfo::new(Code::ConnectionNotFound, message));
        }
        Err(()) => return Access::Unknown,
    };
    if let Err(rejection) = prepared.takes(name, record.kind) {
        return Access::Refused(rejection.into());
    }
    match held {
        Ok(Some((_, credentials))) if credentials.bound.is_some_and(|bound| bound != Binding::of(record.kind, &record.settings)) => {
            Access::Elsewhere(format!("the settings of `{name}` are not those that its credentials were delivered for; deliver them again"))
        }
        Ok(Some((held, credentials))) if held == 0 || held == record.revision => {
            let ConnectionRecord { name, kind, settings, .. } = record;
            Access::Open(prepared, Some(Box::new(Connection { name, kind, settings, credentials })))
        }
        Ok(Some((held, _))) => Access::Elsewhere(format!(
            "the newest credentials of `{name}` are not here yet: revision {held} is, and {} is the newest",
            record.revision
        )),
        Ok(None) => Access::Elsewhere(format!("no credentials of `{name}` here yet")),
        Err(why) => Access::Elsewhere(why),
    }
}

/// The record; `None` when there is none in this agent's pool. Tried for a while, as all look-ups of a delivery are.
async fn record(core: &Core, name: &ConnectionName) -> Result<Option<ConnectionRecord>, ()> {
    let (stream, subject) = (bucket_stream(CONNECTIONS), js::key(CONNECTIONS, &keys::record(&core.pool, name)));
    let until = Instant::now() + LOOKUP_PATIENCE;
    loop {
        let error = match core.js.last(&stream, &subject).await {
            Ok(None) => return Ok(None),
            Ok(Some(message)) if message.headers.as_ref().is_some_and(|headers| headers.get(KV_OPERATION).is_some()) => return Ok(None),
            Ok(Some(message)) => match wire::decode::<ConnectionRecord>(&message.payload) {
                Ok(record) => return Ok(Some(record)),
                Err(error) => {
                    tracing::error!(connection = %name, %error, "can't read the record of a connection; leaving the job to its lease");
                    return Err(());
                }
            },
            Err(error) => error,
        };
        if Instant::now() >= until {
            tracing::warn!(connection = %name, %error, "can't look up a connection; leaving the job to its lease");
            return Err(());
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_round_gives_the_others_their_chance_and_then_waits_longer() {
        let waits = |accepting| {
            let delays = (0..100).map(|releases| delay(&Past { releases, ..Past::default() }, accepting));
            delays.filter(|delay| *delay != AT_ONCE).map(|delay| delay.as_secs()).collect::<Vec<_>>()
        };
        let alone = waits(1);
        assert_eq!(alone.len(), 100, "alone there is nobody to give it to");
        assert_eq!(alone.get(..7), Some(&[2, 4, 8, 16, 32, 60, 60][..]));
        for (accepting, round) in [(0, 4), (2, 4), (3, 7), (8, 22), (200, 22)] {
            let waits = waits(accepting);
            assert_eq!(waits.len(), 100 / round, "{accepting}");
            assert_eq!(waits.get(..3), Some(&[2, 4, 8][..]), "{accepting}");
        }
        assert_eq!(delay(&Past { releases: u64::MAX, ..Past::default() }, 1), LATER.1);
    }
}
