//! A job's output on the terminal: chunks while it runs, the rest when it has ended; nothing twice, nothing lost.
//!
//! While a job runs its log is read. When it has ended, its result holds each stream whole unless that is marked as cut, so
//! the result says what is still to be printed; only what was cut has to come from the log.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use muster_schemas::{
    api::{JobState, JobView, LogView},
    log::{OutputStream, Progress},
    names::{JobId, PoolName},
};
use tokio::time::Instant;

use crate::{api::Api, failure::Failure, output};

/// How long one request waits for the end of a job: below the 60 s at which proxies give up.
const WAIT: Duration = Duration::from_secs(30);
/// How long a gateway may be away while a job is waited for.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long one request waits for output.
const LOG_WAIT: Duration = Duration::from_secs(10);
/// The pause after an answer that came at once with nothing new, so that no gateway is asked in a tight loop.
const PAUSE: Duration = Duration::from_millis(200);

/// What has been printed of the attempt that runs.
#[derive(Debug)]
pub(super) struct Printed {
    /// As one line of JSON per chunk instead of the bytes themselves.
    json: bool,
    count: Mutex<Count>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Count {
    attempt: u32,
    after: u64,
    stdout: usize,
    stderr: usize,
    /// The newest chunk is a note: what was written after it is not in the log.
    cut: bool,
}

impl Printed {
    pub(super) fn new(json: bool) -> Self {
        Self { json, count: Mutex::default() }
    }

    fn get(&self) -> Count {
        *self.count.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a chunk into account.
    fn add(&self, chunk: &LogView) {
        let mut count = self.count.lock().unwrap_or_else(PoisonError::into_inner);
        if chunk.attempt != count.attempt {
            *count = Count { attempt: chunk.attempt, ..Count::default() };
        }
        count.after = chunk.seq;
        count.cut = chunk.stream == OutputStream::Note;
        let bytes = chunk.data.as_bytes().len();
        match chunk.stream {
            OutputStream::Stdout => count.stdout += bytes,
            OutputStream::Stderr => count.stderr += bytes,
            OutputStream::Note | OutputStream::Progress => {}
        }
    }
}

fn at(pool: &PoolName) -> [(&'static str, String); 1] {
    [("pool", pool.to_string())]
}

/// Waits for the end of a job; `None` when it has not come within `limit`. A gateway that restarts meanwhile is waited for.
pub(super) async fn ended(api: &Api, id: &JobId, pool: &PoolName, limit: Option<Duration>) -> anyhow::Result<Option<JobView>> {
    let deadline = limit.map(|limit| Instant::now() + limit);
    let mut heard = Instant::now();
    loop {
        let began = Instant::now();
        let left = deadline.map_or(WAIT, |deadline| deadline.saturating_duration_since(began).min(WAIT));
        match api.get_waiting::<JobView>(&format!("/jobs/{id}"), &at(pool), left).await {
            Ok(job) if job.state.is_final() => return Ok(Some(job)),
            Ok(_) => heard = Instant::now(),
            Err(error) if error.is::<Failure>() && heard.elapsed() < PATIENCE => {}
            Err(error) => return Err(error),
        }
        if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            return Ok(None);
        }
        if began.elapsed() < PAUSE {
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// Prints output as it comes, until cancelled or until nobody reads it any more. That no more of it can be had is no reason to
/// stop: how the job ends tells the rest.
pub(super) async fn live(api: &Api, id: &JobId, pool: &PoolName, printed: &Printed) -> std::io::Error {
    loop {
        let began = Instant::now();
        match page(api, id, pool, printed, LOG_WAIT).await {
            Ok(true) => continue,
            Ok(false) => {}
            Err(error) => match error.downcast::<std::io::Error>() {
                Ok(error) => return error,
                Err(_) => tokio::time::sleep(PAUSE).await,
            },
        }
        if began.elapsed() < PAUSE {
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// Prints a page of the log; `false` when there was nothing new.
async fn page(api: &Api, id: &JobId, pool: &PoolName, printed: &Printed, wait: Duration) -> anyhow::Result<bool> {
    let [pool] = at(pool);
    let query = [pool, ("after", printed.get().after.to_string())];
    let chunks: Vec<LogView> = api.page(&format!("/jobs/{id}/logs"), &query, wait).await?;
    for chunk in &chunks {
        if printed.json {
            output::json(chunk)?
        } else {
            show(chunk)?
        }
        printed.add(chunk);
    }
    Ok(!chunks.is_empty())
}

/// Prints a chunk where it belongs.
fn show(chunk: &LogView) -> std::io::Result<()> {
    match chunk.stream {
        OutputStream::Stdout => output::raw(chunk.data.as_bytes(), false),
        OutputStream::Stderr => output::raw(chunk.data.as_bytes(), true),
        OutputStream::Note => {
            output::warn(&chunk.data.to_text());
            Ok(())
        }
        OutputStream::Progress => {
            // For whoever looks on; in a file or a pipe it would be noise.
            if let Some(progress) = Progress::read(&chunk.data).filter(|_| output::is_watched()) {
                output::warn(format!("{} % {}", progress.percent, progress.message).trim_end());
            }
            Ok(())
        }
    }
}

/// Prints all of the log that is stored and was not printed.
pub(super) async fn stored(api: &Api, id: &JobId, pool: &PoolName, printed: &Printed) -> anyhow::Result<()> {
    while page(api, id, pool, printed, Duration::ZERO).await? {}
    Ok(())
}

/// Prints what is left when a job has ended.
pub(super) async fn rest(api: &Api, job: &JobView, printed: &Printed) -> anyhow::Result<()> {
    let Some(result) = &job.result else { return Ok(()) };
    if result.truncated {
        stored(api, &job.id, &job.pool, printed).await?;
        let count = printed.get();
        if count.cut && !printed.json {
            output::warn("the log ends here; this is the end of the output");
            output::raw(result.stdout.as_bytes(), false)?;
            output::raw(result.stderr.as_bytes(), true)?;
        }
        if count != Count::default() {
            return Ok(());
        }
        output::warn("the beginning of the output is not stored any more; this is its end");
    }
    let (stdout, stderr) = left(printed.get(), result.attempt, result.stdout.as_bytes(), result.stderr.as_bytes());
    output::raw(stdout, false)?;
    output::raw(stderr, true)?;
    if result.stdout.is_empty()
        && job.state == JobState::Succeeded
        && let Some(data) = &result.data
    {
        output::line(&serde_json::to_string_pretty(data)?)?;
    }
    Ok(())
}

/// What of an attempt's output was not printed yet.
fn left<'a>(count: Count, attempt: u32, stdout: &'a [u8], stderr: &'a [u8]) -> (&'a [u8], &'a [u8]) {
    let (out, err) = if count.attempt == attempt { (count.stdout, count.stderr) } else { (0, 0) };
    (stdout.get(out..).unwrap_or_default(), stderr.get(err..).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use muster_schemas::{result::Output, time::Timestamp};

    use super::*;

    fn chunk(seq: u64, attempt: u32, stream: OutputStream, data: &str) -> LogView {
        LogView { seq, attempt, stream, at: Timestamp::from_secs(0), data: Output::from(data.as_bytes().to_vec()) }
    }

    #[test]
    fn what_the_log_told_is_not_told_again_from_the_result() {
        let printed = Printed::new(false);
        printed.add(&chunk(7, 1, OutputStream::Stdout, "hel"));
        printed.add(&chunk(8, 1, OutputStream::Note, "a note"));
        printed.add(&chunk(9, 1, OutputStream::Stderr, "oops"));
        assert_eq!(printed.get().after, 9);
        assert_eq!(left(printed.get(), 1, b"hello", b"oops"), (&b"lo"[..], &b""[..]));
    }

    #[test]
    fn the_output_of_an_earlier_attempt_is_not_mistaken_for_that_of_the_last() {
        let printed = Printed::new(false);
        printed.add(&chunk(1, 1, OutputStream::Stdout, "first"));
        assert_eq!(left(printed.get(), 2, b"second", b""), (&b"second"[..], &b""[..]));
        printed.add(&chunk(2, 2, OutputStream::Stdout, "sec"));
        assert_eq!(left(printed.get(), 2, b"second", b""), (&b"ond"[..], &b""[..]));
    }
}
