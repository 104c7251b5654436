//! Signatures of jobs from end to end: services' keys, and keys of the control plane that roll over while jobs flow.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail by panicking")]

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use muster_broker_config::init::{drop_old_job_keys, roll_job_keys};
use muster_client::NewJob;
use muster_schemas::{code::Code, result::Outcome};
use muster_tests::{
    Stack, StackOptions, eventually,
    stack::{POOL, READY, signer_of},
};
use serde_json::json;

/// Submits jobs one after the other at two gateways in turn, until it is told to stop, and answers how they ended. What a gateway that is
/// being restarted does not take is no job.
async fn flow(stack: &Stack, stop: Arc<AtomicBool>) -> Vec<String> {
    let callers = [stack.rest_of(0), stack.rest_of(1)];
    let mut ended = Vec::new();
    for turn in 0.. {
        if stop.load(Ordering::SeqCst) {
            break;
        }
        let caller = &callers[turn % 2];
        let body = json!({"pool": POOL, "type": "probe.ping"});
        let request = caller.request(reqwest::Method::POST, "/jobs?wait=30").json(&body);
        let Some(answer) = caller.try_send(request).await.filter(|answer| answer.status.is_success()) else { continue };
        let (id, mut state) = (answer.text("/data/id").to_owned(), answer.text("/data/state").to_owned());
        if state != "succeeded" {
            let other = &callers[(turn + 1) % 2];
            state = eventually("the job has ended", READY, || async {
                let job = other.try_send(other.request(reqwest::Method::GET, &format!("/jobs/{id}"))).await?;
                let state = job.text("/data/state").to_owned();
                (!["queued", "running"].contains(&state.as_str())).then_some(state)
            })
            .await;
        }
        ended.push(state);
    }
    ended
}

/// Restarts both gateways and then the dispatcher, one after the other.
async fn restart(stack: &Stack, parts: &mut (Vec<muster_tests::process::Process>, muster_tests::process::Process)) {
    for number in 0..2 {
        parts.0[number].kill9();
        parts.0[number] = stack.gateway(number);
        stack.gateway_ready(number).await;
    }
    parts.1.kill9();
    parts.1 = stack.dispatcher(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_roll_over_while_jobs_flow_and_not_one_is_rejected_also_where_an_agent_was_away() {
    let options = StackOptions { gateways: 2, ..StackOptions::default() };
    let mut stack = Stack::start(options).await;
    let root = stack.deployment().layout.root().to_owned();
    let mut parts = (std::mem::take(&mut stack.gateways), stack.dispatchers.remove(0));
    let away = stack.agent_id("agent-1").await;
    stack.kill_agent(1);

    let stop = Arc::new(AtomicBool::new(false));
    let rolled = async {
        roll_job_keys(&root).unwrap();
        restart(&stack, &mut parts).await;
        drop_old_job_keys(&root).unwrap();
        restart(&stack, &mut parts).await;
        // Jobs of groups, which the dispatcher signs.
        let group = stack.rest.post("/jobs", &json!({"type": "probe.ping", "target": {"all": {"pool": POOL}}})).await;
        assert!(group.status.is_success(), "{group:?}");
        let path = format!("/groups/{}", group.text("/data/id"));
        eventually("the group's job of the agent that is there", READY, || async {
            let group = stack.rest.get(&path).await;
            (group.body.pointer("/data/counts/succeeded")?.as_u64()? >= 1).then_some(())
        })
        .await;
        stop.store(true, Ordering::SeqCst);
    };
    let (ended, ()) = tokio::join!(flow(&stack, Arc::clone(&stop)), rolled);
    assert!(ended.len() >= 10 && ended.iter().all(|state| state == "succeeded"), "{ended:?}");

    // The one that was away knows only keys that are gone.
    stack.revive_agent(1);
    let command = stack.rest.post(&format!("/agents/{away}/commands"), &json!({"type": "probe.ping", "params": {}})).await;
    let job = stack.rest.finished(command.text("/data/command_id"), 60).await;
    assert_eq!((&job["state"], &job["agent_id"]), (&json!("succeeded"), &json!(away)), "{job}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_services_jobs_run_while_its_key_is_registered_and_are_refused_from_then_on() {
    let stack = Stack::usual().await;
    let creds = stack.service_creds(&[POOL]).await;
    let (service, pool) = (muster_client::Client::connect(&stack.broker.url(), &creds).await.unwrap(), POOL.parse().unwrap());
    let run = async || service.run(&pool, NewJob::new("probe.ping", json!({})), Duration::from_secs(30)).await.unwrap();
    assert_eq!(run().await.outcome, Outcome::Succeeded);
    let removed = stack.rest.delete(&format!("/signers/{}", signer_of(&creds).public_key())).await;
    assert_eq!(removed.status.as_u16(), 204, "{removed:?}");
    let refused =
        eventually("its jobs are refused", READY, || async { Some(run().await).filter(|result| result.outcome != Outcome::Succeeded) })
            .await;
    assert_eq!((refused.outcome, refused.error.unwrap().code), (Outcome::Rejected, Code::SignatureInvalid));
}
