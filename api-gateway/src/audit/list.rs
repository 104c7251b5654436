//! `GET /api/v1/audit`: pages of the trail, newest first.
//!
//! Read by sequence, backwards, without a consumer. A page's work is bounded: after [`LOOKED_MAX`] entries it ends with what it has, and a
//! cursor.

use axum::{Json as Answer, extract::State, http::StatusCode};
use muster_schemas::{
    api::{AuditView, Many, Meta, Page},
    audit::{AuditEntry, AuditOutcome},
    code::Code,
    records::Role,
    subjects,
    time::Timestamp,
    topology::AUDIT,
    wire,
};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::{
    app::App,
    endpoint::{Access, Endpoint},
    extract::Query,
    page::{self, Cursor},
    problem::ApiError,
    stored::{
        self, StoreError, Stored,
        walk::{self, Backwards},
    },
};

pub(super) const PATH: &str = "/api/v1/audit";
/// Entries that one page looks at.
const LOOKED_MAX: usize = 5000;
/// Requests that one page makes, whatever they find.
const STEPS_MAX: usize = 128;
/// Entries read at once; they have some 300 bytes.
const WINDOW: usize = 256;

pub(crate) fn endpoints() -> Vec<Endpoint> {
    vec![
        Endpoint::get(PATH, Access::Role(Role::Admin), list)
            .about(
                "audit",
                "Read the audit trail",
                "Who did what to whom, from where, and what came of it; attempts that failed are there too. Newest first, for 396 days, all filters have to match. Reading it is audited. A page looks at 5 000 entries at most, so under a filter it may have few, or none, and a cursor all the same: it is the last only without one.",
            )
            .query::<AuditQuery>()
            .answers::<Many<AuditView>>(StatusCode::OK, "A page of entries.")
            .codes(&[Code::QueryInvalid])
            .audited("audit.read"),
    ]
}

/// Query of the trail. All filters have to match.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct AuditQuery {
    /// An action, such as `agents.revoke`, or all of an area: `agents.*`.
    action: Option<String>,
    /// Who: an id, a name, or a kind such as `nobody`.
    actor: Option<String>,
    /// To whom or what: an id or a name, as it stands in the entry.
    target: Option<String>,
    /// What came of it.
    outcome: Option<AuditOutcome>,
    /// From which address.
    address: Option<String>,
    /// Stored at this time or later.
    since: Option<Timestamp>,
    /// Stored before this time.
    until: Option<Timestamp>,
    /// Entries on the page, 1 to 500. Default 50.
    limit: Option<u32>,
    /// From the page before.
    cursor: Option<String>,
}

impl AuditQuery {
    /// The entries that can match, as the broker can tell.
    fn subject(&self) -> Result<String, ApiError> {
        let Some(action) = &self.action else { return Ok(subjects::broker::AUDIT.to_owned()) };
        let wrong = || ApiError::new(Code::QueryInvalid, "action takes one such as `agents.revoke`, or an area such as `agents.*`");
        subjects::audit_filter(action).ok_or_else(wrong)
    }

    fn matches(&self, entry: &AuditEntry) -> bool {
        let is = |wanted: &Option<String>, there: Option<&str>| wanted.as_ref().is_none_or(|wanted| there == Some(wanted));
        let actor = |wanted: &String| {
            [entry.actor.id.as_deref(), entry.actor.name.as_deref(), Some(entry.actor.kind.as_str())].contains(&Some(wanted))
        };
        self.actor.as_ref().is_none_or(actor)
            && is(&self.target, entry.target.as_deref())
            && is(&self.address, entry.address.as_deref())
            && self.outcome.is_none_or(|outcome| outcome == entry.outcome)
    }
}

async fn list(State(app): State<App>, Query(query): Query<AuditQuery>) -> Result<Answer<Many<AuditView>>, ApiError> {
    let limit = page::limit(query.limit)?;
    let (subject, before) = (query.subject()?, query.cursor.as_deref().map(Cursor::number).transpose()?);
    let failed = |error: StoreError| error.while_doing("read the audit trail");
    stored::reachable(&app.broker).await.map_err(failed)?;
    let (data, before) = walk(&app, &query, &subject, limit as usize, before).await.map_err(failed)?;
    let cursor = before.map(|before| Cursor::encode(&before.to_string()));
    Ok(Answer(Many { data, meta: Meta { page: Page { limit, cursor } } }))
}

/// The entries of a page, and below which sequence the next one begins.
async fn walk(
    app: &App,
    query: &AuditQuery,
    subject: &str,
    limit: usize,
    mut before: Option<u64>,
) -> Result<(Vec<AuditView>, Option<u64>), StoreError> {
    if let Some(until) = query.until
        && let Some(first) = walk::first_since(&app.nats, AUDIT, subject, until).await?
    {
        before = Some(before.map_or(first, |before| before.min(first)));
    }
    let mut walk = Backwards::in_windows(walk::ends(&app.nats, AUDIT).await?, before, WINDOW);
    let (mut data, mut looked) = (Vec::new(), 0);
    for _ in 0..STEPS_MAX {
        for stored in walk.step(&app.nats, AUDIT, subject).await? {
            let (sequence, at) = (stored.sequence, stored.at);
            if query.since.is_some_and(|since| at < since) {
                return Ok((data, None));
            }
            looked += 1;
            data.extend(read(&stored).filter(|view| query.matches(&view.entry)));
            if data.len() == limit || looked == LOOKED_MAX {
                return Ok((data, Some(sequence)));
            }
        }
        if walk.is_over() {
            return Ok((data, None));
        }
    }
    Ok((data, Some(walk.before())))
}

/// What is no entry was not written by us, or by a later version; it is not shown.
fn read(stored: &Stored) -> Option<AuditView> {
    let entry = wire::decode(&stored.payload).ok()?;
    Some(AuditView { sequence: stored.sequence, stored_at: stored.at, entry })
}
