//! The registry, the probes, and what the runner does alike for all. Also the helpers of the other executors' tests.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail by panicking")]

use std::time::Duration;

use muster_schemas::{builtin, result::Outcome};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::*;

mod described;

/// Options whose waits are short, so that tests are.
pub(super) fn options() -> Options {
    let settings = Settings { kill_grace: Duration::from_millis(400), drain: Duration::from_millis(400), ..Settings::default() };
    Options { settings, ..Options::default() }
}

pub(super) fn registry(options: &Options) -> Registry {
    Registry::new(Registry::KNOWN, options).unwrap()
}

pub(super) fn attempt(timeout: Duration) -> Attempt {
    Attempt { agent_id: "agt_01ARZ3NDEKTSV4RRFFQ69G5FAV".parse().unwrap(), job_id: "job-1".parse().unwrap(), number: 2, timeout }
}

pub(super) const LONG: Duration = Duration::from_secs(60);

/// Runs one job to its end; nobody reads its log.
pub(super) async fn run(registry: &Registry, kind: &str, params: Value) -> Execution {
    run_for(registry, kind, params, LONG).await
}

pub(super) async fn run_for(registry: &Registry, kind: &str, params: Value, timeout: Duration) -> Execution {
    let (context, _feed) = Context::new(CancellationToken::new());
    let prepared = registry.check(kind, &params, None).unwrap();
    registry.run(prepared, attempt(timeout), None, context).await
}

/// The code and message of a job that is not even started.
pub(super) fn refusal(registry: &Registry, kind: &str, params: Value) -> (Code, String) {
    match registry.check(kind, &params, None) {
        Err(rejection) => (rejection.code, rejection.message),
        Ok(prepared) => panic!("{params} was accepted: {prepared:?}"),
    }
}

pub(super) fn code(execution: &Execution) -> Option<Code> {
    execution.error.as_ref().map(|error| error.code)
}

#[test]
fn probe_is_always_on_and_an_unknown_executor_is_an_error_at_start() {
    assert_eq!(Registry::new::<&str>(&[], &options()).unwrap().executors(), ["probe"]);
    assert_eq!(Registry::new(&["shell", " http "], &options()).unwrap().executors(), ["http", "probe", "shell"]);
    let error = Registry::new(&["shel"], &options()).unwrap_err().to_string();
    assert!(error.contains("`shel`") && error.contains("shell"), "{error}");
}

#[test]
fn a_type_that_nothing_runs_is_unknown() {
    let all = registry(&options());
    for kind in ["shell.walk", "shell", "shell.", "", "probe.nope", "telnet.run", "http.get", "Shell.run", "shell.run.x"] {
        assert_eq!(refusal(&all, kind, json!({"command": "true"})).0, Code::TypeUnknown, "{kind}");
    }
    let probe = Registry::new::<&str>(&[], &options()).unwrap();
    assert_eq!(refusal(&probe, "shell.run", json!({"command": "true"})).0, Code::TypeUnknown);
}

#[test]
fn the_types_that_callers_are_told_of_are_those_of_this_build() {
    let all = registry(&options());
    let names: Vec<_> = builtin::EXECUTORS.iter().map(|(executor, _)| *executor).collect();
    assert_eq!(names, Registry::KNOWN);
    for (executor, verbs) in builtin::EXECUTORS {
        for verb in *verbs {
            let refused = all.check(&format!("{executor}.{verb}"), &json!({}), None).err().map(|rejection| rejection.code);
            assert_ne!(refused, Some(Code::TypeUnknown), "{executor}.{verb}");
        }
    }
}

#[test]
fn wrong_params_are_refused_with_the_name_of_the_field() {
    let all = registry(&options());
    for (kind, params, field) in [
        ("probe.ping", json!([]), "params:"),
        ("probe.ping", json!({"x": 1}), "params.x:"),
        ("probe.sleep", json!({}), "params.seconds:"),
        ("probe.sleep", json!({"seconds": 1, "ms": 1}), "params.seconds:"),
        ("probe.sleep", json!({"seconds": -1}), "params.seconds:"),
        ("probe.sleep", json!({"seconds": 1e300}), "params.seconds:"),
        ("probe.sleep", json!({"ms": -1}), "params.ms:"),
        ("probe.sleep", json!({"ms": u64::MAX}), "params.ms:"),
        ("probe.sleep", json!({"ms": "5"}), "params.ms:"),
        ("probe.fail", json!({"exit_code": 0}), "params.exit_code:"),
        ("probe.fail", json!({"exit_code": 256}), "params.exit_code:"),
        ("probe.fail", json!({"message": 5}), "params.message:"),
        ("probe.fail", json!({"times\n": 5}), "params.times\\n:"),
    ] {
        let (code, message) = refusal(&all, kind, params.clone());
        assert!(code == Code::ParamsInvalid && message.starts_with(field), "{kind} {params}: {message}");
    }
}

#[tokio::test]
async fn probes_answer_fail_and_echo() {
    let all = registry(&options());
    let ping = run(&all, "probe.ping", json!({})).await;
    assert_eq!((ping.outcome, ping.data), (Outcome::Succeeded, Some(json!({"pong": true}))));
    let echo = run(&all, "probe.echo", json!({"a": [1, null, {"b": "ü"}]})).await;
    assert_eq!(echo.data, Some(json!({"a": [1, null, {"b": "ü"}]})));
    let fail = run(&all, "probe.fail", json!({"message": "as told", "exit_code": 7})).await;
    assert_eq!((fail.outcome, fail.exit_code, code(&fail)), (Outcome::Failed, Some(7), Some(Code::ProbeFailed)));
    assert_eq!(fail.error.unwrap().message, "as told");
}

#[tokio::test(start_paused = true)]
async fn a_sleeping_probe_reports_its_progress_and_ends() {
    let all = registry(&options());
    let (context, mut feed) = Context::new(CancellationToken::new());
    let prepared = all.check("probe.sleep", &json!({"seconds": 2.5}), None).unwrap();
    let reading = async {
        let mut seen = Vec::new();
        while let Some(update) = feed.next().await {
            match update {
                Update::Progress(progress) => seen.push(progress.percent),
                Update::Output(chunk) => panic!("{chunk:?}"),
            }
        }
        seen
    };
    let (execution, seen) = tokio::join!(all.run(prepared, attempt(LONG), None, context), reading);
    assert_eq!(execution.outcome, Outcome::Succeeded);
    assert_eq!(seen, [40, 80, 100]);
}

#[tokio::test(start_paused = true)]
async fn time_out_and_cancel_end_any_executor() {
    let all = registry(&options());
    let timed_out = run_for(&all, "probe.sleep", json!({"seconds": 100}), Duration::from_secs(3)).await;
    assert_eq!((timed_out.outcome, code(&timed_out)), (Outcome::TimedOut, Some(Code::TimedOut)));
    for at_once in [true, false] {
        let token = CancellationToken::new();
        let (context, _feed) = Context::new(token.clone());
        let prepared = all.check("probe.sleep", &json!({"seconds": 100}), None).unwrap();
        let cancel = async {
            if !at_once {
                tokio::time::sleep(Duration::from_secs(1)).await; // poll
            }
            token.cancel();
        };
        let (execution, ()) = tokio::join!(all.run(prepared, attempt(LONG), None, context), cancel);
        assert_eq!((execution.outcome, code(&execution)), (Outcome::Cancelled, Some(Code::Cancelled)));
    }
}

#[tokio::test]
async fn an_attempt_that_was_cancelled_before_it_began_does_nothing() {
    let all = registry(&options());
    let token = CancellationToken::new();
    token.cancel();
    let (context, _feed) = Context::new(token);
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("ran");
    let prepared = all.check("shell.run", &json!({"argv": ["touch", file]}), None).unwrap();
    let execution = all.run(prepared, attempt(LONG), None, context).await;
    assert_eq!(execution.outcome, Outcome::Cancelled);
    assert!(!file.exists());
}

#[tokio::test(start_paused = true)]
async fn an_endless_time_out_does_not_overflow_the_clock() {
    let all = registry(&options());
    let execution = run_for(&all, "probe.sleep", json!({"ms": 5}), Duration::MAX).await;
    assert_eq!(execution.outcome, Outcome::Succeeded);
}

#[tokio::test]
async fn data_that_would_not_fit_into_a_result_is_left_out_and_said() {
    let all = registry(&options());
    let execution = run(&all, "probe.echo", json!({"floats": vec![1.5; 20_000]})).await;
    assert_eq!((execution.outcome, code(&execution), execution.data), (Outcome::Failed, Some(Code::ResultTooLarge), None));
}

#[tokio::test]
async fn a_run_may_move_between_threads() {
    fn send<T: Send>(value: T) -> T {
        value
    }
    let all = registry(&options());
    let (context, _feed) = Context::new(CancellationToken::new());
    let prepared = all.check("probe.ping", &json!({}), None).unwrap();
    assert_eq!(send(all.run(prepared, attempt(LONG), None, context)).await.outcome, Outcome::Succeeded);
}
