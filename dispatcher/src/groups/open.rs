//! A group that is not over: what is known of it, and doing what is next.

use std::time::{Duration, Instant};

use async_nats::Client;
use muster_schemas::{
    group::{GroupRecord, GroupState, GroupStatus, keys},
    names::GroupId,
    subjects::js,
    time::Timestamp,
    topology::{GROUPS, bucket_stream},
};

use super::{
    decide::{Step, decide, is_over},
    desk::{Desk, Sent},
};
use crate::{
    broker::{BrokerError, Write},
    held::{self, Record},
    history::{Fate, Followed},
};

/// How long to wait before what could not be done is tried again.
const AGAIN_AFTER: Duration = Duration::from_secs(2);
/// How long the history has to learn of jobs before they are looked for on the broker, and the time between two such looks.
const LOOK_AFTER: Duration = Duration::from_secs(3);
/// Jobs that are looked for at a time.
const LOOK_MOST: usize = 500;
/// Jobs that are cancelled at a time.
const CANCEL_MOST: usize = 1000;

/// A group that is not over.
#[derive(Debug)]
pub(super) struct Open {
    pub(super) record: GroupRecord,
    /// Tells it from others in [`Followed`].
    pub(super) number: u64,
    /// When the broker stored it, in microseconds.
    since: i64,
    /// How far it is. `None` when that must be read; it is read anyway before anything is done.
    pub(super) state: Option<GroupState>,
    /// How jobs ended, of which the history has told that, or knows nothing.
    ended: Vec<Fate>,
    look_at: Instant,
    act_at: Instant,
    pub(super) over: bool,
}

impl Open {
    /// Reads a group. `None` when it is over, is no more, or can't be read.
    pub(super) async fn load(client: &Client, id: &GroupId, number: u64) -> Result<Option<Self>, BrokerError> {
        // The record may be large, and of most groups there is nothing more to do.
        let state = match held::record::<GroupState>(client, GROUPS, &keys::state(id)).await?.0 {
            Record::Value(state) if is_over(&state, Timestamp::now()) => return Ok(None),
            Record::Value(state) => state,
            Record::Absent => GroupState::default(),
            Record::Unreadable => return Ok(None),
        };
        let Some(held) = held::last(client, &bucket_stream(GROUPS), &js::key(GROUPS, &keys::definition(id))).await? else {
            return Ok(None);
        };
        let (now, since) = (Instant::now(), held.stored_at().map_or(i64::MIN, Timestamp::micros));
        Ok(held::decoded::<GroupRecord>(&held).readable().map(|record| Self {
            ended: vec![Fate::Unknown; record.members.len()],
            record,
            number,
            since,
            state: Some(state),
            look_at: now,
            act_at: now,
            over: false,
        }))
    }

    /// Has the history follow its jobs.
    pub(super) fn follow(&self, followed: &mut Followed) {
        for place in 0..self.record.members.len() {
            followed.follow(&self.record.pool, &self.record.id.job(place), (self.number, place), self.since);
        }
    }

    /// The history need not follow it any longer.
    pub(super) fn forget(&self, followed: &mut Followed) {
        (0..self.record.members.len()).for_each(|place| followed.forget(&self.record.pool, &self.record.id.job(place)));
    }

    /// Takes in what the history tells. Answers how it stands with each job.
    pub(super) fn learn(&mut self, told: &[(usize, Fate, bool)], followed: &mut Followed) -> Vec<Fate> {
        for (place, fate, _) in told.iter().filter(|(.., for_good)| *for_good) {
            if let Some(ended) = self.ended.get_mut(*place) {
                *ended = *fate;
                followed.forget(&self.record.pool, &self.record.id.job(*place));
            }
        }
        let mut fates = self.ended.clone();
        for (place, fate, _) in told {
            fates.get_mut(*place).into_iter().for_each(|known| *known = *fate);
        }
        fates
    }

    /// Somebody has changed it, or may have.
    pub(super) fn changed(&mut self) {
        (self.state, self.act_at) = (None, Instant::now());
    }

    /// Something could not be done.
    pub(super) fn failed(&mut self) {
        self.act_at = Instant::now() + AGAIN_AFTER;
    }

    /// Whether there is nothing to be done now.
    pub(super) fn waits(&self, fates: &[Fate]) -> bool {
        let now = Instant::now();
        now < self.act_at
            || self.state.as_ref().is_some_and(|state| match decide(&self.record, state, fates, Timestamp::now()) {
                Step::Wait => true,
                Step::Look(_) => now < self.look_at,
                _ => false,
            })
    }

    /// Does what is next.
    pub(super) async fn drive(&mut self, desk: &Desk, fates: &[Fate]) -> Result<(), BrokerError> {
        let (state, revision) = match held::record::<GroupState>(desk.client(), GROUPS, &keys::state(&self.record.id)).await? {
            (Record::Value(state), revision) => (state, revision),
            (Record::Absent, revision) => (GroupState::default(), revision),
            (Record::Unreadable, _) => {
                self.over = true;
                return Ok(());
            }
        };
        self.state = None;
        match decide(&self.record, &state, fates, Timestamp::now()) {
            Step::Wait => self.state = Some(state),
            Step::Close => self.over = true,
            Step::Look(places) => {
                if Instant::now() >= self.look_at {
                    let places: Vec<usize> = places.into_iter().take(LOOK_MOST).collect();
                    let found = desk.look(&self.record, &places).await?;
                    places.into_iter().zip(found).filter(|(_, fate)| *fate != Fate::Open).for_each(|(place, fate)| self.ends(place, fate));
                    self.look_at = Instant::now() + LOOK_AFTER;
                }
                self.state = Some(state);
            }
            Step::Send(places, then) => self.send(desk, &places, state, then, revision).await?,
            Step::Cancel(places, then) => {
                let (now, later) = places.split_at(places.len().min(CANCEL_MOST));
                desk.cancel(&self.record, now).await?;
                now.iter().for_each(|place| self.ends(*place, Fate::Ended(false)));
                if let Some(then) = then.filter(|_| later.is_empty()) {
                    self.write(desk, &then, revision).await?;
                }
            }
            Step::Record(then) => self.write(desk, &then, revision).await?,
        }
        Ok(())
    }

    fn ends(&mut self, place: usize, fate: Fate) {
        self.ended.get_mut(place).into_iter().for_each(|ended| *ended = fate);
    }

    async fn send(&mut self, desk: &Desk, places: &[usize], state: GroupState, then: GroupState, revision: u64) -> Result<(), BrokerError> {
        if !desk.pool_exists(&self.record).await? {
            let reason = Some(format!("pool {} was deleted", self.record.pool));
            let then = GroupState { status: GroupStatus::Stopped, reason, changed_at: Some(Timestamp::now()), ..state };
            return self.write(desk, &then, revision).await;
        }
        self.look_at = Instant::now() + LOOK_AFTER;
        match desk.send(&self.record, places).await? {
            Sent::All => {
                if let Write::Stored(_) = desk.write(&self.record, &then, revision).await? {
                    desk.figures.wave_sent();
                    tracing::info!(group = %self.record.id, sent = then.sent, of = self.record.members.len(), "a wave of a group is sent");
                }
            }
            Sent::Not(why) => {
                self.failed();
                if state.reason.as_ref() != Some(&why) {
                    tracing::warn!(group = %self.record.id, why, "the queue does not take a wave of a group; trying again");
                    let told = GroupState { reason: Some(why), changed_at: Some(Timestamp::now()), ..state };
                    desk.write(&self.record, &told, revision).await?;
                }
            }
        }
        Ok(())
    }

    async fn write(&self, desk: &Desk, then: &GroupState, revision: u64) -> Result<(), BrokerError> {
        if let Write::Stored(_) = desk.write(&self.record, then, revision).await? {
            let (status, reason) = (then.status.as_str(), then.reason.as_deref());
            tracing::info!(group = %self.record.id, status, reason, sent = then.sent, "a group is over");
        }
        Ok(())
    }
}
