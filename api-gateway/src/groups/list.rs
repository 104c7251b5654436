//! The list of groups, newest first: a walk backwards through their records. Its work is bounded: after [`LOOKED_MAX`] records, or
//! [`BYTES_MAX`], a page ends with what it has, and a cursor.
//!
//! No dispatcher is asked for counts: for each group that is a pass over the whole history.

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use muster_schemas::{
    api::{GroupView, Many, Meta, Page},
    code::Code,
    group::{GroupRecord, GroupStatus, keys},
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
        self, StoreError, Stored,
        walk::{self, Backwards},
    },
};

/// Records that one page looks at.
const LOOKED_MAX: usize = 1000;
/// Bytes of records that one page reads. What is shown of them is less, so this bounds the page as well.
const BYTES_MAX: usize = 16 << 20;
/// Requests for records that one page makes, whatever they find.
const STEPS_MAX: usize = 256;
/// Records read at once, and states. A record has up to 700 KiB.
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
    let (data, before) = walk(app, filter, limit as usize, before).await?;
    let cursor = before.map(|before| Cursor::encode(&before.to_string()));
    Ok(Many { data, meta: Meta { page: Page { limit, cursor } } })
}

/// The groups of a page, and below which sequence the next one begins.
pub(super) async fn walk(app: &App, filter: &Filter, limit: usize, before: Option<u64>) -> Result<(Vec<GroupView>, Option<u64>), ApiError> {
    let failed = |error: StoreError| error.while_doing("read the groups");
    let (stream, subject) = (bucket_stream(GROUPS), js::key(GROUPS, keys::DEFINITIONS));
    let mut walk = Backwards::in_windows(walk::ends(&app.nats, &stream).await.map_err(failed)?, before, AT_ONCE);
    let (mut data, mut looked, mut bytes) = (Vec::new(), 0, 0);
    for _ in 0..STEPS_MAX {
        let window = walk.step(&app.nats, &stream, &subject).await.map_err(failed)?;
        let mut groups = stream::iter(window).map(|stored| group(app, filter, stored)).buffered(AT_ONCE);
        while let Some(Looked { sequence, size, group }) = groups.try_next().await? {
            looked += 1;
            bytes += size;
            data.extend(group);
            if data.len() == limit || looked == LOOKED_MAX || bytes >= BYTES_MAX {
                return Ok((data, Some(sequence)));
            }
        }
        if walk.is_over() {
            return Ok((data, None));
        }
    }
    Ok((data, Some(walk.before())))
}

/// A record that was looked at.
struct Looked {
    sequence: u64,
    /// Bytes.
    size: usize,
    /// Its group, if it matches.
    group: Option<GroupView>,
}

async fn group(app: &App, filter: &Filter, stored: Stored) -> Result<Looked, ApiError> {
    Ok(Looked { sequence: stored.sequence, size: stored.payload.len(), group: shown(app, filter, &stored.payload).await? })
}

/// A group, if it matches. One of which record or state can't be read is left out, and the log says so.
async fn shown(app: &App, filter: &Filter, body: &[u8]) -> Result<Option<GroupView>, ApiError> {
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
    let state = match view::state(app, &record.id).await {
        Ok(held) => view::or_begun(held),
        Err(error) if error.code == Code::Internal => {
            tracing::error!(group = %record.id, "a group is left out of a list, since its state can't be read");
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    Ok(filter.status.is_none_or(|status| state.status == status).then(|| view::show(&record, &state, None)))
}
