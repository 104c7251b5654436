//! Many dead letters at once. The gateway does 1 000 in one request, so this asks until none is left.

use std::{process::ExitCode, time::Duration};

use muster_schemas::{
    api::{DEAD_BULK_MAX, DeadLetterFilter, DeadLettersDone},
    names::{JobId, PoolName},
    time::Timestamp,
};

use crate::{api::Api, args::Which, output};

/// How long the gateway may take for one request: 1 000 letters, each stored on the broker's disk.
const LONG: Duration = Duration::from_secs(60);

/// What is done to each letter.
#[derive(Debug)]
pub(super) enum Act {
    Replay { to: Option<PoolName> },
    Delete,
}

impl Act {
    fn path(&self) -> &'static str {
        match self {
            Self::Replay { .. } => "/dead-letters/replay",
            Self::Delete => "/dead-letters/delete",
        }
    }

    fn done(&self) -> &'static str {
        match self {
            Self::Replay { .. } => "replayed",
            Self::Delete => "deleted",
        }
    }
}

/// Does it, says how many were done, and exits with 1 when some could not be.
pub(super) async fn run(api: &Api, act: Act, which: Which, json: bool) -> anyhow::Result<ExitCode> {
    let now = Timestamp::now();
    let mut total = DeadLettersDone::default();
    for mut filter in filters(&act, &which, now) {
        loop {
            let done: DeadLettersDone = api.send_long(act.path(), &filter, LONG).await?;
            total.done += done.done;
            total.failed.extend(done.failed);
            let Some(cursor) = done.cursor else { break };
            filter = onward(filter, cursor, now);
        }
    }
    if json {
        output::json(&total)?;
    } else {
        output::line(&said(&act, total.done))?;
        for failure in &total.failed {
            output::warn(&format!("job {} could not be {}: {} ({})", failure.id, act.done(), failure.problem.detail, failure.problem.code));
        }
    }
    Ok(if total.failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn said(act: &Act, count: u64) -> String {
    let what = match count {
        0 => "no dead letter was".to_owned(),
        1 => "1 dead letter was".to_owned(),
        many => format!("{many} dead letters were"),
    };
    format!("{what} {}", act.done())
}

/// What is asked for first: one request, or one per 1 000 of the jobs that are named.
fn filters(act: &Act, which: &Which, now: Timestamp) -> Vec<DeadLetterFilter> {
    let to = match act {
        Act::Replay { to } => to.as_ref().map(ToString::to_string),
        Act::Delete => None,
    };
    let filter = DeadLetterFilter {
        pool: which.pool.as_ref().map(ToString::to_string),
        job_type: which.job_type.as_ref().map(ToString::to_string),
        until: which.until.map(|moment| moment.at(now)),
        all: which.all.then_some(true),
        to,
        ..DeadLetterFilter::default()
    };
    if which.ids.is_empty() {
        return vec![filter];
    }
    let named = |ids: &[JobId]| DeadLetterFilter { ids: Some(ids.iter().map(ToString::to_string).collect()), ..filter.clone() };
    which.ids.chunks(DEAD_BULK_MAX).map(named).collect()
}

/// What is asked for next. A job that was replayed may die again meanwhile: only what had died when this began is meant, so that it ends.
fn onward(filter: DeadLetterFilter, cursor: String, began: Timestamp) -> DeadLetterFilter {
    DeadLetterFilter { until: filter.until.or(Some(began)), all: None, cursor: Some(cursor), ..filter }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests fail by panicking")]
    use super::*;

    fn which() -> Which {
        Which { ids: Vec::new(), pool: None, job_type: None, until: None, all: false }
    }

    #[test]
    fn all_is_asked_for_as_all_and_then_only_up_to_when_it_began() {
        let began = Timestamp::from_secs(1_800_000_000);
        let first = filters(&Act::Delete, &Which { all: true, ..which() }, began);
        assert_eq!(first, [DeadLetterFilter { all: Some(true), ..DeadLetterFilter::default() }]);
        let next = onward(first[0].clone(), "c".into(), began);
        assert_eq!(next, DeadLetterFilter { until: Some(began), cursor: Some("c".into()), ..DeadLetterFilter::default() });
    }

    #[test]
    fn jobs_that_are_named_are_asked_for_a_thousand_at_a_time() {
        let ids: Vec<JobId> = (0..1001).map(|n| format!("j{n}").parse().unwrap()).collect();
        let act = Act::Replay { to: Some("spare".parse().unwrap()) };
        let asked = filters(&act, &Which { ids, ..which() }, Timestamp::from_secs(0));
        let sizes: Vec<_> = asked.iter().map(|filter| filter.ids.as_ref().unwrap().len()).collect();
        assert_eq!(sizes, [1000, 1]);
        assert!(asked.iter().all(|filter| filter.to.as_deref() == Some("spare")));
        assert_eq!(
            [said(&act, 0), said(&act, 1), said(&act, 2)].join(", "),
            "no dead letter was replayed, 1 dead letter was replayed, 2 dead letters were replayed"
        );
    }
}
