//! Settles one firing: decides, writes the decision down, and makes the job.
//!
//! Every step may be repeated by whoever is given the firing again, here or in another dispatcher. What was decided is in the bucket,
//! written by compare-and-set, so of two that decide at once one decides anew.

use std::collections::BTreeSet;

use async_nats::HeaderMap;
use muster_broker_config::provision;
use muster_client::atomic::{self, Outgoing, Refusal};
use muster_runtime::nats::Broker;
use muster_schemas::{
    headers::{CONTENT_TYPE, MSG_ID, MSGPACK, msg_id},
    job::Job,
    lane::Lane,
    names::{ExecutorName, PoolName, ScheduleName},
    schedule::{Became, FiredJob, ScheduleRecord, ScheduleState, keys},
    signature::Signed,
    subjects::{self, About},
    time::Timestamp,
    topology::{RESULTS, SCHEDULES, SCHEDULES_BUCKET, jobs_stream},
    wire,
};

use super::decide::{Firing, Step, decide};
use crate::{
    broker::{self, BrokerError, PATIENCE, Write},
    cancel,
    figures::{self, Figures},
    held::{self, Record},
    signing::{self, Signing},
};

/// How often to decide anew when others write down what became of the same schedule.
const ROUNDS: usize = 8;

/// Settles firings; clones share the connection.
#[derive(Debug, Clone)]
pub(super) struct Desk {
    pub(super) broker: Broker,
    pub(super) figures: Figures,
    pub(super) signing: Signing,
}

impl Desk {
    /// Settles a firing of a schedule; `of` tells it by the schedule's record.
    ///
    /// # Errors
    /// When the broker does not answer. It may be repeated.
    pub(super) async fn settle(&self, name: &ScheduleName, of: impl Fn(&ScheduleRecord) -> Firing) -> Result<(), BrokerError> {
        let client = self.broker.client();
        for _ in 0..ROUNDS {
            let (Record::Value(record), _) = held::record::<ScheduleRecord>(client, SCHEDULES_BUCKET, &keys::definition(name)).await?
            else {
                tracing::debug!(schedule = %name, "a firing of a schedule that was deleted, or can't be read");
                return Ok(());
            };
            let (state, revision) = held::record::<ScheduleState>(client, SCHEDULES_BUCKET, &keys::state(name)).await?;
            // Firings wait for each other, of all schedules: one that can't be read must not stop them. A job of this firing that is
            // there already is not made again, by its id.
            let state = state.readable();
            let (firing, now) = (of(&record), self.now().await?);
            let mut step = decide(Some(&record), state.as_ref(), &firing, None, now);
            if let Step::Look(job) = &step {
                let alive = self.is_alive(job).await?;
                step = decide(Some(&record), state.as_ref(), &firing, Some(alive), now);
            }
            match step {
                Step::Drop(why) => {
                    self.figures.fired(figures::Firing::Skipped);
                    tracing::info!(schedule = %name, at = %firing.at, why, "a firing makes no job");
                    return Ok(());
                }
                Step::Look(_) => return Ok(()),
                Step::Finish(state) => return self.carry_out(&record, state, revision).await,
                Step::Record(state) => {
                    if let Write::Stored(revision) = self.write(name, &state, revision).await? {
                        return self.carry_out(&record, state, revision).await;
                    }
                }
            }
        }
        Err(BrokerError::Interrupted { what: format!("schedule {name}"), why: "others decide on the same firing".into() })
    }

    /// The broker's time: the only clock that firings are measured by.
    pub(super) async fn now(&self) -> Result<Timestamp, BrokerError> {
        broker::clock(self.broker.client(), SCHEDULES).await
    }

    async fn write(&self, name: &ScheduleName, state: &ScheduleState, revision: u64) -> Result<Write, BrokerError> {
        broker::write(self.broker.client(), SCHEDULES_BUCKET, &keys::state(name), Some(wire::encode(state)), revision, PATIENCE).await
    }

    /// Whether a job is queued or running.
    async fn is_alive(&self, job: &FiredJob) -> Result<bool, BrokerError> {
        let queued = subjects::job_in_any_lane(&job.pool, &job.id);
        let queued = held::last_queued(self.broker.client(), &job.pool, &jobs_stream(&job.pool), &queued).await?;
        // In this order: a job that has ended stays in its queue for a moment, so the result has the last word.
        Ok(queued.is_some() && !self.has_result(job).await?)
    }

    async fn has_result(&self, job: &FiredJob) -> Result<bool, BrokerError> {
        Ok(held::last(self.broker.client(), RESULTS, &About::Result.job(&job.pool, &job.id)).await?.is_some())
    }

    /// Does what was decided.
    async fn carry_out(&self, record: &ScheduleRecord, state: ScheduleState, revision: u64) -> Result<(), BrokerError> {
        let name = &record.name;
        let Some(job) = state.job.clone().filter(|job| state.became == Became::Job && job.fired_at == state.fired_at) else {
            self.figures.fired(figures::Firing::Skipped);
            tracing::info!(schedule = %name, at = %state.fired_at, became = ?state.became, detail = state.detail, "a firing makes no job");
            return Ok(());
        };
        // A job that has ended is not made again, however long ago that was.
        if self.has_result(&job).await? {
            return Ok(());
        }
        if let Some(before) = &state.replaced {
            self.replace(before, &job).await?;
        }
        match self.make(record, &job).await? {
            None => {
                self.figures.fired(figures::Firing::Made);
                tracing::info!(schedule = %name, at = %job.fired_at, job_id = %job.id, pool = %job.pool, "a firing made its job");
            }
            Some(why) => {
                self.figures.fired(figures::Firing::Refused);
                tracing::warn!(schedule = %name, at = %job.fired_at, why, "the job of a firing was refused");
                let state = ScheduleState { became: Became::Refused, detail: Some(why), job: None, ..state };
                self.write(name, &state, revision).await?;
            }
        }
        Ok(())
    }

    /// Cancels the job of the firing before. Nothing happens when it has ended.
    async fn replace(&self, before: &FiredJob, by: &FiredJob) -> Result<(), BrokerError> {
        let why = format!("job {} of the same schedule replaced it", by.id);
        if cancel::cancel(self.broker.client(), &self.signing, &before.pool, &before.id, &why).await? == cancel::Cancelled::Now {
            tracing::info!(job_id = %before.id, by = %by.id, "cancelled the job that a newer one replaces");
        }
        Ok(())
    }

    /// Puts the job into its queue. Answers why not, where the pool would not take it.
    async fn make(&self, record: &ScheduleRecord, job: &FiredJob) -> Result<Option<String>, BrokerError> {
        let body = match Job::try_from(record.job.clone()) {
            Ok(body) => body,
            Err(error) => return Ok(Some(error.to_string())),
        };
        let executor = body.job_type.executor();
        let lane = Lane { priority: record.priority, executor: executor.clone() };
        let (subject, body) = (subjects::job(&job.pool, &lane, &job.id), wire::encode(&body));
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, MSGPACK);
        // So that a second one is refused although an agent has taken, run and forgotten the first.
        headers.insert(MSG_ID, msg_id(&job.pool, &job.id));
        signing::sign(&self.signing, Signed::Job { fresh: false }, &subject, &mut headers, &body)?;
        let message = Outgoing { subject, headers, payload: body.into() };
        let mut declared = false;
        loop {
            match atomic::publish(self.broker.client(), &message).await {
                Ok(_) | Err(Refusal::Taken) => return Ok(None),
                Err(Refusal::Full) => return Ok(Some(format!("the queue of pool {} is full", job.pool))),
                Err(Refusal::Refused { reason, .. }) => return Ok(Some(reason)),
                Err(error @ (Refusal::NotSent | Refusal::Busy | Refusal::Unknown(_))) => {
                    return Err(BrokerError::Interrupted { what: format!("job {}", job.id), why: error.to_string() });
                }
                Err(Refusal::Nowhere) if declared => return Ok(Some(format!("pool {} has no lane for it", job.pool))),
                Err(Refusal::Nowhere) => {
                    if let Some(why) = self.declare(&job.pool, executor.clone()).await? {
                        return Ok(Some(why));
                    }
                    declared = true;
                }
            }
        }
    }

    /// Declares the lanes of an executor. Answers why not, where there is no pool for them.
    async fn declare(&self, pool: &PoolName, executor: ExecutorName) -> Result<Option<String>, BrokerError> {
        match provision::ensure_lanes(self.broker.client(), pool, &BTreeSet::from([executor])).await {
            Ok(_) => Ok(None),
            Err(provision::Error::NoPool(pool)) => Ok(Some(format!("there is no pool {pool}"))),
            Err(error) => Err(BrokerError::Interrupted { what: format!("the lanes of pool {pool}"), why: error.to_string() }),
        }
    }
}
