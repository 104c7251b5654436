//! The list of groups, newest first: a walk backwards through their records. Its work is bounded: after [`LOOKED_MAX`] records a page ends
//! with what it has, and a cursor.
//!
//! No dispatcher is asked for counts: for each group that is a pass over the whole history.

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use muster_schemas::{
    api::{GroupView, Many, Meta, Page},
    group::{GroupRecord, GroupState, GroupStatus, keys},
    names::PoolName,
    subjects::js,
    topology::{GROUPS, bucket_stream},
    wire,
};

use super::view;
use crate::{
    app::App,
    page::Cursor,
    problem::ApiError,
    stored::{
        self, StoreError,
        walk::{self, Backwards},
    },
};

/// Records that one page looks at.
const LOOKED_MAX: usize = 1000;
/// Requests that one page makes, whatever they find.
const STEPS_MAX: usize = 64;
/// States read at once.
const AT_ONCE: usize = 8;

/// Which groups a page shows.
#[derive(Debug, Default)]
pub(super) struct Filter {
    pub(super) pool: Option<PoolName>,
    pub(super) status: Option<GroupStatus>,
}

/// One page, from below the sequence `before` on.
pub(super) async fn page(app: &App, filter: &Filter, limit: u32, before: Option<u64>) -> Result<Many<GroupView>, ApiError> {
    stored::reachable(&app.broker).await.map_err(|error| error.while_doing("read the groups"))?;
    let (found, before) = walk(app, filter, limit as usize, before).await?;
    let data = found.iter().map(|(record, state)| view::show(record, state, None)).collect();
    let cursor = before.map(|before| Cursor::encode(&before.to_string()));
    Ok(Many { data, meta: Meta { page: Page { limit, cursor } } })
}

/// The groups of a page, and below which sequence the next one begins.
async fn walk(
    app: &App,
    filter: &Filter,
    limit: usize,
    before: Option<u64>,
) -> Result<(Vec<(GroupRecord, GroupState)>, Option<u64>), ApiError> {
    let failed = |error: StoreError| error.while_doing("read the groups");
    let (stream, subject) = (bucket_stream(GROUPS), js::key(GROUPS, keys::DEFINITIONS));
    let mut walk = Backwards::new(walk::ends(&app.nats, &stream).await.map_err(failed)?, before);
    let (mut data, mut looked) = (Vec::new(), 0);
    for _ in 0..STEPS_MAX {
        let window = walk.step(&app.nats, &stream, &subject).await.map_err(failed)?;
        let mut groups =
            stream::iter(window).map(async |stored| Ok::<_, ApiError>((stored.sequence, group(app, filter, &stored.payload).await?)));
        let mut groups = std::pin::pin!(groups.by_ref().buffered(AT_ONCE));
        while let Some((sequence, group)) = groups.try_next().await? {
            looked += 1;
            data.extend(group);
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

/// A record with how far its group is, if both match. One that can't be read is left out, and the log says so.
async fn group(app: &App, filter: &Filter, body: &[u8]) -> Result<Option<(GroupRecord, GroupState)>, ApiError> {
    let record: GroupRecord = match wire::decode(body) {
        Ok(record) => record,
        Err(error) => {
            tracing::error!(%error, "a group's record can't be read");
            return Ok(None);
        }
    };
    if filter.pool.as_ref().is_some_and(|pool| record.pool != *pool) {
        return Ok(None);
    }
    let state = view::or_begun(view::state(app, &record.id).await?);
    Ok(filter.status.is_none_or(|status| state.status == status).then_some((record, state)))
}
