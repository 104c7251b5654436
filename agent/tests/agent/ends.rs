//! What an agent does when its identity ends: it stops at once, says why, and comes back where it may.

use std::{path::PathBuf, time::Duration};

use muster_agent::identity::Stored;
use muster_broker_config::provision;
use muster_schemas::{
    code::Code,
    control::IdentityEnd,
    lane::Priority,
    names::{JobId, PoolName},
    records::secret::Kind,
    result::Outcome,
    subjects::About,
    time::Timestamp,
    topology,
};
use serde_json::json;

use crate::{
    bench::{Agent, Bench, eventually},
    desk::{Desk, Office, no, order, runs, secret},
};

/// A job that runs until it is killed the first time, with its children; then it ends at once. Answers where its child's id is.
async fn endless(bench: &Bench) -> (JobId, PathBuf) {
    let pid = bench.dir.path().join("pid");
    let command =
        format!("if [ -e {0} ]; then echo again; else sh -c 'echo $$ > {0}.new; mv {0}.new {0}; exec sleep 600'; fi", pid.display());
    let id = bench.submit(json!({"type": "shell.run", "params": {"command": command}})).await;
    eventually("it runs", async || pid.exists() && !bench.events(&id).await.is_empty()).await;
    (id, pid)
}

async fn says(agent: &Agent, what: &str) {
    eventually(what, async || {
        let ready = agent.get("/readyz").await;
        ready.starts_with("HTTP/1.1 503") && ready.contains(what)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_agent_stops_at_once_says_why_and_comes_back_with_a_fresh_token() {
    let bench = Bench::start().await;
    bench.lease(Priority::Normal, "shell", Duration::from_secs(2)).await;
    let desk = Desk::open(|_| no(403, Code::AgentRevoked, "an operator can enable it again")).await;
    let token_file = bench.dir.path().join("token");
    let settings = [("api_url", desk.url.as_str()), ("join_token_file", token_file.to_str().unwrap()), ("shutdown_grace", "0")];
    let agent = bench.agent_with(2, &settings).await;
    let before = Stored::load(&agent.state_dir).unwrap().unwrap();
    let (job, pid) = endless(&bench).await;

    order(&bench, &agent.id, IdentityEnd::Revoked, Some("stolen laptop")).await;
    says(&agent, "revoked: stolen laptop").await;
    eventually("the job's tree is gone", async || !runs(&pid)).await;
    let pulls = agent.figure("muster_agent_pulls_total").await;
    let asked_before = desk.asked().len();
    // Another agent gets the job once the lease is over: nothing was said of it.
    let other = bench.agent(1).await;
    let result = bench.result(&job).await;
    assert_eq!((result.outcome, result.attempt, result.agent_id.as_ref()), (Outcome::Succeeded, 2, Some(&other.id)));
    assert!(bench.events(&job).await.iter().all(|event| event.agent_id != agent.id || event.attempt <= 1));
    assert_eq!(agent.figure("muster_agent_pulls_total").await, pulls, "it pulls no more");
    other.stop().await.unwrap();

    // Enabled again: a token for this agent, put where its settings name it.
    eventually("it asks the gateway", async || desk.asked().len() > asked_before).await;
    let (token, key, office, id, pool) =
        (secret(Kind::Join), secret(Kind::Agent), Office::of(&bench), agent.id.clone(), bench.pool.clone());
    let (fresh, given) = (token.clone(), key.clone());
    desk.says(move |asked| {
        if asked.credential != fresh {
            return no(401, Code::Unauthenticated, "the key is revoked");
        }
        let mut registered = office.registered(asked, &id, &pool, Duration::from_secs(3600));
        (registered.api_key, registered.name) = (Some(given.clone()), "as-the-record-has-it".parse().unwrap());
        Ok(registered)
    });
    std::fs::write(&token_file, &token).unwrap();
    eventually("it is back", async || agent.get("/readyz").await.starts_with("HTTP/1.1 200")).await;
    let job = bench.submit(json!({"type": "probe.ping"})).await;
    assert_eq!(bench.result(&job).await.agent_id.as_ref(), Some(&agent.id));
    let after = Stored::load(&agent.state_dir).unwrap().unwrap();
    assert_eq!((&after.agent_id, &after.api_key), (&before.agent_id, &key));
    assert_ne!(after.seed, before.seed, "a new private key");
    let beat = bench.heartbeat_of(&agent.id, |beat| beat.name.as_str() == "as-the-record-has-it").await;
    assert!(!beat.goodbye);
    let (asked, public_key) = (desk.asked().split_off(asked_before), nkeys::KeyPair::from_seed(&before.seed).unwrap().public_key());
    assert!(asked.iter().all(|asked| asked.register.public_key != public_key), "the old key is never brought again");
    assert!(asked.iter().all(|asked| asked.register.proven(&asked.credential).is_ok()));
    agent.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_was_moved_goes_on_in_its_new_pool_by_itself() {
    let bench = Bench::start().await;
    bench.lease(Priority::Normal, "shell", Duration::from_secs(2)).await;
    let other_pool: PoolName = "q".parse().unwrap();
    let mut record = provision::default_pool(other_pool.clone(), Timestamp::now());
    record.executors = ["probe", "shell", "http"].map(|name| name.parse().unwrap()).into();
    provision::ensure_pool(&bench.gateway, &record).await.unwrap();
    let desk = Desk::open(|_| no(503, Code::BrokerUnavailable, "not yet")).await;
    let agent = bench.agent_with(2, &[("api_url", &desk.url)]).await;
    let before = Stored::load(&agent.state_dir).unwrap().unwrap();
    let (job, pid) = endless(&bench).await;

    order(&bench, &agent.id, IdentityEnd::Moved, None).await;
    says(&agent, "moved to another pool").await;
    eventually("the job's tree is gone", async || !runs(&pid)).await;
    desk.says(Office::of(&bench).lets_in(&agent.id, &other_pool));
    eventually("it is back", async || agent.get("/readyz").await.starts_with("HTTP/1.1 200")).await;
    let after = Stored::load(&agent.state_dir).unwrap().unwrap();
    assert_eq!((&after.agent_id, &after.api_key, &after.pool), (&before.agent_id, &before.api_key, &other_pool));
    assert_ne!(after.seed, before.seed);
    assert!(desk.asked().iter().all(|asked| asked.credential == before.api_key));
    let there = JobId::generate(&other_pool);
    let lane = muster_schemas::lane::Lane { priority: Priority::Normal, executor: "probe".parse().unwrap() };
    bench
        .publish(muster_schemas::subjects::job(&other_pool, &lane, &there), None, json!({"type": "probe.ping"}).to_string().into_bytes())
        .await;
    let subject = About::Result.job(&other_pool, &there);
    eventually("it runs jobs there", async || bench.last(topology::RESULTS, &subject).await.is_some()).await;
    // And the job of its old pool goes to who is there.
    let _left = bench.agent(1).await;
    assert_eq!(bench.result(&job).await.outcome, Outcome::Succeeded);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_whose_key_was_replaced_waits_for_the_new_one_in_its_file() {
    let bench = Bench::start().await;
    let desk = Desk::open(|_| no(401, Code::Unauthenticated, "the key is revoked")).await;
    let key_file = bench.dir.path().join("key");
    let agent = bench.agent_with(1, &[("api_url", &desk.url), ("api_key_file", key_file.to_str().unwrap())]).await;
    order(&bench, &agent.id, IdentityEnd::KeyRotated, None).await;
    says(&agent, "its API key was replaced").await;
    let (key, office, id, pool) = (secret(Kind::Agent), Office::of(&bench), agent.id.clone(), bench.pool.clone());
    let wanted = key.clone();
    desk.says(move |asked| match asked.credential == wanted {
        true => Ok(office.registered(asked, &id, &pool, Duration::from_secs(3600))),
        false => no(401, Code::Unauthenticated, "the key is revoked"),
    });
    std::fs::write(&key_file, format!("{key}\n")).unwrap();
    eventually("it is back", async || agent.get("/readyz").await.starts_with("HTTP/1.1 200")).await;
    assert_eq!(Stored::load(&agent.state_dir).unwrap().unwrap().api_key, key);
    let job = bench.submit(json!({"type": "probe.ping"})).await;
    assert_eq!(bench.result(&job).await.outcome, Outcome::Succeeded);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_agent_does_not_join_again_with_the_token_it_came_with() {
    let bench = Bench::start().await;
    let (token, key) = (secret(Kind::Join), secret(Kind::Agent));
    let id = muster_schemas::names::AgentId::generate();
    let (office, as_id, pool) = (Office::of(&bench), id.clone(), bench.pool.clone());
    let desk = Desk::open(move |asked| {
        Ok(muster_schemas::api::Registered {
            api_key: Some(key.clone()),
            ..office.registered(asked, &as_id, &pool, Duration::from_secs(3600))
        })
    })
    .await;
    let state_dir = bench.dir.path().join("new");
    let agent = bench.agent_in(id.clone(), state_dir, 1, &[("api_url", &desk.url), ("join_token", &token)]).await;
    agent.ready().await;
    assert_eq!(desk.asked()[0].credential, token);
    desk.says(|_| no(401, Code::Unauthenticated, "the key is revoked"));
    order(&bench, &id, IdentityEnd::Deleted, None).await;
    says(&agent, "deleted").await;
    let asked_before = desk.asked().len();
    eventually("it asks again", async || desk.asked().len() > asked_before).await;
    assert!(desk.asked()[1..].iter().all(|asked| asked.credential != token), "a fresh token is another one");
    agent.stop().await.unwrap();
}

/// An agent whose JWT lives so short that the broker cuts it off, with a job that outlives the cut.
async fn cut_off(bench: &Bench, desk: &Desk) -> (Agent, JobId, PathBuf, PathBuf) {
    let (id, state_dir) = bench.enrolled(Duration::from_secs(14)).await;
    let agent = bench.agent_in(id, state_dir, 1, &[("api_url", &desk.url), ("shutdown_grace", "0")]).await;
    agent.ready().await;
    let (pid, go) = (bench.dir.path().join("pid"), bench.dir.path().join("go"));
    let command =
        format!("echo $$ > {0}.new; mv {0}.new {0}; while [ ! -e {1} ]; do sleep 0.05; done; echo done", pid.display(), go.display());
    let job = bench.submit(json!({"type": "shell.run", "params": {"command": command}})).await;
    eventually("it runs", async || pid.exists()).await;
    says(&agent, "xpired").await;
    (agent, job, pid, go)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_survives_that_the_credential_expires_while_nobody_renews_it() {
    let bench = Bench::start().await;
    let desk = Desk::open(|_| no(503, Code::BrokerUnavailable, "not now")).await;
    let (agent, job, pid, go) = cut_off(&bench, &desk).await;
    assert!(runs(&pid));
    desk.says(Office::of(&bench).lets_in(&agent.id, &bench.pool));
    eventually("it is back", async || agent.get("/readyz").await.starts_with("HTTP/1.1 200")).await;
    assert!(runs(&pid), "the job never noticed");
    std::fs::write(go, "").unwrap();
    let result = bench.result(&job).await;
    assert_eq!((result.outcome, result.attempt, result.agent_id), (Outcome::Succeeded, 1, Some(agent.id.clone())));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_missed_its_order_is_told_by_the_gateway_and_comes_back_by_itself() {
    let bench = Bench::start().await;
    let desk = Desk::open(|_| no(503, Code::BrokerUnavailable, "not now")).await;
    let (agent, job, pid, _go) = cut_off(&bench, &desk).await;
    desk.says(|_| no(403, Code::AgentRevoked, "stolen laptop"));
    says(&agent, "revoked: stolen laptop").await;
    eventually("the job's tree is gone", async || !runs(&pid)).await;
    let subject = About::Result.job(&bench.pool, &job);
    assert!(bench.last(topology::RESULTS, &subject).await.is_none());
    desk.says(Office::of(&bench).lets_in(&agent.id, &bench.pool));
    eventually("it is back", async || agent.get("/readyz").await.starts_with("HTTP/1.1 200")).await;
    let job = bench.submit(json!({"type": "probe.ping"})).await;
    assert_eq!(bench.result(&job).await.outcome, Outcome::Succeeded);
    agent.stop().await.unwrap();
}
