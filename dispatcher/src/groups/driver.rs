//! Drives all groups that are not over. Only the active dispatcher does.
//!
//! A reconciler: a change of the bucket is only a hint to look now, and what fails is done at the next look. A look asks the history once
//! about all groups. Then those for which something is to be done are worked on, beside each other and beside the next looks.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{
    FutureExt as _, StreamExt as _,
    future::BoxFuture,
    stream::{self, FuturesUnordered},
};
use muster_runtime::shutdown::Shutdown;
use muster_schemas::{
    group::{GroupState, keys},
    names::GroupId,
    subjects::{broker::keys_of, js},
    time::Timestamp,
    topology::{GROUPS, bucket_stream},
};
use tokio::sync::Semaphore;

use super::{decide::is_over, desk::Desk, open::Open};
use crate::{
    broker::{self, BrokerError},
    fixed::Fixed,
    held::{self, Record},
    history::{Fate, Followed, Past},
};

/// How often open groups are looked at: so long the next wave may have to wait for its turn.
const EVERY: Duration = Duration::from_millis(250);
/// After the history took long to answer, it is asked again after so many times as long: at most a fifth of the time is spent asking.
const REST: u32 = 4;
/// The longest such rest.
const REST_MOST: Duration = Duration::from_secs(2);
/// How often all groups are listed, beside the hints.
const LIST_EVERY: Duration = Duration::from_secs(15);
/// How long to wait before a list that failed is made again.
const AGAIN_AFTER: Duration = Duration::from_secs(2);
/// Groups that are read at once.
const LOADS: usize = 16;
/// Groups that are worked on at once; a large wave takes seconds.
const AT_ONCE: usize = 8;

/// The task that drives groups.
pub(super) struct Driver {
    desk: Desk,
    fixed: Arc<Fixed>,
    past: Past,
    /// Groups that are not over; none where one is just being worked on.
    open: BTreeMap<GroupId, Option<Open>>,
    followed: Arc<Followed>,
    /// How many were opened.
    opened: u64,
    permits: Arc<Semaphore>,
    busy: FuturesUnordered<BoxFuture<'static, (Open, Result<(), BrokerError>)>>,
}

impl Driver {
    pub(super) fn new(desk: Desk, fixed: Arc<Fixed>, past: Past) -> Self {
        let permits = Arc::new(Semaphore::new(AT_ONCE));
        Self { desk, fixed, past, open: BTreeMap::new(), followed: Arc::default(), opened: 0, permits, busy: FuturesUnordered::new() }
    }

    /// Runs until the shutdown.
    pub(super) async fn run(mut self, shutdown: Shutdown) -> anyhow::Result<()> {
        let mut leadership = self.desk.leadership.clone();
        let mut hints = self.desk.client().subscribe(keys_of(GROUPS)).await?;
        let mut hinted = BTreeSet::new();
        let (mut leads, mut rested_at, mut look_at, mut list_at) = (false, Instant::now(), Instant::now(), Instant::now());
        loop {
            tokio::select! {
                () = shutdown.requested() => return Ok(()),
                Some(hint) = hints.next() => {
                    hinted.extend(group(&hint.subject));
                    look_at = look_at.min(rested_at);
                }
                Some((open, done)) = self.busy.next() => {
                    self.done(open, done).await;
                    look_at = look_at.min(rested_at);
                }
                () = tokio::time::sleep_until(look_at.into()) => {}
                () = leadership.changed() => if leadership.is_mine() != leads {
                    look_at = Instant::now();
                },
            }
            if Instant::now() < look_at {
                continue;
            }
            while let Some(Some(hint)) = hints.next().now_or_never() {
                hinted.extend(group(&hint.subject));
            }
            leads = leadership.is_mine();
            if !leads {
                (self.open, self.followed, self.busy) = (BTreeMap::new(), Arc::default(), FuturesUnordered::new());
                hinted.clear();
                self.desk.figures.groups(0);
                (look_at, list_at) = (Instant::now() + LIST_EVERY, Instant::now());
                continue;
            }
            let looked = tokio::select! {
                looked = self.look(std::mem::take(&mut hinted), &mut list_at) => looked,
                () = shutdown.requested() => return Ok(()),
            };
            self.desk.figures.groups(self.open.len());
            rested_at = Instant::now() + (looked * REST).min(REST_MOST);
            look_at = if self.open.is_empty() { list_at } else { Instant::now() + EVERY }.max(rested_at);
        }
    }

    /// Looks at all groups that are not over, and sets about what is next for each. Answers how long the history took.
    async fn look(&mut self, hinted: BTreeSet<GroupId>, list_at: &mut Instant) -> Duration {
        let mut wanted = hinted;
        if Instant::now() >= *list_at {
            *list_at = Instant::now() + LIST_EVERY;
            match self.list().await {
                Ok(listed) => wanted.extend(listed),
                Err(error) => {
                    *list_at = Instant::now() + AGAIN_AFTER;
                    self.failed(error, "could not list all groups; trying again").await;
                }
            }
        }
        if !self.load(wanted).await {
            *list_at = (*list_at).min(Instant::now() + AGAIN_AFTER);
        }
        let began = Instant::now();
        let Some(seen) = self.past.fates(Arc::clone(&self.followed)).await else { return Duration::ZERO };
        let took = began.elapsed();
        let mut told = HashMap::<u64, Vec<(usize, Fate, bool)>>::new();
        for ((number, place), fate, for_good) in seen {
            told.entry(number).or_default().push((place, fate, for_good));
        }
        let followed = Arc::make_mut(&mut self.followed);
        for room in self.open.values_mut() {
            let Some(open) = room else { continue };
            let fates = open.learn(&told.remove(&open.number).unwrap_or_default(), followed);
            if let Some(mut open) = if open.waits(&fates) { None } else { room.take() } {
                let (desk, permits) = (self.desk.clone(), Arc::clone(&self.permits));
                let work = async move {
                    // Refused only when it is closed, and nobody does that.
                    let _permit = permits.acquire().await;
                    let done = open.drive(&desk, &fates).await;
                    (open, done)
                };
                self.busy.push(work.boxed());
            }
        }
        took
    }

    /// Lists groups that are not over, whatever was heard of them before. What is held of those that are open is brought up to date.
    async fn list(&mut self) -> Result<BTreeSet<GroupId>, BrokerError> {
        let (client, stream) = (self.desk.client().clone(), bucket_stream(GROUPS));
        let names = broker::subjects(&client, &stream, &js::key(GROUPS, keys::DEFINITIONS)).await?;
        let mut all: BTreeSet<GroupId> = names.iter().filter_map(|subject| group(subject)).collect();
        let gone: Vec<GroupId> = self.open.keys().filter(|id| !all.contains(*id)).cloned().collect();
        gone.iter().for_each(|id| self.close(id, None));
        let now = Timestamp::now();
        for held in held::all(&client, &stream, &js::key(GROUPS, keys::STATES)).await? {
            let Some(id) = group(&held.subject) else { continue };
            match (self.open.get_mut(&id), held::decoded::<GroupState>(&held)) {
                (Some(Some(open)), Record::Value(state)) if open.state.as_ref() == Some(&state) => {
                    all.remove(&id);
                }
                (None, Record::Value(state)) if is_over(&state, now) => {
                    all.remove(&id);
                }
                (None, Record::Unreadable) => {
                    all.remove(&id);
                }
                _ => {}
            }
        }
        Ok(all)
    }

    /// Reads groups that are new or were changed. Answers whether all could be read; one that could not keeps the others from nothing.
    async fn load(&mut self, wanted: BTreeSet<GroupId>) -> bool {
        let (client, mut new) = (self.desk.client().clone(), Vec::new());
        for id in wanted {
            match self.open.get_mut(&id) {
                Some(Some(open)) => open.changed(),
                // It is read again once it has been worked on.
                Some(None) => {}
                None => {
                    self.opened += 1;
                    new.push((id, self.opened));
                }
            }
        }
        let load = |(id, number)| {
            let client = client.clone();
            async move { (Open::load(&client, &id, number).await, id) }
        };
        let loaded: Vec<_> = stream::iter(new.into_iter().map(load)).buffer_unordered(LOADS).collect().await;
        let mut all = true;
        for (open, id) in loaded {
            match open {
                Ok(Some(open)) => {
                    open.follow(Arc::make_mut(&mut self.followed));
                    self.open.insert(id, Some(open));
                }
                Ok(None) => {}
                Err(error) => {
                    all = false;
                    self.failed(error, &format!("could not read group {id}; trying again")).await;
                }
            }
        }
        all
    }

    /// A group was worked on.
    async fn done(&mut self, mut open: Open, done: Result<(), BrokerError>) {
        let id = open.record.id.clone();
        if let Err(error) = done {
            open.failed();
            self.failed(error, &format!("could not do what is next for group {id}; trying again")).await;
        }
        match self.open.get_mut(&id) {
            Some(room) if !open.over => *room = Some(open),
            _ => self.close(&id, Some(open)),
        }
    }

    fn close(&mut self, id: &GroupId, open: Option<Open>) {
        let held = self.open.remove(id).flatten();
        open.or(held).into_iter().for_each(|open| open.forget(Arc::make_mut(&mut self.followed)));
    }

    async fn failed(&mut self, error: BrokerError, what: &str) {
        tracing::warn!(error = &error as &dyn std::error::Error, "{what}");
        if matches!(error, BrokerError::Missing(_)) {
            self.fixed.ensure(&self.desk.broker).await;
        }
    }
}

/// The group that a subject of the bucket is about.
fn group(subject: &str) -> Option<GroupId> {
    let key = subject.strip_prefix(&js::key(GROUPS, ""))?;
    keys::parse_definition(key).or_else(|| keys::parse_state(key))
}
