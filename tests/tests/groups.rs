//! One command on many agents, as whoever runs it sees it: through the command line and over REST.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail by panicking")]

use std::{
    io::{BufRead as _, BufReader, Read as _},
    process::{Child, Command, Output, Stdio},
    time::Duration,
};

use muster_tests::{Stack, StackOptions, binaries, eventually, stack::POOL, within};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(90);

/// A stack of agents with these labels.
async fn stack_of(labels: &[&str]) -> Stack {
    let mut stack = Stack::start(StackOptions { agents: 0, ..StackOptions::default() }).await;
    for (number, labels) in labels.iter().enumerate() {
        let agent = stack.agent(number, &stack.broker.url(), &[("LABELS", labels)]);
        stack.agents.push(agent);
    }
    stack.accepting(POOL, labels.len()).await;
    stack
}

/// Starts `muster` with these words.
fn start(stack: &Stack, words: &[&str]) -> Child {
    Command::new(binaries::path("muster"))
        .args(words)
        .env("MUSTER_URL", format!("http://{}", stack.gateway_address(0)))
        .env("MUSTER_API_KEY", stack.deployment().admin_key.as_ref().unwrap())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// What it wrote, and its exit code.
async fn ended(child: Child) -> (String, String, i32) {
    let done: Output = within("the end of muster", SOON, tokio::task::spawn_blocking(|| child.wait_with_output().unwrap())).await.unwrap();
    (String::from_utf8(done.stdout).unwrap(), String::from_utf8(done.stderr).unwrap(), done.status.code().unwrap())
}

/// Presses Ctrl-C once it has said something; what it wrote to standard error after that, and its exit code.
async fn interrupted(mut child: Child) -> (String, i32) {
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
    let mut said = BufReader::new(child.stderr.take().unwrap());
    let rest = tokio::task::spawn_blocking(move || {
        let mut first = String::new();
        said.read_line(&mut first).unwrap();
        kill(pid, Signal::SIGINT).unwrap();
        let mut rest = String::new();
        said.read_to_string(&mut rest).unwrap();
        rest
    });
    let rest = within("what it says to Ctrl-C", SOON, rest).await.unwrap();
    (rest, ended(child).await.2)
}

async fn muster(stack: &Stack, words: &[&str]) -> (String, String, i32) {
    ended(start(stack, words)).await
}

/// Waits until the group has this status and these counts.
async fn group_is(stack: &Stack, id: &str, status: &str, counts: Value) -> Value {
    eventually(&format!("group {id} is {status} with {counts}"), SOON, || async {
        let group = stack.rest.get(&format!("/groups/{id}")).await;
        (group.text("/data/status") == status && group.data()["counts"] == counts).then(|| group.data().clone())
    })
    .await
}

async fn make(stack: &Stack, command: &str, target: Value) -> String {
    let mut all = json!({"pool": POOL});
    all.as_object_mut().unwrap().extend(target.as_object().unwrap().clone());
    let answer = stack.rest.post("/jobs", &json!({"type": "shell.run", "params": {"command": command}, "target": {"all": all}})).await;
    assert_eq!(answer.status, 202, "{answer:?}");
    answer.text("/data/id").to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_agent_with_the_label_runs_it_once_also_one_that_was_away() {
    let mut stack = stack_of(&["site=a", "site=a,role=web", "site=b", "site=a"]).await;
    stack.kill_agent(1);
    let ran = stack.folder().join("ran");
    let line = format!("echo ran >> {}; echo ignored; echo done here", ran.display());
    let run = start(&stack, &["run", "--all", "--label", "site=a", "--command", &line]);
    let group = eventually("the group is there", SOON, || async {
        let groups = stack.rest.get("/groups").await;
        groups.data().as_array()?.first().map(|group| group["id"].as_str().unwrap().to_owned())
    })
    .await;
    group_is(&stack, &group, "running", json!({"succeeded": 2, "pending": 1})).await;
    stack.agents[1] = stack.agent(1, &stack.broker.url(), &[("LABELS", "site=a,role=web")]);
    let (out, err, code) = ended(run).await;
    assert_eq!(code, 0, "{out}\n{err}");
    for name in ["agent-0", "agent-1", "agent-3"] {
        let line = out.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("no {name} in {out}"));
        assert!(line.contains("succeeded") && line.ends_with("done here"), "{line}");
    }
    assert!(out.contains("succeeded  3") && !out.contains("agent-2"), "{out}");
    assert!(err.contains("3 agents") && err.contains("3/3 ended"), "{err}");
    assert_eq!(std::fs::read_to_string(&ran).unwrap(), "ran\n".repeat(3));
    let rows = stack.rest.get(&format!("/groups/{group}/agents")).await;
    for row in rows.data().as_array().unwrap() {
        assert_eq!(row["agent_id"], row["job"]["agent_id"], "each runs its own: {row}");
        let id = row["job_id"].as_str().unwrap();
        assert_eq!(stack.rest.get(&format!("/jobs/{id}?pool={POOL}")).await.data()["result"]["exit_code"], 0);
    }
    let (out, ..) = muster(&stack, &["groups", "show", &group]).await;
    assert!(out.contains("finished") && out.contains("3 succeeded") && out.contains("site=a"), "{out}");

    let (out, err, code) = muster(&stack, &["run", "--agent", "agent-2", "--command", "echo alone; exit 7"]).await;
    assert_eq!((out.as_str(), code), ("alone\n", 7), "{err}");
    eventually("its commands are listed", SOON, || async {
        let (out, ..) = muster(&stack, &["agents", "commands", "agent-2"]).await;
        (out.contains("failed, exit 7") && out.contains("alone")).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wave_that_fails_is_the_last_one_and_a_cancel_stops_what_runs() {
    let stack = stack_of(&["n=0", "n=1", "n=2"]).await;
    let (out, err, code) = muster(&stack, &["run", "--all", "--batch", "1,2", "--command", "echo no space >&2; exit 3"]).await;
    assert_eq!(code, 1, "{out}\n{err}");
    assert!(
        out.contains("failed, exit 3") && out.contains("no space") && out.contains("not sent  2") && out.contains("was stopped"),
        "{out}"
    );
    assert!(err.contains("in 2 waves") && err.contains("1/3 ended, 1 failed, 2 not sent"), "{err}");

    // Waves go on while they succeed.
    let (out, err, code) = muster(&stack, &["run", "--all", "--batch", "1", "--", "true"]).await;
    assert_eq!(code, 0, "{out}\n{err}");
    assert!(out.contains("succeeded  3"), "{out}");

    // Of the first wave one fails and stops the group, and the other one runs on until the group is cancelled.
    let first = stack.folder().join("first");
    let group = make(&stack, &format!("mkdir {} && exit 1; sleep 600", first.display()), json!({"batch": [2]})).await;
    group_is(&stack, &group, "stopped", json!({"failed": 1, "running": 1, "not_sent": 1})).await;
    let (out, err, code) = muster(&stack, &["groups", "cancel", &group]).await;
    assert_eq!(code, 0, "{out}\n{err}");
    let shown = group_is(&stack, &group, "cancelled", json!({"failed": 1, "cancelled": 1, "not_sent": 1})).await;
    assert!(shown["reason"].as_str().unwrap().starts_with("cancelled by "), "{shown}");

    let group = make(&stack, "sleep 600", json!({})).await;
    let watch = start(&stack, &["groups", "watch", &group]);
    group_is(&stack, &group, "running", json!({"running": 3})).await;
    let (said, code) = interrupted(start(&stack, &["groups", "watch", &group])).await;
    assert!(said.contains("goes on") && said.contains(&format!("muster groups cancel {group}")), "{said}");
    assert_eq!(code, 130);
    group_is(&stack, &group, "running", json!({"running": 3})).await;
    stack.rest.post(&format!("/groups/{group}/cancel"), &json!({})).await;
    group_is(&stack, &group, "cancelled", json!({"cancelled": 3})).await;
    let (out, err, code) = ended(watch).await;
    assert_eq!(code, 1, "{out}\n{err}");
    assert!(out.contains("cancelled  3") && out.contains("was cancelled"), "{out}");
}
