//! Whose jobs an agent runs: what is not signed, or not by whom, for where and when it was sent, is refused, and nothing of it runs.

use std::{os::unix::fs::PermissionsExt as _, path::Path, time::Duration};

use async_nats::HeaderMap;
use muster_agent::identity::Stored;
use muster_broker_config::provision;
use muster_schemas::{
    code::Code,
    headers,
    lane::Priority,
    names::{AgentId, JobId, PoolName},
    result::{JobResult, Outcome},
    signature::{SIGNERS_KEY, Scope, Signed, SignedSigners, Signer, Signers, TrustedSigner},
    subjects::{self, js},
    time::Timestamp,
    topology::TRUST,
    wire::{self, V},
};
use serde_json::{Value, json};

use crate::{
    bench::{Agent, Bench, eventually},
    desk::{Desk, Office, no},
};

const PING: &[u8] = br#"{"type":"probe.ping"}"#;

/// A broker, an agent that knows whom to trust, and those keys.
struct Stage {
    bench: Bench,
    agent: Agent,
    /// Of a gateway.
    gateway: Signer,
    /// Of a service that may sign for the agent's pool.
    service: Signer,
    /// Of one that may sign for another pool.
    other: Signer,
}

fn list(serial: u64, gateway: &[&Signer], services: &[(&Signer, &str)], by: &Signer) -> SignedSigners {
    let entry =
        |signer: &Signer, scope| TrustedSigner { key: signer.public_key().into(), name: "n".into(), scope, added_at: Timestamp::now() };
    let own = gateway.iter().map(|signer| entry(signer, Scope::ControlPlane));
    let theirs = services.iter().map(|(signer, pool)| entry(signer, Scope::Pools([pool.parse().unwrap()].into())));
    Signers { v: V, serial, signers: own.chain(theirs).collect() }.sign(by, Timestamp::now())
}

/// Writes the list down as if the gateway had given it.
fn pinned(state_dir: &Path, agent: &AgentId, list: &SignedSigners) {
    let path = state_dir.join("signers.json");
    std::fs::write(&path, json!({"agent_id": agent, "v": 1, "list": list.list, "signature": list.signature}).to_string()).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

/// The serial of the list that an agent keeps.
fn kept(state_dir: &Path) -> u64 {
    let kept: Value = serde_json::from_slice(&std::fs::read(state_dir.join("signers.json")).unwrap()).unwrap();
    serde_json::from_str::<Signers>(kept["list"].as_str().unwrap()).unwrap().serial
}

impl Stage {
    async fn start() -> Self {
        Self::start_with(&[]).await
    }

    async fn start_with(settings: &[(&str, &str)]) -> Self {
        let bench = Bench::start().await;
        let (gateway, service, other) = (Signer::generate(), Signer::generate(), Signer::generate());
        let (id, state_dir) = bench.enrolled(Duration::from_secs(3600)).await;
        let first = list(1, &[&gateway], &[(&service, "p"), (&other, "q")], &gateway);
        pinned(&state_dir, &id, &first);
        let settings: Vec<_> = [("accept_unsigned", "false")].into_iter().chain(settings.iter().copied()).collect();
        let agent = bench.agent_in(id, state_dir, 3, &settings).await;
        agent.ready().await;
        let stage = Self { bench, agent, gateway, service, other };
        stage.put(&first).await;
        stage
    }

    /// Puts a list into the bucket, as whoever can write there.
    async fn put(&self, list: &SignedSigners) {
        self.bench.publish(js::key(TRUST, SIGNERS_KEY), None, wire::encode(list)).await;
    }

    fn subject(&self, id: &JobId) -> String {
        self.bench.subject(Priority::Normal, "probe", id)
    }

    /// Publishes a ping that is signed by this key, now and for this place.
    async fn ping(&self, signer: &Signer) -> JobResult {
        let id = self.bench.id();
        let subject = self.subject(&id);
        let headers = signed(signer, &subject, PING, false, Timestamp::now());
        self.send(&id, subject, headers, PING).await
    }

    async fn send(&self, id: &JobId, subject: String, headers: HeaderMap, body: &[u8]) -> JobResult {
        self.bench.publish(subject, Some(headers), body.to_vec()).await;
        self.bench.result(id).await
    }
}

fn signed(signer: &Signer, subject: &str, body: &[u8], fresh: bool, at: Timestamp) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(headers::SIGNATURE, signer.sign(Signed::Job { fresh }, subject, body, at).to_string());
    if fresh {
        headers.insert(headers::FRESH, "1");
    }
    headers
}

#[track_caller]
fn refused(result: &JobResult, code: Code, why: &str) {
    let error = result.error.as_ref().unwrap_or_else(|| panic!("it ran: {result:?}"));
    assert_eq!((result.outcome, error.code, result.attempt), (Outcome::Rejected, code, 0), "{why}: {error:?}");
    assert!(error.message.contains(why), "{why}: {error:?}");
}

#[tokio::test]
async fn a_job_runs_when_a_gateway_or_a_service_of_the_pool_signed_it_and_an_unsigned_one_does_not() {
    let stage = Stage::start().await;
    for signer in [&stage.gateway, &stage.service] {
        assert_eq!(stage.ping(signer).await.outcome, Outcome::Succeeded);
    }
    let id = stage.bench.id();
    let result = stage.send(&id, stage.subject(&id), HeaderMap::new(), PING).await;
    refused(&result, Code::SignatureMissing, "not signed");
    eventually("every one of them is acked", async || stage.bench.queued().await == 0).await;
}

#[tokio::test]
async fn a_signature_of_anything_else_than_this_message_here_and_now_is_refused() {
    let stage = Stage::start().await;
    let bench = &stage.bench;
    let now = Timestamp::now();
    // Keys that do not count.
    refused(&stage.ping(&Signer::generate()).await, Code::SignatureInvalid, "is not in the list of signers");
    refused(&stage.ping(&stage.other).await, Code::SignatureInvalid, "may not sign jobs of pool p");
    // The body, changed by a byte, and encoded anew with the same meaning.
    let id = bench.id();
    let headers = signed(&stage.service, &stage.subject(&id), PING, false, now);
    refused(&stage.send(&id, stage.subject(&id), headers, br#"{"type":"probe.pinG"}"#).await, Code::SignatureInvalid, "does not fit");
    let id = bench.id();
    // {"type": "probe.echo", "params": {"n": 1}}, the number in one byte and in two.
    let body = |number: &[u8]| [b"\x82\xa4type\xaaprobe.echo\xa6params\x81\xa1n".as_slice(), number].concat();
    let headers = signed(&stage.service, &stage.subject(&id), &body(b"\x01"), false, now);
    refused(&stage.send(&id, stage.subject(&id), headers, &body(b"\xcc\x01")).await, Code::SignatureInvalid, "does not fit");
    // Moved: from another id, lane and pool.
    for from in [
        stage.subject(&bench.id()),
        subjects::job(
            &"q".parse().unwrap(),
            &muster_schemas::lane::Lane { priority: Priority::Normal, executor: "probe".parse().unwrap() },
            &id,
        ),
    ] {
        let id = bench.id();
        let headers = signed(&stage.gateway, &from, PING, false, now);
        refused(&stage.send(&id, stage.subject(&id), headers, PING).await, Code::SignatureInvalid, "does not fit");
    }
    let id = bench.id();
    let headers = signed(&stage.gateway, &bench.subject(Priority::Low, "probe", &id), PING, false, now);
    refused(&stage.send(&id, bench.subject(Priority::High, "probe", &id), headers, PING).await, Code::SignatureInvalid, "does not fit");
    // From one agent to another.
    let id = bench.id();
    let command = |agent: &AgentId| subjects::command(&bench.pool, agent, &id);
    let headers = signed(&stage.gateway, &command(&AgentId::generate()), PING, false, now);
    bench.reach(&stage.agent.id).await;
    refused(&stage.send(&id, command(&stage.agent.id), headers, PING).await, Code::SignatureInvalid, "does not fit");
    // With the promise added that its id is new.
    let id = bench.id();
    let mut headers = signed(&stage.gateway, &stage.subject(&id), PING, false, now);
    headers.insert(headers::FRESH, "1");
    refused(&stage.send(&id, stage.subject(&id), headers, PING).await, Code::SignatureInvalid, "does not fit");
    // Long before, or long after.
    for at in [now - Duration::from_secs(11 * 60), now + Duration::from_secs(11 * 60)] {
        let id = bench.id();
        let headers = signed(&stage.gateway, &stage.subject(&id), PING, false, at);
        refused(&stage.send(&id, stage.subject(&id), headers, PING).await, Code::SignatureInvalid, "more than 10 minutes apart");
    }
    let id = bench.id();
    let mut headers = HeaderMap::new();
    headers.insert(headers::SIGNATURE, "U.1.x");
    refused(&stage.send(&id, stage.subject(&id), headers, PING).await, Code::SignatureInvalid, "malformed");
    assert_eq!(stage.ping(&stage.service).await.outcome, Outcome::Succeeded, "the lane goes on");
}

#[tokio::test]
async fn a_message_that_is_sent_again_under_its_own_id_runs_once_whatever_it_promises() {
    let stage = Stage::start().await;
    let (id, file) = (stage.bench.id(), stage.bench.dir.path().join("ran"));
    let body = json!({"type": "shell.run", "params": {"command": format!("echo ran >> {}", file.display())}}).to_string();
    let subject = stage.bench.subject(Priority::Normal, "shell", &id);
    let headers = signed(&stage.gateway, &subject, body.as_bytes(), true, Timestamp::now() - Duration::from_secs(60));
    for _ in 0..2 {
        stage.bench.publish(subject.clone(), Some(headers.clone()), body.clone().into_bytes()).await;
        assert_eq!(stage.bench.result(&id).await.outcome, Outcome::Succeeded);
        eventually("it is acked", async || stage.bench.queued().await == 0).await;
    }
    assert_eq!(std::fs::read_to_string(file).unwrap(), "ran\n");
}

#[tokio::test]
async fn a_key_that_is_removed_is_refused_at_once_and_one_that_is_added_counts_at_once() {
    let stage = Stage::start().await;
    assert_eq!(stage.ping(&stage.service).await.outcome, Outcome::Succeeded);
    stage.put(&list(2, &[&stage.gateway], &[], &stage.gateway)).await;
    eventually("the agent hears of it", async || kept(&stage.agent.state_dir) == 2).await;
    refused(&stage.ping(&stage.service).await, Code::SignatureInvalid, "is not in the list of signers");
    // Whether or not the agent has heard of it before the job comes.
    let added = Signer::generate();
    stage.put(&list(3, &[&stage.gateway], &[(&added, "p")], &stage.gateway)).await;
    assert_eq!(stage.ping(&added).await.outcome, Outcome::Succeeded);
}

#[tokio::test]
async fn a_forged_list_and_an_older_one_change_nothing() {
    let stage = Stage::start().await;
    stage.put(&list(5, &[&stage.gateway], &[(&stage.service, "p")], &stage.gateway)).await;
    eventually("the agent hears of it", async || kept(&stage.agent.state_dir) == 5).await;
    // An older one, which trusts a key that was removed since.
    stage.put(&list(4, &[&stage.gateway], &[(&stage.other, "p")], &stage.gateway)).await;
    refused(&stage.ping(&stage.other).await, Code::SignatureInvalid, "is not in the list of signers");
    // One that a service made, for itself. Without a gateway to ask, its jobs are left where they are.
    stage.put(&list(9, &[&stage.other], &[(&stage.service, "p")], &stage.other)).await;
    let (id, file) = (stage.bench.id(), stage.bench.dir.path().join("ran"));
    let body = json!({"type": "shell.run", "params": {"command": format!("echo ran >> {}", file.display())}}).to_string();
    let subject = stage.bench.subject(Priority::Normal, "shell", &id);
    let headers = signed(&stage.other, &subject, body.as_bytes(), false, Timestamp::now());
    stage.bench.publish(subject, Some(headers), body.into_bytes()).await;
    for signer in [&stage.gateway, &stage.service] {
        assert_eq!(stage.ping(signer).await.outcome, Outcome::Succeeded, "those of the list that is known go on");
    }
    assert_eq!((kept(&stage.agent.state_dir), file.exists()), (5, false));
}

#[tokio::test]
async fn an_agent_that_may_run_unsigned_jobs_still_refuses_wrong_ones_and_one_with_its_own_list_goes_by_that() {
    let stage = Stage::start_with(&[("accept_unsigned", "true")]).await;
    let id = stage.bench.id();
    assert_eq!(stage.send(&id, stage.subject(&id), HeaderMap::new(), PING).await.outcome, Outcome::Succeeded);
    refused(&stage.ping(&Signer::generate()).await, Code::SignatureInvalid, "is not in the list of signers");

    let own = Signer::generate();
    let stage = Stage::start_with(&[("trusted_signers", own.public_key())]).await;
    assert_eq!(stage.ping(&own).await.outcome, Outcome::Succeeded);
    refused(&stage.ping(&stage.gateway).await, Code::SignatureInvalid, "TRUSTED_SIGNERS");
}

#[tokio::test]
async fn what_was_sent_in_another_pool_is_refused_signed_or_not() {
    let stage = Stage::start_with(&[("accept_unsigned", "true")]).await;
    let (agent, elsewhere): (_, PoolName) = (&stage.agent.id, "q".parse().unwrap());
    // As it is for one that was moved, and whose consumer is of its old pool.
    provision::ensure_commands(&stage.bench.gateway, &elsewhere, agent).await.unwrap();
    let (unsigned, by_other) = (stage.bench.id(), stage.bench.id());
    let subject = |id: &JobId| subjects::command(&elsewhere, agent, id);
    let signature = signed(&stage.other, &subject(&by_other), PING, false, Timestamp::now());
    for (id, headers) in [(unsigned, HeaderMap::new()), (by_other, signature)] {
        stage.bench.publish(subject(&id), Some(headers), PING.to_vec()).await;
        stage.bench.order(agent).await;
        refused(&stage.bench.result(&id).await, Code::SignatureInvalid, "of pool p");
    }
}

#[tokio::test]
async fn an_agent_without_a_list_runs_nothing_and_says_so() {
    let bench = Bench::start().await;
    let (id, state_dir) = bench.enrolled(Duration::from_secs(3600)).await;
    let agent = bench.agent_in(id, state_dir, 2, &[("accept_unsigned", "false")]).await;
    eventually("it says so", async || agent.get("/readyz").await.contains("no list of whose jobs to run")).await;
    bench.submit(json!({"type": "probe.ping"})).await;
    bench.heartbeat_of(&agent.id, |_| true).await;
    assert_eq!(bench.queued().await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_asks_for_the_list_and_is_in_another_pool_goes_there() {
    let bench = Bench::start().await;
    let (other_pool, office): (PoolName, _) = ("q".parse().unwrap(), Office::of(&bench));
    provision::ensure_pool(&bench.gateway, &provision::default_pool(other_pool.clone(), Timestamp::now())).await.unwrap();
    let desk = Desk::open(|_| no(503, Code::BrokerUnavailable, "not yet")).await;
    // Its credential is good for an hour, and nobody told it to move.
    let (id, state_dir) = bench.enrolled(Duration::from_secs(3600)).await;
    desk.says(office.lets_in(&id, &other_pool));
    let agent = bench.agent_in(id, state_dir.clone(), 1, &[("accept_unsigned", "false"), ("api_url", &desk.url)]).await;
    eventually("it is in the other pool", async || Stored::load(&state_dir).unwrap().unwrap().pool == other_pool).await;
    eventually("it is ready there", async || agent.get("/readyz").await.starts_with("HTTP/1.1 200")).await;
}
