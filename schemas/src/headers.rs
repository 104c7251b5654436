//! Message headers that Muster reads or writes.

use crate::names::{JobId, PoolName};

/// Set to `1` by a publisher that generated the job's id itself: no result can be stored under it yet, so the agent need not look.
pub const FRESH: &str = "Muster-Fresh";
/// On a result: where its job was in its queue ([`crate::queue::Place`]), so that the dispatcher can remove finished jobs together. Set only by
/// an agent that got the job and stores its result over one and the same connection.
pub const QUEUE_PLACE: &str = "Muster-Queue-Place";
/// The signature of a job or result; see [`crate::signature`].
pub const SIGNATURE: &str = "Muster-Signature";
/// Where the submitter wants the stored result sent: a subject below `_INBOX.`. Copied by the agent from the job to the result.
pub const REPLY_TO: &str = "reply_to";
/// The id of the job whose result a message is, where the result is sent on to its submitter's inbox.
pub const JOB_ID: &str = "Muster-Job-Id";
/// W3C trace context of the submit; the agent's span continues it.
pub const TRACEPARENT: &str = "traceparent";
/// `application/msgpack` or `application/json`; informative, since the first byte of a body tells.
pub const CONTENT_TYPE: &str = "Content-Type";
/// The broker's de-duplication key: [`msg_id`]. Set only where a job's id was not made for it.
pub const MSG_ID: &str = "Nats-Msg-Id";

/// What [`MSG_ID`] says of a job. With its pool, since streams that hold several pools' messages remember it as well, and the same id in another
/// pool is another job.
pub fn msg_id(pool: &PoolName, id: &JobId) -> String {
    format!("{pool}.{id}")
}

/// How long the broker keeps a message, as `<seconds>s`.
pub const TTL: &str = "Nats-TTL";
/// On a message that the broker republished: the subject it was stored under.
pub const REPUBLISHED_SUBJECT: &str = "Nats-Subject";
/// On a direct get's answer: when the message was stored, RFC 3339.
pub const STORED_AT: &str = "Nats-Time-Stamp";
/// On a direct get's answer: the message's sequence in its stream.
pub const SEQUENCE: &str = "Nats-Sequence";
/// On the message of a key-value bucket that is no value: the key was deleted.
pub const KV_OPERATION: &str = "KV-Operation";

/// On a schedule message: the pattern by which the broker fires it.
pub const SCHEDULE: &str = "Nats-Schedule";
/// On a schedule message: where its firings go.
pub const SCHEDULE_TARGET: &str = "Nats-Schedule-Target";
/// On a schedule message: the time zone of its pattern.
pub const SCHEDULE_TIME_ZONE: &str = "Nats-Schedule-Time-Zone";
/// On a schedule message: how long a firing is kept, as `<seconds>s`.
pub const SCHEDULE_TTL: &str = "Nats-Schedule-TTL";
/// On a firing: when the schedule fires next, RFC 3339, or `purge`.
pub const SCHEDULE_NEXT: &str = "Nats-Schedule-Next";

/// On each message of a batch that is stored in one commit: which batch.
pub const BATCH_ID: &str = "Nats-Batch-Id";
/// On each message of a batch: its place there, from 1.
pub const BATCH_SEQUENCE: &str = "Nats-Batch-Sequence";
/// On the last message of a batch: `1`, store them all.
pub const BATCH_COMMIT: &str = "Nats-Batch-Commit";
/// The broker stores the message only if this is the sequence of the last one on its subject; 0 for none.
pub const EXPECTED_LAST: &str = "Nats-Expected-Last-Subject-Sequence";
/// The broker refuses the message unless this is the name of the stream that takes its subject.
pub const EXPECTED_STREAM: &str = "Nats-Expected-Stream";

/// On the answers to a direct get of several messages: how many more match behind this one.
pub const PENDING: &str = "Nats-Num-Pending";

/// The MIME type of a MessagePack body.
pub const MSGPACK: &str = "application/msgpack";
/// The MIME type of a JSON body.
pub const JSON: &str = "application/json";

/// Whether a header steers the broker or Muster itself, so that it must not be taken over from a caller outside.
pub fn is_reserved(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    name.starts_with("nats-") || name.starts_with("muster-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_that_steer_the_broker_are_reserved_in_any_case() {
        for name in [
            "Nats-Msg-Id",
            "nats-ttl",
            "NATS-Rollup",
            "Nats-Schedule-Target",
            "Nats-Expected-Stream",
            "Nats-Batch-Id",
            "Nats-Trace-Dest",
            "muster-fresh",
        ] {
            assert!(is_reserved(name), "{name}");
        }
        assert!(!is_reserved("traceparent"));
    }
}
