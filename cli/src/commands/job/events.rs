//! `muster job events`: a job's life as lines, to its end, over as many connections as that takes.

use std::time::Duration;

use anyhow::Context as _;
use muster_schemas::{
    api::{JobView, LogView, ProgressView, StateView},
    names::JobId,
    time::Timestamp,
};
use reqwest::{Response, StatusCode};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::time::{Instant, timeout};

use crate::{
    api::Api,
    failure::{self, Failure},
    output,
    sse::{Event, Reader},
    text,
};

/// How long nothing may come before the connection counts as lost: a gateway says something every 15 s.
const QUIET: Duration = Duration::from_secs(45);
/// How long a gateway may be away.
const PATIENCE: Duration = Duration::from_secs(60);
/// The pause before the next connection, as the gateway asks for it.
const PAUSE: Duration = Duration::from_secs(1);
/// The name of the last event.
const END: &str = "end";

/// How a connection ended.
enum Ended {
    /// With the job.
    Job,
    /// Otherwise, and this was the matter.
    Lost(String),
}

/// Prints a job's events until it has ended.
pub(super) async fn follow(api: &Api, id: &JobId, query: &[(&str, String)], json: bool) -> anyhow::Result<()> {
    let path = format!("/jobs/{id}/events");
    let mut after: Option<String> = None;
    let mut lost_at: Option<Instant> = None;
    loop {
        let why = match api.events(&path, query, after.as_deref()).await {
            Ok(response) => match read(response, &mut after, json).await? {
                Ended::Job => return Ok(()),
                Ended::Lost(why) => {
                    lost_at = Some(Instant::now());
                    why
                }
            },
            // A gateway that was there once may come back.
            Err(error) if lost_at.is_some() && failure::may_pass(&error) => error.to_string(),
            Err(error) => return Err(error),
        };
        if lost_at.is_some_and(|lost| lost.elapsed() > PATIENCE) {
            let hint = format!("the job goes on; `muster job events {id}` watches it again");
            return Err(Failure::new(format!("can't watch job {id} any more: {why}")).hint(hint).into());
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Prints what comes over one connection, and notes how far that is.
async fn read(mut response: Response, after: &mut Option<String>, json: bool) -> anyhow::Result<Ended> {
    if response.status() == StatusCode::NO_CONTENT {
        return Ok(Ended::Job);
    }
    let mut reader = Reader::default();
    loop {
        let bytes = match timeout(QUIET, response.chunk()).await {
            Ok(Ok(Some(bytes))) => bytes,
            Ok(Ok(None)) => return Ok(Ended::Lost("the gateway ended the stream".into())),
            Ok(Err(error)) => return Ok(Ended::Lost(error.to_string())),
            Err(_) => return Ok(Ended::Lost(format!("the gateway said nothing for {} s", QUIET.as_secs()))),
        };
        for event in reader.read(&bytes)? {
            print(&event, json)?;
            if event.name == END {
                return Ok(Ended::Job);
            }
            if event.id.is_some() {
                *after = event.id;
            }
        }
    }
}

fn print(event: &Event, json: bool) -> anyhow::Result<()> {
    if json {
        let data: Value = serde_json::from_str(&event.data).context("an event of the gateway is not JSON")?;
        return output::json(&json!({"id": event.id, "event": event.name, "data": data}));
    }
    for line in lines(event)? {
        output::line(&line)?;
    }
    Ok(())
}

/// An event as lines for a person. A kind that this version does not know is left out.
fn lines(event: &Event) -> anyhow::Result<Vec<String>> {
    Ok(match event.name.as_str() {
        "state" => {
            let StateView { change, at, job } = data(event)?;
            // The word that the gateway uses.
            let word = serde_json::to_value(change)?.as_str().unwrap_or_default().to_owned();
            vec![line(at, &word, &doing(&job))]
        }
        "progress" => {
            let ProgressView { at, progress, .. } = data(event)?;
            vec![line(at, "progress", &format!("{} % {}", progress.percent, progress.message))]
        }
        "log" => {
            let LogView { stream, at, data: written, .. } = data(event)?;
            let stream = serde_json::to_value(stream)?;
            let stream = stream.as_str().unwrap_or_default();
            written.to_text().lines().map(|written| line(at, stream, written)).collect()
        }
        END => {
            let job: JobView = data(event)?;
            let at = job.result.as_ref().map_or_else(Timestamp::now, |result| result.finished_at);
            vec![line(at, job.state.as_str(), &ended(&job))]
        }
        _ => Vec::new(),
    })
}

fn data<T: DeserializeOwned>(event: &Event) -> anyhow::Result<T> {
    serde_json::from_str(&event.data)
        .with_context(|| format!("can't understand a `{}` of the gateway; is it one of this version?", event.name))
}

fn line(at: Timestamp, what: &str, rest: &str) -> String {
    text::safe(format!("{at}  {what:<9} {rest}").trim_end())
}

/// What a state change says beside its word.
fn doing(job: &JobView) -> String {
    let parts = [
        (job.attempt > 0).then(|| format!("attempt {}", job.attempt)),
        job.agent_id.as_ref().map(|agent| format!("on {agent}")),
        job.next_at.map(|at| format!("until {at}")),
        job.reason.clone(),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

/// What the end says beside its word.
fn ended(job: &JobView) -> String {
    let Some(result) = &job.result else { return String::new() };
    let parts = [
        result.exit_code.map(|code| format!("exit {code}")),
        result.started_at.map(|started| format!("ran {}", text::duration(result.finished_at.since(started)))),
        result.error.as_ref().map(|error| format!("{} ({})", error.message, error.code)),
        result.data.as_ref().map(Value::to_string),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests fail by panicking")]
    use super::*;

    fn shown(name: &str, data: Value) -> Vec<String> {
        lines(&Event { id: None, name: name.into(), data: data.to_string() }).unwrap()
    }

    #[test]
    fn each_event_is_a_line_and_output_is_one_per_line_of_it() {
        let at = "2027-01-15T08:00:00Z";
        let job = json!({"id": "j", "pool": "p", "priority": "normal", "state": "retrying", "attempt": 2, "reason": "exit status 3"});
        let mut state = job.clone();
        (state["change"], state["at"]) = ("retrying".into(), at.into());
        assert_eq!(shown("state", state), [format!("{at}  retrying  attempt 2, exit status 3")]);
        let progress = json!({"seq": 1, "attempt": 1, "at": at, "percent": 40, "message": "half of it"});
        assert_eq!(shown("progress", progress), [format!("{at}  progress  40 % half of it")]);
        let written = muster_schemas::result::Output::from(b"one\n\x1b[31mtwo\n".to_vec());
        let log = json!({"seq": 1, "attempt": 1, "stream": "stderr", "at": at, "data": written});
        assert_eq!(shown("log", log), [format!("{at}  stderr    one"), format!("{at}  stderr    \\u{{1b}}[31mtwo")]);
        assert!(shown("later", json!({})).is_empty());
    }

    #[test]
    fn the_end_says_how_it_ended() {
        let at = "2027-01-15T08:00:00Z";
        let end = json!({
            "id": "j", "pool": "p", "priority": "normal", "state": "failed", "attempt": 1,
            "result": {"v": 1, "outcome": "failed", "exit_code": 3, "attempt": 1, "queued_at": at, "started_at": at,
                       "finished_at": "2027-01-15T08:00:02Z", "error": {"code": "exit_nonzero", "message": "exit status 3"}},
        });
        let line = shown("end", end).remove(0);
        assert!(line.ends_with("failed    exit 3, ran 2.0 s, exit status 3 (exit_nonzero)"), "{line}");
    }

    #[test]
    fn an_event_that_is_not_understood_is_an_error_that_says_so() {
        let error = lines(&Event { id: None, name: "state".into(), data: "{}".into() }).unwrap_err().to_string();
        assert!(error.contains("of this version"), "{error}");
    }
}
