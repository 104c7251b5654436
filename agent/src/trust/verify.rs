//! The judgement of one job: signed by whom, for where and when.
//!
//! A refusal is final and names the rule that failed. What can't be told yet is left to the job's lease: a broker or gateway that is away
//! for a moment must not cost a job.

use std::time::{Duration, Instant};

use async_nats::Message;
use muster_schemas::{
    code::Code,
    headers,
    names::{AgentId, PoolName},
    queue::Queue,
    result::ErrorInfo,
    signature::{SIGNERS_KEY, SKEW_MAX, Signature, Signed},
    subjects::{self, js},
    time::Timestamp,
    topology::{TRUST, bucket_stream},
};

use super::{Heard, Trust};
use crate::js::{Js, LookupError};

/// How long after it was signed a job that says its id is new is believed: a replay comes later, and is looked up.
const FRESH_MAX: Duration = Duration::from_secs(2);
/// At most one look at the list in this time, whatever arrives.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long a job waits for a broker or gateway that is away.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between two tries of a look.
const AGAIN: Duration = Duration::from_millis(250);

/// What a job's signature says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Word {
    /// It may run. `fresh`: nobody has run a job of its id before.
    Holds {
        /// Whether that is so.
        fresh: bool,
    },
    /// It is rejected.
    Refused(ErrorInfo),
    /// It can't be told now.
    Open,
}

/// Where and when a job came.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Arrival<'a> {
    pub(crate) message: &'a Message,
    /// When the broker stored it.
    pub(crate) stored_at: Timestamp,
    /// The agent that it came to, and its pool.
    pub(crate) agent: &'a AgentId,
    pub(crate) pool: &'a PoolName,
}

impl Arrival<'_> {
    fn header(&self, name: &str) -> Option<&str> {
        self.message.headers.as_ref().and_then(|headers| headers.get(name)).map(|value| value.as_str())
    }

    /// The signature, if it holds for this message, this place and this time; not whether its key counts. What is not signed has to be for this place
    /// as well: the consumer of an agent that was moved may be of its old pool for a moment.
    fn signature(&self) -> Result<Option<Signature>, ErrorInfo> {
        let subject = self.message.subject.as_str();
        let address = subjects::parse_job(subject);
        let here = address.is_some_and(|address| match &address.queue {
            Queue::Lane(_) => address.pool == *self.pool,
            Queue::Agent(agent) => address.pool == *self.pool && agent == self.agent,
        });
        if !here {
            return Err(invalid(format!("it is for {subject}, and came to agent {} of pool {}", self.agent, self.pool)));
        }
        let Some(header) = self.header(headers::SIGNATURE) else { return Ok(None) };
        let signature = Signature::parse(header).map_err(|error| invalid(error.to_string()))?;
        if self.apart(&signature) > SKEW_MAX {
            let minutes = SKEW_MAX.as_secs() / 60;
            return Err(invalid(format!(
                "it was signed at {} and stored at {}, more than {minutes} minutes apart: a replay, or clocks that differ",
                signature.at, self.stored_at
            )));
        }
        signature
            .verify(Signed::Job { fresh: self.says_fresh() }, subject, &self.message.payload)
            .map_err(|error| invalid(error.to_string()))?;
        Ok(Some(signature))
    }

    fn says_fresh(&self) -> bool {
        self.header(headers::FRESH).is_some()
    }

    /// The time between signing and storing, whichever came first.
    fn apart(&self, signature: &Signature) -> Duration {
        self.stored_at.apart(signature.at)
    }
}

/// What is known of a key.
enum Key {
    /// It signs for the pool.
    Counts,
    /// Not by the list in use.
    Unknown,
}

impl Trust {
    /// Judges a job.
    pub(crate) async fn verify(&self, js: &Js, arrival: Arrival<'_>) -> Word {
        let began = Instant::now();
        let signature = match arrival.signature() {
            Err(refusal) => return Word::Refused(refusal),
            Ok(None) if self.0.policy.accept_unsigned => return Word::Holds { fresh: arrival.says_fresh() },
            Ok(None) => {
                return Word::Refused(ErrorInfo::new(Code::SignatureMissing, "the job is not signed, and this agent runs only what is"));
            }
            Ok(Some(signature)) => signature,
        };
        let fresh = arrival.says_fresh() && arrival.apart(&signature) <= FRESH_MAX;
        loop {
            if let Key::Counts = self.key(&signature.key, arrival.pool) {
                return Word::Holds { fresh };
            }
            if !self.goes_by_list() {
                return Word::Refused(invalid(format!("{} is none of this agent's TRUSTED_SIGNERS", signature.key)));
            }
            let mut list = self.0.list.subscribe();
            match self.look(js, began).await {
                Ok(Heard::Taken | Heard::Known) => {
                    return match self.key(&signature.key, arrival.pool) {
                        Key::Counts => Word::Holds { fresh },
                        Key::Unknown => Word::Refused(self.stranger(&signature.key, arrival.pool)),
                    };
                }
                Ok(Heard::Foreign) => {
                    // The gateway is being asked.
                    let _ = tokio::time::timeout(LOOK_EVERY, list.changed()).await;
                }
                Err(error) => {
                    tracing::debug!(%error, "can't look at the list of signers");
                    tokio::time::sleep(AGAIN).await;
                }
            }
            if began.elapsed() > PATIENCE {
                tracing::warn!(key = signature.key, "can't tell whether this key counts; leaving the job to its lease");
                return Word::Open;
            }
        }
    }

    fn key(&self, key: &str, pool: &PoolName) -> Key {
        let counts = match &self.0.policy.only {
            Some(only) => only.contains(key),
            None => self.list().is_some_and(|list| list.may_sign(key, pool)),
        };
        if counts { Key::Counts } else { Key::Unknown }
    }

    fn stranger(&self, key: &str, pool: &PoolName) -> ErrorInfo {
        let listed = self.list().is_some_and(|list| list.signers.iter().any(|signer| signer.key == key));
        invalid(if listed {
            format!("{key} may not sign jobs of pool {pool}")
        } else {
            format!("{key} is not in the list of signers; `muster signers add` puts a service's key there")
        })
    }

    /// Looks at the broker's list, unless somebody has since `arrived`.
    async fn look(&self, js: &Js, arrived: Instant) -> Result<Heard, LookupError> {
        let mut last = self.0.look.lock().await;
        if last.is_some_and(|last| last >= arrived) {
            return Ok(if self.is_broken() { Heard::Foreign } else { Heard::Known });
        }
        if let Some(early) = last.and_then(|last| LOOK_EVERY.checked_sub(last.elapsed())) {
            tokio::time::sleep(early).await;
        }
        let began = Instant::now();
        let heard = self.look_now(js).await?;
        *last = Some(began);
        Ok(heard)
    }

    /// Looks at the broker's list.
    pub(super) async fn look_now(&self, js: &Js) -> Result<Heard, LookupError> {
        let stored = js.last(&bucket_stream(TRUST), &js::key(TRUST, SIGNERS_KEY)).await?;
        Ok(stored.filter(|message| !message.payload.is_empty()).map_or(Heard::Known, |message| self.hear(&message.payload)))
    }
}

fn invalid(why: String) -> ErrorInfo {
    ErrorInfo::new(Code::SignatureInvalid, why)
}
