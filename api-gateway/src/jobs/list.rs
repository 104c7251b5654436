//! The list of jobs and the figures of a pool: asked of a dispatcher, which keeps the history. Nothing else here needs one.

use std::time::Duration;

use async_nats::{Request, RequestErrorKind};
use axum::{extract::State, http::StatusCode};
use muster_schemas::{
    api::{JobRow, JobState, Many, Meta, One, Page, PoolStats},
    code::Code,
    history::{JobsAnswer, JobsQuestion, PoolAnswer, PoolQuestion},
    names::{AgentId, JobType, PoolName},
    records::Role,
    result::{ErrorInfo, Outcome},
    signature::Mark,
    subjects::History,
    time::Timestamp,
    wire::{self, Body, V},
};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::{
    app::App,
    endpoint::{Access, Endpoint},
    extract::{Path, Query},
    page::{self, Cursor},
    problem::ApiError,
    stored,
};

/// How long a dispatcher may take. A page takes one some 10 ms.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The states that a job can be listed by, beside the outcomes.
const UNDER_WAY: [JobState; 4] = [JobState::Scheduled, JobState::Pending, JobState::Running, JobState::Retrying];

/// The endpoints.
pub(crate) fn endpoints() -> Vec<Endpoint> {
    vec![
        Endpoint::get("/api/v1/jobs", Access::Role(Role::Viewer), list)
            .about(
                "jobs",
                "List jobs",
                "Newest first by the time they were queued, whoever published them; all that is given must hold. From a dispatcher's history, which is a fraction of a second behind. A page may be short and still have a cursor.",
            )
            .query::<JobsQuery>()
            .answers::<Many<JobRow>>(StatusCode::OK, "A page of jobs.")
            .codes(&[Code::NameInvalid, Code::HistoryUnavailable]),
        Endpoint::get("/api/v1/pools/{name}/stats", Access::Role(Role::Viewer), stats)
            .about(
                "pools",
                "A pool's figures",
                "Jobs by state as far as the history reaches back, the oldest one that waits, and percentiles of waiting and running over the last hour.",
            )
            .answers::<One<PoolStats>>(StatusCode::OK, "Its figures.")
            .codes(&[Code::NameInvalid, Code::PoolNotFound, Code::HistoryUnavailable]),
    ]
}

/// Query of the list.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct JobsQuery {
    /// Jobs of this pool.
    pool: Option<String>,
    /// Jobs that this agent runs or ran last.
    agent: Option<String>,
    /// Jobs of this type, `<executor>.<verb>`.
    #[serde(rename = "type")]
    job_type: Option<String>,
    /// Jobs in this state: `scheduled`, `pending`, `running`, `retrying`, `succeeded`, `failed`, `timed_out`, `cancelled`, `expired` or `rejected`.
    status: Option<String>,
    /// Jobs that have ended, and whose result's signature is `valid`, `missing` or `wrong`.
    signature: Option<Mark>,
    /// Jobs with this label, `key:value`.
    label: Option<String>,
    /// Jobs queued at this time or later, RFC 3339.
    since: Option<String>,
    /// Jobs queued before this time, RFC 3339.
    until: Option<String>,
    /// Entries on the page, 1 to 500. Default 50.
    limit: Option<u32>,
    /// From the page before.
    cursor: Option<String>,
}

impl JobsQuery {
    fn question(self) -> Result<JobsQuestion, ApiError> {
        let invalid = |detail: String| ApiError::new(Code::QueryInvalid, detail);
        let time = |name: &str, text: Option<String>| {
            let parsed = text.map(|text| text.parse::<Timestamp>()).transpose();
            parsed.map_err(|error| ApiError::new(Code::QueryInvalid, format!("{name}: {error}")))
        };
        let label = self.label.map(|text| {
            let pair = text.split_once(':').filter(|(key, _)| !key.is_empty());
            pair.map(|(key, value)| (key.to_owned(), value.to_owned()))
                .ok_or_else(|| invalid(format!("label is `{}`; it takes key:value", text.chars().take(100).collect::<String>())))
        });
        Ok(JobsQuestion {
            v: V,
            pool: self.pool.map(|text| text.parse::<PoolName>()).transpose()?,
            agent: self.agent.map(|text| text.parse::<AgentId>()).transpose()?,
            target_agent: None,
            job_type: self.job_type.map(|text| text.parse::<JobType>()).transpose()?,
            state: self.status.map(|text| state(&text)).transpose()?,
            label: label.transpose()?,
            signature: self.signature,
            since: time("since", self.since)?,
            until: time("until", self.until)?,
            limit: page::limit(self.limit)?,
            cursor: self.cursor.as_deref().map(Cursor::decode).transpose()?,
        })
    }
}

fn state(text: &str) -> Result<JobState, ApiError> {
    let mut all = UNDER_WAY.into_iter().chain(Outcome::ALL.map(JobState::from));
    all.find(|state| state.as_str() == text).ok_or_else(|| {
        let all: Vec<_> = UNDER_WAY.into_iter().chain(Outcome::ALL.map(JobState::from)).map(JobState::as_str).collect();
        ApiError::new(Code::QueryInvalid, format!("status takes one of {}", all.join(", ")))
    })
}

async fn list(State(app): State<App>, Query(query): Query<JobsQuery>) -> Result<axum::Json<Many<JobRow>>, ApiError> {
    let question = query.question()?;
    let limit = question.limit;
    let (data, cursor) = rows(&app, &question).await?;
    Ok(axum::Json(Many { data, meta: Meta { page: Page { limit, cursor } } }))
}

/// A page of jobs, and the cursor of the next one.
pub(crate) async fn rows(app: &App, question: &JobsQuestion) -> Result<(Vec<JobRow>, Option<String>), ApiError> {
    let answer: JobsAnswer = ask(app, History::Jobs, question).await?;
    refused(answer.error)?;
    Ok((answer.rows, answer.cursor.map(|cursor| Cursor::encode(&cursor))))
}

async fn stats(State(app): State<App>, Path(name): Path<PoolName>) -> Result<axum::Json<One<PoolStats>>, ApiError> {
    app.buckets.pool(&name).await?;
    let answer: PoolAnswer = ask(&app, History::Pool, &PoolQuestion { v: V, pool: name }).await?;
    refused(answer.error)?;
    let data = answer.stats.ok_or_else(|| ApiError::internal("read a dispatcher's answer", "it has neither figures nor an error"))?;
    Ok(axum::Json(One { data }))
}

/// Asks any dispatcher.
pub(crate) async fn ask<A: Body>(app: &App, verb: History, question: &impl Body) -> Result<A, ApiError> {
    stored::reachable(&app.broker).await.map_err(|error| error.while_doing("pass the question on"))?;
    let request = Request::new().payload(wire::encode(question).into()).timeout(Some(TIMEOUT));
    let answer = app.nats.send_request(verb.subject(), request).await.map_err(|error| match error.kind() {
        RequestErrorKind::NoResponders => ApiError::new(
            Code::HistoryUnavailable,
            "no dispatcher runs that has read its history; jobs run all the same, and can be looked up one by one",
        ),
        RequestErrorKind::TimedOut => {
            ApiError::new(Code::HistoryUnavailable, format!("the dispatcher did not answer within {} seconds", TIMEOUT.as_secs()))
        }
        _ => ApiError::broker("pass the question on", error),
    })?;
    wire::decode(&answer.payload).map_err(|error| ApiError::internal("read a dispatcher's answer", error))
}

/// The error that a dispatcher answered instead.
pub(crate) fn refused(error: Option<ErrorInfo>) -> Result<(), ApiError> {
    error.map_or(Ok(()), |error| Err(ApiError::new(error.code, error.message)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;

    fn question(change: impl FnOnce(&mut JobsQuery)) -> Result<JobsQuestion, Code> {
        let mut query = JobsQuery::default();
        change(&mut query);
        query.question().map_err(|error| error.code)
    }

    #[test]
    fn a_query_becomes_a_question() {
        let asked = question(|query| {
            query.status = Some("timed_out".into());
            query.label = Some("team:a:b".into());
            query.since = Some("2026-01-02T03:04:05Z".into());
        })
        .unwrap();
        assert_eq!((asked.state, asked.label), (Some(JobState::TimedOut), Some(("team".into(), "a:b".into()))));
        assert_eq!((asked.limit, asked.since.unwrap().to_string().as_str()), (50, "2026-01-02T03:04:05Z"));
    }

    #[test]
    fn what_is_no_filter_is_refused() {
        assert_eq!(question(|query| query.status = Some("done".into())), Err(Code::QueryInvalid));
        assert_eq!(question(|query| query.label = Some("team".into())), Err(Code::QueryInvalid));
        assert_eq!(question(|query| query.until = Some("yesterday".into())), Err(Code::QueryInvalid));
        assert_eq!(question(|query| query.cursor = Some("*".into())), Err(Code::QueryInvalid));
        assert_eq!(question(|query| query.limit = Some(0)), Err(Code::QueryInvalid));
        assert_eq!(question(|query| query.pool = Some("a.b".into())), Err(Code::NameInvalid));
        assert_eq!(question(|query| query.agent = Some("me".into())), Err(Code::NameInvalid));
        assert_eq!(question(|query| query.job_type = Some("shell".into())), Err(Code::NameInvalid));
    }
}
