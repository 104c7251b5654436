//! Changing what operators say of an agent, its pool among it.
//!
//! A move is an end of its identity, since its permissions name the pool: its record names the new one, its connection is cut, and it registers
//! again by itself, with its API key and a new public key. The consumer of its commands names the pool too: the dispatcher removes it.

use axum::{Json as Answer, extract::State};
use muster_schemas::{
    api::{AgentView, ChangeAgent, One},
    control::IdentityEnd,
    names::{AgentId, PoolName},
    records::{AgentRecord, AgentState},
    subjects,
    time::Timestamp,
    topology::COMMANDS,
};

use super::{
    ending, said,
    states::{busy, shown},
    store,
};
use crate::{
    app::App,
    auth::Caller,
    connections::mailbox,
    extract::{Json, Path},
    problem::ApiError,
    stored::walk,
};

pub(super) const ABOUT: &str = "What is absent stays; `null` takes away. `labels` go before those that the agent says itself. `capabilities` are the executors that it may run \
    jobs of, out of those that it has: an empty list allows none. With another `pool` the agent is cut off and comes back there by itself; what it was \
    running is run by another agent of the old pool.";

/// The changes, checked.
struct Changes {
    given: ChangeAgent,
    pool: Option<PoolName>,
}

impl TryFrom<ChangeAgent> for Changes {
    type Error = ApiError;
    fn try_from(given: ChangeAgent) -> Result<Self, ApiError> {
        let pool = given.pool.as_deref().map(str::parse).transpose()?;
        let changes = Self { given, pool };
        // All of it is checked before any of it is done.
        let nobody = AgentRecord::new(AgentId::generate(), "nobody".parse()?, "nobody".parse()?, Timestamp::from_secs(0));
        changes.apply(nobody)?;
        Ok(changes)
    }
}

impl Changes {
    /// The record with the changes, but for the pool.
    fn apply(&self, mut record: AgentRecord) -> Result<AgentRecord, ApiError> {
        let given = self.given.clone();
        if let Some(description) = given.description {
            record.description = said::prose("description", description)?;
        }
        if let Some(labels) = given.labels {
            record.set_labels = said::labels(labels)?;
        }
        if let Some(tags) = given.tags {
            record.tags = said::tags(tags)?;
        }
        if let Some(capabilities) = given.capabilities {
            record.allowed = capabilities.map(|names| said::executors(names.iter())).transpose()?;
        }
        Ok(record)
    }
}

pub(super) async fn change(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<AgentId>,
    Json(asked): Json<ChangeAgent>,
) -> Result<Answer<One<AgentView>>, ApiError> {
    let changes = Changes::try_from(asked)?;
    let record = app.in_full("change the agent", async move |app| carry_out(&app, &id, &changes).await);
    let record = record.await?;
    tracing::info!(agent = %record.id, by = caller.key_id, "an agent was changed");
    shown(&app, record).await
}

async fn carry_out(app: &App, id: &AgentId, changes: &Changes) -> Result<AgentRecord, ApiError> {
    let Some(pool) = &changes.pool else {
        return store::change(app, id, |record| Ok(changed(&record, changes.apply(record.clone())?))).await;
    };
    let before = store::there(app, id).await?.record;
    app.buckets.pool(pool).await?;
    if before.pool != *pool {
        idle(app, &before).await?;
    }
    let record = store::change(app, id, |record| {
        if record.pool != before.pool && record.pool != *pool {
            return Err(busy(&record, "somebody else moves it to another pool at the same moment"));
        }
        let mut moved = changes.apply(record.clone())?;
        if record.pool != *pool {
            moved.pool = pool.clone();
            moved.replace_key(None, Timestamp::now());
        }
        Ok(changed(&record, moved))
    });
    let record = record.await?;
    // Also when the pool is the one that it has: an earlier request may have come to this point.
    if record.public_key.is_some() {
        return Ok(record);
    }
    if record.registered_at.is_some() {
        // What was sealed to it in the old pool. It gets what the new one has.
        mailbox::clear(app, id).await?;
    }
    if record.registered_at.is_none() || record.state == AgentState::Revoked {
        // Nobody is to be cut off, but it may have a consumer for commands of the old pool.
        ending::settle(app, &record).await?;
    } else {
        ending::cut(app, &record, IdentityEnd::Moved, None).await?;
    }
    Ok(record)
}

fn changed(before: &AgentRecord, after: AgentRecord) -> Option<AgentRecord> {
    (*before != after).then_some(after)
}

/// Makes sure that no command waits for the agent: it would be left behind in the old pool.
async fn idle(app: &App, record: &AgentRecord) -> Result<(), ApiError> {
    let filter = subjects::commands_to(&record.pool, &record.id);
    let behind = walk::behind(&app.nats, COMMANDS, &filter, 1).await;
    match behind.map_err(|error| error.while_doing("look for the agent's commands"))? {
        None => Ok(()),
        Some(behind) => {
            let why = format!(
                "{} commands have not ended, and would be left behind in pool `{}`; wait for them, or cancel them",
                behind + 1,
                record.pool
            );
            Err(busy(record, &why))
        }
    }
}
