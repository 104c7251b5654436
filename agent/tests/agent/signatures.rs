//! Signatures of the results that an agent stores.

use std::path::Path;

use async_nats::Message;
use muster_agent::identity::Stored;
use muster_broker_config::{
    creds::{self, AGENT_JWT_LIFETIME},
    layout::Account,
};
use muster_schemas::{
    headers,
    names::JobId,
    result::{JobResult, LIMIT, Outcome},
    signature::{Signature, Signed, Signer},
    subjects::About,
    time::Timestamp,
    topology, wire,
};
use nkeys::KeyPair;
use serde_json::json;

use crate::bench::{Bench, eventually};

fn key_of(state_dir: &Path) -> String {
    let stored = Stored::load(state_dir).unwrap().unwrap();
    Signer::from_seed(&stored.seed).unwrap().public_key().to_owned()
}

impl Bench {
    /// The stored result of a job as it travelled, and its signature, which holds.
    async fn signed(&self, id: &JobId) -> (Message, Signature) {
        self.result(id).await;
        let subject = About::Result.job(&self.pool, id);
        let message = self.last(topology::RESULTS, &subject).await.unwrap();
        let header = message.headers.as_ref().unwrap().get(headers::SIGNATURE).unwrap();
        let signature = Signature::parse(header.as_str()).unwrap();
        signature.verify(Signed::Result, &subject, &message.payload).unwrap();
        (message, signature)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_result_is_signed_by_its_agent_over_what_is_stored_and_names_it() {
    let bench = Bench::start().await;
    let agent = bench.agent(2).await;
    let key = key_of(&agent.state_dir);
    let run = |command: &str| json!({"type": "shell.run", "params": {"command": command}});
    let jobs = [
        (run("echo hello"), Outcome::Succeeded),
        (run("exit 3"), Outcome::Failed),
        // What is cut to fit is signed as it was cut.
        (run("head -c 300000 /dev/zero; head -c 300000 /dev/zero >&2"), Outcome::Succeeded),
        (json!({"type": "probe.unheard-of"}), Outcome::Rejected),
        (json!({"type": "probe.ping", "expires_at": "2020-01-01T00:00:00Z"}), Outcome::Expired),
    ];
    for (body, outcome) in jobs {
        let id = bench.submit(body).await;
        let (message, signature) = bench.signed(&id).await;
        let result: JobResult = wire::decode(&message.payload).unwrap();
        assert_eq!((result.outcome, result.signing_agent()), (outcome, Some(&agent.id)));
        assert_eq!(signature.key, key);
        assert!(message.payload.len() <= LIMIT);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_result_from_the_spool_bears_the_signature_of_the_key_that_its_agent_had_when_it_ended() {
    let mut bench = Bench::start().await;
    let agent = bench.agent_with(1, &[("shutdown_grace", "0")]).await;
    let (old, go) = (key_of(&agent.state_dir), bench.dir.path().join("go"));
    let wait = format!("while [ ! -e {} ]; do sleep 0.02; done", go.display());
    let id = bench.submit(json!({"type": "shell.run", "params": {"command": wait}})).await;
    eventually("it runs", async || !bench.events(&id).await.is_empty()).await;
    bench.server.kill().await.unwrap();
    std::fs::write(&go, "").unwrap();
    eventually("the result is in the spool", async || agent.figure("muster_agent_results_spooled").await == 1.0).await;
    let ended = Timestamp::now();
    let (agent_id, state_dir) = (agent.id.clone(), agent.state_dir.clone());
    agent.stop().await.unwrap();

    // It has enrolled again, with another key.
    let (mut stored, new) = (Stored::load(&state_dir).unwrap().unwrap(), KeyPair::new_user());
    let seed = std::fs::read_to_string(bench.deployment.layout.signing_key(Account::Fleet)).unwrap();
    let fleet = &bench.deployment.fleet.account;
    stored.jwt = creds::mint_agent_jwt(&seed, fleet, &bench.pool, &agent_id, &new.public_key(), AGENT_JWT_LIFETIME).unwrap();
    stored.seed = new.seed().unwrap();
    stored.save(&state_dir).unwrap();
    bench.server.restart().await.unwrap();
    let agent = bench.agent_in(agent_id, state_dir.clone(), 1, &[]).await;
    let (_, signature) = bench.signed(&id).await;
    assert_eq!(signature.key, old);
    assert!(signature.at <= ended);
    agent.ready().await;
    let next = bench.submit(json!({"type": "probe.ping"})).await;
    assert_eq!(bench.signed(&next).await.1.key, key_of(&state_dir));
}
