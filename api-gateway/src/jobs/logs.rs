//! A job's stored output, read from where the caller left off.

use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use muster_schemas::{
    api::{LogView, Many, Meta, Page},
    code::Code,
    log::{LogChunk, OutputStream},
    names::{JobId, PoolName},
    subjects::About,
    topology::LOGS,
    wire,
};
use tokio::time::{Instant, timeout_at};

use super::{lookup, lookup::Found};
use crate::{
    app::App,
    problem::ApiError,
    stored::{self, StoreError, Stored},
};

/// Chunks in one answer unless asked for otherwise. A chunk has at most 16 KiB.
pub(crate) const LIMIT_DEFAULT: usize = 100;
/// The most chunks in one answer: 8 MiB.
pub(crate) const LIMIT_MAX: usize = 512;

/// How often a follower looks although nothing seems to have come: a chunk is announced a moment before it can be read.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// What part of a job's log is asked for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Part {
    /// Only what is stored behind this sequence.
    pub(crate) after: u64,
    /// The most chunks.
    pub(crate) limit: usize,
}

/// The number of chunks from `?limit=`.
pub(crate) fn limit(asked: Option<usize>) -> Result<usize, ApiError> {
    match asked.unwrap_or(LIMIT_DEFAULT) {
        limit @ 1..=LIMIT_MAX => Ok(limit),
        other => Err(ApiError::new(Code::QueryInvalid, format!("limit is {other}; it takes 1 to {LIMIT_MAX}"))),
    }
}

/// Part of the log of a job that is queued or has a result. When nothing is there yet and the job still runs, waits for more up to `wait`.
pub(crate) async fn read(app: &App, id: &JobId, pool: Option<&PoolName>, part: Part, wait: Duration) -> Result<Vec<LogView>, ApiError> {
    let found = lookup::get(app, id, pool).await?;
    let failed = |error: StoreError| error.while_doing("read the job's log");
    let filter = About::Log.job(found.pool(), id);
    if wait.is_zero() || matches!(found, Found::Finished { .. }) {
        return chunks(app, &filter, part).await.map_err(failed);
    }
    let deadline = Instant::now() + wait;
    let gone = |error: async_nats::SubscribeError| ApiError::broker("read the job's log", error);
    let mut told = app.nats.subscribe(filter.clone()).await.map_err(gone)?;
    let mut done = app.nats.subscribe(About::Done.job(found.pool(), id)).await.map_err(gone)?;
    let mut finished = false;
    loop {
        let chunks = chunks(app, &filter, part).await.map_err(failed)?;
        if !chunks.is_empty() || finished || Instant::now() >= deadline {
            return Ok(chunks);
        }
        let look_again = deadline.min(Instant::now() + LOOK_AGAIN);
        tokio::select! {
            _ = timeout_at(look_again, told.next()) => {}
            _ = done.next() => finished = true,
            () = app.tasks.shutdown().requested() => finished = true,
        }
        // A result that was stored before the subscription was there is not announced any more.
        finished = finished || matches!(lookup::find(app, id, Some(found.pool())).await?, None | Some(Found::Finished { .. }));
    }
}

async fn chunks(app: &App, filter: &str, part: Part) -> Result<Vec<LogView>, StoreError> {
    let stored = stored::from(&app.nats, LOGS, filter, part.after.saturating_add(1), part.limit).await?;
    Ok(stored.iter().filter_map(show).collect())
}

/// A stored chunk as it is shown. What an agent stored that is no chunk is left out.
fn show(stored: &Stored) -> Option<LogView> {
    let chunk = wire::decode::<LogChunk>(&stored.payload).ok()?;
    Some(LogView { seq: stored.sequence, attempt: chunk.attempt, stream: chunk.stream, at: chunk.at, data: chunk.data })
}

/// The page of these chunks. A full page has a cursor: there may be more behind it.
pub(crate) fn page(chunks: Vec<LogView>, limit: usize) -> Many<LogView> {
    let cursor = chunks.last().filter(|_| chunks.len() == limit).map(|last| last.seq.to_string());
    Many { data: chunks, meta: Meta { page: Page { limit: u32::try_from(limit).unwrap_or(u32::MAX), cursor } } }
}

/// The output alone, as it was written, and what Muster notes of it. Progress is no output.
pub(crate) fn plain(chunks: &[LogView]) -> Bytes {
    let output = chunks.iter().filter(|chunk| chunk.stream != OutputStream::Progress);
    output.flat_map(|chunk| chunk.data.as_bytes()).copied().collect()
}
