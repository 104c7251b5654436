//! How a job is shown: pure functions from what the broker holds of it. Where that comes from is [`super::lookup`].

use std::collections::BTreeMap;

use async_nats::HeaderMap;
use muster_schemas::{
    api::{JobState, JobView},
    event::{self, Event, EventKind},
    headers,
    job::{Job, JobError},
    names::{JobId, PoolName},
    queue::Queue,
    subjects,
    time::Timestamp,
    wire,
};

use super::{order::Order, outcome::Marked};
use crate::stored::Stored;

/// A job that is in a queue, waiting or running.
#[derive(Debug)]
pub(crate) struct Queued {
    pub(crate) pool: PoolName,
    pub(crate) id: JobId,
    pub(crate) queue: Queue,
    /// The exact subject that it is queued under.
    pub(crate) subject: String,
    /// What it asks for; an error when its publisher sent something that is no job, which an agent will reject.
    pub(crate) job: Result<Job, JobError>,
    /// When the broker stored it.
    pub(crate) at: Timestamp,
    pub(crate) headers: HeaderMap,
    /// The last thing an agent told of it.
    pub(crate) event: Option<Event>,
}

impl Queued {
    /// A job from its message in its queue's stream and the last message about it among the events. `None` when it is none.
    pub(crate) fn read(message: Stored, event: Option<&Stored>) -> Option<Self> {
        let address = subjects::parse_job(&message.subject)?;
        let (pool, queue, id) = (address.pool, address.queue, address.id.parse().ok()?);
        // An id of the caller's own may have been used before: events of that job are older than this message.
        // The broker's own copy of the job is no event of an agent's.
        let copy = |event: &Stored| event::is_queued(event.headers.get_all(headers::REPUBLISHED_SUBJECT).map(|subject| subject.as_str()));
        let told = event.filter(|event| event.at >= message.at && !copy(event));
        let event = told.and_then(|event| wire::decode(&event.payload).ok());
        let job = Job::decode(&message.payload);
        Some(Self { pool, id, queue, job, at: message.at, subject: message.subject, headers: message.headers, event })
    }
}

/// A job that has ended.
pub(crate) fn finished(pool: PoolName, id: JobId, Marked { result, signature }: Marked) -> JobView {
    JobView {
        id,
        pool,
        job_type: result.job_type.as_ref().map(ToString::to_string),
        priority: result.priority,
        state: JobState::from(result.outcome),
        labels: result.labels.clone(),
        queued_at: Some(result.queued_at),
        attempt: result.attempt,
        agent_id: result.agent_id.clone(),
        target_agent: None,
        parent: None,
        reason: None,
        next_at: None,
        result: Some(result),
        signature,
    }
}

/// A job that the broker has just stored. When it did is known to the broker only, so it is left out here.
pub(crate) fn accepted(order: &Order, now: Timestamp) -> JobView {
    let put_off = order.job.not_before.filter(|at| *at > now);
    JobView {
        id: order.id.clone(),
        pool: order.pool.clone(),
        job_type: Some(order.job.job_type.to_string()),
        priority: order.queue.priority(),
        state: if put_off.is_some() { JobState::Scheduled } else { JobState::Pending },
        labels: order.job.labels.clone(),
        queued_at: None,
        attempt: 0,
        agent_id: None,
        target_agent: order.queue.agent().cloned(),
        parent: order.job.parent.clone(),
        reason: None,
        next_at: put_off,
        result: None,
        signature: None,
    }
}

/// A job in its queue: scheduled, pending, running or retrying, by the last thing an agent told of it.
pub(crate) fn queued(queued: &Queued, now: Timestamp) -> JobView {
    let job = queued.job.as_ref().ok();
    let put_off = job.and_then(|job| job.not_before).filter(|at| *at > now);
    let waiting = if put_off.is_some() { JobState::Scheduled } else { JobState::Pending };
    let mut view = JobView {
        id: queued.id.clone(),
        pool: queued.pool.clone(),
        job_type: job.map(|job| job.job_type.to_string()),
        priority: queued.queue.priority(),
        state: waiting,
        labels: job.map_or_else(BTreeMap::new, |job| job.labels.clone()),
        queued_at: Some(queued.at),
        attempt: 0,
        agent_id: None,
        target_agent: queued.queue.agent().cloned(),
        parent: job.and_then(|job| job.parent.clone()),
        reason: None,
        next_at: put_off,
        result: None,
        signature: None,
    };
    if let Some(event) = &queued.event {
        view.attempt = event.attempt;
        view.reason.clone_from(&event.reason);
        let next_at = event.next_at.filter(|at| *at > now).or(put_off);
        match event.kind {
            EventKind::Started => {
                (view.state, view.agent_id, view.next_at) = (JobState::Running, Some(event.agent_id.clone()), None);
            }
            EventKind::Retrying => {
                (view.state, view.agent_id, view.next_at) = (JobState::Retrying, Some(event.agent_id.clone()), next_at);
            }
            EventKind::Released => view.next_at = next_at,
            // Told just before the job leaves the queue: its result is on the way.
            EventKind::Superseded | EventKind::Dead => (view.state, view.next_at) = (JobState::Running, None),
        }
    }
    view
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use std::time::Duration;

    use muster_schemas::{
        code::Code,
        names::AgentId,
        result::{ErrorInfo, JobResult, Outcome},
        signature::Mark,
        wire::V,
    };

    use super::*;

    const QUEUED: i64 = 1_000;

    fn message(subject: &str, secs: i64, payload: &[u8]) -> Stored {
        let at = Timestamp::from_secs(secs);
        Stored { subject: subject.into(), sequence: 1, at, headers: HeaderMap::new(), payload: payload.to_vec().into() }
    }

    fn told(kind: EventKind, next_at: Option<i64>) -> Stored {
        let at = Timestamp::from_secs(QUEUED + 5);
        let event = Event {
            v: V,
            kind,
            at,
            agent_id: AgentId::generate(),
            job_type: None,
            attempt: 2,
            releases: 0,
            reason: Some("because".into()),
            next_at: next_at.map(Timestamp::from_secs),
            history: Vec::new(),
        };
        message("e", QUEUED + 5, &wire::encode(&event))
    }

    fn view(body: &str, event: Option<&Stored>, now: i64) -> JobView {
        let read = Queued::read(message("jobs.p.high.shell.j", QUEUED, body.as_bytes()), event).unwrap();
        queued(&read, Timestamp::from_secs(now))
    }

    const JOB: &str = r#"{"type":"shell.run","labels":{"a":"b"}}"#;

    #[test]
    fn the_state_follows_the_last_event() {
        let cases = [
            (None, JobState::Pending, false, 0),
            (Some(message("e", QUEUED, b"")), JobState::Pending, false, 0),
            (Some(told(EventKind::Started, None)), JobState::Running, true, 2),
            (Some(told(EventKind::Retrying, Some(QUEUED + 100))), JobState::Retrying, true, 2),
            (Some(told(EventKind::Released, None)), JobState::Pending, false, 2),
            (Some(told(EventKind::Dead, None)), JobState::Running, false, 2),
        ];
        for (event, state, has_agent, attempt) in cases {
            let view = view(JOB, event.as_ref(), QUEUED + 10);
            assert_eq!((view.state, view.agent_id.is_some(), view.attempt), (state, has_agent, attempt), "{event:?}");
            assert_eq!((view.labels.len(), view.queued_at), (1, Some(Timestamp::from_secs(QUEUED))));
        }
    }

    #[test]
    fn the_brokers_own_copy_of_a_job_is_no_event_even_if_it_reads_like_one() {
        let mut copy = told(EventKind::Started, None);
        copy.headers.insert(headers::REPUBLISHED_SUBJECT, "jobs.p.high.shell.j");
        assert_eq!(view(JOB, Some(&copy), QUEUED + 10).state, JobState::Pending);
    }

    #[test]
    fn a_job_whose_time_has_not_come_is_scheduled_until_then() {
        let job = format!(r#"{{"type":"shell.run","not_before":"{}"}}"#, Timestamp::from_secs(QUEUED + 60));
        for event in [None, Some(told(EventKind::Released, Some(QUEUED + 60)))] {
            let before = view(&job, event.as_ref(), QUEUED + 10);
            assert_eq!((before.state, before.next_at), (JobState::Scheduled, Some(Timestamp::from_secs(QUEUED + 60))));
            let after = view(&job, event.as_ref(), QUEUED + 61);
            assert_eq!((after.state, after.next_at), (JobState::Pending, None));
        }
    }

    #[test]
    fn events_of_an_earlier_job_of_the_same_id_do_not_count() {
        let mut event = told(EventKind::Started, None);
        event.at = Timestamp::from_secs(QUEUED) - Duration::from_millis(1);
        assert_eq!(view(JOB, Some(&event), QUEUED + 10).state, JobState::Pending);
    }

    #[test]
    fn a_body_that_is_no_job_is_shown_without_its_type() {
        let view = view("hello", None, QUEUED);
        assert_eq!((view.state, view.job_type), (JobState::Pending, None));
    }

    #[test]
    fn what_is_not_under_a_jobs_subject_is_no_queued_job() {
        assert!(Queued::read(message("jobs.p.high.shell.a b", QUEUED, b"{}"), None).is_none());
        assert!(Queued::read(message("results.p.j", QUEUED, b"{}"), None).is_none());
    }

    #[test]
    fn a_finished_job_shows_its_outcome() {
        let at = Timestamp::from_secs(QUEUED);
        let result = JobResult::never_ran(Outcome::Expired, ErrorInfo::new(Code::Cancelled, "x"), at, at);
        let view = finished("p".parse().unwrap(), "j".parse().unwrap(), Marked { result, signature: Some(Mark::Wrong) });
        assert_eq!((view.state, view.signature), (JobState::Expired, Some(Mark::Wrong)));
        assert!(view.state.is_final() && view.result.is_some());
    }
}
