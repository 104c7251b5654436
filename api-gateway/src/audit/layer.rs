//! Around gate and handler: makes an entry of each request that is audited, and has it stored before the answer goes out.
//!
//! It reads the path's parameter (see [`super::target`]), the status, the error's code and, of what was made, the id in the answer; nothing else of a request ever
//! gets into the trail.

use axum::{
    body::{Body, HttpBody as _},
    extract::{RawPathParams, Request, State, rejection::RawPathParamsRejection},
    http::StatusCode,
    middleware::Next,
    response::Response,
};
use http_body_util::BodyExt as _;
use muster_schemas::{
    audit::{Actor, AuditEntry, AuditOutcome},
    code::Code,
    time::Timestamp,
};
use serde_json::Value;

use super::{Audited, Noted};
use crate::{
    app::App,
    extract::{Remote, RequestId},
    problem::ApiError,
};

/// The most bytes of an answer that is searched for the id of what was made.
const ANSWER_MAX: u64 = 64 * 1024;
/// What is told of a request of whose end nothing is known.
const UNANSWERED: &str = "it ended without an answer, and may have been done";

/// The endpoint that a layer stands around.
#[derive(Clone)]
pub(crate) struct Place {
    pub(crate) app: App,
    pub(crate) audited: Audited,
    /// As in the table of routes.
    pub(crate) path: &'static str,
}

/// The layer.
pub(crate) async fn around(
    State(Place { app, audited, path }): State<Place>,
    Remote(remote): Remote,
    RequestId(request_id): RequestId,
    params: Result<RawPathParams, RawPathParamsRejection>,
    mut request: Request,
    next: Next,
) -> Response {
    let noted = Noted::default();
    request.extensions_mut().insert(noted.clone());
    let entry = AuditEntry {
        address: Some(remote.to_string()),
        target: params.ok().and_then(|params| super::target::of(path, &params)),
        request_id: Some(request_id.to_string()),
        ..AuditEntry::new(audited.action(path), Actor::nobody(), AuditOutcome::Failed, Timestamp::now())
    };
    let mut guard = Guard { app: &app, entry: Some(entry), noted, audited };
    let mut response = next.run(request).await;
    let seen = Seen::of(&response);
    let made = match audited {
        Audited::Always { made: Some(pointer), .. } if seen.outcome == AuditOutcome::Done => made(&mut response, pointer).await,
        _ => None,
    };
    let written = guard.is_written();
    let Some(mut entry) = guard.end() else { return response };
    entry.outcome = seen.outcome;
    entry.code = seen.code;
    if let Some(made) = made {
        entry.target = Some(made);
    } else if seen.code == Some(Code::NameInvalid) {
        // What is no name or id may be anything.
        entry.target = None;
    }
    // Who was turned away at the gate came to no handler that could have noted anything. Reading the trail repeats itself: whoever follows it
    // would otherwise follow their own reading.
    if (seen.is_turned_away() && entry.detail.is_none()) || (written && path == super::list::PATH && seen.outcome == AuditOutcome::Done) {
        app.audit.write_folded(entry).await;
    } else if written {
        app.audit.write(entry).await;
    }
    response
}

/// The entry of a request under way. When the caller goes away, or the handler panics, it is written as it is then.
struct Guard<'a> {
    app: &'a App,
    entry: Option<AuditEntry>,
    noted: Noted,
    audited: Audited,
}

impl Guard<'_> {
    /// Whether it is written whatever comes of it.
    fn is_written(&self) -> bool {
        matches!(self.audited, Audited::Always { .. }) || self.noted.read().action.is_some()
    }

    /// The entry, with what was noted meanwhile.
    fn end(&mut self) -> Option<AuditEntry> {
        let (entry, notes) = (self.entry.take()?, self.noted.read());
        Some(AuditEntry {
            action: notes.action.map_or(entry.action, str::to_owned),
            actor: notes.actor.unwrap_or(entry.actor),
            target: notes.target.or(entry.target),
            detail: notes.detail.or(entry.detail),
            ..entry
        })
    }
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        if !self.is_written() {
            return;
        }
        self.noted.detail(UNANSWERED);
        if let Some(entry) = self.end() {
            self.app.audit.leave(entry);
        }
    }
}

/// What an answer says of its request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Seen {
    status: StatusCode,
    outcome: AuditOutcome,
    code: Option<Code>,
}

impl Seen {
    fn of(response: &Response) -> Self {
        let status = response.status();
        let outcome = match status {
            status if status.is_server_error() => AuditOutcome::Failed,
            status if status.is_client_error() => AuditOutcome::Refused,
            _ => AuditOutcome::Done,
        };
        Self { status, outcome, code: response.extensions().get::<ApiError>().map(|error| error.code) }
    }

    /// Whether it was refused for who asked, or how often, and not for what was asked.
    fn is_turned_away(self) -> bool {
        matches!(self.status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) || self.code == Some(Code::RateLimited)
    }
}

/// The id of what was made. The answer goes on as it was.
async fn made(response: &mut Response, pointer: &str) -> Option<String> {
    // One without a known size is a stream, or too large to be the answer to a making.
    response.body().size_hint().exact().filter(|size| *size <= ANSWER_MAX)?;
    let bytes = std::mem::take(response.body_mut()).collect().await.ok()?.to_bytes();
    *response.body_mut() = Body::from(bytes.clone());
    let answer: Value = serde_json::from_slice(&bytes).ok()?;
    answer.pointer(pointer)?.as_str().map(str::to_owned)
}
