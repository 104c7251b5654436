//! An order for a job that runs what another one ran: a retry of a finished job, or the replay of a dead letter.

use muster_schemas::{
    code::Code,
    job::{self, Job},
    lane::{Lane, Priority},
    names::{AgentId, JobId, PoolName},
    queue::Queue,
    time::Timestamp,
    wire,
};

use super::order::{IdFrom, Order};
use crate::problem::ApiError;

/// What is to run again.
pub(crate) struct Again<'a> {
    /// The body of the job that ran before.
    pub(crate) body: &'a [u8],
    /// Its id.
    pub(crate) of: &'a JobId,
    pub(crate) pool: PoolName,
    /// The one agent that it is for; none is whichever is next in a lane of this priority.
    pub(crate) agent: Option<AgentId>,
    pub(crate) priority: Priority,
    /// Of the new job.
    pub(crate) id: JobId,
    pub(crate) id_from: IdFrom,
}

/// The new job. Its parent is the first of them all. A time before which, or after which, the old one was not to start is taken over only if
/// it is still to come: else nothing could ever run again that had to start by a certain time.
///
/// # Errors
/// `body_not_kept` when the body is no job; `body_too_large` when it has no room for its parent's id.
pub(crate) fn order(again: Again<'_>, now: Timestamp) -> Result<Order, ApiError> {
    let Again { body, of, pool, agent, priority, id, id_from } = again;
    let mut job = Job::decode(body)
        .map_err(|error| ApiError::new(Code::BodyNotKept, format!("what was queued as job `{of}` can't run again: {error}")))?;
    job.parent.get_or_insert_with(|| of.clone());
    job.not_before = job.not_before.filter(|at| *at > now);
    job.expires_at = job.expires_at.filter(|at| *at > now);
    let queue = match agent {
        Some(agent) => Queue::Agent(agent),
        None => Queue::Lane(Lane { priority, executor: job.job_type.executor() }),
    };
    job.expires_at = queue.expires_at(job.expires_at, job.not_before, now);
    let body = wire::encode(&job);
    if body.len() > job::LIMIT {
        let detail = format!("with its parent's id the job has {} bytes; the limit is {}", body.len(), job::LIMIT);
        return Err(ApiError::new(Code::BodyTooLarge, detail));
    }
    Ok(Order { pool, queue, id, id_from, job, body: body.into() })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;

    fn again(body: &str) -> Result<Order, ApiError> {
        let (pool, of): (PoolName, JobId) = ("p".parse().unwrap(), "second".parse().unwrap());
        let id = JobId::generate(&pool);
        let again = Again { body: body.as_bytes(), of: &of, pool, agent: None, priority: Priority::High, id, id_from: IdFrom::Us };
        super::order(again, Timestamp::from_secs(1_000))
    }

    #[test]
    fn the_parent_is_the_first_of_them_all() {
        let parent = |body| again(body).unwrap().job.parent.unwrap().to_string();
        assert_eq!(parent(r#"{"type":"shell.run"}"#), "second");
        assert_eq!(parent(r#"{"type":"shell.run","parent":"first"}"#), "first");
    }

    #[test]
    fn times_that_have_passed_are_left_out() {
        let body = |start: i64, end: i64| {
            let (start, end) = (Timestamp::from_secs(start), Timestamp::from_secs(end));
            again(&format!(r#"{{"type":"shell.run","not_before":"{start}","expires_at":"{end}"}}"#)).unwrap().job
        };
        assert_eq!((body(10, 20).not_before, body(10, 20).expires_at), (None, None));
        let ahead = body(2_000, 3_000);
        assert!(ahead.not_before.is_some() && ahead.expires_at.is_some());
    }

    #[test]
    fn what_is_no_job_does_not_run_again() {
        for body in ["", "hello", r#"{"type":"shell"}"#] {
            assert_eq!(again(body).unwrap_err().code, Code::BodyNotKept);
        }
        let order = again(r#"{"type":"shell.run","params":{"command":"date"}}"#).unwrap();
        assert_eq!((order.queue.lane().unwrap().consumer().as_str(), Job::decode(&order.body).unwrap()), ("high_shell", order.job));
    }
}
