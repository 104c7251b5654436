//! The records of connections. Each is two entries: the place, which keeps the name unique, and the record under its pool, where the pool's
//! agents may read it.
//!
//! The place is written first. One that stays without its record is what a gateway left that was killed between the two, and is free. Whoever takes
//! it over writes it anew, and whoever has written a record looks whether the place is still as they wrote it; so one that was slow withdraws.

use std::{collections::BTreeMap, time::Duration};

use async_nats::jetstream::kv;
use futures_util::{TryStreamExt as _, stream};
use muster_schemas::{
    api::PutConnection,
    code::Code,
    connection::{ConnectionKind, ConnectionPlace, ConnectionRecord, check, keys},
    names::{ConnectionName, PoolName},
    subjects::js,
    time::Timestamp,
    topology::{CONNECTIONS, MARKER_AGE, bucket_stream},
    wire::{self, V},
};
use serde_json::Value;
use tokio::time::{Instant, sleep};

use super::mailbox;
use crate::{
    app::{App, Held, create, read, update},
    problem::ApiError,
    stored,
};

/// How often a removal is tried again when others change the same connection at the same moment.
const ROUNDS: usize = 8;
/// How long it is tried to make a connection.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a place is without its record before whoever wrote it has died. It takes a millisecond; one that was only slow withdraws.
const ABANDONED: Duration = Duration::from_secs(2);
/// How often it is looked whether the record is there.
const LOOK: Duration = Duration::from_millis(50);
/// Entries that one request to the broker asks for.
const BATCH: usize = 500;
/// Mailboxes that are emptied side by side.
const AT_ONCE: usize = 16;

impl From<check::Misfit> for ApiError {
    fn from(misfit: check::Misfit) -> Self {
        Self::new(misfit.code(), misfit.to_string())
    }
}

/// What is kept under a name.
enum There {
    /// Nothing.
    Free,
    /// A place without a record.
    Abandoned(Held<ConnectionPlace>),
    /// A connection.
    Taken(Held<ConnectionRecord>),
}

async fn there(app: &App, name: &ConnectionName) -> Result<There, ApiError> {
    let bucket = &app.buckets.connections;
    let Some(place) = read::<ConnectionPlace>(bucket, &keys::name(name)).await? else { return Ok(There::Free) };
    let record = read::<ConnectionRecord>(bucket, &keys::record(&place.record.pool, name)).await?;
    Ok(record.map_or(There::Abandoned(place), There::Taken))
}

/// A connection's record, straight from the bucket. `None` where there is none.
///
/// # Errors
/// `broker_unavailable`.
pub(crate) async fn known(app: &App, name: &ConnectionName) -> Result<Option<Held<ConnectionRecord>>, ApiError> {
    Ok(match there(app, name).await? {
        There::Taken(held) => Some(held),
        There::Free | There::Abandoned(_) => None,
    })
}

/// A connection's record, straight from the bucket.
///
/// # Errors
/// `connection_not_found`.
pub(crate) async fn find(app: &App, name: &ConnectionName) -> Result<Held<ConnectionRecord>, ApiError> {
    known(app, name).await?.ok_or_else(|| unknown(name))
}

fn unknown(name: &ConnectionName) -> ApiError {
    ApiError::new(Code::ConnectionNotFound, format!("there is no connection `{name}`"))
}

/// A connection, checked.
#[derive(Debug)]
pub(super) struct Wanted {
    kind: ConnectionKind,
    pool: PoolName,
    settings: Value,
}

impl Wanted {
    /// Checks what a caller wrote.
    ///
    /// # Errors
    /// `settings_invalid`, naming the setting.
    pub(super) fn check(put: PutConnection) -> Result<Self, ApiError> {
        let PutConnection { kind, pool, settings } = put;
        check::settings(kind, &settings)?;
        // What is absent and what is null are the same, and kept the same.
        let settings = match settings {
            Value::Object(map) => map.into_iter().filter(|(_, value)| kind == ConnectionKind::Secret || !value.is_null()).collect(),
            _ => serde_json::Map::new(),
        };
        Ok(Self { kind, pool, settings: Value::Object(settings) })
    }

    fn new_record(&self, name: &ConnectionName, now: Timestamp) -> ConnectionRecord {
        ConnectionRecord {
            v: V,
            name: name.clone(),
            kind: self.kind,
            pool: self.pool.clone(),
            settings: self.settings.clone(),
            revision: 0,
            delivery: None,
            created_at: now,
            updated_at: now,
        }
    }
}

/// Makes the connection or changes its settings; answers its record and whether it is new.
///
/// # Errors
/// `pool_not_found`; `connection_exists` when it is of another pool or kind.
pub(super) async fn put(app: &App, name: &ConnectionName, wanted: &Wanted) -> Result<(ConnectionRecord, bool), ApiError> {
    app.buckets.pool(&wanted.pool).await?;
    let (until, mut seen) = (Instant::now() + PATIENCE, None);
    while Instant::now() < until {
        let now = Timestamp::now();
        let place = match there(app, name).await? {
            There::Taken(held) => match change(app, held, wanted, now).await? {
                Some(record) => return Ok((record, false)),
                None => continue,
            },
            There::Free => {
                let place = ConnectionPlace { v: V, pool: wanted.pool.clone() };
                create(&app.buckets.connections, &keys::name(name), &place).await?
            }
            There::Abandoned(left) => {
                let (revision, since) = *seen.get_or_insert((left.revision, Instant::now()));
                if revision != left.revision || since.elapsed() < ABANDONED {
                    seen = Some((left.revision, if revision == left.revision { since } else { Instant::now() }));
                    sleep(LOOK).await;
                    continue;
                }
                take_over(app, name, left, &wanted.pool).await?
            }
        };
        if let Some(place) = place
            && let Some(record) = fill(app, place, wanted.new_record(name, now)).await?
        {
            return Ok((record, true));
        }
    }
    Err(ApiError::broker("store the connection", "others changed it each time"))
}

/// Other settings for a connection that is there. `None` when somebody else was faster.
async fn change(app: &App, held: Held<ConnectionRecord>, wanted: &Wanted, now: Timestamp) -> Result<Option<ConnectionRecord>, ApiError> {
    let Held { record, revision } = held;
    if (record.kind, &record.pool) != (wanted.kind, &wanted.pool) {
        let detail = format!(
            "connection `{}` is of the kind {} and of pool `{}`, which can't be changed; take another name, or delete it first",
            record.name,
            record.kind.as_str(),
            record.pool
        );
        return Err(ApiError::new(Code::ConnectionExists, detail));
    }
    if record.settings == wanted.settings {
        return Ok(Some(record));
    }
    let record = ConnectionRecord { settings: wanted.settings.clone(), updated_at: now, ..record };
    let written = update(&app.buckets.connections, &keys::record(&record.pool, &record.name), &record, revision).await?;
    Ok(written.map(|_| record))
}

/// Takes a name over that another gateway left without a record, and answers the revision of the place. `None` when it did not leave it after all.
async fn take_over(app: &App, name: &ConnectionName, left: Held<ConnectionPlace>, pool: &PoolName) -> Result<Option<u64>, ApiError> {
    let (bucket, key) = (&app.buckets.connections, keys::name(name));
    let place = ConnectionPlace { v: V, pool: pool.clone() };
    let Some(revision) = update(bucket, &key, &place, left.revision).await? else { return Ok(None) };
    // From here on its record would be withdrawn; one that was there before, and counted, is given its place back.
    if read::<ConnectionRecord>(bucket, &keys::record(&left.record.pool, name)).await?.is_some() {
        update(bucket, &key, &left.record, revision).await?;
        return Ok(None);
    }
    Ok(Some(revision))
}

/// Writes the record that goes with a place of this revision. `None`, and no record, when somebody else has the place by then.
async fn fill(app: &App, place: u64, record: ConnectionRecord) -> Result<Option<ConnectionRecord>, ApiError> {
    let (bucket, key) = (&app.buckets.connections, keys::record(&record.pool, &record.name));
    let Some(revision) = create(bucket, &key, &record).await? else { return Ok(None) };
    let now = read::<ConnectionPlace>(bucket, &keys::name(&record.name)).await?;
    if now.is_some_and(|now| now.revision == place) {
        return Ok(Some(record));
    }
    purge(app, &key, revision).await.map(|_| None)
}

/// Deletes an entry of this revision; `false` when it has changed since.
async fn purge(app: &App, key: &str, revision: u64) -> Result<bool, ApiError> {
    match app.buckets.connections.purge_expect_revision_with_ttl(key, revision, MARKER_AGE).await {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == kv::UpdateErrorKind::WrongLastRevision => Ok(false),
        Err(error) => Err(ApiError::broker("delete the connection", error)),
    }
}

/// Writes a changed record over the revision that was read. `None` when somebody else wrote in between.
pub(super) async fn rewrite(app: &App, record: &ConnectionRecord, revision: u64) -> Result<Option<u64>, ApiError> {
    update(&app.buckets.connections, &keys::record(&record.pool, &record.name), record, revision).await
}

/// Removes the connection, and what lies in mailboxes of it. The record goes first and the place last: a removal that was cut off is found by the
/// next one.
///
/// # Errors
/// `connection_not_found`.
pub(super) async fn remove(app: &App, name: &ConnectionName) -> Result<(), ApiError> {
    for _ in 0..ROUNDS {
        let Some(place) = read::<ConnectionPlace>(&app.buckets.connections, &keys::name(name)).await? else { return Err(unknown(name)) };
        let pool = &place.record.pool;
        let key = keys::record(pool, name);
        if let Some(held) = read::<ConnectionRecord>(&app.buckets.connections, &key).await?
            && !purge(app, &key, held.revision).await?
        {
            continue;
        }
        let agents = app.mirror.agents.all().into_iter().filter(|(_, agent)| agent.pool == *pool);
        stream::iter(agents.map(Ok))
            .try_for_each_concurrent(AT_ONCE, |(id, _)| async move { mailbox::forget(app, &id, name).await })
            .await?;
        if purge(app, &keys::name(name), place.revision).await? {
            return Ok(());
        }
    }
    Err(ApiError::broker("delete the connection", "others changed it each time"))
}

/// Every connection, by name. A record that can't be read is left out, and the log says so.
pub(super) async fn all(app: &App) -> Result<Vec<ConnectionRecord>, ApiError> {
    let stream = bucket_stream(CONNECTIONS);
    let (mut records, mut places, mut from) = (Vec::new(), BTreeMap::new(), 1);
    loop {
        let held = stored::from(&app.nats, &stream, &js::key(CONNECTIONS, ">"), from, BATCH).await;
        let held = held.map_err(|error| error.while_doing("read the connections"))?;
        from = held.last().map_or(from, |last| last.sequence + 1);
        // A deleted one is empty.
        for held in held.iter().filter(|held| !held.payload.is_empty()) {
            let key = held.subject.strip_prefix(&js::key(CONNECTIONS, "")).unwrap_or_default();
            let failed = |error: &dyn std::fmt::Display| tracing::error!(key, %error, "what is kept of a connection can't be read");
            match (keys::parse_record(key), key.parse::<ConnectionName>()) {
                (Some(_), _) => match wire::decode::<ConnectionRecord>(&held.payload) {
                    Ok(record) => records.push(record),
                    Err(error) => failed(&error),
                },
                (None, Ok(name)) => match wire::decode::<ConnectionPlace>(&held.payload) {
                    Ok(place) => drop(places.insert(name, place.pool)),
                    Err(error) => failed(&error),
                },
                (None, Err(error)) => failed(&error),
            }
        }
        if held.len() < BATCH {
            // A record that was withdrawn this moment has no place.
            records.retain(|record| places.get(&record.name) == Some(&record.pool));
            records.sort_unstable_by(|a, b| a.name.cmp(&b.name));
            return Ok(records);
        }
    }
}
