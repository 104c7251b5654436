//! The vault of a running agent: what becomes of one that can't be opened, and that nothing of it gets out.

use std::{cell::RefCell, fs, os::unix::fs::PermissionsExt as _, path::Path, time::Duration};

use muster_agent::identity::Stored;
use muster_schemas::{heartbeat::VaultMark, result::Outcome, standing::Standing, time::Timestamp};
use serde_json::{Value, json};

use crate::bench::{Agent, Bench, eventually};

/// Whether any file below a folder holds these bytes.
fn holds(folder: &Path, needle: &[u8]) -> bool {
    fs::read_dir(folder).unwrap().any(|entry| {
        let path = entry.unwrap().path();
        if path.is_dir() {
            return holds(&path, needle);
        }
        // One that was replaced meanwhile is looked at under its name.
        fs::read(&path).is_ok_and(|bytes| bytes.windows(needle.len()).any(|window| window == needle))
    })
}

/// The check of the vault on `/readyz`.
async fn check(agent: &Agent) -> Value {
    let text = agent.get("/readyz").await;
    let body = text.split_once("\r\n\r\n").map(|(_, body)| body).unwrap_or_default();
    serde_json::from_str::<Value>(body).unwrap_or_default()["checks"]["vault"].clone()
}

/// Waits until it says that its vault is closed, and why.
async fn closed(bench: &Bench, agent: &Agent) -> String {
    let why = RefCell::new(String::new());
    eventually("the vault is closed", async || {
        let found = check(agent).await;
        let detail = found["detail"].as_str().filter(|detail| found["ok"] == false && *detail != "starting");
        why.replace(detail.unwrap_or_default().to_owned());
        detail.is_some()
    })
    .await;
    let why = why.into_inner();
    let fault = format!("the vault is closed: {why}");
    let beat = bench.heartbeat_of(&agent.id, |beat| beat.fault.as_ref() == Some(&fault)).await;
    assert!(beat.vault.is_none() && beat.credentials.is_empty());
    let answer = agent.admin("GET", "/vault", b"").await;
    assert_eq!((answer.status, &answer.body["code"]), (503, &json!("vault_unavailable")));
    let answer = agent.admin("PUT", "/vault/db", br#"{"password": "hunter2"}"#).await;
    assert_eq!(answer.status, 503, "nothing is written to it either: {}", answer.body);
    // What needs no secret goes on.
    let id = bench.submit(json!({"type": "probe.ping"})).await;
    assert_eq!(bench.result(&id).await.outcome, Outcome::Succeeded);
    why
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_put_survives_a_restart_is_masked_in_output_and_is_nowhere_on_the_disk() {
    let bench = Bench::start().await;
    let agent = bench.agent(1).await;
    agent.put("db", json!({"username": "root", "password": "hunter2-db"})).await;
    let print = json!({"type": "shell.run", "params": {"command": "printf 'root hunter%s' 2-db"}});
    let id = bench.submit(print.clone()).await;
    assert_eq!(bench.result(&id).await.stdout.as_bytes(), b"root ***");
    assert!(!holds(&agent.state_dir, b"hunter2"));
    let (id, state_dir) = (agent.id.clone(), agent.state_dir.clone());
    let before = bench.heartbeat_of(&id, |beat| beat.credentials.len() == 1).await.vault.unwrap();
    agent.stop().await.unwrap();
    let agent = bench.agent_in(id, state_dir, 1, &[]).await;
    agent.ready().await;
    assert_eq!(agent.admin("POST", "/vault/db/test", b"").await.body["data"]["fields"], json!(["password", "username"]));
    let id = bench.submit(print).await;
    assert_eq!(bench.result(&id).await.stdout.as_bytes(), b"root ***");
    assert_eq!(bench.heartbeat_of(&agent.id, |beat| beat.started_at >= Timestamp::from_secs(1)).await.vault.unwrap(), before);
    agent.admin("DELETE", "/vault/db", b"").await;
    let after = bench.heartbeat_of(&agent.id, |beat| beat.credentials.is_empty()).await.vault.unwrap();
    assert_eq!((after.id, after.counter), (before.id, before.counter + 1));
    assert!(!holds(&agent.state_dir, b"hunter2"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_vault_that_can_not_be_opened_is_left_as_it_is_and_the_agent_says_why() {
    let bench = Bench::start().await;
    let agent = bench.agent(1).await;
    agent.put("db", json!({"password": "hunter2-db"})).await;
    let (id, state_dir) = (agent.id.clone(), agent.state_dir.clone());
    let path = state_dir.join("vault");
    agent.stop().await.unwrap();
    let good = fs::read(&path).unwrap();
    let restarted = async |why: &str| {
        let before = fs::read(&path).unwrap();
        let agent = bench.agent_in(id.clone(), state_dir.clone(), 1, &[]).await;
        let said = closed(&bench, &agent).await;
        assert!(said.contains(why) && said.contains(path.to_str().unwrap()), "{said}");
        agent.stop().await.unwrap();
        assert_eq!(fs::read(&path).unwrap(), before);
    };
    fs::write(&path, &good[..good.len() - 1]).unwrap();
    restarted("is damaged: its checksum is wrong").await;
    fs::write(&path, &good).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    restarted("has mode 0644 instead of 0600").await;
    fs::rename(&path, state_dir.join("elsewhere")).unwrap();
    std::os::unix::fs::symlink(state_dir.join("elsewhere"), &path).unwrap();
    restarted("is a symbolic link").await;
    fs::remove_file(&path).unwrap();
    fs::write(&path, &good).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    let agent = bench.agent_in(id.clone(), state_dir.clone(), 1, &[]).await;
    agent.ready().await;
    assert_eq!(agent.admin("GET", "/vault", b"").await.body["data"], json!(["db"]), "put right, it opens again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_api_key_voids_the_vault_and_an_empty_one_begins() {
    let bench = Bench::start().await;
    let agent = bench.agent(1).await;
    agent.put("db", json!({"password": "hunter2-db"})).await;
    let (id, state_dir) = (agent.id.clone(), agent.state_dir.clone());
    let before = bench.heartbeat_of(&id, |beat| beat.credentials.len() == 1).await.vault.unwrap();
    agent.stop().await.unwrap();
    let sealed = fs::read(state_dir.join("vault")).unwrap();
    let stored = Stored::load(&state_dir).unwrap().unwrap();
    Stored { api_key: "mst_agent_cccccccccc_ddddddddddddddddddddddddddddddd".into(), ..stored }.save(&state_dir).unwrap();
    let agent = bench.agent_in(id, state_dir.clone(), 1, &[]).await;
    agent.ready().await;
    assert_eq!(agent.admin("GET", "/vault", b"").await.body["data"], json!([]));
    assert_eq!(fs::read(state_dir.join("vault.void")).unwrap(), sealed);
    let beat = bench.heartbeat_of(&agent.id, |beat| beat.last_error.is_some()).await;
    let said = beat.last_error.unwrap();
    assert!(said.contains("sealed with another API key and is void; it was moved to") && said.contains("vault.void"), "{said}");
    assert_eq!(check(&agent).await, json!({"ok": true, "detail": said}));
    assert_ne!(beat.vault.unwrap().id, before.id);
    let print = json!({"type": "shell.run", "params": {"command": "printf 'hunter%s' 2-db"}});
    let job = bench.submit(print).await;
    assert_eq!(bench.result(&job).await.stdout.as_bytes(), b"hunter2-db", "nothing is left of it to mask");
    assert!(!holds(&state_dir, b"hunter2"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_vault_that_was_rolled_back_is_closed_once_the_standing_says_how_far_it_was() {
    let bench = Bench::start().await;
    let agent = bench.agent(1).await;
    let (id, state_dir) = (agent.id.clone(), agent.state_dir.clone());
    let path = state_dir.join("vault");
    agent.put("db", json!({"password": "hunter2-old"})).await;
    let old = fs::read(&path).unwrap();
    agent.put("db", json!({"password": "hunter2-new"})).await;
    let mark = bench.heartbeat_of(&id, |beat| beat.vault.as_ref().is_some_and(|mark| mark.counter == 3)).await.vault.unwrap();
    bench.tell(&id, &Standing { vault: Some(mark.clone()), ..Standing::first(Timestamp::now()) }).await;
    agent.stop().await.unwrap();
    fs::write(&path, &old).unwrap();
    let agent = bench.agent_in(id.clone(), state_dir.clone(), 1, &[]).await;
    let why = closed(&bench, &agent).await;
    assert!(why.contains("rolled back: it is at change 2, and the dispatcher has seen change 3"), "{why}");
    agent.stop().await.unwrap();
    assert_eq!(fs::read(&path).unwrap(), old);
    // Of another vault it says nothing.
    let other = VaultMark { id: "0".repeat(32), counter: 9 };
    bench.tell(&id, &Standing { vault: Some(other), ..Standing::first(Timestamp::now()) }).await;
    let agent = bench.agent_in(id, state_dir, 1, &[]).await;
    agent.ready().await;
    assert_eq!(agent.admin("GET", "/vault", b"").await.body["data"], json!(["db"]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_is_replaced_while_the_agent_runs_closes_the_vault_at_the_next_change() {
    let bench = Bench::start().await;
    let agent = bench.agent(1).await;
    let path = agent.state_dir.join("vault");
    let old = fs::read(&path).unwrap();
    agent.put("db", json!({"password": "hunter2-db"})).await;
    fs::write(&path, &old).unwrap();
    let answer = agent.admin("PUT", "/vault/web", br#"{"password": "hunter2-web"}"#).await;
    assert_eq!((answer.status, &answer.body["code"]), (503, &json!("vault_unavailable")), "{}", answer.body);
    let why = closed(&bench, &agent).await;
    assert!(why.contains("was replaced or removed while it was open"), "{why}");
    assert_eq!(fs::read(&path).unwrap(), old);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_agents_do_not_open_the_same_vault() {
    let bench = Bench::start().await;
    let path = bench.dir.path().join("shared");
    let path = path.to_str().unwrap();
    let first = bench.agent_with(1, &[("vault_path", path)]).await;
    let (id, state_dir) = bench.enrolled(Duration::from_secs(3600)).await;
    let second = bench.agent_in(id.clone(), state_dir.clone(), 1, &[("vault_path", path)]).await;
    let why = closed(&bench, &second).await;
    assert!(why.contains("is open in another process; give each agent its own VAULT_PATH"), "{why}");
    second.stop().await.unwrap();
    first.stop().await.unwrap();
    // Both have the same API key here, so that the lock alone is what is looked at.
    let second = bench.agent_in(id, state_dir, 1, &[("vault_path", path)]).await;
    second.ready().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_is_killed_while_it_writes_has_all_that_it_said_it_has() {
    let bench = Bench::start().await;
    let mut agent = bench.process(1).await;
    let (id, state_dir) = (agent.id.clone(), agent.state_dir.clone());
    let mut kept = std::collections::BTreeSet::new();
    for round in 0..8_u32 {
        let there = async || crate::admin::list_of(&state_dir).await;
        eventually("its vault is open", async || there().await.is_some()).await;
        let names: std::collections::BTreeSet<String> = there().await.unwrap().into_iter().collect();
        assert!(kept.is_subset(&names), "round {round}: {kept:?} {names:?}");
        // Killed at some moment between the first and the last of these.
        let pid = nix::unistd::Pid::from_raw(i32::try_from(agent.child.id().unwrap()).unwrap());
        let killer = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(u64::from(10 + 30 * round))); // stuck on purpose: when it dies
            nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
        });
        for n in 0..12 {
            let name = format!("c{round}-{n}");
            if crate::admin::put_at(&state_dir, &name).await {
                kept.insert(name);
            }
        }
        killer.join().unwrap();
        agent.child.wait().await.unwrap();
        agent = bench.process_in(id.clone(), &state_dir, 1).await;
    }
    assert!(kept.len() > 8, "{kept:?}");
    agent.kill().await;
    assert!(!holds(&state_dir, b"hunter2"));
}
