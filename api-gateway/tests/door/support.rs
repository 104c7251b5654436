//! Keys, jobs and figures that the tests of the door share.

use std::time::Duration;

use crate::stack::{self, Gateway, Http, Stack};
use muster_schemas::{
    names::AgentId,
    records::{
        ApiKeyRecord, KeyOwner,
        secret::{Kind, PREFIX_LEN, Parts, SECRET_LEN},
    },
    time::Timestamp,
    topology,
    wire::{self, V},
};
use reqwest::StatusCode;
use serde_json::json;

/// How long anything may take that should happen.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// A key of any kind, put into the bucket behind the gateways' backs.
pub(crate) async fn planted(stack: &Stack, owner: KeyOwner, change: impl FnOnce(&mut ApiKeyRecord)) -> String {
    let kind = if matches!(owner, KeyOwner::Agent(_)) { Kind::Agent } else { Kind::Api };
    let parts = Parts::from_random(kind, &rand::random::<[u8; PREFIX_LEN + SECRET_LEN]>());
    let mut record = ApiKeyRecord {
        v: V,
        id: format!("key_{}", AgentId::generate().as_str().trim_start_matches("agt_")),
        prefix: parts.prefix.clone(),
        hash: bcrypt::hash(&parts.secret, 4).unwrap(),
        name: "planted".into(),
        owner,
        created_at: Timestamp::now(),
        expires_at: None,
        revoked_at: None,
    };
    change(&mut record);
    let keys = async_nats::jetstream::new(stack.broker().await).get_key_value(topology::API_KEYS).await.unwrap();
    keys.put(&record.prefix, wire::encode(&record).into()).await.unwrap();
    parts.reveal()
}

/// A key with the same beginning and another secret.
pub(crate) fn other_secret(key: &str, number: u32) -> String {
    let (begin, secret) = key.split_at(key.len() - SECRET_LEN);
    let letters: String = (0..4).map(|place| char::from(b'a' + u8::try_from((number / 26u32.pow(place)) % 26).unwrap())).collect();
    let other = format!("{begin}{letters}{}", &secret[4..]);
    if other == key { format!("{begin}{}{letters}", &secret[4..]) } else { other }
}

/// A new key with this role: its id, and a client that has it.
pub(crate) async fn member(stack: &Stack, made_at: &Gateway, role: &str, used_at: &Gateway) -> (String, Http) {
    let made = stack.admin(made_at).new_key(role).await;
    (made["id"].as_str().unwrap().to_owned(), used_at.with_key(made["key"].as_str().unwrap()))
}

pub(crate) async fn revoke(stack: &Stack, gateway: &Gateway, id: &str) {
    let answer = stack.admin(gateway).delete(&format!("/api/v1/api-keys/{id}")).await;
    assert_eq!(answer.status, StatusCode::NO_CONTENT, "{}", answer.text);
}

/// A job that nobody runs.
pub(crate) async fn queued(stack: &Stack, gateway: &Gateway) -> String {
    let job = json!({"pool": stack::POOL, "type": "shell.run", "params": {"command": "true"}});
    stack.admin(gateway).post("/api/v1/jobs", &job).await.data(202)["id"].as_str().unwrap().to_owned()
}

/// A figure of a gateway's metrics, without labels.
pub(crate) async fn figure(gateway: &Gateway, name: &str) -> f64 {
    let text = gateway.anybody().get("/metrics").await.text;
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).unwrap_or_else(|| panic!("no {name}"));
    line.parse().unwrap()
}
