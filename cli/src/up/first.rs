//! The first job of a start: a ping all the way through. What others do with the pool may keep it from that, which is no fault of the stack's:
//! then it is taken back, and what kept it is told.

use std::time::Duration;

use muster_schemas::{
    api::{JobState, JobView, PoolView, Submit, Why, WhyReason},
    code::Code,
    names::PoolName,
};
use reqwest::Method;
use tokio::time::Instant;

use crate::{api::Api, failure::Refused};

/// How long to wait for its end before asking why it waits.
const LOOK: Duration = Duration::from_secs(1);
/// How long its turn may take to come. What else is in a pool is soon done, as a rule.
const TURN: Duration = Duration::from_secs(10);
/// How long to wait before another one when one failed: agents are only just registering.
const AGAIN: Duration = Duration::from_millis(25);

/// Submits pings until one succeeds. Says what keeps it, if that is not for the stack to change; waits for ever where something is wrong with the
/// stack itself.
pub(super) async fn run(api: &Api, pool: &PoolName) -> Option<String> {
    loop {
        match once(api, pool).await {
            Ok(Seen::Succeeded) => return None,
            Ok(Seen::Kept(why)) => return Some(why),
            Ok(Seen::Failed) | Err(_) => tokio::time::sleep(AGAIN).await,
        }
    }
}

/// What became of a ping.
enum Seen {
    Succeeded,
    Failed,
    /// It was taken back, or refused: by what kept it.
    Kept(String),
}

async fn once(api: &Api, pool: &PoolName) -> anyhow::Result<Seen> {
    let ping = Submit { pool: pool.to_string(), job_type: "probe.ping".into(), result_ttl_s: Some(60), ..Submit::default() };
    let began = Instant::now();
    let mut job: JobView = match api.send(Method::POST, "/jobs", &ping, LOOK).await {
        Ok(job) => job,
        Err(error) => return full(&error).map(Seen::Kept).ok_or(error),
    };
    let (path, query) = (format!("/jobs/{}", job.id), [("pool", pool.to_string())]);
    loop {
        if job.state.is_final() {
            return Ok(if job.state == JobState::Succeeded { Seen::Succeeded } else { Seen::Failed });
        }
        let why: Why = api.get(&format!("{path}/why"), &query).await?;
        let queue = api.get::<PoolView>(&format!("/pools/{pool}"), &[]).await?.queue;
        // Where it can't be taken back, it has ended this moment.
        if keeps(why.reason, queue.pending + queue.running > 1, began.elapsed())
            && api.act::<JobView>(&format!("{path}/cancel"), &query).await.is_ok()
        {
            return Ok(Seen::Kept(why.sentence));
        }
        job = api.get_waiting(&path, &query, LOOK).await?;
    }
}

/// Whether a ping that has waited so long for this reason waits for something that is not the stack's fault. `others` are jobs in its pool.
fn keeps(reason: WhyReason, others: bool, waited: Duration) -> bool {
    match reason {
        WhyReason::PoolPaused => true,
        WhyReason::Busy | WhyReason::RunningLimit => others && waited >= TURN,
        _ => false,
    }
}

/// What a gateway says that refuses a job for want of room in the queue.
fn full(error: &anyhow::Error) -> Option<String> {
    let problem = &error.downcast_ref::<Refused>()?.problem;
    (problem.code == Code::QueueFull).then(|| problem.detail.clone())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pause_and_the_jobs_of_others_keep_a_first_job_and_a_fault_of_the_stack_does_not() {
        use WhyReason::{Busy, Next, NoAgent, NoneAccepting, NoneOnline, PoolPaused, RunningLimit};
        let (soon, late) = (Duration::ZERO, TURN);
        assert!(keeps(PoolPaused, false, soon));
        for reason in [Busy, RunningLimit] {
            assert!(keeps(reason, true, late) && !keeps(reason, true, soon), "{reason:?}");
            assert!(!keeps(reason, false, late), "{reason:?}: nobody else is in the queue, so the agents do not pull");
        }
        for reason in [Next, NoAgent, NoneAccepting, NoneOnline] {
            assert!(!keeps(reason, true, late), "{reason:?}");
        }
    }

    #[test]
    fn a_full_queue_keeps_it_and_another_refusal_does_not() {
        let refused = |code: Code| -> anyhow::Error {
            let problem = json!({"type": "t", "title": "t", "status": 429, "code": code, "detail": "as it says", "request_id": "r"});
            Refused { problem: serde_json::from_value(problem).unwrap() }.into()
        };
        assert_eq!(full(&refused(Code::QueueFull)).as_deref(), Some("as it says"));
        assert_eq!(full(&refused(Code::BrokerUnavailable)), None);
        assert_eq!(full(&anyhow::anyhow!("x")), None);
    }
}
