//! Making the topology, again, at once and against what is there.

use std::{collections::BTreeSet, time::Duration};

use muster_broker_config::provision::{self, Error};
use muster_schemas::{
    records::{PoolLimits, PoolRecord},
    subjects::broker::{ConsumerApi, StreamApi},
    time::Timestamp,
    topology::{self, BUCKETS, bucket_stream},
};
use serde_json::{Value, json};

use crate::support::{Peer, World, eventually, pool};

async fn config(peer: &Peer, stream: &str) -> Value {
    peer.api(StreamApi::Info.subject(stream), json!({})).await["config"].clone()
}

async fn subjects_of(peer: &Peer, stream: &str) -> BTreeSet<String> {
    config(peer, stream).await["subjects"].as_array().unwrap().iter().map(|s| s.as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn provisioning_twice_changes_nothing() {
    let world = World::start().await;
    let gateway = world.gateway().await;
    provision::provision(&gateway.client, &world.deployment.bootstrap).await.unwrap();
    let mut names: Vec<_> = topology::fixed_streams().into_iter().map(|stream| stream.name).collect();
    names.extend(BUCKETS.iter().map(|bucket| bucket_stream(bucket.name)));
    names.push("JOBS_default".into());
    let mut before = Vec::new();
    for name in &names {
        before.push(gateway.api(StreamApi::Info.subject(name), json!({})).await);
    }
    provision::provision(&gateway.client, &world.deployment.bootstrap).await.unwrap();
    for (name, before) in names.iter().zip(before) {
        let after = gateway.api(StreamApi::Info.subject(name), json!({})).await;
        for part in ["config", "created"] {
            assert_eq!(before[part], after[part], "{name}");
        }
        assert_eq!(before["state"]["last_seq"], after["state"]["last_seq"], "{name}");
    }
    assert!(!gateway.refused_more_than_round_trips(), "{:?}", gateway.refusals);
}

#[tokio::test]
async fn the_buckets_are_as_key_value_clients_expect_them() {
    let (_world, gateway) = World::provisioned().await;
    let js = async_nats::jetstream::new(gateway.client.clone());
    for bucket in &BUCKETS {
        let store = js.get_key_value(bucket.name).await.unwrap();
        let status = store.status().await.unwrap();
        assert_eq!((status.history(), status.max_age()), (1, bucket.max_age), "{}", bucket.name);
    }
    let store = js.get_key_value(topology::AGENTS).await.unwrap();
    let first = store.create("id.x", "1".into()).await.unwrap();
    store.update("id.x", "2".into(), first).await.unwrap();
    assert!(store.update("id.x", "3".into(), first).await.is_err());
    store.purge("id.x").await.unwrap();
    assert_eq!(store.get("id.x").await.unwrap(), None);
}

#[tokio::test]
async fn a_bucket_from_before_markers_vanished_is_changed_and_then_they_do() {
    let world = World::start().await;
    let gateway = world.gateway().await;
    let agents = topology::BUCKETS.iter().find(|bucket| bucket.name == topology::AGENTS).unwrap().stream();
    let before = topology::Stream { allow_msg_ttl: false, ..agents };
    provision::ensure_stream(&gateway.client, &before).await.unwrap();
    let store = async_nats::jetstream::new(gateway.client.clone()).get_key_value(topology::AGENTS).await.unwrap();
    store.put("id.x", "1".into()).await.unwrap();
    let second = Duration::from_secs(1);
    assert!(store.purge_with_ttl("id.x", second).await.is_err(), "the broker refuses what would stay");
    provision::provision_fixed(&gateway.client).await.unwrap();
    assert_eq!(config(&gateway, "KV_agents").await["allow_msg_ttl"], true);

    // As the gateway deletes, and as the dispatcher does, which leaves something in the marker.
    store.put("name.y", "1".into()).await.unwrap();
    store.purge_with_ttl("name.y", second).await.unwrap();
    let mut headers = async_nats::HeaderMap::new();
    headers.insert(muster_schemas::headers::KV_OPERATION, "DEL");
    headers.insert(muster_schemas::headers::TTL, "1s");
    let subject = muster_schemas::subjects::js::key(topology::AGENTS, "id.x");
    gateway.client.request_with_headers(subject, headers, "left".into()).await.unwrap();
    let marker = store.entry("id.x").await.unwrap().unwrap();
    assert_eq!((&marker.value[..], marker.operation), (&b"left"[..], async_nats::jetstream::kv::Operation::Delete));
    eventually("both markers vanish", async || gateway.messages("KV_agents").await == 0).await;
    let again = store.create("id.x", "2".into()).await.unwrap();
    assert!(again > marker.revision);
}

#[tokio::test]
async fn a_setting_that_can_change_is_updated_and_one_that_cannot_is_named() {
    let world = World::start().await;
    let gateway = world.gateway().await;
    let stream = |config: Value| gateway.api(StreamApi::Create.subject(config["name"].as_str().unwrap()), config.clone());
    let made =
        stream(json!({"name": "LOGS", "subjects": ["logs.*.*"], "retention": "limits", "storage": "file", "max_age": 5_000_000_000_i64,
        "persist_mode": "async", "num_replicas": 1}))
        .await;
    assert!(made.get("error").is_none(), "{made}");
    let made = stream(json!({"name": "RESULTS", "subjects": ["results.*.*"], "retention": "workqueue", "storage": "file"})).await;
    assert!(made.get("error").is_none(), "{made}");
    let error = provision::provision_fixed(&gateway.client).await.unwrap_err();
    let text = error.to_string();
    assert!(matches!(&error, Error::Conflict { stream, field, .. } if stream == "RESULTS" && field == "retention"), "{text}");
    assert!(text.contains("workqueue") && text.contains("limits"), "{text}");
    let logs = topology::fixed_streams().into_iter().find(|stream| stream.name == "LOGS").unwrap();
    provision::ensure_stream(&gateway.client, &logs).await.unwrap();
    assert_eq!(config(&gateway, "LOGS").await["max_age"], logs.max_age.0);
}

#[tokio::test]
async fn a_change_that_the_broker_refuses_names_the_setting_and_both_values() {
    let world = World::start().await;
    let gateway = world.gateway().await;
    let made = json!({"name": "KV_agents", "subjects": ["$KV.agents.>"], "retention": "limits", "storage": "file", "deny_purge": true});
    gateway.api(StreamApi::Create.subject("KV_agents"), made).await;
    let error = provision::provision_fixed(&gateway.client).await.unwrap_err();
    let text = error.to_string();
    assert!(matches!(&error, Error::Refused { .. }), "{text}");
    assert!(text.contains("KV_agents") && text.contains("`deny_purge` from true to false"), "{text}");
}

#[tokio::test]
async fn every_setting_that_is_called_fixed_is_one_that_the_broker_refuses_to_change() {
    let world = World::start().await;
    let gateway = world.gateway().await;
    let base = json!({"name": "S", "subjects": ["s.*"], "retention": "limits", "storage": "file", "num_replicas": 1});
    gateway.api(StreamApi::Create.subject("S"), base.clone()).await;
    for (field, value) in [("retention", json!("workqueue")), ("storage", json!("memory")), ("persist_mode", json!("async"))] {
        let mut changed = base.clone();
        changed[field] = value;
        let answer = gateway.api(StreamApi::Update.subject("S"), changed).await;
        assert!(answer.get("error").is_some(), "{field} can be changed: {answer}");
    }
}

#[tokio::test]
async fn lanes_added_by_many_at_once_are_all_there() {
    let (_world, gateway) = World::provisioned().await;
    let name = pool("p");
    let executors: Vec<_> = (0..8).map(|n| format!("tool-{n}")).collect();
    let adding = executors.iter().map(|executor| {
        let (client, name) = (gateway.client.clone(), name.clone());
        async move { provision::ensure_lanes(&client, &name, &[executor.parse().unwrap()].into()).await.unwrap() }
    });
    futures_util::future::join_all(adding).await;
    let subjects = subjects_of(&gateway, "JOBS_p").await;
    assert_eq!(subjects.len(), (8 + 3) * 3, "{subjects:?}");
    for executor in &executors {
        let info = gateway.api(ConsumerApi::Info.subject("JOBS_p", &format!("low_{executor}")), json!({})).await;
        assert_eq!(info["config"]["filter_subject"], format!("jobs.p.low.{executor}.*"));
        assert_eq!(info["config"]["priority_policy"], "prioritized");
    }
}

#[tokio::test]
async fn limits_of_a_pool_can_change_and_jobs_stay() {
    let (_world, gateway) = World::provisioned().await;
    gateway.store("jobs.p.normal.shell.j1", "{}").await;
    let limits = PoolLimits { max_queued: 5, max_running: 20_000 };
    let record = PoolRecord { limits, executors: BTreeSet::new(), ..provision::default_pool(pool("p"), Timestamp::now()) };
    let now = provision::ensure_pool(&gateway.client, &record).await.unwrap();
    assert_eq!((now.limits, now.executors.len()), (limits, 3));
    assert_eq!(config(&gateway, "JOBS_p").await["max_msgs"], 5);
    let consumer = gateway.api(ConsumerApi::Info.subject("JOBS_p", "high_http"), json!({})).await;
    assert_eq!(consumer["config"]["max_ack_pending"], topology::OUT_MAX);
    assert_eq!(gateway.messages("JOBS_p").await, 1);
}

#[tokio::test]
async fn a_pool_with_jobs_is_not_removed_and_an_empty_one_is_for_good() {
    let world = World::start().await;
    let gateway = world.gateway().await;
    let (client, bootstrap) = (&gateway.client, &world.deployment.bootstrap);
    provision::provision(client, bootstrap).await.unwrap();
    gateway.store("jobs.default.normal.shell.j1", "{}").await;
    let error = provision::remove_pool(client, &pool("default")).await.unwrap_err();
    assert!(matches!(error, Error::NotEmpty { jobs: 1, .. }), "{error}");
    gateway.api(StreamApi::Purge.subject("JOBS_default"), json!({})).await;
    provision::remove_pool(client, &pool("default")).await.unwrap();
    provision::remove_pool(client, &pool("default")).await.unwrap();
    // The next start does not bring it back.
    provision::provision(client, bootstrap).await.unwrap();
    assert_eq!(gateway.api(StreamApi::Info.subject("JOBS_default"), json!({})).await["error"]["err_code"], 10059);
    let error = provision::ensure_lanes(client, &pool("default"), &BTreeSet::new()).await.unwrap_err();
    assert!(matches!(error, Error::NoPool(_)), "{error}");
    // But somebody can make it anew.
    provision::ensure_pool(client, &provision::default_pool(pool("default"), Timestamp::now())).await.unwrap();
    assert_eq!(subjects_of(&gateway, "JOBS_default").await.len(), 9);
}

#[tokio::test]
async fn a_deleted_admin_key_is_not_brought_back_by_the_next_start() {
    let world = World::start().await;
    let gateway = world.gateway().await;
    provision::provision(&gateway.client, &world.deployment.bootstrap).await.unwrap();
    let store = async_nats::jetstream::new(gateway.client.clone()).get_key_value(topology::API_KEYS).await.unwrap();
    let prefix = &world.deployment.bootstrap.admin_key.prefix;
    assert!(store.get(prefix.as_str()).await.unwrap().is_some());
    store.delete(prefix.as_str()).await.unwrap();
    provision::provision(&gateway.client, &world.deployment.bootstrap).await.unwrap();
    assert_eq!(store.get(prefix.as_str()).await.unwrap(), None);
}

#[tokio::test]
async fn lanes_that_were_lost_from_the_stream_come_back() {
    let (_world, gateway) = World::provisioned().await;
    let mut config = config(&gateway, "JOBS_p").await;
    config["subjects"] = json!(["jobs.p.high.shell.*"]);
    gateway.api(StreamApi::Update.subject("JOBS_p"), config).await;
    provision::ensure_lanes(&gateway.client, &pool("p"), &["shell".parse().unwrap()].into()).await.unwrap();
    assert_eq!(subjects_of(&gateway, "JOBS_p").await.len(), 9);
}

#[tokio::test]
async fn streams_from_before_there_were_batches_take_them_after_the_next_start() {
    let world = World::start().await;
    let gateway = world.gateway().await;
    let bootstrap = &world.deployment.bootstrap;
    provision::provision(&gateway.client, bootstrap).await.unwrap();
    for stream in ["JOBS_default", topology::COMMANDS] {
        let mut before = config(&gateway, stream).await;
        before["allow_atomic"] = json!(false);
        gateway.api(StreamApi::Update.subject(stream), before).await;
        assert_eq!(config(&gateway, stream).await["allow_atomic"], Value::Null, "{stream}");
    }
    gateway.store("jobs.default.normal.shell.kept", "{}").await;
    provision::provision(&gateway.client, bootstrap).await.unwrap();
    for stream in ["JOBS_default", topology::COMMANDS] {
        assert_eq!(config(&gateway, stream).await["allow_atomic"], true, "{stream}");
    }
    assert_eq!(gateway.messages("JOBS_default").await, 1);
}

#[tokio::test]
async fn a_broker_that_is_away_is_told_from_one_that_refuses() {
    let (mut world, gateway) = World::provisioned().await;
    world.server.kill().await.unwrap();
    eventually("disconnected", async || gateway.client.connection_state() != async_nats::connection::State::Connected).await;
    let error = provision::provision_fixed(&gateway.client).await.unwrap_err();
    assert!(error.is_transient() && matches!(error, Error::Unreachable { .. }), "{error}");
}

#[tokio::test]
async fn a_store_that_is_too_small_is_a_refusal_in_the_brokers_words() {
    let world = World::start_with(|broker| broker.max_file_store = Some(1 << 30)).await;
    let gateway = world.gateway().await;
    let error = provision::provision_fixed(&gateway.client).await.unwrap_err();
    assert!(matches!(&error, Error::Refused { code: 10047, .. }), "{error}");
}
