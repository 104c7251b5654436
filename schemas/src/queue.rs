//! Where a job waits: in a lane of its pool for whichever agent is next, or for one agent alone. A job for one agent is a *command*.

use std::{fmt, str::FromStr};

use crate::{
    lane::{Lane, Priority},
    names::{AgentId, JobId, PoolName},
    subjects,
    time::Timestamp,
    topology,
};

/// Where a job waits.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Queue {
    /// In a lane of its pool.
    Lane(Lane),
    /// For this agent of the pool, in the one queue that it has.
    Agent(AgentId),
}

impl Queue {
    /// How urgent its jobs are. An agent serves its own queue before every lane.
    pub fn priority(&self) -> Priority {
        match self {
            Self::Lane(lane) => lane.priority,
            Self::Agent(_) => Priority::High,
        }
    }

    /// The lane, if it is one.
    pub fn lane(&self) -> Option<&Lane> {
        match self {
            Self::Lane(lane) => Some(lane),
            Self::Agent(_) => None,
        }
    }

    /// The agent, if it is for one alone.
    pub fn agent(&self) -> Option<&AgentId> {
        match self {
            Self::Lane(_) => None,
            Self::Agent(agent) => Some(agent),
        }
    }

    /// The stream that holds it.
    pub fn stream(&self, pool: &PoolName) -> String {
        match self {
            Self::Lane(_) => topology::jobs_stream(pool),
            Self::Agent(_) => topology::COMMANDS.to_owned(),
        }
    }

    /// When a job that was stored in it at `stored_at` expires: as it says itself; a command that says nothing
    /// [`topology::COMMAND_EXPIRES`] after it could first start.
    pub fn expires_at(&self, own: Option<Timestamp>, not_before: Option<Timestamp>, stored_at: Timestamp) -> Option<Timestamp> {
        let first = not_before.map_or(stored_at, |at| at.max(stored_at));
        own.or_else(|| self.agent().map(|_| first + topology::COMMAND_EXPIRES))
    }

    /// The subject of one of its jobs.
    pub fn subject(&self, pool: &PoolName, id: &JobId) -> String {
        match self {
            Self::Lane(lane) => subjects::job(pool, lane, id),
            Self::Agent(agent) => subjects::command(pool, agent, id),
        }
    }
}

/// Where a job was in the stream of its queue, as the broker told who got it: `<sequence>.<stored at, µs since 1970>`. The time tells streams apart that used
/// the same sequences one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Place {
    /// The message's sequence.
    pub sequence: u64,
    /// When the broker stored it.
    pub stored_at: Timestamp,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.sequence, self.stored_at.micros())
    }
}

impl FromStr for Place {
    type Err = PlaceError;

    fn from_str(text: &str) -> Result<Self, PlaceError> {
        let parsed = text.split_once('.').and_then(|(sequence, micros)| Some((sequence.parse().ok()?, micros.parse().ok()?)));
        let (sequence, micros) = parsed.ok_or(PlaceError)?;
        Ok(Self { sequence, stored_at: Timestamp::from_micros(micros) })
    }
}

/// A text is no [`Place`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a place in a queue is `<sequence>.<microseconds>`")]
pub struct PlaceError;

/// Every place in which a job of a pool may wait: a stream, and a filter for its subject there.
pub fn places(pool: &PoolName, id: &JobId) -> [(String, String); 2] {
    [
        (topology::jobs_stream(pool), subjects::job_in_any_lane(pool, id)),
        (topology::COMMANDS.to_owned(), subjects::command_to_any_agent(pool, id)),
    ]
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use std::time::Duration;

    use super::*;
    use crate::topology::COMMAND_EXPIRES;

    #[test]
    fn a_place_is_read_back_and_nothing_else_is() {
        let place = Place { sequence: 17, stored_at: Timestamp::from_micros(1_795_337_336_201_717) };
        assert_eq!(place.to_string(), "17.1795337336201717");
        assert_eq!(place.to_string().parse(), Ok(place));
        for text in ["", ".", "17", "17.", ".1", "-1.5", "17.x", "17.1.2"] {
            assert_eq!(text.parse::<Place>(), Err(PlaceError), "{text}");
        }
    }

    #[test]
    fn only_a_command_expires_that_says_nothing() {
        let (stored, hour) = (Timestamp::from_secs(1_800_000_000), Duration::from_secs(3600));
        let command = Queue::Agent(AgentId::generate());
        let lane = Queue::Lane(Lane { priority: Priority::Low, executor: "shell".parse().unwrap() });
        for queue in [&command, &lane] {
            assert_eq!(queue.expires_at(Some(stored + hour), Some(stored), stored), Some(stored + hour));
        }
        assert_eq!(lane.expires_at(None, Some(stored + hour), stored), None);
        assert_eq!(command.expires_at(None, None, stored), Some(stored + COMMAND_EXPIRES));
        assert_eq!(command.expires_at(None, Some(stored + hour), stored), Some(stored + hour + COMMAND_EXPIRES));
        assert_eq!(command.expires_at(None, Some(stored - hour), stored), Some(stored + COMMAND_EXPIRES));
    }
}
