//! What a plugin reads and writes while it runs a job.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail by panicking")]

use std::time::{Duration, Instant};

use muster_executor::{Connection, Update};
use muster_schemas::{code::Code, connection::ConnectionKind, result::Outcome, sealed::Credentials};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::super::super::process::procfs;
use super::{Context, LONG, attempt, go, one};

const SUCCEEDED: &str = r#"echo '{"result": {"outcome": "succeeded"}}'"#;

fn secret() -> Connection {
    let fields = [("token".to_owned(), "hunter\"2\n".to_owned())].into();
    Connection {
        name: "vault".parse().unwrap(),
        kind: ConnectionKind::Secret,
        settings: json!({"region": "north"}),
        credentials: Credentials { fields, ..Credentials::default() },
    }
}

#[tokio::test]
async fn a_plugin_reads_one_document_and_finds_the_secret_nowhere_else() {
    let (_folder, registry) = one(&format!(
        "document=$(cat | base64 -w0)\necho \"{{\\\"output\\\": \\\"$document\\\"}}\"\ntr '\\0' '\\n' </proc/$$/environ >&2; tr '\\0' '\\n' </proc/$$/cmdline >&2\n{SUCCEEDED}"
    ))
    .await;
    let name = "vault".parse().unwrap();
    let prepared = registry.check("test.go", &json!({"a": [1, "ü"]}), Some(&name)).unwrap();
    prepared.takes(&name, ConnectionKind::Secret).unwrap();
    let (context, _feed) = Context::new(CancellationToken::new());
    let ended = registry.run(prepared, attempt(Duration::from_millis(59_500)), Some(secret()), context).await;
    assert_eq!(ended.outcome, Outcome::Succeeded, "{ended:?}");
    use base64::Engine as _;
    let document = base64::engine::general_purpose::STANDARD.decode(ended.stdout.as_bytes()).unwrap();
    assert_eq!(
        serde_json::from_slice::<Value>(&document).unwrap(),
        json!({
            "v": 1, "job_id": "job-1", "attempt": 2, "agent_id": "agt_01ARZ3NDEKTSV4RRFFQ69G5FAV", "type": "test.go", "verb": "go",
            "params": {"a": [1, "ü"]}, "timeout_s": 59.5,
            "connection": {"name": "vault", "kind": "secret", "settings": {"region": "north"}, "credentials": {"token": "hunter\"2\n"}},
        })
    );
    let seen = ended.stderr.to_text().into_owned();
    assert!(seen.contains("MUSTER_JOB_ID=job-1") && seen.ends_with("run\n"), "{seen}");
    assert!(!seen.contains("hunter"), "{seen}");
}

#[tokio::test]
async fn without_a_connection_there_is_none_in_the_document() {
    let (_folder, registry) = one(&format!("grep -q connection && exit 9\n{SUCCEEDED}")).await;
    let ended = super::run(&registry, "test.go", json!({})).await;
    assert_eq!(ended.outcome, Outcome::Succeeded, "{ended:?}");
}

#[tokio::test]
async fn progress_output_and_data_come_back_and_what_is_written_to_standard_error_too() {
    let (_folder, registry) = one(r#"echo '{"progress": {"percent": 40.5, "message": "half"}}'
        printf '%s\n\n' '{"output": "one\n"}'; echo problem >&2
        printf '%s' '{"result": {"outcome": "succeeded", "data": {"n": 1}, "exit_code": 0}}'"#)
    .await;
    let (context, mut feed) = Context::new(CancellationToken::new());
    let prepared = registry.check("test.go", &json!({}), None).unwrap();
    let reading = async {
        let mut progress = None;
        while let Some(update) = feed.next().await {
            if let Update::Progress(seen) = update {
                progress = Some((seen.percent, seen.message));
            }
        }
        progress
    };
    let (ended, progress) = tokio::join!(registry.run(prepared, attempt(LONG), None, context), reading);
    assert_eq!((ended.outcome, ended.exit_code, ended.data), (Outcome::Succeeded, Some(0), Some(json!({"n": 1}))));
    assert_eq!((&*ended.stdout.to_text(), &*ended.stderr.to_text()), ("one\n", "problem\n"));
    assert_eq!(progress, Some((40, "half".to_owned())));
}

#[tokio::test]
async fn what_a_plugin_says_of_its_own_failure_or_refusal_is_the_results_word() {
    let failed = go(r#"echo '{"result": {"outcome": "failed", "error": {"message": "the disk is full"}, "exit_code": 28, "data": {"left": 0}}}'; exit 1"#).await;
    let error = failed.error.unwrap();
    assert_eq!((failed.outcome, error.code, &*error.message), (Outcome::Failed, Code::PluginFailed, "the disk is full"));
    assert_eq!((failed.exit_code, failed.data), (Some(28), Some(json!({"left": 0}))));
    let rejected = go(r#"echo '{"result": {"outcome": "rejected", "error": {"message": "params.a: must be text"}}}'"#).await;
    let error = rejected.error.unwrap();
    assert_eq!((rejected.outcome, error.code, &*error.message), (Outcome::Rejected, Code::ParamsInvalid, "params.a: must be text"));
}

#[tokio::test]
async fn each_way_to_break_the_protocol_is_a_failure_of_its_own() {
    let large = "head -c 10000000 /dev/zero | tr '\\0' x";
    for (body, problem) in [
        ("true", "it ended without a result"),
        ("exit 3", "it ended without a result: exit status 3"),
        ("kill -SEGV $$", "it ended without a result: ended by signal 11 (SIGSEGV)"),
        ("echo hello", "line 1 is not of the protocol: expected value"),
        ("echo '{\"outputs\": \"x\"}'", "unknown variant `outputs`"),
        ("echo '{\"result\": {\"outcome\": \"done\"}}'", "unknown variant `done`"),
        ("echo '{\"result\": {\"outcome\": \"succeeded\", \"dat\": 1}}'", "unknown field `dat`"),
        ("echo '[]'", "line 1 is not of the protocol"),
        ("echo '{\"output\": \"x\"} {\"output\": \"x\"}'", "line 1 is not of the protocol"),
        ("printf '{\"output\": \"\\377\"}\\n'", "line 1 is not UTF-8"),
        (&format!("{SUCCEEDED}; {SUCCEEDED}"), "line 2 is a second result"),
        (&format!("{SUCCEEDED}; echo '{{\"output\": \"late\"}}'"), "line 2 comes after the result"),
        (&format!("{SUCCEEDED}; exit 7"), "it said `succeeded`, and then ended badly: exit status 7"),
        (&format!("echo; {large}"), "line 2 has more than 1048576 bytes"),
        ("printf '{\"output\": \"x'", "line 1 is not of the protocol: EOF"),
        (
            "yes '{\"output\": \"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\"}'",
            "more than 67108864 bytes",
        ),
        ("exec head -c 5000000000 /dev/zero", "line 1 has more than 1048576 bytes"),
    ] {
        let began = Instant::now();
        let ended = go(body).await;
        let error = ended.error.unwrap_or_else(|| panic!("{body}: {:?}", ended.outcome));
        assert_eq!((ended.outcome, error.code), (Outcome::Failed, Code::PluginFailed), "{body}");
        assert!(error.message.starts_with("plugin `test`: ") && error.message.contains(problem), "{body}: {}", error.message);
        assert!(began.elapsed() < Duration::from_secs(40), "{body}: {:?}", began.elapsed());
    }
}

#[tokio::test]
async fn data_that_no_result_can_hold_is_said() {
    let ended =
        go("x=$(head -c 200000 /dev/zero | tr '\\0' x); echo '{\"result\": {\"outcome\": \"succeeded\", \"data\": \"'$x'\"}}'").await;
    assert_eq!((ended.outcome, ended.error.unwrap().code), (Outcome::Failed, Code::ResultTooLarge));
}

#[tokio::test]
async fn a_flood_on_standard_error_is_kept_bounded_as_a_commands_is() {
    let ended = go(&format!("head -c 20000000 /dev/zero >&2\n{SUCCEEDED}")).await;
    assert_eq!((ended.outcome, ended.truncated, ended.stderr.as_bytes().len()), (Outcome::Succeeded, true, 65536));
}

/// Says that it is ready, and neither ends nor leaves its children.
const STUBBORN: &str = "trap '' TERM\n(setsid sleep $S &)\nsleep $S &\necho '{\"progress\": {\"percent\": 1, \"message\": \"ready\"}}'\nwhile :; do sleep $S; done";

fn sleepers(seconds: &str) -> usize {
    let has = |pid: i32| std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line == format!("sleep\0{seconds}\0").as_bytes());
    procfs::all().into_iter().filter(|process| has(process.pid)).count()
}

#[tokio::test]
async fn a_plugin_that_hangs_is_timed_out_with_its_whole_tree() {
    let seconds = (2_000_000_000 + rand::random::<u32>() % 1_000_000_000).to_string();
    let (_folder, registry) = one(&format!("S={seconds}\n{STUBBORN}")).await;
    let ended = super::super::super::tests::run_for(&registry, "test.go", json!({}), Duration::from_secs(2)).await;
    assert_eq!((ended.outcome, ended.error.unwrap().code), (Outcome::TimedOut, Code::TimedOut));
    assert_eq!(sleepers(&seconds), 0);
}

#[tokio::test]
async fn a_cancelled_plugin_gets_term_and_may_tidy_up_and_then_its_tree_is_killed() {
    let seconds = (3_000_000_000 + u64::from(rand::random::<u32>() % 1_000_000_000)).to_string();
    let body = format!(
        "trap 'echo tidied >&2; exit 1' TERM\n(setsid sleep {seconds} &)\necho '{{\"progress\": {{\"percent\": 1}}}}'\nwhile :; do sleep 0.02; done"
    );
    let (_folder, registry) = one(&body).await;
    let token = CancellationToken::new();
    let (context, mut feed) = Context::new(token.clone());
    let prepared = registry.check("test.go", &json!({}), None).unwrap();
    let watching = async {
        while let Some(update) = feed.next().await {
            if matches!(update, Update::Progress(_)) {
                token.cancel();
            }
        }
    };
    let (ended, ()) = tokio::join!(registry.run(prepared, attempt(LONG), None, context), watching);
    // A shell may say of its own sleep that it was ended too.
    assert!(ended.outcome == Outcome::Cancelled && ended.stderr.to_text().ends_with("tidied\n"), "{ended:?}");
    assert_eq!(sleepers(&seconds), 0);
}
