//! The numbers of the topology, each with its reason.

use std::time::Duration;

/// The oldest nats-server that is good enough: before it, compaction could lose what was acknowledged when the power went.
pub const MIN_SERVER_VERSION: &str = "2.15.1";
/// Without a sign of life for this long, a job goes to another agent: the lease.
pub const ACK_WAIT: Duration = Duration::from_secs(30);
/// The longest that a pull request may wait. Across accounts the server forgets an idle reply mapping after 2 minutes.
pub const MAX_EXPIRES: Duration = Duration::from_secs(120);
/// The most jobs that one pull request may ask for: above the largest number of slots (50).
pub const MAX_BATCH: i64 = 64;
/// The most pull requests that may wait in a lane: two for each of 5 000 agents.
pub const MAX_WAITING: i64 = 10_000;
/// The one priority group of a lane's consumer.
pub const PRIORITY_GROUP: &str = "standing";
/// From here on a limit on running jobs is none: agents' slots are. The default of a pool.
pub const RUNNING_DEFAULT: u64 = 10_000;
/// Jobs that a lane of such a pool may have out, put-off ones included: as many as may wait, so that those do not keep others back. The server's
/// own default is 1 000.
pub const OUT_MAX: u64 = QUEUED_DEFAULT;
/// Jobs that may wait in a pool, unless the pool says otherwise.
pub const QUEUED_DEFAULT: u64 = 1_000_000;
/// How long the broker remembers the ids that callers chose, to refuse a second submit of the same one on another lane.
pub const DUPLICATE_WINDOW: Duration = Duration::from_secs(120);
/// How long a result is kept unless its job says otherwise.
pub const RESULT_TTL: Duration = Duration::from_secs(24 * 3600);
/// The longest that a result can be kept.
pub const RESULT_AGE_MAX: Duration = Duration::from_secs(30 * 24 * 3600);
/// How long the marker of a deleted entry is kept in a bucket.
pub const MARKER_AGE: Duration = Duration::from_secs(3600);
/// How long state changes are kept.
pub const EVENT_AGE: Duration = Duration::from_secs(7 * 24 * 3600);
/// How long events remember `Nats-Msg-Id`: as briefly as the broker allows. The copy of a queued job has its publisher's, who may use
/// one for two jobs in two pools.
pub const EVENT_DUPLICATE_WINDOW: Duration = Duration::from_millis(100);
/// All state changes together, in bytes. The server sets a stream's cap aside at once, so it must fit a small disk.
pub const EVENT_BYTES: i64 = 1 << 30;
/// How long output is kept.
pub const LOG_AGE: Duration = Duration::from_secs(24 * 3600);
/// All output together, in bytes.
pub const LOG_BYTES: i64 = 1 << 30;
/// Output kept per job, in bytes, over all attempts that one agent runs; then it says so once and stores no more.
pub const LOG_BYTES_PER_JOB: u64 = 5 << 20;
/// Chunks of output that an agent stores per job: at ten a second a job may write small pieces for 20 minutes.
pub const LOG_OUTPUT_CHUNKS: u64 = 12_000;
/// Chunks kept per job; beyond that the oldest go. An agent's own caps come first: what is left above [`LOG_OUTPUT_CHUNKS`] is for progress,
/// which is told ever more seldom (some 3 600 chunks in a day).
pub const LOG_CHUNKS_PER_JOB: i64 = 16_384;
/// How long dead letters are kept.
pub const DEAD_AGE: Duration = Duration::from_secs(30 * 24 * 3600);
/// Room for a message's headers above its body's cap, in bytes.
pub const HEADER_ROOM: usize = 4096;
/// A dispatcher that has a firing and dies with it keeps it, and all firings behind it, for so long.
pub const DUE_ACK_WAIT: Duration = Duration::from_secs(10);
/// A dispatcher that has not renewed its lease for this long has lost it. Renewed each second; taken over within 5 s.
pub const LEASE_AGE: Duration = Duration::from_secs(4);
/// Attempts of a job without a retry policy of its own, when agents are lost while running it.
pub const LOST_ATTEMPTS_MAX: u32 = 5;
/// Commands that may wait, of all agents together. More are refused.
pub const COMMANDS_MAX: i64 = 1_000_000;
/// Agents that may have commands at the same time: each has a consumer. Without a limit of its own a stream gets the broker's, which is 1 000 **[measured on
/// 2.15.1]**, and there is no way to ask for none.
pub const COMMANDS_CONSUMERS_MAX: i64 = 100_000;
/// Commands that one agent may have been given and not ended, put-off ones included.
pub const COMMANDS_PENDING_MAX: i64 = 1_000;
/// When a command expires that does not say so itself: after what an agent's long weekend off must not bring back.
pub const COMMAND_EXPIRES: Duration = Duration::from_secs(24 * 3600);
/// How long a group is remembered.
pub const GROUP_AGE: Duration = Duration::from_secs(30 * 24 * 3600);
/// The most agents of a group: their ids must fit one record, of at most 1 MiB.
pub const GROUP_MEMBERS_MAX: usize = 10_000;
/// How long the audit trail is kept: a year, and a month to look back at it.
pub const AUDIT_AGE: Duration = Duration::from_secs(396 * 24 * 3600);
/// The audit trail together, in bytes: some two million entries; then the oldest go.
pub const AUDIT_BYTES: i64 = 1 << 29;
/// How long a JWT of an agent is good for. It is renewed at two thirds of it.
pub const AGENT_JWT_LIFETIME: Duration = Duration::from_secs(24 * 3600);
/// How long a revoked public key is remembered: longer than any JWT for it lives, clocks that differ included. None is made for it again.
pub const REVOCATION_AGE: Duration = Duration::from_secs(48 * 3600);
/// An ephemeral agent that has been away for so long is removed.
pub const EPHEMERAL_AWAY_MAX: Duration = Duration::from_secs(3600);
