//! Streams, consumers and buckets as plain values: what the broker holds, and within which limits.
//!
//! `broker-config` makes them on a server. The field names of [`Stream`] and [`Consumer`] are those of JetStream's API, so a value
//! here is serialised as the request; durations are in nanoseconds there, as [`Nanos`].

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{
    job,
    lane::Lane,
    names::{ExecutorName, PoolName},
    result,
    subjects::{self, About},
};

mod consumer;
pub mod limits;
mod pause;
pub use consumer::*;
pub use limits::*;
pub use pause::LanePause;

/// A duration as JetStream writes it: whole nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Nanos(pub i64);

impl From<Duration> for Nanos {
    fn from(from: Duration) -> Self {
        Self(i64::try_from(from.as_nanos()).unwrap_or(i64::MAX))
    }
}

/// A stream, as in `STREAM.CREATE`. -1 means no limit, as the broker has it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Stream {
    /// Its name.
    pub name: String,
    /// What it captures.
    pub subjects: Vec<String>,
    /// `workqueue` (a message leaves when it is acked) or `limits`.
    pub retention: &'static str,
    /// `file` or `memory`.
    pub storage: &'static str,
    /// `new` refuses when a limit is reached, `old` drops the oldest.
    pub discard: &'static str,
    /// Whether a second message on a subject is refused rather than replacing the first. Only with discard `new`.
    pub discard_new_per_subject: bool,
    /// The most messages.
    pub max_msgs: i64,
    /// The most messages per subject.
    pub max_msgs_per_subject: i64,
    /// The most bytes.
    pub max_bytes: i64,
    /// The most consumers; absent is the broker's own limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_consumers: Option<i64>,
    /// The largest message with its headers, in bytes.
    pub max_msg_size: i32,
    /// How long a message is kept; zero is for ever.
    pub max_age: Nanos,
    /// How long `Nats-Msg-Id` is remembered.
    pub duplicate_window: Nanos,
    /// Copies in a cluster.
    pub num_replicas: usize,
    /// Whether messages can be read by direct get.
    pub allow_direct: bool,
    /// Whether a message may have a lifetime of its own.
    pub allow_msg_ttl: bool,
    /// Whether messages may be schedules.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub allow_msg_schedules: bool,
    /// Whether many messages may be stored in one commit. The broker refuses it together with [`Self::persist_mode`] `async`.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub allow_atomic: bool,
    /// Whether a publisher may wipe the stream with a header.
    pub allow_rollup_hdrs: bool,
    /// Whether single messages can be deleted.
    pub deny_delete: bool,
    /// Whether the stream can be purged.
    pub deny_purge: bool,
    /// `async` leaves the flush to the server, against a slower acknowledgement.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub persist_mode: Option<&'static str>,
    /// What the broker publishes once a message is stored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub republish: Option<Republish>,
}

/// What the broker publishes once a message is stored.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Republish {
    /// Which stored subjects.
    pub src: String,
    /// Under which subject.
    pub dest: String,
    /// Without the body.
    pub headers_only: bool,
}

/// A key-value bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bucket {
    /// Its name.
    pub name: &'static str,
    /// What it holds.
    pub description: &'static str,
    /// Whether it is kept in memory only.
    pub memory: bool,
    /// How long an entry lives without being written again; zero is for ever.
    pub max_age: Duration,
}

/// The stream of results.
pub const RESULTS: &str = "RESULTS";
/// The stream of state changes.
pub const EVENTS: &str = "EVENTS";
/// The stream of output.
pub const LOGS: &str = "LOGS";
/// The stream of last heartbeats.
pub const HEARTBEATS: &str = "HEARTBEATS";
/// The stream of commands to single agents.
pub const COMMANDS: &str = "COMMANDS";
/// The stream of dead letters.
pub const DEAD: &str = "DEAD";

/// The audit trail.
pub const AUDIT: &str = "AUDIT";

/// The stream of schedules: the broker's timers, and what they fired.
pub const SCHEDULES: &str = "SCHEDULES";
/// Records of agents: `id.<agent_id>` and, to keep names unique, `name.<agent_name>`.
pub const AGENTS: &str = "agents";
/// Records of pools, by name.
pub const POOLS: &str = "pools";
/// What the dispatcher says of agents: `<pool>.<agent_id>`.
pub const STANDINGS: &str = "standings";
/// API keys, by prefix.
pub const API_KEYS: &str = "api_keys";
/// Schedules and what became of their last firings; see [`crate::schedule::keys`].
pub const SCHEDULES_BUCKET: &str = "schedules";
/// Join tokens, by prefix.
pub const JOIN_TOKENS: &str = "join_tokens";
/// Groups and how far they are; see [`crate::group::keys`].
pub const GROUPS: &str = "groups";
/// Public keys of agents that the broker refuses, by the key itself. Entries live longer than any JWT that was ever made for them.
pub const REVOCATIONS: &str = "revocations";
/// The signed list of whose jobs are run, under [`crate::signature::SIGNERS_KEY`]. Agents follow it.
pub const TRUST: &str = "trust";
/// Connections, and who has their names; see [`crate::connection::keys`]. Agents read those of their pool.
pub const CONNECTIONS: &str = "connections";
/// Credentials sealed to agents, by agent id. Agents read their own.
pub const MAILBOXES: &str = "mailboxes";
/// When API keys were last used, by prefix. Apart from the keys, so that a use is no change of a key.
pub const KEY_USES: &str = "key_uses";
/// Who is the active dispatcher: key [`DISPATCHER_LEASE`]; and what it is removing at this moment, see [`crate::records::keys::retiring`].
pub const LEASES: &str = "leases";
/// The key of the active dispatcher in [`LEASES`].
pub const DISPATCHER_LEASE: &str = "dispatcher";

/// Every bucket.
pub const BUCKETS: [Bucket; 13] = [
    bucket(AGENTS, "agents and their names"),
    bucket(POOLS, "pools and their limits"),
    bucket(STANDINGS, "what the dispatcher says of each agent"),
    bucket(API_KEYS, "API keys, hashed"),
    bucket(JOIN_TOKENS, "join tokens, hashed"),
    bucket(SCHEDULES_BUCKET, "schedules and their last firings"),
    Bucket { name: GROUPS, description: "groups: one job for each of many agents", memory: false, max_age: GROUP_AGE },
    Bucket { name: REVOCATIONS, description: "public keys that the broker refuses", memory: false, max_age: REVOCATION_AGE },
    bucket(TRUST, "whose jobs are run"),
    bucket(CONNECTIONS, "connections and their names"),
    bucket(MAILBOXES, "credentials sealed to agents"),
    bucket(KEY_USES, "when API keys were last used"),
    // In memory: a lease that is renewed each second must not cost a disk flush each second, and one that is lost is taken anew.
    Bucket {
        name: LEASES,
        description: "who is the active dispatcher, and which consumers of commands it is removing",
        memory: true,
        max_age: LEASE_AGE,
    },
];

const fn bucket(name: &'static str, description: &'static str) -> Bucket {
    Bucket { name, description, memory: false, max_age: Duration::ZERO }
}

/// How long the marker of a deleted entry is kept for those who follow a bucket. Whoever lost the connection meanwhile reads all of it again.
/// `None` where entries vanish with age: the marker does as well.
pub fn marker_age(bucket: &str) -> Option<Duration> {
    BUCKETS.iter().find(|known| known.name == bucket).filter(|known| known.max_age.is_zero()).map(|_| MARKER_AGE)
}

/// The stream behind a bucket.
pub fn bucket_stream(bucket: &str) -> String {
    format!("KV_{bucket}")
}

impl Bucket {
    /// The stream behind the bucket, with the settings that key-value clients expect: one message per key, the newest.
    pub fn stream(&self) -> Stream {
        // The broker refuses a window that is longer than the age.
        let window = if self.max_age.is_zero() { DUPLICATE_WINDOW } else { DUPLICATE_WINDOW.min(self.max_age) };
        Stream {
            storage: if self.memory { "memory" } else { "file" },
            discard: "new",
            max_msgs_per_subject: 1,
            max_age: self.max_age.into(),
            duplicate_window: window.into(),
            // So that what is left of a deleted entry vanishes as well. Where entries do so by their age, a marker would outlive them.
            allow_msg_ttl: self.max_age.is_zero(),
            allow_rollup_hdrs: true,
            deny_delete: true,
            ..stream(&bucket_stream(self.name), vec![subjects::broker::keys_of(self.name)])
        }
    }
}

/// The stream of a pool's jobs, `JOBS_<pool>`.
pub fn jobs_stream(pool: &PoolName) -> String {
    format!("JOBS_{pool}")
}

/// Whether a stream holds the jobs of some pool.
pub fn is_jobs_stream(name: &str) -> bool {
    name.starts_with("JOBS_")
}

fn stream(name: &str, subjects: Vec<String>) -> Stream {
    Stream {
        name: name.into(),
        subjects,
        retention: "limits",
        storage: "file",
        discard: "old",
        discard_new_per_subject: false,
        max_msgs: -1,
        max_msgs_per_subject: -1,
        max_bytes: -1,
        max_consumers: None,
        max_msg_size: -1,
        max_age: Nanos(0),
        duplicate_window: DUPLICATE_WINDOW.into(),
        num_replicas: 1,
        allow_direct: true,
        allow_msg_ttl: false,
        allow_msg_schedules: false,
        allow_atomic: false,
        allow_rollup_hdrs: false,
        deny_delete: false,
        deny_purge: false,
        persist_mode: None,
        republish: None,
    }
}

/// The stream of a pool's jobs: one subject per declared lane, so that a job for an executor that nobody declared, or of a priority that
/// does not exist, is refused at once instead of waiting for ever.
pub fn jobs<'a>(pool: &PoolName, executors: impl IntoIterator<Item = &'a ExecutorName>, max_queued: u64) -> Stream {
    let lanes = executors.into_iter().flat_map(Lane::of);
    Stream {
        retention: "workqueue",
        discard: "new",
        discard_new_per_subject: true,
        max_msgs_per_subject: 1,
        max_msgs: i64::try_from(max_queued).unwrap_or(i64::MAX),
        max_msg_size: i32::try_from(job::LIMIT + HEADER_ROOM).unwrap_or(i32::MAX),
        allow_atomic: true,
        republish: Some(Republish {
            src: format!("jobs.{pool}.*.*.*"),
            dest: format!("events.{pool}.{{{{wildcard(3)}}}}"),
            // With its body, so that the history knows the job's type and labels whoever published it.
            headers_only: false,
        }),
        ..stream(&jobs_stream(pool), lanes.map(|lane| subjects::lane(pool, &lane)).collect())
    }
}

/// The streams that exist whatever pools there are.
pub fn fixed_streams() -> Vec<Stream> {
    let any = |about: About| vec![about.all()];
    vec![
        Stream {
            discard: "new",
            discard_new_per_subject: true,
            max_msgs_per_subject: 1,
            max_age: RESULT_AGE_MAX.into(),
            max_msg_size: i32::try_from(result::LIMIT + HEADER_ROOM).unwrap_or(i32::MAX),
            allow_msg_ttl: true,
            allow_atomic: true,
            republish: Some(Republish {
                src: About::Result.all(),
                dest: "done.{{wildcard(1)}}.{{wildcard(2)}}".into(),
                headers_only: false,
            }),
            ..stream(RESULTS, any(About::Result))
        },
        Stream {
            max_msgs_per_subject: 64,
            max_age: EVENT_AGE.into(),
            max_bytes: EVENT_BYTES,
            duplicate_window: EVENT_DUPLICATE_WINDOW.into(),
            persist_mode: Some("async"),
            ..stream(EVENTS, any(About::Event))
        },
        Stream {
            max_msgs_per_subject: LOG_CHUNKS_PER_JOB,
            max_age: LOG_AGE.into(),
            max_bytes: LOG_BYTES,
            persist_mode: Some("async"),
            ..stream(LOGS, any(About::Log))
        },
        Stream { storage: "memory", max_msgs_per_subject: 1, max_msg_size: 32 * 1024, ..stream(HEARTBEATS, vec![subjects::heartbeats()]) },
        Stream {
            retention: "workqueue",
            discard: "new",
            discard_new_per_subject: true,
            max_msgs_per_subject: 1,
            max_msg_size: i32::try_from(job::LIMIT + HEADER_ROOM).unwrap_or(i32::MAX),
            max_msgs: COMMANDS_MAX,
            max_consumers: Some(COMMANDS_CONSUMERS_MAX),
            allow_atomic: true,
            republish: Some(Republish {
                src: subjects::broker::COMMANDS.into(),
                dest: "events.{{wildcard(1)}}.{{wildcard(3)}}".into(),
                headers_only: false,
            }),
            ..stream(COMMANDS, vec![subjects::broker::COMMANDS.into()])
        },
        Stream {
            discard: "new",
            discard_new_per_subject: true,
            max_msgs_per_subject: 1,
            max_age: DEAD_AGE.into(),
            ..stream(DEAD, any(About::Dead))
        },
        Stream {
            retention: "workqueue",
            // A stream with schedules refuses to discard new messages, and must let the broker roll up its own subjects.
            discard: "old",
            allow_msg_schedules: true,
            allow_msg_ttl: true,
            allow_rollup_hdrs: true,
            ..stream(SCHEDULES, vec![subjects::broker::SCHEDULES.into(), subjects::broker::DUE.into()])
        },
        Stream {
            max_age: AUDIT_AGE.into(),
            max_bytes: AUDIT_BYTES,
            max_msg_size: 32 * 1024,
            // What is written stays as it was written.
            deny_delete: true,
            deny_purge: true,
            ..stream(AUDIT, vec![subjects::broker::AUDIT.into()])
        },
    ]
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;

    #[test]
    fn a_pool_declares_exactly_its_lanes() {
        let pool: PoolName = "p".parse().unwrap();
        let stream = jobs(&pool, &["shell".parse().unwrap()], 10);
        assert_eq!(stream.name, "JOBS_p");
        assert_eq!(stream.subjects, ["jobs.p.high.shell.*", "jobs.p.normal.shell.*", "jobs.p.low.shell.*"]);
        assert_eq!((stream.max_msgs, stream.max_msgs_per_subject), (10, 1));
    }

    #[test]
    fn every_stream_and_consumer_is_pinned_by_a_golden_file() {
        let pool: PoolName = "p".parse().unwrap();
        let lane = Lane { priority: crate::lane::Priority::Normal, executor: "shell".parse().unwrap() };
        let all = serde_json::json!({
            "fixed": fixed_streams(),
            "bucket": BUCKETS[0].stream(),
            "jobs": jobs(&pool, std::slice::from_ref(&lane.executor), QUEUED_DEFAULT),
            "lane": lane_consumer(&pool, &lane, OUT_MAX),
            "due": due_consumer(),
            "command": command_consumer(&pool, &"agt_01ARZ3NDEKTSV4RRFFQ69G5FAV".parse().unwrap()),
        });
        crate::json::golden("topology.json", &(serde_json::to_string_pretty(&all).unwrap() + "\n"));
    }
}
