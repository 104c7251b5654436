//! Whether this gateway's clock is the broker's, which agents' JWTs are judged by: one that is far off mints them expired, or not yet valid.

use muster_runtime::http::Readiness;
use muster_schemas::{signature::SKEW_MAX, subjects::broker::StreamApi, time::Timestamp, topology};
use serde_json::json;

use crate::{app::App, stored};

/// The check of `/readyz`.
pub(crate) const CHECK: &str = "clock";

/// Compares the clocks. Without an answer of the broker the check stays as it is.
pub(crate) async fn look(app: &App, readiness: &Readiness) {
    let sent = Timestamp::now();
    // Each answer of the broker's interface for streams has its time.
    let answer = stored::call(&app.nats, StreamApi::Info.subject(topology::RESULTS), &json!({})).await;
    let received = Timestamp::now();
    let theirs = answer.ok().flatten().and_then(|info| info.get("ts")?.as_str()?.parse().ok());
    match theirs {
        Some(theirs) => {
            let state = compare(sent, received, theirs);
            if let Err(problem) = &state {
                tracing::error!("{problem}");
            }
            readiness.set(CHECK, state);
        }
        None => tracing::debug!("the broker does not say what time it is"),
    }
}

/// Compares the broker's clock, read between two moments of ours, with ours.
fn compare(sent: Timestamp, received: Timestamp, theirs: Timestamp) -> Result<(), String> {
    let ours = theirs.min(received).max(sent);
    if ours.apart(theirs) <= SKEW_MAX {
        return Ok(());
    }
    let most = SKEW_MAX.as_secs() / 60;
    Err(format!("this machine's clock says {ours} and the broker's {theirs}; they may differ by {most} minutes, so set the clock"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;

    fn at(secs: i64) -> Timestamp {
        Timestamp::from_secs(1_800_000_000 + secs)
    }

    #[test]
    fn a_clock_that_is_far_from_the_brokers_is_named_with_both_times() {
        for theirs in [-600, -300, 0, 5, 300, 605] {
            assert_eq!(compare(at(0), at(5), at(theirs)), Ok(()), "{theirs}");
        }
        for (theirs, ours) in [(-601, 0), (606, 5), (-86_400, 0), (86_400, 5)] {
            let problem = compare(at(0), at(5), at(theirs)).unwrap_err();
            assert!(problem.contains(&at(ours).to_string()) && problem.contains(&at(theirs).to_string()), "{problem}");
        }
    }
}
