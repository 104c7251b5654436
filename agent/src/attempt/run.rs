//! Running one attempt, and what follows from how it ended.

use std::time::Duration;

use muster_executor::Connection;
use muster_runtime::trace::TraceContext;
use muster_schemas::{
    code::Code,
    event::{DeadLetter, EventKind},
    job::Job,
    names::JobId,
    queue::Queue,
    result::{ErrorInfo, Outcome},
    time::Timestamp,
    topology::LOST_ATTEMPTS_MAX,
    wire::V,
};

use super::{Arrived, Past, Step, Stop};
use crate::{
    core::Core,
    executors::{self, Execution, Prepared},
    finish::{
        events::{self, event, record, tell},
        result::Ran,
    },
};

/// A job tells that it runs only after this long: most are over by then, and their result says it all.
const STARTED_AFTER: Duration = Duration::from_millis(20);

/// What an attempt is about.
pub(super) struct Context<'a> {
    pub(super) core: &'a Core,
    pub(super) arrived: &'a Arrived,
    pub(super) trace: &'a TraceContext,
    pub(super) id: &'a JobId,
    pub(super) queue: &'a Queue,
    pub(super) past: &'a Past,
}

impl Context<'_> {
    /// Runs the next attempt, if the job has one left.
    pub(super) async fn run(&self, job: Job, prepared: Prepared, connection: Option<Box<Connection>>, announced: bool) -> Step {
        let (number, core) = (self.past.next(), self.core);
        if number > 1 {
            tracing::Span::current().record("attempt", number);
        }
        if number > attempts_max(&job) {
            return self.lost_too_often(&job);
        }
        let started = event(EventKind::Started, &core.id, Some(job.job_type.clone()), number, self.past);
        let redelivered = self.arrived.delivery.delivered > 1;
        if redelivered || announced {
            // Stored before it starts, so that a lost agent's attempt counts.
            if let Err(error) = record(&core.js, &core.pool, self.id, &started).await {
                tracing::warn!(%error, "can't record the start of an attempt; leaving the job to its lease");
                return Step::Abandon;
            }
        }
        let started_at = Timestamp::now();
        let execution = self.execute((prepared, connection), &job, number, (!redelivered && !announced).then_some(started)).await;
        let finished_at = Timestamp::now();
        core.figures.duration.observe(finished_at.since(started_at).as_secs_f64());
        let ran = Ran {
            job: &job,
            priority: self.queue.priority(),
            agent: &core.id,
            attempt: number,
            history: self.past.history.clone(),
            queued_at: self.arrived.delivery.stored_at,
            started_at,
            finished_at,
        };
        self.after(&job, ran, execution)
    }

    /// Runs it, passing on its output, and telling that it has started once it has run for a moment.
    async fn execute(
        &self,
        (prepared, connection): (Prepared, Option<Box<Connection>>),
        job: &Job,
        number: u32,
        started: Option<muster_schemas::event::Event>,
    ) -> Execution {
        let core = self.core;
        let attempt = executors::Attempt { agent_id: core.id.clone(), job_id: self.id.clone(), number, timeout: job.timeout() };
        let (context, mut feed) = executors::Context::new(self.arrived.brake.token());
        let mut log = None;
        let mut take = |update| log.get_or_insert_with(|| core.logs.attempt(&core.pool, self.id, number)).take(update);
        let execution = core.registry.run(prepared, attempt, connection.map(|connection| *connection), context);
        tokio::pin!(execution);
        let announce = async {
            match started {
                Some(started) => {
                    tokio::time::sleep(STARTED_AFTER).await;
                    tell(&core.js, &core.pool, self.id, &started).await;
                }
                None => std::future::pending().await,
            }
        };
        tokio::pin!(announce);
        let (mut announced, mut silent) = (false, false);
        let mut execution = loop {
            tokio::select! {
                biased;
                execution = &mut execution => break execution,
                update = feed.next(), if !silent => match update {
                    Some(update) => take(update),
                    None => silent = true,
                },
                () = &mut announce, if !announced => announced = true,
            }
        };
        while let Some(update) = feed.next().await {
            take(update);
        }
        if let Some(log) = log {
            execution.log_chunks = log.close();
        }
        execution
    }

    /// What follows from how an attempt ended.
    fn after(&self, job: &Job, ran: Ran<'_>, execution: Execution) -> Step {
        let core = self.core;
        let stopped = self.arrived.brake.why().filter(|_| execution.outcome == Outcome::Cancelled);
        match stopped {
            Some(Stop::Released) => {
                let event = events::release(&core.id, Some(job.job_type.clone()), self.past, "its agent shuts down", None);
                return Step::Release { id: self.id.clone(), event, delay: Duration::ZERO };
            }
            Some(Stop::Finished) => {
                let mut event = event(EventKind::Superseded, &core.id, Some(job.job_type.clone()), ran.attempt, self.past);
                event.reason = Some("its result was stored by another agent".to_owned());
                return Step::Superseded { id: self.id.clone(), event };
            }
            Some(Stop::Ended) => return Step::Abandon,
            Some(Stop::Cancelled) | None => {}
        }
        core.figures.ended(execution.outcome);
        let afterwards = execution.afterwards.clone();
        let retry = job.retry.filter(|_| execution.outcome.is_retryable());
        if let Some(retry) = retry.filter(|retry| ran.attempt < retry.max_attempts) {
            let delay = retry.backoff(ran.attempt, rand::random());
            let mut event = event(EventKind::Retrying, &core.id, Some(job.job_type.clone()), ran.attempt, self.past);
            event.reason = execution.error.as_ref().map(|error| error.message.chars().take(300).collect());
            event.next_at = Some(Timestamp::now() + delay);
            event.history = self.past.with(ran.record(&execution));
            return Step::Retry { id: self.id.clone(), event, delay };
        }
        let letter = retry.map(|_| {
            let error = execution.error.clone().unwrap_or_else(|| ErrorInfo::new(Code::Internal, "no explanation"));
            self.dead_letter(error, self.past.with(ran.record(&execution)), ran.attempt)
        });
        let cancelled = stopped == Some(Stop::Cancelled);
        let attempt = ran.attempt;
        let ending = self.ending(&ran.ended(execution), Some(job));
        let mut ending = match letter {
            Some((letter, event)) => ending.with_dead_letter(&letter, event),
            None => ending,
        };
        // The canceller stored a result before it told us; that ours is refused is then no news.
        if cancelled {
            return Step::Store(Box::new(ending), None);
        }
        // An end that others store too, as those above, is acked at once: who stored it takes the job out of its queue.
        ending.set_place(self.place(job));
        let superseded = event(EventKind::Superseded, &core.id, Some(job.job_type.clone()), attempt, self.past);
        Step::Store(Box::new(ending.or_superseded(superseded)), afterwards)
    }

    /// All its attempts were lost, or the last of them was: it ends here.
    fn lost_too_often(&self, job: &Job) -> Step {
        let last = self.past.history.iter().rev().find_map(|record| record.error.clone());
        let error = last.unwrap_or_else(|| {
            ErrorInfo::new(Code::AgentLost, format!("its agent was lost in each of {} attempts, and it has no more", self.past.attempts))
        });
        tracing::error!(attempts = self.past.attempts, "a job has no attempts left; it becomes a dead letter");
        self.core.figures.ended(Outcome::Failed);
        let result = self.without_attempt(Outcome::Failed, error.clone(), Some(job));
        let (letter, event) = self.dead_letter(error, self.past.history.clone(), self.past.attempts);
        Step::Store(Box::new(self.ending(&result, Some(job)).with_dead_letter(&letter, event)), None)
    }

    fn dead_letter(
        &self,
        error: ErrorInfo,
        attempts: Vec<muster_schemas::result::AttemptRecord>,
        attempt: u32,
    ) -> (DeadLetter, muster_schemas::event::Event) {
        let mut event = event(EventKind::Dead, &self.core.id, None, attempt, self.past);
        event.reason = Some(error.message.chars().take(300).collect());
        event.history.clone_from(&attempts);
        let letter = DeadLetter {
            v: V,
            subject: self.arrived.message.subject.to_string(),
            body: self.arrived.message.payload.to_vec(),
            queued_at: self.arrived.delivery.stored_at,
            died_at: Timestamp::now(),
            error,
            attempts,
        };
        (letter, event)
    }
}

/// How many attempts a job has in all.
pub(super) fn attempts_max(job: &Job) -> u32 {
    job.retry.map_or(LOST_ATTEMPTS_MAX, |retry| retry.max_attempts)
}
