//! The audit trail stays as it was written, whoever of the control plane asks for something else.

use std::time::Duration;

use async_nats::HeaderMap;
use muster_broker_config::provision;
use muster_schemas::{
    subjects::{self, broker::StreamApi},
    topology::{self, AUDIT},
};
use serde_json::{Value, json};

use crate::support::{Peer, World, eventually};

/// What is told of the stream.
async fn info(peer: &Peer) -> Value {
    peer.api(StreamApi::Info.subject(AUDIT), json!({})).await
}

#[tokio::test]
async fn nobody_of_the_control_plane_can_take_an_entry_out_of_the_audit_trail() {
    let (world, gateway) = World::provisioned().await;
    let dispatcher = world.dispatcher().await;
    let subject = subjects::audit("agents.revoke").unwrap();
    for (place, peer) in [&gateway, &dispatcher].into_iter().enumerate() {
        assert_eq!(peer.store(&subject, "entry").await["seq"], place as u64 + 1);
    }
    let before = info(&gateway).await;
    for peer in [&gateway, &dispatcher] {
        for api in [StreamApi::Purge, StreamApi::MessageDelete, StreamApi::Delete, StreamApi::Update] {
            peer.cannot_publish(&api.subject(AUDIT)).await;
        }
    }
    // Making it anew, with other settings.
    for peer in [&gateway, &dispatcher] {
        let changes =
            [json!({"deny_delete": false}), json!({"deny_purge": false}), json!({"max_age": 1_000_000_000_u64}), json!({"max_msgs": 1})];
        for change in changes {
            let mut wanted = before["config"].clone();
            wanted.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
            let answer = peer.api(StreamApi::Create.subject(AUDIT), wanted).await;
            assert!(answer["error"].is_object(), "{change}: {answer}");
        }
        // A stream beside it that takes its subjects.
        let beside = json!({"name": "BESIDE", "subjects": ["audit.agents.*"]});
        assert!(peer.api(StreamApi::Create.subject("BESIDE"), beside).await["error"].is_object());
    }
    // An entry that would remove earlier ones, or itself.
    for (header, value) in [("Nats-Rollup", "all"), ("Nats-Rollup", "sub"), ("Nats-TTL", "1s")] {
        let mut headers = HeaderMap::new();
        headers.insert(header, value);
        let answer = gateway.client.request_with_headers(subject.clone(), headers, "x".into()).await.unwrap();
        let answer: Value = serde_json::from_slice(&answer.payload).unwrap();
        assert!(answer["error"].is_object(), "{header}: {answer}");
    }
    let after = info(&dispatcher).await;
    assert_eq!((&after["config"], &after["state"]["first_seq"]), (&before["config"], &json!(1)));
    assert_eq!((after["state"]["messages"].as_u64(), after["state"]["num_deleted"].as_u64().unwrap_or(0)), (Some(2), 0));
    for set in ["deny_delete", "deny_purge"] {
        assert_eq!(after["config"][set], json!(true));
    }
    assert_eq!(after["config"]["max_age"].as_u64().map(u128::from), Some(topology::AUDIT_AGE.as_nanos()));
}

#[tokio::test]
async fn an_audit_trail_with_other_settings_is_left_as_it_is_and_everything_else_is_made() {
    for other in [json!({"max_bytes": 1_000_000}), json!({"retention": "interest"})] {
        let world = World::start().await;
        let gateway = world.gateway().await;
        let wanted = topology::fixed_streams().into_iter().find(|stream| stream.name == AUDIT).unwrap();
        let mut settings = serde_json::to_value(wanted).unwrap();
        settings.as_object_mut().unwrap().extend(other.as_object().unwrap().clone());
        let made = gateway.api(StreamApi::Create.subject(AUDIT), settings).await;
        assert!(made["error"].is_null(), "{made}");
        let before = info(&gateway).await["config"].clone();
        for peer in [&gateway, &world.dispatcher().await] {
            // An update, which neither may ask for, the broker would not answer at all.
            let quick = tokio::time::timeout(Duration::from_secs(5), provision::provision_fixed(&peer.client));
            quick.await.expect("it waited for the broker").unwrap();
        }
        assert_eq!(info(&gateway).await["config"], before);
        for bucket in &topology::BUCKETS {
            assert_eq!(gateway.messages(&topology::bucket_stream(bucket.name)).await, 0, "{}", bucket.name);
        }
    }
}

#[tokio::test]
async fn neither_agents_nor_services_write_or_read_the_audit_trail() {
    let (world, gateway) = World::provisioned().await;
    let (agent, service) = (world.agent("p").await, world.service(&["p"]).await);
    let subject = subjects::audit("agents.revoke").unwrap();
    for peer in [&agent.peer, &service] {
        for publish in [subject.clone(), StreamApi::Info.subject(AUDIT), format!("$JS.API.DIRECT.GET.{AUDIT}")] {
            peer.cannot_publish(&publish).await;
        }
        let _unheard = peer.subscribe(&subject).await;
        eventually("refusal to subscribe", async || peer.refused("subscription", &subject)).await;
    }
    assert_eq!(gateway.messages(AUDIT).await, 0);
}
