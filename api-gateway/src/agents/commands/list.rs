//! The list of an agent's commands: rows of a dispatcher's history, with the end of each one's output from its stored result.

use axum::{Json as Answer, extract::State};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use muster_schemas::{
    api::{CommandView, JobRow, Many, Meta, Page},
    code::Code,
    history::JobsQuestion,
    names::AgentId,
    records::AgentState,
    result::{JobResult, Output},
    subjects::About,
    topology::RESULTS,
};
use schemars::JsonSchema;
use serde::Deserialize;

use super::super::store;
use crate::{
    app::App,
    extract::{Path, Query},
    jobs::{list as history, outcome},
    page::Cursor,
    problem::ApiError,
    stored::{self, StoreError},
};

/// Commands on a page: the most, and unless asked for otherwise.
const COMMANDS_MAX: u32 = 100;
/// The most bytes of output that a row has: its end. A page of them is at most 400 KiB.
const OUTPUT_MAX: usize = 4 * 1024;
/// Results read side by side for one page.
const AT_ONCE: usize = 32;

/// A page of the list.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct CommandsQuery {
    /// Commands on the page, 1 to 100. Default 100.
    limit: Option<u32>,
    /// From the page before.
    cursor: Option<String>,
}

pub(super) async fn list(
    State(app): State<App>,
    Path(agent): Path<AgentId>,
    Query(query): Query<CommandsQuery>,
) -> Result<Answer<Many<CommandView>>, ApiError> {
    let limit = match query.limit.unwrap_or(COMMANDS_MAX) {
        limit @ 1..=COMMANDS_MAX => limit,
        other => return Err(ApiError::new(Code::QueryInvalid, format!("limit is {other}; it takes 1 to {COMMANDS_MAX}"))),
    };
    let cursor = query.cursor.as_deref().map(Cursor::decode).transpose()?;
    if app.mirror.agents.get(&agent).is_none_or(|record| record.state == AgentState::Deleting) {
        store::there(&app, &agent).await?;
    }
    let question = JobsQuestion { target_agent: Some(agent), limit, cursor, ..JobsQuestion::default() };
    let (rows, cursor) = history::rows(&app, &question).await?;
    let views = stream::iter(rows).map(|row| view(&app, row)).buffered(AT_ONCE);
    let data: Vec<CommandView> = views.try_collect().await.map_err(|error: StoreError| error.while_doing("read the commands' results"))?;
    Ok(Answer(Many { data, meta: Meta { page: Page { limit, cursor } } }))
}

async fn view(app: &App, job: JobRow) -> Result<CommandView, StoreError> {
    if !job.state.is_final() {
        return Ok(CommandView { job, output: None });
    }
    let result = stored::last(&app.nats, RESULTS, &About::Result.job(&job.pool, &job.id)).await?;
    let output = result.map(|stored| end(&outcome::read(&stored.payload, stored.at)));
    Ok(CommandView { job, output })
}

/// The end of what a command wrote. Of one that wrote to both streams it is the end of each, what went wrong last.
fn end(result: &JobResult) -> Output {
    let (out, err) = (result.stdout.as_bytes(), result.stderr.as_bytes());
    let share = |own: &[u8], other: &[u8]| own.len().min(OUTPUT_MAX.saturating_sub(other.len().min(OUTPUT_MAX / 2)));
    let both = [tail(out, share(out, err)), tail(err, share(err, out))].concat();
    Output::from(both)
}

/// The last bytes. A character that would be cut in two is left out, so that text stays text.
fn tail(bytes: &[u8], most: usize) -> &[u8] {
    let (_, mut end) = bytes.split_at(bytes.len().saturating_sub(most));
    if end.len() < bytes.len() {
        // At most three bytes of a character can follow its first one.
        for _ in 0..3 {
            match end.split_first() {
                Some((first, rest)) if first & 0b1100_0000 == 0b1000_0000 => end = rest,
                _ => break,
            }
        }
    }
    end
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use muster_schemas::{
        result::{ErrorInfo, Outcome},
        time::Timestamp,
    };

    use super::*;

    fn shown(out: &str, err: &str) -> String {
        let at = Timestamp::from_secs(0);
        let mut result = JobResult::never_ran(Outcome::Failed, ErrorInfo::new(Code::Internal, ""), at, at);
        (result.stdout, result.stderr) = (Output::from(out.as_bytes().to_vec()), Output::from(err.as_bytes().to_vec()));
        String::from_utf8(end(&result).as_bytes().to_vec()).unwrap()
    }

    #[test]
    fn output_is_cut_to_its_end_and_neither_stream_hides_the_other() {
        assert_eq!(shown("a\n", "b\n"), "a\nb\n");
        assert_eq!(shown("", ""), "");
        let (long, all) = ("x".repeat(OUTPUT_MAX - 1) + "end", "y".repeat(OUTPUT_MAX));
        assert_eq!(shown(&long, ""), long.split_at(2).1);
        assert_eq!(shown(&long, "why"), format!("{}why", long.split_at(5).1));
        assert_eq!(shown(&long, &all), format!("{}{}", long.split_at(long.len() - OUTPUT_MAX / 2).1, all.split_at(OUTPUT_MAX / 2).1));
    }

    #[test]
    fn a_character_is_not_cut_in_two() {
        let text = "€".repeat(OUTPUT_MAX);
        let shown = shown(&text, "");
        assert!(shown.len() <= OUTPUT_MAX && shown.len() > OUTPUT_MAX - 3 && shown.chars().all(|c| c == '€'));
    }
}
