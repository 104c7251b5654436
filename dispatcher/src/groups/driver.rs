//! Drives all groups that are not over. Only the active dispatcher does.
//!
//! A reconciler: a change of the bucket is only a hint to look now, and what fails is done at the next look.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

use async_nats::Client;
use futures_util::{FutureExt as _, StreamExt as _, stream};
use muster_runtime::shutdown::Shutdown;
use muster_schemas::{
    group::{GroupRecord, GroupState, GroupStatus, keys},
    names::GroupId,
    subjects::{broker::keys_of, js},
    time::Timestamp,
    topology::{GROUPS, bucket_stream},
};

use super::{
    decide::{Step, decide},
    desk::{Desk, Sent},
};
use crate::{
    broker::{self, BrokerError, Write},
    figures::Figures,
    fixed::Fixed,
    held,
    history::{Fate, Past},
    lease::keeper::Leadership,
};

/// How often open groups are looked at: so long the next wave may have to wait for its turn.
const EVERY: Duration = Duration::from_millis(250);
/// After looks that took long, the next one begins after so many times as long: at most a fifth of the time is spent looking.
const REST: u32 = 4;
/// How often all groups are listed, beside the hints.
const LIST_EVERY: Duration = Duration::from_secs(15);
/// How long to wait before a wave that the queue did not take is tried again.
const AGAIN_AFTER: Duration = Duration::from_secs(2);
/// How long the history has to learn of jobs before they are looked for on the broker, and the time between two such looks.
const LOOK_AFTER: Duration = Duration::from_secs(3);
/// Jobs that are looked for at a time.
const LOOK_MOST: usize = 500;
/// Jobs that are cancelled at a time, some 2 s: other groups wait so long.
const CANCEL_MOST: usize = 1000;
/// Groups that are worked on at once, so that a large one does not keep others waiting.
const AT_ONCE: usize = 4;

/// The task that drives groups.
pub(super) struct Driver {
    desk: Desk,
    leadership: Leadership,
    fixed: Arc<Fixed>,
    past: Past,
    figures: Figures,
    /// How long after its expiry a job is ended that no agent began.
    expire_after: Duration,
    open: BTreeMap<GroupId, Open>,
    over: BTreeSet<GroupId>,
}

/// A group that is not over.
struct Open {
    record: GroupRecord,
    /// How it ended with jobs of which the history knows nothing, or nothing yet.
    found: HashMap<usize, Fate>,
    look_at: Instant,
    send_at: Instant,
    over: bool,
}

impl Driver {
    pub(super) fn new(desk: Desk, leadership: Leadership, fixed: Arc<Fixed>, past: Past, figures: Figures, expire_after: Duration) -> Self {
        Self { desk, leadership, fixed, past, figures, expire_after, open: BTreeMap::new(), over: BTreeSet::new() }
    }

    /// Runs until the shutdown.
    pub(super) async fn run(mut self, shutdown: Shutdown) -> anyhow::Result<()> {
        let client = self.desk.broker.client().clone();
        let mut hints = client.subscribe(keys_of(GROUPS)).await?;
        let (mut leads, mut look_at, mut list_at) = (false, Instant::now(), Instant::now());
        loop {
            let mut hinted = BTreeSet::new();
            tokio::select! {
                () = shutdown.requested() => return Ok(()),
                Some(hint) = hints.next() => hinted.extend(group(&hint.subject)),
                () = tokio::time::sleep_until(look_at.into()) => {}
                () = self.leadership.changed() => if self.leadership.is_mine() == leads {
                    continue;
                },
            }
            while let Some(Some(hint)) = hints.next().now_or_never() {
                hinted.extend(group(&hint.subject));
            }
            leads = self.leadership.is_mine();
            if !leads {
                (self.open, self.over) = (BTreeMap::new(), BTreeSet::new());
                self.figures.groups(0);
                (look_at, list_at) = (Instant::now() + LIST_EVERY, Instant::now());
                continue;
            }
            let began = Instant::now();
            let list = began >= list_at;
            let looked = tokio::select! {
                looked = self.look(&client, hinted, list) => looked,
                () = shutdown.requested() => return Ok(()),
            };
            match looked {
                Ok(()) if list => list_at = Instant::now() + LIST_EVERY,
                Ok(()) => {}
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "could not look after all groups; trying again");
                    if matches!(error, BrokerError::Missing(_)) {
                        self.fixed.ensure(&self.desk.broker).await;
                    }
                    list_at = Instant::now();
                }
            }
            self.figures.groups(self.open.len());
            let rest = EVERY.max(began.elapsed() * REST);
            look_at = Instant::now() + if self.open.is_empty() && list_at > Instant::now() { LIST_EVERY.max(rest) } else { rest };
        }
    }

    /// Looks at all groups that are not over; what one of them is about keeps the others from nothing.
    async fn look(&mut self, client: &Client, hinted: BTreeSet<GroupId>, list: bool) -> Result<(), BrokerError> {
        let mut wanted = hinted;
        // What was over is no longer, where somebody has changed it.
        self.over.retain(|id| !wanted.contains(id));
        if list {
            let stream = bucket_stream(GROUPS);
            let names = broker::subjects(client, &stream, &js::key(GROUPS, keys::DEFINITIONS)).await?;
            let all: BTreeSet<GroupId> = names.iter().filter_map(|subject| group(subject)).collect();
            self.over.retain(|id| all.contains(id));
            self.open.retain(|id, _| all.contains(id));
            wanted.extend(all);
        }
        for id in wanted {
            if !self.open.contains_key(&id) && !self.over.contains(&id) {
                match load(client, &id).await? {
                    Some(open) => drop(self.open.insert(id, open)),
                    None => drop(self.over.insert(id)),
                }
            }
        }
        let mut open = std::mem::take(&mut self.open);
        stream::iter(open.values_mut())
            .for_each_concurrent(AT_ONCE, |open| async {
                if let Err(error) = self.drive(client, open).await {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(group = %open.record.id, error, "could not do what is next for a group; trying again");
                }
            })
            .await;
        for (id, group) in open {
            if group.over {
                self.over.insert(id);
            } else {
                self.open.insert(id, group);
            }
        }
        Ok(())
    }

    /// Does what is next for a group.
    async fn drive(&self, client: &Client, open: &mut Open) -> Result<(), BrokerError> {
        let (state, revision) = held::record::<GroupState>(client, GROUPS, &keys::state(&open.record.id)).await?;
        let (state, record) = (state.unwrap_or_default(), &open.record);
        let Some(mut fates) = self.past.fates(&record.pool, &record.id, record.members.len()).await else { return Ok(()) };
        for (place, fate) in fates.iter_mut().enumerate().filter(|(_, fate)| **fate == Fate::Unknown) {
            *fate = open.found.get(&place).copied().unwrap_or(Fate::Unknown);
        }
        match decide(record, &state, &fates, Timestamp::now()) {
            Step::Wait => {}
            Step::Close => open.over = true,
            Step::Look(places) => {
                if Instant::now() >= open.look_at {
                    let places: Vec<usize> = places.into_iter().take(LOOK_MOST).collect();
                    let found = self.desk.look(record, &places, Timestamp::now() - self.expire_after).await?;
                    open.found.extend(places.into_iter().zip(found).filter(|(_, fate)| *fate != Fate::Open));
                    open.look_at = Instant::now() + LOOK_AFTER;
                }
            }
            Step::Send(places, then) => {
                if Instant::now() >= open.send_at {
                    open.look_at = Instant::now() + LOOK_AFTER;
                    match self.desk.send(record, &places).await? {
                        Sent::All => {
                            if let Write::Stored(_) = self.desk.write(record, &then, revision).await? {
                                self.figures.wave_sent();
                                tracing::info!(group = %record.id, sent = then.sent, of = record.members.len(), "a wave of a group is sent");
                            }
                        }
                        Sent::Not(why) => {
                            open.send_at = Instant::now() + AGAIN_AFTER;
                            if state.reason.as_ref() != Some(&why) {
                                tracing::warn!(group = %record.id, why, "the queue does not take a wave of a group; trying again");
                                let told = GroupState { reason: Some(why), changed_at: Some(Timestamp::now()), ..state };
                                self.desk.write(record, &told, revision).await?;
                            }
                        }
                    }
                }
            }
            Step::Cancel(places, then) => {
                let (now, later) = places.split_at(places.len().min(CANCEL_MOST));
                self.desk.cancel(record, now).await?;
                open.found.extend(now.iter().map(|place| (*place, Fate::Ended(false))));
                if let Some(then) = then.filter(|_| later.is_empty()) {
                    self.record(record, &then, revision).await?;
                }
            }
            Step::Record(then) => self.record(record, &then, revision).await?,
        }
        Ok(())
    }

    async fn record(&self, record: &GroupRecord, then: &GroupState, revision: u64) -> Result<(), BrokerError> {
        if let Write::Stored(_) = self.desk.write(record, then, revision).await? {
            tracing::info!(group = %record.id, status = then.status.as_str(), reason = then.reason, sent = then.sent, "a group is over");
        }
        Ok(())
    }
}

/// The group that a subject of the bucket is about.
fn group(subject: &str) -> Option<GroupId> {
    let key = subject.strip_prefix(&js::key(GROUPS, ""))?;
    keys::parse_definition(key).or_else(|| keys::parse_state(key))
}

/// Reads a group. `None` when it is over, is no more, or can't be read.
async fn load(client: &Client, id: &GroupId) -> Result<Option<Open>, BrokerError> {
    // The record may be large, and of most groups there is nothing more to do.
    let (state, _) = held::record::<GroupState>(client, GROUPS, &keys::state(id)).await?;
    if state.is_some_and(|state| matches!(state.status, GroupStatus::Finished | GroupStatus::Stopped)) {
        return Ok(None);
    }
    let (record, _) = held::record::<GroupRecord>(client, GROUPS, &keys::definition(id)).await?;
    let now = Instant::now();
    Ok(record.map(|record| Open { record, found: HashMap::new(), look_at: now, send_at: now, over: false }))
}
