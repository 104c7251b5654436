//! Makes a group: chooses its members and writes its record. The active dispatcher is told by the bucket, and sends the jobs.

use muster_schemas::{
    api::GroupView,
    code::Code,
    group::{GroupRecord, keys, waves},
    names::GroupId,
    time::Timestamp,
    topology::GROUP_MEMBERS_MAX,
    wire::{self, Body as _, V},
};

use super::{
    choose::{self, Wanted},
    order::{Order, derived},
    view,
};
use crate::{
    app::{self, App},
    connections::named,
    problem::ApiError,
    stored, types,
};

/// A group after a submit.
pub(super) struct Made {
    pub(super) view: GroupView,
    /// Whether an earlier submit had made it.
    pub(super) repeated: bool,
}

/// Makes the group, or finds the one that was made with the same `Idempotency-Key`.
pub(super) async fn create(app: &App, order: &Order, key: Option<&str>, by: &str, now: Timestamp) -> Result<Made, ApiError> {
    stored::reachable(&app.broker).await.map_err(|error| error.while_doing("make the group: nothing is stored"))?;
    let id = key.map_or_else(|| Ok(GroupId::generate()), |key| derived(&order.pool, key))?;
    // Before anybody is chosen: who was there at first may be gone now.
    if key.is_some()
        && let Some(first) = view::find(app, &id).await?
    {
        return repeated(app, first, order).await;
    }
    let record = record(app, order, id, by, now).await?;
    if app::create(&app.buckets.groups, &keys::definition(&record.id), &record).await?.is_some() {
        let view = view::show(&record, &view::begun(), Some(&Default::default()));
        return Ok(Made { view, repeated: false });
    }
    match view::find(app, &record.id).await? {
        Some(first) if key.is_some() => repeated(app, first, order).await,
        _ => Err(ApiError::internal("make the group", "its id is taken")),
    }
}

/// Answers the group that was made first, unless it is known that the key was used for another one.
async fn repeated(app: &App, first: GroupRecord, order: &Order) -> Result<Made, ApiError> {
    if order.differs(&first) {
        let detail = format!("this Idempotency-Key was used for another group, `{}`; use a new key", first.id);
        return Err(ApiError::new(Code::JobConflict, detail));
    }
    let state = view::state(app, &first.id).await?;
    Ok(Made { view: view::as_far_as_known(app, &first, &view::or_begun(state)).await?, repeated: true })
}

/// The record, with the members chosen.
async fn record(app: &App, order: &Order, id: GroupId, by: &str, now: Timestamp) -> Result<GroupRecord, ApiError> {
    let pool = &order.pool;
    app.buckets.pool(pool).await?;
    let job_type: muster_schemas::names::JobType = order.job.job_type.parse()?;
    let executor = job_type.executor();
    let connection = order.job.connection.as_deref().map(str::parse).transpose()?;
    named::ready(app, pool, None, &job_type, connection.as_ref()).await?;
    types::check(app, pool, None, &job_type, &order.job.params)?;
    let wanted = Wanted { pool, executor: &executor, labels: &order.target.labels, limit: order.target.limit };
    let chosen = choose::choose(&app.mirror.agents.all(), |id| app.mirror.standings.get(id), &wanted, &mut rand::rng());
    let members = chosen.members.len();
    if members == 0 {
        let detail = format!("no agent of pool `{pool}` matches; {}", chosen.left_out.describe(&executor));
        return Err(ApiError::new(Code::NoAgentMatches, detail));
    }
    if members > GROUP_MEMBERS_MAX {
        let detail = format!("field `target`: {members} agents match, and a group takes {GROUP_MEMBERS_MAX}; give it a `limit`, or labels");
        return Err(ApiError::new(Code::FieldInvalid, detail));
    }
    let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    let record = GroupRecord {
        v: V,
        id,
        pool: pool.clone(),
        labels: order.target.labels.clone(),
        job: order.job.clone(),
        matched: count(chosen.matched),
        waves: waves(&order.target.batch, members),
        members: chosen.members,
        stop_after: order.stop_after,
        created_at: now,
        created_by: by.to_owned(),
    };
    let size = wire::encode(&record).len();
    if size > GroupRecord::LIMIT {
        let detail = format!("the group's record has {size} bytes with its job and members; the limit is {}", GroupRecord::LIMIT);
        return Err(ApiError::new(Code::BodyTooLarge, detail));
    }
    Ok(record)
}
