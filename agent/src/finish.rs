//! How a job ends at the broker: dead letter if there is one, then the result, then the ack; each only once the one before is stored.
//! The ack of a job whose result is stored may wait a moment ([`crate::acks`]), which [`crate::attempt`] decides.
//!
//! An [`Ending`] holds all of it, ready to be sent now or, from the spool, later. The result is signed when it is sent, with others that go at the same
//! time ([`Js::store_result`]), or when it goes to the spool: from there it is still this agent's word should it have another key by then. What goes into a result is in [`result`], what an
//! agent tells on the way in [`events`]. The first stored result of a job is the one that counts: the broker refuses every other.

pub(crate) mod events;
pub(crate) mod result;

use async_nats::HeaderMap;
use bytes::Bytes;
use muster_client::atomic::Outgoing;
use muster_schemas::{
    event::{DeadLetter, Event},
    headers,
    names::{JobId, PoolName},
    queue::Place,
    result::JobResult,
    signature::{Signed, Signer},
    subjects::{self, About},
    time::Timestamp,
    topology,
    wire::{self, V},
};
use serde::{Deserialize, Serialize};

use crate::{
    attempt::delivery,
    js::{Js, StoreError},
};

/// Everything that ends a job at the broker. It is also what the spool keeps.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Ending {
    /// Version of the form.
    #[serde(default)]
    v: V,
    /// The job.
    pub(crate) job_id: JobId,
    /// Its pool, which the signature covers too. Only what a first version left in the spool is without.
    #[serde(default)]
    pool: Option<PoolName>,
    /// Where to ack it.
    reply: String,
    /// The result's headers.
    headers: Vec<(String, String)>,
    /// The result.
    #[serde(with = "bytes_as_bin")]
    result: Bytes,
    /// The dead letter.
    #[serde(default, with = "optional_bytes")]
    dead: Option<Bytes>,
    /// The event behind the dead letter.
    #[serde(default)]
    dead_event: Option<Event>,
    /// The event to send if the result does not count. Absent where that is expected.
    superseded: Option<Event>,
    /// Where the job is in its queue, if its ack may wait, and the one connection on which that is true. Not known any more in the spool.
    #[serde(skip)]
    place: Option<(Place, u64)>,
}

/// In the broker's refusal of a second message on a subject: "maximum messages per subject exceeded".
const PER_SUBJECT: &str = "per subject";

/// How an ending was received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Received {
    /// The result is stored.
    Stored,
    /// Another result had been stored before.
    Superseded,
}

impl Ending {
    /// The ending of a job. `ttl` is how long the result is kept, in seconds; `reply_to` where the submitter wants it.
    pub(crate) fn new(
        job_id: JobId,
        pool: PoolName,
        reply: &str,
        result: &JobResult,
        ttl: u64,
        traceparent: String,
        reply_to: Option<&str>,
    ) -> Self {
        let mut headers = vec![
            (headers::TTL.to_owned(), format!("{}s", ttl.max(1))),
            (headers::CONTENT_TYPE.to_owned(), headers::MSGPACK.to_owned()),
            (headers::TRACEPARENT.to_owned(), traceparent),
        ];
        if let Some(inbox) = reply_to.filter(|inbox| subjects::is_inbox(inbox)) {
            headers.push((headers::REPLY_TO.to_owned(), inbox.to_owned()));
        }
        let result = result::encode(result).into();
        Self {
            v: V,
            job_id,
            pool: Some(pool),
            reply: reply.to_owned(),
            headers,
            result,
            dead: None,
            dead_event: None,
            superseded: None,
            place: None,
        }
    }

    /// Signs the result.
    pub(crate) fn sign(&mut self, signer: &Signer, now: Timestamp) {
        let Some(pool) = &self.pool else { return };
        let signature = signer.sign(Signed::Result, &About::Result.job(pool, &self.job_id), &self.result, now);
        self.headers.push((headers::SIGNATURE.to_owned(), signature.to_string()));
    }

    /// Whether it ends a job of this pool. One from a pool that its agent has left can't be stored any more.
    pub(crate) fn is_of(&self, pool: &PoolName) -> bool {
        self.pool.as_ref().is_none_or(|own| own == pool)
    }

    /// Adds a dead letter and its event.
    pub(crate) fn with_dead_letter(mut self, letter: &DeadLetter, event: Event) -> Self {
        self.dead = Some(wire::encode(letter).into());
        self.dead_event = Some(event);
        self
    }

    /// Says what to tell if another result was stored first.
    pub(crate) fn or_superseded(mut self, event: Event) -> Self {
        self.superseded = Some(event);
        self
    }

    /// Says where the job is in its queue, on this connection, and that its ack may wait there; or that neither is so (any more).
    pub(crate) fn set_place(&mut self, place: Option<(Place, u64)>) {
        self.place = place;
    }

    /// The connection on which its ack may wait once it is stored, if there is one.
    pub(crate) fn waits_on(&self) -> Option<u64> {
        self.place.map(|(_, connection)| connection)
    }

    /// Stores it; the ack is for the caller to send. On `Err` nothing is lost: store it again later.
    pub(crate) async fn store(&self, js: &Js, pool: &PoolName) -> Result<Received, StoreError> {
        if let Some(dead) = &self.dead {
            match js.store(About::Dead.job(pool, &self.job_id), None, dead.clone()).await {
                Ok(()) => {}
                // There is a letter of this job already, from a try whose answer was lost. (Agents may not look into that stream.)
                Err(StoreError::Refused(why)) if why.contains(PER_SUBJECT) => {}
                Err(StoreError::Invalid(error)) => tracing::error!(job_id = %self.job_id, error, "a dead letter can't be stored"),
                Err(error) => return Err(error),
            }
            if let Some(event) = &self.dead_event {
                events::tell(js, pool, &self.job_id, event).await;
            }
        }
        let received = self.store_result(js, pool).await?;
        if let (Received::Superseded, Some(event)) = (received, &self.superseded) {
            events::tell(js, pool, &self.job_id, event).await;
        }
        Ok(received)
    }

    /// Acks the job.
    pub(crate) async fn ack(&self, js: &Js) {
        js.answer(self.reply.clone(), delivery::ACK).await;
    }

    async fn store_result(&self, js: &Js, pool: &PoolName) -> Result<Received, StoreError> {
        let subject = About::Result.job(pool, &self.job_id);
        let mut headers = HeaderMap::new();
        for (name, value) in &self.headers {
            headers.insert(name.as_str(), value.as_str());
        }
        if let Some((place, _)) = self.place {
            headers.insert(headers::QUEUE_PLACE, place.to_string());
        }
        let (over, result) = (self.waits_on(), self.result.clone());
        match js.store_result(Outgoing { subject: subject.clone(), headers, payload: result }, over).await {
            Ok(()) => Ok(Received::Stored),
            Err(refused @ StoreError::Refused(_)) => {
                // Which one is there: another agent's, or ours from a try whose answer was lost? Or was it another kind of refusal?
                match js.last(topology::RESULTS, &subject).await {
                    Ok(Some(stored)) if stored.payload == self.result => Ok(Received::Stored),
                    Ok(Some(_)) => Ok(Received::Superseded),
                    Ok(None) => Err(refused),
                    Err(error) => Err(StoreError::Unanswered(error.to_string())),
                }
            }
            Err(error) => Err(error),
        }
    }
}

mod bytes_as_bin {
    use bytes::Bytes;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(bytes: &Bytes, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_bytes(bytes)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Bytes, D::Error> {
        serde_bytes::ByteBuf::deserialize(from).map(|buf| buf.into_vec().into())
    }
}

mod optional_bytes {
    use bytes::Bytes;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(bytes: &Option<Bytes>, to: S) -> Result<S::Ok, S::Error> {
        bytes.as_ref().map(|bytes| serde_bytes::Bytes::new(bytes)).serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Bytes>, D::Error> {
        Ok(Option::<serde_bytes::ByteBuf>::deserialize(from)?.map(|buf| buf.into_vec().into()))
    }
}

#[cfg(test)]
mod tests;
