//! The permissions of gateway and dispatcher.
//!
//! Both make lanes, so both may create and update streams; neither may remove or empty one that every pool shares.

use muster_schemas::{
    schedule,
    subjects::{
        self, About, Query,
        broker::{self, ConsumerApi, StreamApi},
        js,
    },
    topology::{self, BUCKETS, bucket_stream},
};

use super::Permissions;

/// What gateway and dispatcher share: reading every stream, making lanes, and consumers of their own on the shared streams.
fn shared() -> Vec<String> {
    let mut publish = vec![
        broker::ACCOUNT_INFO.to_owned(),
        broker::STREAM_NAMES.to_owned(),
        broker::DIRECT_GETS.to_owned(),
        broker::FLOW_CONTROL.to_owned(),
        StreamApi::Create.any(),
        StreamApi::Update.any(),
        StreamApi::Info.any(),
        StreamApi::MessageGet.any(),
        // A job that was cancelled, or that nobody took, leaves its queue; a queue is emptied. Shared streams are excepted by `protected`.
        StreamApi::MessageDelete.any(),
        StreamApi::Purge.any(),
        ConsumerApi::Create.any("*"),
        broker::consumer_create_unnamed("*"),
        ConsumerApi::Info.any("*"),
        ConsumerApi::Delete.any("*"),
        // A paused pool, and a lane without a share of its pool's limit.
        ConsumerApi::Pause.any("*"),
    ];
    // Pulling from a lane is the agents' part.
    let read = [topology::RESULTS, topology::EVENTS, topology::LOGS, topology::HEARTBEATS, topology::DEAD];
    publish.extend(read.map(broker::pulls_of));
    publish
}

/// The streams that exist whatever pools there are, without buckets and the queue of commands.
fn fixed_streams() -> impl Iterator<Item = String> {
    topology::fixed_streams().into_iter().map(|stream| stream.name).filter(|name| name != topology::COMMANDS)
}

/// No emptying of the shared streams, and no message out of them, whatever a bug or a stolen credential asks for; but this.
fn protected(but: (StreamApi, &str)) -> Vec<String> {
    let but = but.0.subject(but.1);
    let fixed = fixed_streams().flat_map(|stream| [StreamApi::Purge, StreamApi::MessageDelete].map(|api| api.subject(&stream)));
    // Buckets let no single message be deleted, whoever asks.
    let buckets = BUCKETS.iter().map(|bucket| StreamApi::Purge.subject(&bucket_stream(bucket.name)));
    // No other age or size of the audit trail either, and no lifting of what protects it: an update could do what a purge may not.
    let trail = StreamApi::Update.subject(topology::AUDIT);
    fixed.chain(buckets).chain([trail]).filter(|subject| *subject != but).collect()
}

/// No removing of the shared streams.
fn kept() -> impl Iterator<Item = String> {
    let shared =
        topology::fixed_streams().into_iter().map(|stream| stream.name).chain(BUCKETS.iter().map(|bucket| bucket_stream(bucket.name)));
    shared.map(|stream| StreamApi::Delete.subject(&stream))
}

fn buckets<'a>(names: &'a [&str]) -> impl Iterator<Item = String> + 'a {
    names.iter().map(|name| broker::keys_of(name))
}

pub(super) fn gateway() -> Permissions {
    let mut publish = shared();
    publish.extend([
        broker::JOBS.to_owned(),
        broker::COMMANDS.to_owned(),
        // A cancelled job's result and last event.
        About::Result.all(),
        About::Event.all(),
        broker::CONTROLS.to_owned(),
        broker::RPCS.to_owned(),
        broker::HISTORY.to_owned(),
        // Answers, and results forwarded to where a job's header asks for them.
        broker::INBOXES.to_owned(),
        broker::MAPPED_REPLIES.to_owned(),
        // The streams of pools, when a pool is removed.
        StreamApi::Delete.any(),
    ]);
    publish.extend(buckets(&[
        topology::AGENTS,
        topology::POOLS,
        topology::API_KEYS,
        topology::JOIN_TOKENS,
        topology::SCHEDULES_BUCKET,
        topology::GROUPS,
        topology::REVOCATIONS,
        topology::TRUST,
        topology::KEY_USES,
        topology::CONNECTIONS,
        topology::MAILBOXES,
    ]));
    publish.extend([broker::AUDIT, subjects::SETTLE].map(str::to_owned));
    let mut subscribe = vec![broker::GATEWAY_INBOXES.to_owned(), broker::IDENTITIES.to_owned()];
    subscribe.extend(Query::ALL.map(Query::all));
    subscribe.extend([About::Done, About::Event, About::Log].map(About::all));
    // A dead letter that was replayed or is thrown away.
    let mut not = protected((StreamApi::MessageDelete, topology::DEAD));
    not.extend(kept());
    Permissions { publish, publish_not: not, subscribe }
}

pub(super) fn dispatcher() -> Permissions {
    let mut publish = shared();
    // Of a lost job: its result, its last event, its dead letter.
    publish.extend([About::Result, About::Event, About::Dead].map(About::all));
    publish.extend(buckets(&[topology::STANDINGS, topology::LEASES, topology::POOLS, topology::SCHEDULES_BUCKET, topology::GROUPS]));
    // What is left of an agent that is removed.
    publish.extend(buckets(&[topology::AGENTS, topology::API_KEYS, topology::JOIN_TOKENS, topology::REVOCATIONS]));
    publish.push(broker::AUDIT.to_owned());
    // Which agents have a consumer for their commands.
    publish.push(broker::consumer_names(topology::COMMANDS));
    // Credentials that an agent which has them seals to one that joins: it asks the one, and puts what it gets into the mailbox of the other.
    publish.extend(buckets(&[topology::MAILBOXES]));
    publish.push(broker::RPCS.to_owned());
    // Timers of schedules, what they fired, the jobs made of that, those of groups, and what is cancelled of either.
    publish.extend([broker::SCHEDULES, broker::JOBS, broker::COMMANDS, broker::CONTROLS].map(str::to_owned));
    publish.push(broker::pulls_of(topology::SCHEDULES));
    publish.extend(broker::acks_of(topology::SCHEDULES));
    // It follows these buckets as it follows streams, by pulling.
    publish.extend(
        [
            topology::AGENTS,
            topology::POOLS,
            topology::STANDINGS,
            topology::REVOCATIONS,
            topology::TRUST,
            topology::CONNECTIONS,
            topology::MAILBOXES,
        ]
        .map(|bucket| broker::pulls_of(&bucket_stream(bucket))),
    );
    // Answers about the history. Only gateways may ask.
    publish.push(broker::GATEWAY_INBOXES.to_owned());
    let mut subscribe =
        vec![broker::DISPATCHER_INBOXES.to_owned(), subjects::heartbeats(), broker::HISTORY.to_owned(), subjects::SETTLE.to_owned()];
    subscribe.extend([About::Done, About::Event].map(About::all));
    // Hints that a schedule, or a group, has changed.
    subscribe.push(js::key(topology::SCHEDULES_BUCKET, schedule::keys::DEFINITIONS));
    subscribe.push(broker::keys_of(topology::GROUPS));
    // Timers of schedules are cancelled by purging their subjects.
    let not = protected((StreamApi::Purge, topology::SCHEDULES));
    Permissions { publish, publish_not: not, subscribe }
}
