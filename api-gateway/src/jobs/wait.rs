//! `?wait=`: how long a request waits for a job to end, and the waiting itself.

use std::time::Duration;

use muster_schemas::{
    api::{JobView, WAIT_MAX},
    code::Code,
};
use tokio::time::Instant;

use super::view;
use crate::{app::App, problem::ApiError, waiters::Waiter};

/// Parses `30s`, `500ms` or `30` (seconds), up to [`WAIT_MAX`].
pub(crate) fn parse(text: &str) -> Result<Duration, ApiError> {
    let (number, unit) = text.split_at(text.bytes().take_while(u8::is_ascii_digit).count());
    // Ten digits are a number that fits; a longer one is over the limit in any unit.
    let number = Some(number).filter(|number| number.len() <= 10).and_then(|number| number.parse::<u64>().ok());
    let wait = match (number, unit) {
        (Some(number), "ms") => Some(Duration::from_millis(number)),
        (Some(number), "s" | "") => Some(Duration::from_secs(number)),
        _ => None,
    };
    wait.filter(|wait| *wait <= WAIT_MAX).ok_or_else(|| {
        let shown: String = text.chars().take(32).flat_map(char::escape_debug).collect();
        let detail = format!("wait is `{shown}`; it takes a time such as 30s, 500ms or 30, at most {}s", WAIT_MAX.as_secs());
        ApiError::new(Code::WaitInvalid, detail)
    })
}

/// Waits until the job of `view` has ended or `deadline` is there, and answers where it is then.
pub(crate) async fn until(app: &App, view: JobView, waiter: &mut Waiter, deadline: Instant) -> JobView {
    app.desk.waiting.inc();
    // Also when the caller goes away, or is sent away.
    let waiting = Waiting(app);
    let result = waiter.result(app, deadline).await;
    drop(waiting);
    app.desk.waits.with([if result.is_some() { "finished" } else { "elapsed" }]).inc();
    match result {
        Some(result) => view::finished(view.pool, view.id, result),
        None => view,
    }
}

/// A request that is counted as waiting.
struct Waiting<'a>(&'a App);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.desk.waiting.dec();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;

    #[test]
    fn a_wait_is_seconds_or_milliseconds_up_to_a_minute() {
        for (text, ms) in [("30s", 30_000), ("500ms", 500), ("30", 30_000), ("0", 0), ("60", 60_000), ("60000ms", 60_000), ("007s", 7_000)]
        {
            assert_eq!(parse(text).unwrap(), Duration::from_millis(ms), "{text}");
        }
        for text in ["", "s", "61", "61s", "60001ms", "-1", "1.5s", "1m", "1 s", "30S", "99999999999999999999", "٣", "1\n", "1e1"] {
            assert_eq!(parse(text).unwrap_err().code, Code::WaitInvalid, "{text:?}");
        }
    }
}
