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

use super::{Permissions, RESPONSES};

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
        // A cancelled or lost job leaves its queue. Shared streams are excepted by `protected`.
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

/// The streams that exist whatever pools there are, buckets included, without the queue of commands.
fn shared_streams() -> Vec<String> {
    let fixed = topology::fixed_streams().into_iter().map(|stream| stream.name).filter(|name| name != topology::COMMANDS);
    fixed.chain(BUCKETS.iter().map(|bucket| bucket_stream(bucket.name))).collect()
}

/// No removing and no emptying of the shared streams, whatever a bug or a stolen credential asks for.
fn protected() -> Vec<String> {
    let mut not = vec![StreamApi::Delete.subject(topology::COMMANDS)];
    for stream in shared_streams() {
        not.extend([StreamApi::Delete, StreamApi::Purge].map(|api| api.subject(&stream)));
    }
    not
}

/// Of a dispatcher: timers of schedules are cancelled by purging their subjects.
fn protected_but_timers() -> Vec<String> {
    let timers = StreamApi::Purge.subject(topology::SCHEDULES);
    protected().into_iter().filter(|subject| *subject != timers).collect()
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
        // A dead letter that was replayed or is thrown away.
        StreamApi::MessageDelete.subject(topology::DEAD),
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
    ]));
    let mut subscribe = vec![broker::GATEWAY_INBOXES.to_owned(), subjects::renewals()];
    subscribe.extend(Query::ALL.map(Query::all));
    subscribe.extend([About::Done, About::Event, About::Log].map(About::all));
    Permissions { publish, publish_not: protected(), subscribe, responses: Some(RESPONSES) }
}

pub(super) fn dispatcher() -> Permissions {
    let mut publish = shared();
    // Of a lost job: its result, its last event, its dead letter.
    publish.extend([About::Result, About::Event, About::Dead].map(About::all));
    publish.extend(buckets(&[topology::STANDINGS, topology::LEASES, topology::POOLS, topology::SCHEDULES_BUCKET, topology::GROUPS]));
    // Timers of schedules, what they fired, the jobs made of that, those of groups, and what is cancelled of either.
    publish.extend([broker::SCHEDULES, broker::JOBS, broker::COMMANDS, broker::CONTROLS].map(str::to_owned));
    publish.push(broker::pulls_of(topology::SCHEDULES));
    publish.extend(broker::acks_of(topology::SCHEDULES));
    // It follows these buckets as it follows streams, by pulling.
    publish.extend([topology::AGENTS, topology::POOLS, topology::STANDINGS].map(|bucket| broker::pulls_of(&bucket_stream(bucket))));
    // Answers about the history. Only gateways may ask.
    publish.push(broker::GATEWAY_INBOXES.to_owned());
    let mut subscribe = vec![broker::DISPATCHER_INBOXES.to_owned(), subjects::heartbeats(), broker::HISTORY.to_owned()];
    subscribe.extend([About::Done, About::Event].map(About::all));
    // Hints that a schedule, or a group, has changed.
    subscribe.push(js::key(topology::SCHEDULES_BUCKET, schedule::keys::DEFINITIONS));
    subscribe.push(broker::keys_of(topology::GROUPS));
    Permissions { publish, publish_not: protected_but_timers(), subscribe, responses: None }
}
