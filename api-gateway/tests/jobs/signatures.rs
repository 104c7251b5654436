//! What a job's view says of the signature of its result.

use async_nats::HeaderMap;
use muster_schemas::{
    headers::SIGNATURE,
    names::JobId,
    records::{AgentRecord, keys},
    subjects::js,
    topology::AGENTS,
    wire,
};
use serde_json::{Value, json};

use crate::{
    agent::Agent,
    world::{World, eventually},
};

impl Agent {
    /// Runs the next job, and stores a result with these headers that names this agent or another one. Answers the job's id.
    async fn ends(&self, named: &Self, sign: impl FnOnce(&JobId, &[u8]) -> Option<String>) -> String {
        let taken = self.take().await;
        let body = wire::encode(&named.result(&taken, "done"));
        let mut headers = HeaderMap::new();
        if let Some(signature) = sign(&taken.id, &body) {
            headers.insert(SIGNATURE, signature.as_str());
        }
        assert!(self.store(&self.pool, &taken.id, body, headers).await);
        self.ack(&taken).await;
        taken.id.to_string()
    }
}

impl World {
    async fn signature(&self, id: &str) -> Value {
        self.rest().get(&format!("/jobs/{id}")).await.data(200)["signature"].clone()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_says_whether_its_result_is_signed_by_the_agent_that_it_names() {
    let world = World::start().await;
    let (one, other) = (world.agent("default").await, world.agent("default").await);
    world.enlist(&one, "one", |_| {}).await;
    world.enlist(&other, "other", |_| {}).await;
    let queued = async || world.rest().submit(json!({})).await.data(202);
    assert_eq!(queued().await["signature"], Value::Null);
    let mut ended = vec![one.ends(&one, |id, body| Some(one.signs(id, body))).await];
    for _ in 0..4 {
        queued().await;
    }
    ended.push(one.ends(&one, |_, _| None).await);
    ended.push(one.ends(&other, |id, body| Some(one.signs(id, body))).await);
    ended.push(one.ends(&one, |id, _| Some(one.signs(id, b"something else"))).await);
    ended.push(one.ends(&one, |_, _| Some("nonsense".to_owned())).await);
    for (id, mark) in ended.iter().zip(["valid", "missing", "wrong", "wrong", "wrong"]) {
        assert_eq!(world.signature(id).await, mark);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_waits_for_a_job_is_told_too() {
    let world = World::start().await;
    let agent = world.agent("default").await;
    world.enlist(&agent, "one", |_| {}).await;
    for (signed, mark) in [(true, "valid"), (false, "missing")] {
        let id = world.rest().submit(json!({})).await.data(202)["id"].as_str().unwrap().to_owned();
        let path = format!("/jobs/{id}?wait=20s");
        let end = agent.ends(&agent, |id, body| signed.then(|| agent.signs(id, body)));
        let (seen, _) = tokio::join!(world.rest().get(&path), end);
        let seen = seen.data(200);
        assert_eq!((&seen["state"], &seen["signature"]), (&json!("succeeded"), &json!(mark)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_job_is_signed_by_the_gateway() {
    let world = World::with_gateways(2).await;
    let id = world.rest().submit(json!({})).await.data(202)["id"].as_str().unwrap().to_owned();
    assert_eq!(world.rest().cancel(&id).await.data(200)["signature"], "valid");
    assert_eq!(world.gateways[1].rest.get(&format!("/jobs/{id}")).await.data(200)["signature"], "valid");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_results_of_a_removed_agent_stay_its_own_and_those_of_a_revoked_key_are_none() {
    let world = World::start().await;
    let (agent, helper) = (world.agent("default").await, world.agent("default").await);
    world.enlist(&agent, "one", |_| {}).await;
    world.enlist(&helper, "other", |_| {}).await;
    for _ in 0..2 {
        world.rest().submit(json!({})).await.data(202);
    }
    let early = agent.ends(&agent, |id, body| Some(agent.signs(id, body))).await;
    assert_eq!(world.signature(&early).await, "valid");

    let mut left = None;
    let revoke = |record: &mut AgentRecord| {
        record.replace_key(None, muster_schemas::time::Timestamp::now());
        left = Some(record.signing_keys());
    };
    world.enlist(&agent, "one", revoke).await;
    let late = helper.ends(&agent, |id, body| Some(agent.signs(id, body))).await;
    eventually("the revocation is known", async || (world.signature(&late).await == "wrong").then_some(())).await;
    assert_eq!(world.signature(&early).await, "valid");

    let mut headers = HeaderMap::new();
    headers.insert(muster_schemas::headers::KV_OPERATION, "DEL");
    let record = js::key(AGENTS, &keys::agent(&agent.id));
    world.core().await.request_with_headers(record, headers, wire::encode(&left.unwrap()).into()).await.unwrap();
    let gone = async || (world.rest().get(&format!("/agents/{}", agent.id)).await.status == 404).then_some(());
    eventually("the agent is gone", gone).await;
    assert_eq!((world.signature(&early).await, world.signature(&late).await), (json!("valid"), json!("wrong")));
}
