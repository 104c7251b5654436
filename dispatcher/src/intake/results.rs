//! Results as events: whose job ended how, as far as that counts. Only a result that is validly signed says anything of an agent, and only of the
//! one that signed it.

use muster_schemas::{
    headers::QUEUE_PLACE,
    names::AgentId,
    queue::Place,
    result::{self, AttemptRecord, Outcome},
    signature::Mark,
    subjects::About,
    time::Timestamp,
    wire::{self, V},
};
use serde::Deserialize;
use tokio::sync::mpsc;

use super::{
    Input, KnownPools,
    decode::tell,
    follow::{Heard, Listener, Message},
};
use crate::{
    figures::{Figures, Ignored},
    keyring::{self, Keyring, forged::Forged},
    lease::keeper::Leadership,
    state::{Event, Source},
    sweeper::{Broom, Finished},
};

/// What is needed of a result. The output, which is most of it, is skipped unread.
#[derive(Debug, Deserialize)]
pub(crate) struct Ended {
    /// Version of the body.
    #[serde(default, rename = "v")]
    _v: V,
    pub(crate) outcome: Outcome,
    #[serde(default)]
    agent_id: Option<AgentId>,
    #[serde(default)]
    ended_by: Option<AgentId>,
    pub(crate) queued_at: Timestamp,
    #[serde(default)]
    pub(crate) started_at: Option<Timestamp>,
    pub(crate) finished_at: Timestamp,
    #[serde(default)]
    pub(crate) history: Vec<AttemptRecord>,
}

impl Ended {
    /// Earlier attempts whose agent was lost, and with it the lease.
    pub(crate) fn leases_lost(&self) -> usize {
        self.history.iter().filter(|attempt| attempt.outcome.is_none()).count()
    }

    /// Who says that the job ended.
    fn named(&self) -> Option<&AgentId> {
        self.ended_by.as_ref().or(self.agent_id.as_ref())
    }

    /// The agent of which it says how it did: what another agent says of it is no part of its score.
    fn counts_for(self, mark: Mark) -> Option<AgentId> {
        let own = self.ended_by.is_none() || self.ended_by == self.agent_id;
        self.agent_id.filter(|_| own && mark == Mark::Valid)
    }
}

/// Listens to results. While this process leads, what is stored goes into the metrics too, and forgeries are told.
pub(crate) struct Results {
    pub(crate) inputs: mpsc::Sender<Input>,
    pub(crate) figures: Figures,
    pub(crate) leadership: Leadership,
    pub(crate) pools: KnownPools,
    pub(crate) keyring: Keyring,
    pub(crate) forged: mpsc::Sender<Forged>,
    /// What was there before is counted for scores, not for metrics: a restart must not count it a second time.
    pub(crate) live: bool,
    pub(crate) broom: Broom,
    pub(crate) reading: Reading,
}

/// On which connection results are read, and whether they were stored while it was there.
#[derive(Debug, Default)]
pub(crate) struct Reading {
    connection: u64,
    /// What was there when reading began has been heard.
    caught_up: bool,
}

impl Results {
    /// Where the job of a result was in its queue, if that may be believed: an agent of its pool says so, and the result was stored on this
    /// connection. The order in which the broker stored results tells that, and no clock.
    fn place(&self, message: &Message, mark: Mark) -> Option<(Place, u64)> {
        let place = message.headers.get(QUEUE_PLACE).filter(|_| self.reading.caught_up && mark == Mark::Valid)?;
        Some((place.as_str().parse().ok()?, self.reading.connection))
    }

    async fn event(&self, message: &Message) -> Option<Event> {
        let ignored = || self.figures.ignored(Ignored::Result);
        let Some((pool, job)) = About::Result.parse(&message.subject) else {
            ignored();
            return None;
        };
        let ended = match wire::decode_within::<Ended>(&message.payload, result::LIMIT) {
            Ok(ended) => ended,
            Err(error) => {
                ignored();
                tracing::debug!(%error, from = message.subject, "a body that can't be decoded");
                return None;
            }
        };
        let mark = self.keyring.mark(message, ended.named()).await;
        if self.live && self.leadership.is_mine() {
            self.figures.ended(self.pools.borrow().contains_key(&pool).then_some(&pool), &ended);
            self.figures.signed(mark);
            if mark == Mark::Wrong {
                let key = keyring::signing_key(&message.headers);
                let signer = self.keyring.signer(message);
                let forged = Forged { pool: pool.clone(), job, named: ended.named().cloned(), signer, key };
                // One that finds no room is counted all the same.
                let _ = self.forged.try_send(forged);
            }
            if let Some((place, connection)) = self.place(message, mark) {
                self.broom.finished(Finished { pool: pool.clone(), place, connection });
            }
        }
        let outcome = ended.outcome;
        Some(Event::Finished(pool, ended.counts_for(mark), outcome, message.stored))
    }
}

impl Listener for Results {
    fn connected(&mut self, connection: u64) {
        self.reading = Reading { connection, caught_up: false };
    }

    async fn hear(&mut self, heard: Heard<'_>) {
        let event = match heard {
            Heard::Begin(_) => {
                self.reading.caught_up = false;
                None
            }
            Heard::CaughtUp => {
                (self.live, self.reading.caught_up) = (true, true);
                Some(Event::CaughtUp(Source::Results))
            }
            Heard::Message(message) => self.event(message).await,
        };
        if let Some(event) = event {
            tell(&self.inputs, Input::Event(Box::new(event))).await;
        }
    }

    async fn clock(&mut self, now: Timestamp) {
        tell(&self.inputs, Input::BrokerClock(now, std::time::Instant::now())).await;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use muster_schemas::{
        code::Code,
        result::{ErrorInfo, JobResult},
    };

    use super::*;

    #[test]
    fn what_is_needed_of_a_result_is_read_from_a_whole_one() {
        let at = Timestamp::from_secs(1_800_000_000);
        let mut result = JobResult::never_ran(Outcome::Failed, ErrorInfo::new(Code::Internal, "x"), at, at);
        let agent = AgentId::generate();
        (result.agent_id, result.started_at) = (Some(agent.clone()), Some(at));
        let lost = AttemptRecord {
            attempt: 1,
            agent_id: None,
            started_at: None,
            finished_at: None,
            outcome: None,
            exit_code: None,
            error: None,
            tail: None,
        };
        result.history = vec![lost.clone(), AttemptRecord { outcome: Some(Outcome::Failed), ..lost }];
        let ended: Ended = wire::decode_within(&wire::encode(&result), result::LIMIT).unwrap();
        assert_eq!((ended.outcome, ended.agent_id.as_ref(), ended.started_at), (Outcome::Failed, Some(&agent), Some(at)));
        assert_eq!(ended.leases_lost(), 1);
        assert_eq!(ended.named(), Some(&agent));
    }

    #[test]
    fn a_result_counts_for_the_agent_that_ran_the_job_if_that_one_has_signed_it() {
        let at = Timestamp::from_secs(1_800_000_000);
        let [ran, other] = [AgentId::generate(), AgentId::generate()];
        let counts = |ended_by: Option<&AgentId>, mark: Mark| {
            let result = JobResult::never_ran(Outcome::Failed, ErrorInfo::new(Code::AgentLost, "x"), at, at);
            let result = JobResult { agent_id: Some(ran.clone()), ended_by: ended_by.cloned(), ..result };
            wire::decode_within::<Ended>(&wire::encode(&result), result::LIMIT).unwrap().counts_for(mark)
        };
        assert_eq!(counts(None, Mark::Valid), Some(ran.clone()));
        assert_eq!(counts(Some(&ran), Mark::Valid), Some(ran.clone()));
        assert_eq!(counts(Some(&other), Mark::Valid), None);
        assert_eq!((counts(None, Mark::Missing), counts(None, Mark::Wrong)), (None, None));
    }
}
