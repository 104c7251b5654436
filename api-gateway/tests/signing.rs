//! What a gateway signs, and the list of whose signatures count.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail by panicking")]

#[path = "stack/stack.rs"]
mod stack;

use std::collections::BTreeSet;

use muster_broker_config::{
    init::{drop_old_job_keys, roll_job_keys},
    signing::read_keys,
};
use muster_schemas::{
    headers,
    signature::{SIGNERS_KEY, Signature, Signed, SignedSigners, Signer, Signers},
    subjects::js,
    time::Timestamp,
    topology::{TRUST, jobs_stream},
    wire,
};
use serde_json::{Value, json};
use stack::{POOL, REGISTER, Stack, eventually, join};

const SIGNERS: &str = "/api/v1/signers";

/// The list as it is in the bucket.
async fn list(stack: &Stack) -> Signers {
    let trust = async_nats::jetstream::new(stack.broker().await).get_key_value(TRUST).await.unwrap();
    let entry = trust.entry(SIGNERS_KEY).await.unwrap().unwrap();
    Signers::pin(&wire::decode::<SignedSigners>(&entry.value).unwrap()).unwrap()
}

/// The public keys of the gateway's file, newest first.
fn own(stack: &Stack) -> Vec<String> {
    read_keys(&stack.deployment.layout.gateway_job_keys()).unwrap().iter().map(|key| key.public_key().to_owned()).collect()
}

/// Who signed the last job of the queue; its signature holds.
async fn signed_by(stack: &Stack) -> String {
    signatures(stack, 1).await.remove(0).split('.').next().unwrap().to_owned()
}

/// The signatures of the last jobs of the queue, which hold.
async fn signatures(stack: &Stack, count: u64) -> Vec<String> {
    let mut jobs = async_nats::jetstream::new(stack.broker().await).get_stream(jobs_stream(&POOL.parse().unwrap())).await.unwrap();
    let last = jobs.info().await.unwrap().state.last_sequence;
    let mut signatures = Vec::new();
    for sequence in last + 1 - count..=last {
        let job = jobs.direct_get(sequence).await.unwrap();
        let header = job.headers.get(headers::SIGNATURE).unwrap().as_str();
        let signature = Signature::parse(header).unwrap();
        let fresh = job.headers.get(headers::FRESH).is_some();
        signature.verify(Signed::Job { fresh }, job.subject.as_str(), &job.payload).unwrap();
        assert!(Timestamp::now().since(signature.at).as_secs() < 60);
        signatures.push(header.to_owned());
    }
    signatures
}

#[tokio::test]
async fn every_job_is_signed_with_a_key_that_agents_are_told_of() {
    let stack = Stack::start().await;
    let gateway = stack.gateway(&[]).await;
    let admin = stack.admin(&gateway);
    let agent = join(&gateway, &stack.join_token(), &stack::body("web-1")).await;
    let told: SignedSigners =
        serde_json::from_value(agent.body["data"]["signers"].clone()).unwrap_or_else(|error| panic!("{error}: {agent:?} of {REGISTER}"));
    let told = Signers::pin(&told).unwrap();
    let pool = POOL.parse().unwrap();
    // One whose id is made here, one with an id of the caller's own, and those of a batch.
    let ping = json!({"pool": POOL, "type": "probe.ping"});
    let mut own = ping.clone();
    own["id"] = "mine".into();
    for body in [ping.clone(), own] {
        let answer = admin.post("/api/v1/jobs", &body).await;
        assert!(answer.status.is_success(), "{answer:?}");
        assert!(told.may_sign(&signed_by(&stack).await, &pool));
    }
    let mut many = vec![ping; 20];
    many[7]["id"] = "mine-too".into();
    let answer = admin.post("/api/v1/jobs/batch", &json!({"jobs": many})).await;
    assert!(answer.status.is_success(), "{answer:?}");
    assert!(told.may_sign(&signed_by(&stack).await, &pool));
    let shared: BTreeSet<String> = signatures(&stack, 20).await.iter().map(|text| text.split('.').nth(2).unwrap().to_owned()).collect();
    assert_eq!(shared.len(), 1, "one signature for all of them");
}

#[tokio::test]
async fn services_keys_are_added_and_removed_and_the_control_planes_are_not() {
    let stack = Stack::start().await;
    let gateway = stack.gateway(&[]).await;
    let admin = stack.admin(&gateway);
    let key = Signer::generate().public_key().to_owned();
    let add = |key: &str, pools: Value| json!({"name": "billing", "public_key": key, "pools": pools});
    for (body, code) in [
        (add(&key, json!([])), "field_invalid"),
        (add(&key, json!(["a.*"])), "name_invalid"),
        (add(&key, json!(["nowhere"])), "pool_not_found"),
        (add("UNOKEY", json!([POOL])), "field_invalid"),
        (add(&nkeys::KeyPair::new_account().public_key(), json!([POOL])), "field_invalid"),
        (add(&own(&stack)[0], json!([POOL])), "field_invalid"),
        (json!({"name": "", "public_key": key, "pools": [POOL]}), "field_invalid"),
    ] {
        assert_eq!(admin.post(SIGNERS, &body).await.code(), code, "{body}");
    }
    let before = list(&stack).await.serial;
    for _ in 0..2 {
        let added = admin.post(SIGNERS, &add(&key, json!([POOL]))).await;
        assert_eq!((added.status.as_u16(), &added.body["data"]["pools"]), (201, &json!([POOL])), "{added:?}");
    }
    let after = list(&stack).await;
    assert!(after.serial == before + 1 && after.may_sign(&key, &POOL.parse().unwrap()), "the second one changed nothing");
    let shown = admin.get(SIGNERS).await;
    let keys: Vec<(&str, bool)> = shown.body["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|view| (view["public_key"].as_str().unwrap(), view["control_plane"] == true))
        .collect();
    assert!(keys.len() == 3 && keys.contains(&(key.as_str(), false)) && keys.contains(&(own(&stack)[0].as_str(), true)), "{shown:?}");

    let path = |key: &str| format!("{SIGNERS}/{key}");
    assert_eq!(admin.delete(&path(&own(&stack)[0])).await.code(), "field_invalid");
    assert_eq!(admin.delete(&path("x")).await.code(), "name_invalid");
    // A seed where a public key belongs is not repeated.
    let seed = nkeys::KeyPair::new_user().seed().unwrap();
    for (refused, code) in
        [(admin.delete(&path(&seed)).await, "name_invalid"), (admin.post(SIGNERS, &add(&seed, json!([POOL]))).await, "field_invalid")]
    {
        assert_eq!(refused.code(), code);
        assert!(refused.text.contains("seed") && !refused.text.contains(&seed[2..]), "{refused:?}");
    }
    assert_eq!(admin.delete(&path(&key)).await.status.as_u16(), 204);
    assert_eq!(admin.delete(&path(&key)).await.code(), "signer_not_found");
    assert!(!list(&stack).await.may_sign(&key, &POOL.parse().unwrap()));
}

#[tokio::test]
async fn many_that_add_keys_at_once_at_two_gateways_lose_none() {
    let stack = Stack::start().await;
    let (one, two) = (stack.gateway(&[]).await, stack.gateway(&[]).await);
    let callers = [stack.admin(&one), stack.admin(&two)];
    let keys: Vec<String> = (0..10).map(|_| Signer::generate().public_key().to_owned()).collect();
    let add = keys.iter().enumerate().map(|(number, key)| {
        let caller = callers[number % 2].clone();
        async move { caller.post(SIGNERS, &json!({"name": "s", "public_key": key, "pools": [POOL]})).await.status.as_u16() }
    });
    let answers = futures_util::future::join_all(add).await;
    let list = list(&stack).await;
    for (key, status) in keys.iter().zip(answers) {
        assert_eq!((status, list.may_sign(key, &POOL.parse().unwrap())), (201, true));
    }
}

#[tokio::test]
async fn keys_roll_over_with_restarts_of_the_gateway_alone() {
    let stack = Stack::start().await;
    let root = stack.deployment.layout.root().to_owned();
    let old = own(&stack)[0].clone();
    let submit = async |gateway: &stack::Gateway| {
        let answer = stack.admin(gateway).post("/api/v1/jobs", &json!({"pool": POOL, "type": "probe.ping"})).await;
        assert!(answer.status.is_success(), "{answer:?}");
        signed_by(&stack).await
    };
    let before = stack.gateway(&[]).await;
    assert_eq!(submit(&before).await, old);
    let queued = stack.admin(&before).post("/api/v1/jobs", &json!({"pool": POOL, "type": "probe.ping"})).await;
    let cancelled = format!("/api/v1/jobs/{}", queued.body["data"]["id"].as_str().unwrap());
    let answer = stack.admin(&before).post(&format!("{cancelled}/cancel"), &json!({})).await;
    assert_eq!(answer.body["data"]["signature"], "valid", "{answer:?}");
    roll_job_keys(&root).unwrap();
    let new = own(&stack)[0].clone();
    let after = stack.gateway(&[]).await;
    assert_eq!((submit(&after).await, submit(&before).await), (new.clone(), old.clone()), "each with the newest that it has");
    let both = list(&stack).await;
    assert!(both.is_control_plane(&old) && both.is_control_plane(&new) && both.signers.len() == 4);
    before.stop().await;
    drop_old_job_keys(&root).unwrap();
    let last = stack.gateway(&[]).await;
    assert_eq!((submit(&last).await, submit(&after).await), (new.clone(), new.clone()));
    let one = list(&stack).await;
    assert!(!one.is_control_plane(&old) && one.is_control_plane(&new) && one.signers.len() == 2);
    for (gateway, which) in [(&last, "started since"), (&after, "that ran meanwhile")] {
        let shown = stack.admin(gateway).get(&cancelled).await;
        assert_eq!(shown.body["data"]["signature"], "valid", "what the old key signed stays signed, for a gateway {which}: {shown:?}");
    }
}

#[tokio::test]
async fn a_gateway_whose_keys_are_in_no_list_is_not_ready_and_takes_no_jobs_and_a_forged_list_is_not_taken_over() {
    let stack = Stack::start().await;
    let good = stack.gateway(&[]).await;
    let foreign = tempfile::tempdir().unwrap();
    let seed = foreign.path().join("jobs.nk");
    std::fs::write(&seed, nkeys::KeyPair::new_user().seed().unwrap()).unwrap();
    let stranger = stack.gateway_unready(&[("job_keys", seed.to_str().unwrap())]).await;
    let ready = eventually("it says why", std::time::Duration::from_secs(20), async || {
        stranger.anybody().try_get("/readyz").await.filter(|answer| answer.text.contains("is not in the list of signers"))
    })
    .await;
    assert_eq!(ready.status.as_u16(), 503);
    let ping = json!({"pool": POOL, "type": "probe.ping"});
    let refused = stack.admin(&stranger).post("/api/v1/jobs", &ping).await;
    assert_eq!((refused.status.as_u16(), refused.code()), (503, "signing_unavailable"), "{refused:?}");

    let thief = Signer::generate();
    let mut forged = list(&stack).await;
    forged.serial += 10;
    forged.signers[0].key = thief.public_key().into();
    let body = wire::encode(&forged.sign(&thief, Timestamp::now()));
    stack.broker().await.request(js::key(TRUST, SIGNERS_KEY), body.into()).await.unwrap();
    let add = json!({"name": "s", "public_key": Signer::generate().public_key(), "pools": [POOL]});
    assert_eq!(stack.admin(&good).post(SIGNERS, &add).await.code(), "signing_unavailable", "nobody builds on a forged list");
    let agent = join(&good, &stack.join_token(), &stack::body("web-2")).await;
    assert!(!agent.text.contains(thief.public_key()), "no agent is given it");
    assert!(stack.admin(&good).post("/api/v1/jobs", &ping).await.status.is_success(), "jobs go on");
}
