//! Handing credentials on: the dispatcher asks, and this agent seals what it has to another agent of its pool.
//!
//! The dispatcher says who that agent is, and this agent has no other way of knowing. What it checks is that the sealing key is signed by the public
//! key that was named, and that whoever sealed these credentials first allowed handing them on.

use muster_schemas::{
    code::Code,
    control::{ResealAnswer, ResealRequest},
    result::ErrorInfo,
    sealed::Purpose,
    time::Timestamp,
    wire::{self, V},
};
use tokio::sync::Semaphore;

use crate::core::Core;

/// Requests that are answered at once; the others are refused, and asked again.
const AT_ONCE: usize = 8;

/// Bounds how many requests are worked on.
#[derive(Debug)]
pub(crate) struct Desk(Semaphore);

impl Default for Desk {
    fn default() -> Self {
        Self(Semaphore::new(AT_ONCE))
    }
}

/// Answers a request. It never fails: what can't be done is in the answer.
pub(crate) async fn reseal(core: &Core, body: &[u8]) -> ResealAnswer {
    let sealed = match core.resealing.0.try_acquire() {
        Ok(_permit) => sealed(core, body).await,
        Err(_) => Err(ErrorInfo::new(Code::AgentBusy, format!("{AT_ONCE} requests are being answered; ask again"))),
    };
    match sealed {
        Ok(answer) => answer,
        Err(error) => {
            tracing::warn!(code = %error.code, "credentials were not handed on: {}", error.message);
            ResealAnswer { v: V, entry: None, error: Some(error) }
        }
    }
}

async fn sealed(core: &Core, body: &[u8]) -> Result<ResealAnswer, ErrorInfo> {
    let asked: ResealRequest = wire::decode(body).map_err(|error| ErrorInfo::new(Code::BodyMalformed, error.to_string()))?;
    let ResealRequest { connection, revision, agent_id, public_key, sealing, .. } = asked;
    let refuse = |code, why: String| ErrorInfo::new(code, format!("connection `{connection}`: {why}"));
    sealing.check(&agent_id, &public_key).map_err(|error| refuse(Code::CredentialsInvalid, error.to_string()))?;
    let held = core.vault.credentials(&connection).await.map_err(|error| refuse(Code::VaultUnavailable, error.to_string()))?;
    // What somebody put here by hand is no revision that anybody could ask for.
    let credentials = match held {
        Some((held, credentials)) if held == revision && revision > 0 => credentials,
        Some((held, _)) => {
            return Err(refuse(Code::ConnectionUndelivered, format!("this agent has revision {held} of its credentials, not {revision}")));
        }
        None => return Err(refuse(Code::ConnectionUndelivered, "this agent has no credentials of it".to_owned())),
    };
    if !credentials.shared {
        return Err(refuse(Code::Forbidden, "its credentials are not to be handed on".to_owned()));
    }
    let purpose = Purpose { agent: &agent_id, connection: &connection, revision };
    let entry = sealing.seal(&credentials, purpose, Timestamp::now());
    let entry = entry.map_err(|error| refuse(Code::CredentialsInvalid, error.to_string()))?;
    tracing::info!(%connection, revision, to = %agent_id, "credentials were sealed to another agent");
    Ok(ResealAnswer { v: V, entry: Some(entry), error: None })
}
