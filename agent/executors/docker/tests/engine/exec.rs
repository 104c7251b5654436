//! `docker.exec`.

use std::time::Duration;

use muster_schemas::{code::Code, result::Outcome};
use serde_json::json;

use crate::bench::{Bench, IMAGE, error, texts};

/// A container to run commands in; it does nothing itself.
async fn container(name: &str) -> Bench {
    let bench = Bench::new().await;
    let params = json!({"image": IMAGE, "command": ["sleep", "1000"], "name": name, "detach": true});
    assert_eq!(bench.run("docker.run", params).await.outcome, Outcome::Succeeded);
    bench
}

/// The commands that run in it.
async fn processes(bench: &Bench, name: &str) -> Vec<String> {
    let top = bench.client.top_processes(name, None).await.unwrap();
    top.processes.unwrap().into_iter().filter_map(|row| row.last().cloned()).collect()
}

#[tokio::test]
async fn a_command_runs_in_a_container_with_its_streams_apart() {
    let bench = container("exec-plain").await;
    let line = "cat; echo $WORD >&2; pwd; id -u; exit 4";
    let params =
        json!({"container": "exec-plain", "command": line, "env": {"WORD": "w"}, "workdir": "/tmp", "user": "77", "stdin": "in\n"});
    let execution = bench.run("docker.exec", params).await;
    assert_eq!(texts(&execution), ("in\n/tmp\n77\n".to_owned(), "w\n".to_owned()));
    assert_eq!((execution.outcome, execution.exit_code, error(&execution).0), (Outcome::Failed, Some(4), Code::ExitNonzero));
    let plain = bench.run("docker.exec", json!({"container": "exec-plain", "argv": ["echo", "a b"]})).await;
    assert_eq!((plain.outcome, plain.exit_code, texts(&plain).0.as_str()), (Outcome::Succeeded, Some(0), "a b\n"));
    let flood = bench.run("docker.exec", json!({"container": "exec-plain", "command": "yes | head -c 500000"})).await;
    assert!(flood.outcome == Outcome::Succeeded && flood.truncated);
    // Input that nobody reads does not hold it up.
    let deaf = bench.run("docker.exec", json!({"container": "exec-plain", "argv": ["true"], "stdin": "x".repeat(300_000)})).await;
    assert_eq!(deaf.outcome, Outcome::Succeeded);
    let missing = bench.run("docker.exec", json!({"container": "exec-plain", "argv": ["/no/such"]})).await;
    assert_eq!(missing.outcome, Outcome::Failed, "{missing:?}");
    for (params, place) in [
        (json!({"container": "a"}), "params.argv: is missing"),
        (json!({"container": "a", "argv": []}), "params.argv: is missing"),
        (json!({"container": "a", "argv": ["a"], "command": "a"}), "params.command: give one"),
        (json!({"container": "a", "argv": ["a"], "privileged": true}), "params.privileged: unknown"),
    ] {
        assert!(bench.refusal("docker.exec", params).1.starts_with(place), "{place}");
    }
    bench.run("docker.rm", json!({"container": "exec-plain", "force": true})).await;
    let gone = bench.run("docker.exec", json!({"container": "exec-plain", "argv": ["true"]})).await;
    assert_eq!(error(&gone).0, Code::ContainerNotFound);
}

#[tokio::test]
async fn a_command_that_is_stopped_does_not_live_on_in_the_container() {
    let bench = container("exec-stopped").await;
    // One that hears TERM, with its last words; one that does not, with children.
    let gentle = "trap 'echo bye; exit 0' TERM; echo hello; while :; do sleep 0.1; done";
    let deaf = "trap '' TERM; (trap '' TERM; sleep 501) & sleep 502 & wait";
    for (line, grace, words) in [(gentle, 5000, "hello\nbye\n"), (deaf, 300, "")] {
        let mut job = bench.job("docker.exec", json!({"container": "exec-stopped", "command": line}));
        (job.timeout, job.grace) = (Duration::from_secs(2), Duration::from_millis(grace));
        let execution = job.run().await;
        assert_eq!((execution.outcome, texts(&execution)), (Outcome::TimedOut, (words.to_owned(), String::new())));
        assert_eq!(processes(&bench, "exec-stopped").await, ["sleep 1000"]);
    }
    assert_eq!(bench.inspect("exec-stopped").await.unwrap().state.unwrap().running, Some(true));
    bench.run("docker.rm", json!({"container": "exec-stopped", "force": true})).await;
}
