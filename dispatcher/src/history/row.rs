//! What is known of one job, and how it is shown: pure.
//!
//! A row has three parts, each the newest message of its kind: that the job was queued, the last thing an agent told, and its result. A
//! part is replaced by a later one only, and one from before the job was queued belongs to an earlier job of the same id and is dropped.
//! So it does not matter in which order the streams are read, nor whether a message comes twice.

use std::collections::BTreeMap;

use muster_schemas::{
    api::{JobRow, JobState},
    event::EventKind,
    lane::Priority,
    names::{AgentId, JobId, JobType, PoolName},
    result::{ErrorInfo, Outcome},
    signature::Mark,
    time::Timestamp,
};
use serde::{Deserialize, Serialize};

/// A place in a stream that holds across streams that are made anew: the time first, then the sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Place(pub(crate) i64, pub(crate) u64);

/// It was queued. Times are in microseconds since 1970, since as text each would take three times the room.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Queued {
    pub(crate) place: Place,
    pub(crate) at: i64,
    pub(crate) priority: Priority,
    pub(crate) job_type: Option<JobType>,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) parent: Option<JobId>,
    pub(crate) not_before: Option<i64>,
    /// When it is too late to start it.
    pub(crate) expires_at: Option<i64>,
    /// The one agent that it is for.
    pub(crate) to: Option<AgentId>,
    /// How long its result is kept, in seconds.
    pub(crate) ttl_s: u64,
}

/// What an agent told last.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Told {
    pub(crate) place: Place,
    pub(crate) kind: EventKind,
    pub(crate) at: i64,
    pub(crate) agent: AgentId,
    pub(crate) job_type: Option<JobType>,
    pub(crate) attempt: u32,
    pub(crate) reason: Option<String>,
    pub(crate) next_at: Option<i64>,
}

/// Its result, without output and data.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Ended {
    pub(crate) place: Place,
    /// As it was found when it was read: keys that are revoked later, and agents that are removed, do not change it.
    pub(crate) signature: Mark,
    pub(crate) outcome: Outcome,
    pub(crate) agent: Option<AgentId>,
    pub(crate) attempt: u32,
    pub(crate) queued_at: i64,
    pub(crate) started_at: Option<i64>,
    pub(crate) finished_at: i64,
    pub(crate) exit_code: Option<i32>,
    pub(crate) error: Option<ErrorInfo>,
    pub(crate) priority: Priority,
    pub(crate) job_type: Option<JobType>,
    pub(crate) labels: BTreeMap<String, String>,
}

/// Something new about a job.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Change {
    Queued(Queued),
    Told(Told),
    Ended(Ended),
    /// The ledger found it nowhere.
    Missing(Missing),
}

/// Why a job that has not ended, as far as is known, is nowhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Missing {
    /// It was acknowledged, and is gone.
    Lost,
    /// Its result may have been kept for a shorter time than this history was away.
    Unread,
}

impl Missing {
    fn reason(self) -> &'static str {
        match self {
            Self::Lost => "lost: it is neither in its queue nor has it a result",
            Self::Unread => "its result was gone before this history could read it",
        }
    }
}

/// All that is known of a job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Row {
    pub(crate) pool: PoolName,
    pub(crate) id: JobId,
    queued: Option<Queued>,
    told: Option<Told>,
    ended: Option<Ended>,
    missing: Option<Missing>,
}

impl Row {
    pub(crate) fn new(pool: PoolName, id: JobId) -> Self {
        Self { pool, id, queued: None, told: None, ended: None, missing: None }
    }

    /// Takes in something new. Answers whether anything changed.
    pub(crate) fn apply(&mut self, change: Change) -> bool {
        let before = self.clone();
        match change {
            Change::Queued(part) => newer(&mut self.queued, part, |part| part.place),
            Change::Told(part) => newer(&mut self.told, part, |part| part.place),
            Change::Ended(part) => newer(&mut self.ended, part, |part| part.place),
            Change::Missing(why) => self.missing = self.ended.is_none().then_some(why),
        }
        if let Some(queued) = &self.queued {
            // Told and stored before it was queued: about an earlier job of the same id.
            self.told.take_if(|part| part.place.0 < queued.at);
            self.ended.take_if(|part| part.place.0 < queued.at);
            if let Some(ended) = &mut self.ended {
                (ended.job_type, ended.labels) = (None, BTreeMap::new());
            }
        }
        if self.ended.is_some() {
            self.told = None;
        }
        let heard = |row: &Self| (row.queued.as_ref().map(|p| p.place), row.told.as_ref().map(|p| p.place), row.ended.is_some());
        if heard(self) != heard(&before) {
            self.missing = None;
        }
        *self != before
    }

    /// When it was queued, in microseconds: its place in the list.
    pub(crate) fn queued_at(&self) -> i64 {
        let known = self.queued.as_ref().map(|part| part.at).or(self.ended.as_ref().map(|part| part.queued_at));
        known.or(self.told.as_ref().map(|part| part.place.0)).unwrap_or(0)
    }

    pub(crate) fn job_type(&self) -> Option<&JobType> {
        let queued = self.queued.as_ref().and_then(|part| part.job_type.as_ref());
        let ended = self.ended.as_ref().and_then(|part| part.job_type.as_ref());
        queued.or(ended).or(self.told.as_ref().and_then(|part| part.job_type.as_ref()))
    }

    pub(crate) fn labels(&self) -> Option<&BTreeMap<String, String>> {
        self.queued.as_ref().map(|part| &part.labels).or(self.ended.as_ref().map(|part| &part.labels))
    }

    /// What is known of its result's signature.
    pub(crate) fn signature(&self) -> Option<Mark> {
        self.ended.as_ref().map(|part| part.signature)
    }

    /// Who is shown as its agent.
    pub(crate) fn agent(&self) -> Option<&AgentId> {
        if let Some(ended) = &self.ended {
            return ended.agent.as_ref();
        }
        self.told.as_ref().filter(|told| matches!(told.kind, EventKind::Started | EventKind::Retrying)).map(|told| &told.agent)
    }

    /// Where it is, without regard to the time: a job that is put off is pending here.
    pub(crate) fn phase(&self) -> JobState {
        if let Some(ended) = &self.ended {
            return JobState::from(ended.outcome);
        }
        match self.told.as_ref().map(|told| told.kind) {
            None | Some(EventKind::Released) => JobState::Pending,
            Some(EventKind::Retrying) => JobState::Retrying,
            // The last two are told just before the job leaves the queue: its result is on the way.
            Some(EventKind::Started | EventKind::Superseded | EventKind::Dead) => JobState::Running,
        }
    }

    /// When it may start, if it is put off.
    pub(crate) fn not_before(&self) -> Option<i64> {
        self.queued.as_ref().and_then(|part| part.not_before)
    }

    /// When it is too late to start it, unless it has ended.
    pub(crate) fn expires_at(&self) -> Option<i64> {
        self.queued.as_ref().and_then(|part| part.expires_at).filter(|_| self.ended.is_none())
    }

    /// The one agent that it is for.
    pub(crate) fn target(&self) -> Option<&AgentId> {
        self.queued.as_ref().and_then(|part| part.to.as_ref())
    }

    /// When it started and when it ended.
    pub(crate) fn ran(&self) -> (Option<i64>, Option<i64>) {
        self.ended.as_ref().map_or((None, None), |part| (part.started_at, Some(part.finished_at)))
    }

    /// When something was last heard of it, by the broker's clock.
    pub(crate) fn heard_at(&self) -> i64 {
        let places = [self.queued.as_ref().map(|p| p.place), self.told.as_ref().map(|p| p.place), self.ended.as_ref().map(|p| p.place)];
        places.into_iter().flatten().map(|place| place.0).max().unwrap_or(0)
    }

    /// How long its result is kept, in seconds, where that is known.
    pub(crate) fn ttl_s(&self) -> Option<u64> {
        self.queued.as_ref().map(|part| part.ttl_s)
    }

    pub(crate) fn is_missing(&self) -> bool {
        self.missing.is_some()
    }

    /// The job as it is shown.
    pub(crate) fn view(&self, now: Timestamp) -> JobRow {
        let at = Timestamp::from_micros;
        let put_off = self.not_before().map(at).filter(|at| *at > now);
        let phase = self.phase();
        let mut row = JobRow {
            id: self.id.clone(),
            pool: self.pool.clone(),
            job_type: self.job_type().cloned(),
            priority: self.queued.as_ref().map(|part| part.priority).or(self.ended.as_ref().map(|part| part.priority)).unwrap_or_default(),
            state: if phase == JobState::Pending && put_off.is_some() { JobState::Scheduled } else { phase },
            labels: self.labels().cloned().unwrap_or_default(),
            attempt: 0,
            agent_id: self.agent().cloned(),
            target_agent: self.target().cloned(),
            queued_at: at(self.queued_at()),
            started_at: None,
            finished_at: None,
            exit_code: None,
            error: None,
            reason: None,
            next_at: None,
            parent: self.queued.as_ref().and_then(|part| part.parent.clone()),
            signature: self.signature(),
        };
        if let Some(ended) = &self.ended {
            (row.attempt, row.exit_code, row.error) = (ended.attempt, ended.exit_code, ended.error.clone());
            (row.started_at, row.finished_at) = (ended.started_at.map(at), Some(at(ended.finished_at)));
            return row;
        }
        row.next_at = put_off;
        if let Some(told) = &self.told {
            (row.attempt, row.reason) = (told.attempt, told.reason.clone());
            match told.kind {
                EventKind::Started => (row.started_at, row.next_at) = (Some(at(told.at)), None),
                EventKind::Retrying | EventKind::Released => row.next_at = told.next_at.map(at).filter(|at| *at > now).or(put_off),
                EventKind::Superseded | EventKind::Dead => row.next_at = None,
            }
        }
        if let Some(missing) = self.missing {
            row.reason = Some(missing.reason().to_owned());
        }
        row
    }
}

fn newer<T>(held: &mut Option<T>, part: T, place: impl Fn(&T) -> Place) {
    if held.as_ref().is_none_or(|held| place(held) < place(&part)) {
        *held = Some(part);
    }
}

#[cfg(test)]
mod tests;
