//! What a broker says of streams and records that are not there, or not as they should be.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail by panicking")]

use std::time::{Duration, Instant};

use muster_broker_config::{
    provision,
    server::{Places, Server, Start, find_binary},
};
use muster_schemas::{
    event::{Event, EventKind},
    group::{GroupState, keys},
    headers,
    names::{AgentId, GroupId, JobId},
    queue::Queue,
    subjects::{About, broker::StreamApi},
    topology::{COMMANDS, EVENTS, GROUPS, POOLS, RESULTS},
    wire::V,
};

use super::*;
use crate::{broker::Write, cancel};

struct World {
    client: Client,
    _server: Server,
    _dir: tempfile::TempDir,
}

impl World {
    /// A broker without accounts, with all streams that exist whatever pools there are.
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("server.conf");
        let store = dir.path().join("store");
        std::fs::write(&config, format!("listen: \"127.0.0.1:-1\"\njetstream {{ store_dir: {:?} }}\n", store.display().to_string()))
            .unwrap();
        let server = Server::start(Start::new(find_binary(&Places::from_env()).await.unwrap(), config, dir.path())).await.unwrap();
        let client = async_nats::connect(server.url()).await.unwrap();
        provision::provision_fixed(&client).await.unwrap();
        Self { client, _server: server, _dir: dir }
    }

    async fn asks(&self, subject: String, body: String) {
        let answer = self.client.request(subject, body.into()).await.unwrap();
        assert!(!String::from_utf8_lossy(&answer.payload).contains("error"), "{answer:?}");
    }

    async fn loses(&self, stream: &str) {
        self.asks(StreamApi::Delete.subject(stream), String::new()).await;
    }

    async fn stores(&self, subject: String, headers: HeaderMap, body: String) {
        let answer = self.client.request_with_headers(subject, headers, body.into()).await.unwrap();
        assert!(!String::from_utf8_lossy(&answer.payload).contains("error"), "{answer:?}");
    }
}

fn pool() -> PoolName {
    "p".parse().unwrap()
}

#[tokio::test]
async fn a_stream_that_is_away_says_nothing_of_a_job_and_that_of_a_deleted_pool_says_that_it_is_nowhere() {
    let (world, id) = (World::start().await, "j".parse::<JobId>().unwrap());
    let queue = Queue::Agent(AgentId::generate());
    assert!(cancel::find(&world.client, &pool(), &id).await.unwrap().is_none(), "there is no such pool");
    let written = broker::write(&world.client, POOLS, "p", Some(b"{}".to_vec()), 0, PATIENCE).await.unwrap();
    assert!(matches!(written, Write::Stored(_)));
    let found = cancel::find(&world.client, &pool(), &id).await;
    assert!(matches!(&found, Err(BrokerError::Missing(stream)) if *stream == jobs_stream(&pool())), "{found:?}");
    assert!(cancel::find_in(&world.client, &pool(), &id, &queue).await.unwrap().is_none());
    for stream in [COMMANDS, RESULTS] {
        world.loses(stream).await;
        let found = last(&world.client, stream, ">").await;
        assert!(matches!(&found, Err(BrokerError::Missing(missing)) if missing == stream), "{found:?}");
    }
    let found = cancel::find_in(&world.client, &pool(), &id, &queue).await;
    assert!(matches!(found, Err(BrokerError::Missing(_))), "{found:?}");
}

#[tokio::test]
async fn only_an_agents_event_of_this_very_job_says_that_it_was_begun() {
    let world = World::start().await;
    let (agent, at) = (AgentId::generate(), Timestamp::now());
    let queue = Queue::Agent(agent.clone());
    let event = Event {
        v: V,
        kind: EventKind::Started,
        at,
        agent_id: agent,
        job_type: None,
        attempt: 1,
        releases: 0,
        reason: None,
        next_at: None,
        history: Vec::new(),
    };
    let started = String::from_utf8(serde_json::to_vec(&event).unwrap()).unwrap();
    // A job that reads like an event, too.
    let mut body = serde_json::to_value(&event).unwrap();
    body["type"] = "probe.echo".into();
    assert!(muster_schemas::job::Job::decode(body.to_string().as_bytes()).is_ok());
    let begun = async |id: &JobId| match cancel::find(&world.client, &"none".parse().unwrap(), id).await.unwrap() {
        Some(found) => Some(found.may_run(&world.client).await.unwrap()),
        None => None,
    };
    let pool: PoolName = "none".parse().unwrap();
    let job = "job".parse::<JobId>().unwrap();
    world.stores(queue.subject(&pool, &job), HeaderMap::new(), body.to_string()).await;
    let (copied, deadline) = (About::Event.job(&pool, &job), Instant::now() + Duration::from_secs(10));
    while last(&world.client, EVENTS, &copied).await.unwrap().is_none() {
        assert!(Instant::now() < deadline, "the broker tells of it");
        tokio::time::sleep(Duration::from_millis(5)).await; // poll
    }
    assert_eq!(begun(&job).await, Some(false));
    world.stores(copied, HeaderMap::new(), started.clone()).await;
    assert_eq!(begun(&job).await, Some(true));

    // An event of an earlier job of the same id; nothing tells of the later one.
    let again = "again".parse::<JobId>().unwrap();
    world.stores(About::Event.job(&pool, &again), HeaderMap::new(), started).await;
    let mut silently = HeaderMap::new();
    for (name, value) in [(headers::BATCH_ID, "b"), (headers::BATCH_SEQUENCE, "1"), (headers::BATCH_COMMIT, "1")] {
        silently.insert(name, value);
    }
    world.stores(queue.subject(&pool, &again), silently, r#"{"type":"probe.echo"}"#.into()).await;
    assert_eq!(begun(&again).await, Some(false));
}

#[tokio::test]
async fn a_record_that_cannot_be_read_is_not_taken_for_one_that_is_not_there() {
    let world = World::start().await;
    let key = keys::state(&GroupId::generate());
    let read = async || record::<GroupState>(&world.client, GROUPS, &key).await.unwrap();
    let write = async |value: Option<Vec<u8>>, revision| {
        let Write::Stored(at) = broker::write(&world.client, GROUPS, &key, value, revision, PATIENCE).await.unwrap() else { panic!() };
        at
    };
    assert_eq!(read().await, (Record::Absent, 0));
    let at = write(Some(b"{".to_vec()), 0).await;
    assert_eq!(read().await, (Record::Unreadable, at));
    let state = GroupState { sent: 3, ..GroupState::default() };
    let at = write(Some(wire::encode(&state)), at).await;
    assert_eq!(read().await, (Record::Value(state), at));
    let at = write(None, at).await;
    assert_eq!(read().await, (Record::Absent, at));
    world.loses(&bucket_stream(GROUPS)).await;
    assert!(matches!(record::<GroupState>(&world.client, GROUPS, &key).await, Err(BrokerError::Missing(_))));
}

#[tokio::test]
async fn a_removal_that_the_broker_refuses_is_an_error_and_from_a_stream_that_is_not_there_none() {
    let world = World::start().await;
    let mut config = json!({"name": "SEALED", "subjects": ["sealed"]});
    world.asks(StreamApi::Create.subject("SEALED"), config.to_string()).await;
    config["sealed"] = true.into();
    world.asks(StreamApi::Update.subject("SEALED"), config.to_string()).await;
    assert!(matches!(broker::delete(&world.client, "SEALED", 1).await, Err(BrokerError::Refused { .. })));
    broker::delete(&world.client, "NONE", 1).await.unwrap();
}
