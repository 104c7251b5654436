//! The members of a group, each with its job, page by page. Rows come from a dispatcher's history, a bounded number of questions per page.

use std::collections::BTreeMap;

use muster_schemas::{
    api::{GroupMember, JobRow, JobState, Many, Meta, NOT_SENT, Page},
    code::Code,
    group::{GroupRecord, GroupState},
    history::ROWS_MAX,
};
use serde_json::Value;

use super::view;
use crate::{app::App, page::Cursor, problem::ApiError};

/// Questions to a dispatcher for one page; a page that needs more ends with what it has, and a cursor.
const QUESTIONS_MAX: usize = 8;

/// Checks the state that members are filtered by.
pub(super) fn state(text: &str) -> Result<&str, ApiError> {
    let known = text == NOT_SENT || serde_json::from_value::<JobState>(Value::String(text.to_owned())).is_ok();
    known
        .then_some(text)
        .ok_or_else(|| ApiError::new(Code::QueryInvalid, format!("state takes {NOT_SENT} or a state of a job, such as failed")))
}

/// A page of members, from the place `from` on, in the order in which they are sent.
pub(super) async fn page(
    app: &App,
    record: &GroupRecord,
    group: &GroupState,
    wanted: Option<&str>,
    limit: u32,
    from: u32,
) -> Result<Many<GroupMember>, ApiError> {
    let members = view::members(record);
    let (mut data, mut next) = (Vec::new(), from);
    for _ in 0..QUESTIONS_MAX {
        let room = limit.saturating_sub(u32::try_from(data.len()).unwrap_or(limit));
        if room == 0 || next >= members {
            break;
        }
        let answer = view::ask(app, record, next, if wanted.is_some() { ROWS_MAX } else { room }).await?;
        if answer.next <= next {
            return Err(ApiError::internal("read a dispatcher's answer", "it does not go on"));
        }
        let until = answer.next.min(members);
        let mut rows: BTreeMap<u32, JobRow> = answer.rows.into_iter().collect();
        while next < until && data.len() < limit as usize {
            let job = rows.remove(&next);
            let is = job.as_ref().map(|job| job.state.as_str()).or_else(|| view::unknown(next, group));
            if wanted.is_none() || wanted == is {
                data.extend(member(app, record, next, job));
            }
            next += 1;
        }
    }
    let cursor = (next < members).then(|| Cursor::encode(&next.to_string()));
    Ok(Many { data, meta: Meta { page: Page { limit, cursor } } })
}

fn member(app: &App, record: &GroupRecord, place: u32, job: Option<JobRow>) -> Option<GroupMember> {
    let at = usize::try_from(place).ok()?;
    let agent_id = record.members.get(at)?.clone();
    let agent_name = app.mirror.agents.get(&agent_id).map(|agent| agent.name.clone());
    Some(GroupMember { agent_id, agent_name, job_id: record.id.job(at), wave: wave(&record.waves, place), job })
}

/// The wave of the member at a place, from 1.
fn wave(waves: &[u32], place: u32) -> u32 {
    let ends = waves.iter().scan(0_u32, |end, wave| {
        *end = end.saturating_add(*wave);
        Some(*end)
    });
    u32::try_from(ends.take_while(|end| *end <= place).count()).unwrap_or(u32::MAX).saturating_add(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waves_are_counted_from_one() {
        let of = |place| wave(&[1, 2, 3], place);
        assert_eq!([of(0), of(1), of(2), of(3), of(5)], [1, 2, 2, 3, 3]);
    }

    #[test]
    fn members_are_filtered_by_the_states_of_jobs_and_by_not_being_sent() {
        for known in ["not_sent", "failed", "timed_out", "pending"] {
            assert_eq!(state(known), Ok(known));
        }
        for wrong in ["", "done", "Failed", "not sent"] {
            assert_eq!(state(wrong).map_err(|error| error.code), Err(Code::QueryInvalid), "{wrong}");
        }
    }
}
