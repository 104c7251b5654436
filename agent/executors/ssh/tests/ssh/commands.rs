//! `ssh.run`: what comes back, and how it is ended.

use std::time::Duration;

use muster_schemas::{code::Code, result::Outcome};
use nix::sys::signal::Signal;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::{
    bench::{Bench, LONG, connection, error, eventually, processes_with, stdout, text},
    sshd::{self, User},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_command_gives_its_output_its_errors_and_its_exit_status() {
    let bench = Bench::new();
    let done = bench.run("run", json!({"command": "echo out; echo err >&2"})).await;
    assert_eq!((done.outcome, done.exit_code), (Outcome::Succeeded, Some(0)), "{:?}", done.error);
    assert_eq!((stdout(&done).as_str(), text(&done.stderr).as_str()), ("out\n", "err\n"));
    let data = done.data.unwrap();
    assert_eq!(data["host"], format!("[127.0.0.1]:{}", bench.sshd.port));
    assert!(data["host_key"].as_str().unwrap().starts_with("ssh-ed25519 SHA256:"));
    let done = bench.run("run", json!({"argv": ["sh", "-c", "exit 7"]})).await;
    assert_eq!((done.outcome, done.exit_code), (Outcome::Failed, Some(7)));
    assert_eq!(error(&done), (Code::ExitNonzero, "exit status 7".into()));
    let done = bench.run("run", json!({"command": "kill -SEGV $$"})).await;
    assert_eq!((done.outcome, done.exit_code), (Outcome::Failed, Some(128 + 11)));
    assert!(error(&done).1.contains("SIGSEGV"), "{:?}", done.error);
    eventually("the connections are closed", || bench.sshd.open() == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_gets_its_words_its_variables_and_its_input_unchanged() {
    let bench = Bench::new();
    let words = ["a b", "$HOME", "`id`", "it's", "", "\"", "\\", "*", "-n", "ä\n"];
    let argv: Vec<&str> = ["printf", "<%s>"].into_iter().chain(words).collect();
    let done = bench.run("run", json!({"argv": argv})).await;
    assert_eq!(stdout(&done), words.map(|word| format!("<{word}>")).concat());
    let done =
        bench.run("run", json!({"command": "echo \"$A|$B\"; cat", "env": {"A": "it's $HOME", "B": "x y"}, "stdin": "in\nput"})).await;
    assert_eq!(stdout(&done), "it's $HOME|x y\nin\nput");
    // Input that nobody reads.
    let done = bench.run("run", json!({"command": "true", "stdin": "x".repeat(3 << 20)})).await;
    assert_eq!(done.outcome, Outcome::Succeeded, "{:?}", done.error);
    let done = bench.run("run", json!({"command": "wc -c", "stdin": "x".repeat(3 << 20)})).await;
    assert_eq!(stdout(&done).trim(), (3 << 20).to_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_is_cut_and_secrets_are_masked() {
    let bench = Bench::new();
    let done = bench.run("run", json!({"command": "head -c 5000000 /dev/zero | tr '\\0' x"})).await;
    assert!(done.truncated && stdout(&done).len() == 64 * 1024, "{:?}", done.error);
    let secret = std::fs::read_to_string(&bench.key).unwrap();
    let done = bench.run("run", json!({"command": "cat; cat >&2", "stdin": secret})).await;
    let line = secret.lines().nth(2).unwrap();
    assert!(!stdout(&done).contains(line) && stdout(&done).contains("***"), "{}", stdout(&done));
}

/// As the user that the tests run as: a root, whose commands OpenSSH does not signal, has to be found by the environment.
#[tokio::test(flavor = "multi_thread")]
async fn a_time_out_ends_the_command_there_and_what_it_left_behind() {
    let bench = Bench::new();
    let word = format!("31{:08}", rand::random::<u32>() % 100_000_000);
    let command = format!("setsid sleep {word} >/dev/null 2>&1 & trap 'echo bye; exit 3' TERM; sleep {word} & wait");
    let done = bench.run_with("run", json!({"command": command}), bench.connection(), Duration::from_secs(3)).await;
    assert_eq!(done.outcome, Outcome::TimedOut);
    assert_eq!((done.exit_code, stdout(&done).as_str()), (Some(3), "bye\n"));
    eventually("nothing of it runs", || processes_with(&word) == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_ignores_term_is_killed_after_the_grace_period() {
    let bench = Bench::new();
    let word = format!("32{:08}", rand::random::<u32>() % 100_000_000);
    let command = format!("trap '' TERM; echo ready; sleep {word}; sleep {word}");
    let cancelled = CancellationToken::new();
    let (running, mut feed) = bench.start("run", json!({"command": command}), bench.connection(), LONG, cancelled.clone());
    let watch = async {
        while !matches!(feed.next().await, Some(muster_executor::Update::Output(_)) | None) {}
        assert!(processes_with(&word) > 0);
        cancelled.cancel();
        while feed.next().await.is_some() {}
    };
    let (done, ()) = tokio::join!(running, watch);
    assert_eq!(done.outcome, Outcome::Cancelled);
    eventually("nothing of it runs", || processes_with(&word) == 0).await;
}

/// As a user without rights, whose commands OpenSSH signals. Only root can make one.
#[tokio::test(flavor = "multi_thread")]
async fn a_time_out_ends_the_command_of_an_ordinary_user_too() {
    if !sshd::is_root() {
        return;
    }
    let (bench, user) = (Bench::new(), User::new("hunter2-hunter2"));
    let mut settings = bench.settings();
    settings["user"] = json!(user.name);
    let word = format!("33{:08}", rand::random::<u32>() % 100_000_000);
    // Without the environment that it could be found by.
    let command = format!("exec env -i sleep {word}");
    let connection = connection(settings, &[("password", "hunter2-hunter2")]);
    let done = bench.run_with("run", json!({"command": command}), connection, Duration::from_secs(3)).await;
    assert_eq!((done.outcome, done.exit_code), (Outcome::TimedOut, Some(128 + 15)), "{:?}", done.error);
    eventually("nothing of it runs", || processes_with(&word) == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_falls_silent_is_given_up() {
    let mut bench = Bench::new();
    bench.patience.keep_alive = Duration::from_millis(300);
    let bench = bench.remade();
    let (running, mut feed) =
        bench.start("run", json!({"command": "echo ready; sleep 60"}), bench.connection(), LONG, CancellationToken::new());
    let watch = async {
        while !matches!(feed.next().await, Some(muster_executor::Update::Output(_)) | None) {}
        bench.sshd.signal(Signal::SIGSTOP);
        while feed.next().await.is_some() {}
    };
    let (done, ()) = tokio::join!(running, watch);
    let (code, message) = error(&done);
    assert_eq!((done.outcome, code), (Outcome::Failed, Code::ConnectionFailed));
    assert!(message.contains("connection lost") && message.contains("answers no more"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_dies_or_is_not_there_is_a_failure() {
    let bench = Bench::new();
    let (running, mut feed) =
        bench.start("run", json!({"command": "echo ready; sleep 60"}), bench.connection(), LONG, CancellationToken::new());
    let watch = async {
        while !matches!(feed.next().await, Some(muster_executor::Update::Output(_)) | None) {}
        bench.sshd.signal(Signal::SIGKILL);
        while feed.next().await.is_some() {}
    };
    let (done, ()) = tokio::join!(running, watch);
    assert_eq!((done.outcome, error(&done).0), (Outcome::Failed, Code::ConnectionFailed), "{:?}", done.error);
    let mut settings = bench.settings();
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    settings["port"] = json!(nobody);
    let done = bench.run_with("run", json!({"command": "true"}), connection(settings, &[("password", "x")]), LONG).await;
    assert_eq!(error(&done).0, Code::ConnectionFailed);
    assert!(error(&done).1.contains(&nobody.to_string()), "{:?}", done.error);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_accepts_and_says_nothing_is_given_up() {
    let mut bench = Bench::new();
    bench.patience.connect = Duration::from_millis(300);
    let bench = bench.remade();
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut settings = bench.settings();
    settings["port"] = json!(silent.local_addr().unwrap().port());
    let done = bench.run_with("run", json!({"command": "true"}), connection(settings, &[("password", "x")]), LONG).await;
    assert_eq!((done.outcome, error(&done).0), (Outcome::Failed, Code::ConnectionFailed));
}
