//! What is left of a command after its end, its time-out, its cancel: nothing. Checked in the process table.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail by panicking")]

use std::time::{Duration, Instant};

use muster_schemas::result::Outcome;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::super::super::process::procfs;
use super::super::super::tests::{LONG, attempt, options, registry};
use super::super::super::{Context, Execution, Feed, Options, Registry, Settings, Update};

/// Starts `command`, waits for it to print its key and `ready`, does `then`, and gives the end and the key.
async fn once_ready<T>(
    registry: &Registry,
    command: &str,
    timeout: Duration,
    token: CancellationToken,
    then: impl AsyncFnOnce(&str) -> T,
) -> (Execution, String, T) {
    let (context, mut feed) = Context::new(token);
    let command = format!("printf '%s\\n' $MUSTER_ATTEMPT_KEY; {command}");
    let prepared = registry.check("shell.run", &json!({"command": command, "shell": "bash"}), None).unwrap();
    let watching = async {
        let key = key_when_ready(&mut feed).await;
        let value = then(&key).await;
        while feed.next().await.is_some() {}
        (key, value)
    };
    let (execution, (key, value)) = tokio::join!(registry.run(prepared, attempt(timeout), None, context), watching);
    (execution, key, value)
}

async fn key_when_ready(feed: &mut Feed) -> String {
    let mut text = String::new();
    while !text.contains("ready\n") {
        match feed.next().await {
            Some(Update::Output(chunk)) => text.push_str(&String::from_utf8_lossy(&chunk.bytes)),
            Some(Update::Progress(_)) => {}
            None => panic!("ended before it was ready: {text:?}"),
        }
    }
    text.lines().next().unwrap().to_owned()
}

/// The processes whose command line holds `word`.
fn with_word(word: &str) -> Vec<i32> {
    let has = |pid: &i32| std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| String::from_utf8_lossy(&line).contains(word));
    procfs::all().into_iter().filter(|process| !process.zombie).map(|process| process.pid).filter(has).collect()
}

/// A number of seconds that no other test sleeps, to be found by in the process table.
fn sleep_of_its_own() -> String {
    format!("{}", 1_000_000 + rand::random::<u32>() % 1_000_000_000)
}

/// A tree of every kind of child that does not want to end. All of them sleep `S` seconds.
const STUBBORN: &str = "
    trap '' TERM
    sleep $S & 
    (setsid sleep $S &)
    setsid bash -c 'trap \"\" TERM; (sleep $0 &) ; while :; do sleep $0; done' $S &
    setsid env -i bash -c \"(trap '' TERM; sleep $S) & sleep $S\" &
    bash -c \"trap '' TERM HUP INT; sleep $S\" &
    while [ $(pgrep -cf \"sleep $S\") -lt 6 ]; do :; done
    echo ready
    while :; do sleep $S; done
";

#[tokio::test]
async fn a_time_out_kills_the_whole_tree_however_it_hides() {
    let seconds = sleep_of_its_own();
    let all = registry(&options());
    let began = Instant::now();
    let seen = async |_: &str| with_word(&seconds).len();
    let command = format!("S={seconds}\n{STUBBORN}");
    let (run, _, seen) = once_ready(&all, &command, Duration::from_secs(6), CancellationToken::new(), seen).await;
    assert!(seen >= 6, "only {seen} children");
    assert_eq!((run.outcome, run.exit_code), (Outcome::TimedOut, Some(137)));
    assert_eq!(with_word(&seconds), [0; 0]);
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_cancel_kills_the_whole_tree_however_it_hides() {
    let seconds = sleep_of_its_own();
    let all = registry(&options());
    let token = CancellationToken::new();
    let cancel = async |_: &str| token.cancel();
    let (run, ..) = once_ready(&all, &format!("S={seconds}\n{STUBBORN}"), LONG, token.clone(), cancel).await;
    assert_eq!(run.outcome, Outcome::Cancelled);
    assert_eq!(with_word(&seconds), [0; 0]);
}

#[tokio::test]
async fn a_command_that_ends_at_term_does_not_cost_the_grace_period_and_its_last_words_are_kept() {
    let all = registry(&with(|settings| settings.kill_grace = LONG));
    let token = CancellationToken::new();
    let cancel = async |_: &str| (token.cancel(), Instant::now()).1;
    let command = "trap 'echo bye; exit 5' TERM; echo ready; while :; do sleep 0.02; done";
    let (run, _, since) = once_ready(&all, command, LONG, token.clone(), cancel).await;
    assert!(since.elapsed() < Duration::from_secs(5), "{:?}", since.elapsed());
    assert_eq!((run.outcome, run.exit_code), (Outcome::Cancelled, Some(5)));
    assert!(run.stdout.to_text().ends_with("bye\n"));
}

#[tokio::test]
async fn a_child_in_a_session_of_its_own_gets_the_grace_period_too() {
    let all = registry(&with(|settings| settings.kill_grace = Duration::from_secs(20)));
    let token = CancellationToken::new();
    let cancel = async |_: &str| token.cancel();
    let command =
        "(setsid bash -c 'trap \"sleep 0.3; echo tidied up; exit\" TERM; echo ready; while :; do sleep 0.02; done' &); sleep 1000";
    let (run, ..) = once_ready(&all, command, LONG, token.clone(), cancel).await;
    assert!(run.stdout.to_text().ends_with("tidied up\n"), "{:?}", run.stdout);
}

#[tokio::test]
async fn a_background_child_that_holds_the_pipes_does_not_hang_the_job_and_does_not_outlive_it() {
    for background in ["sleep $S &", "(setsid sleep $S &)", "(setsid sleep $S >/dev/null 2>&1 </dev/null &)", "nohup sleep $S &"] {
        let seconds = sleep_of_its_own();
        let all = registry(&options());
        let began = Instant::now();
        let command = format!("S={seconds}; {background}\nwhile [ $(pgrep -cf \"sleep $S\") -lt 1 ]; do :; done; echo ready");
        let (run, ..) = once_ready(&all, &command, LONG, CancellationToken::new(), async |_: &str| ()).await;
        assert_eq!((run.outcome, run.exit_code), (Outcome::Succeeded, Some(0)), "{background}");
        assert!(began.elapsed() < Duration::from_secs(10), "{background} {:?}", began.elapsed());
        assert_eq!(with_word(&format!("sleep\0{seconds}")), [0; 0], "{background}");
    }
}

#[tokio::test]
async fn what_a_background_child_writes_just_after_the_end_is_kept() {
    let all = registry(&with(|settings| settings.drain = Duration::from_secs(20)));
    let command = "(sleep 0.2; echo late) & echo ready";
    let (run, ..) = once_ready(&all, command, LONG, CancellationToken::new(), async |_: &str| ()).await;
    assert!(run.stdout.to_text().ends_with("ready\nlate\n"), "{:?}", run.stdout);
}

#[tokio::test]
async fn a_command_that_ended_by_itself_keeps_its_outcome_when_the_time_out_passes_while_its_pipes_are_open() {
    let all = registry(&with(|settings| settings.drain = Duration::from_secs(3)));
    let command = "sleep 1000 & echo ready";
    let (run, ..) = once_ready(&all, command, Duration::from_millis(1500), CancellationToken::new(), async |_: &str| ()).await;
    assert_eq!((run.outcome, run.exit_code), (Outcome::Succeeded, Some(0)));
}

#[tokio::test]
async fn an_abandoned_attempt_leaves_nothing_behind() {
    let seconds = sleep_of_its_own();
    let all = registry(&options());
    let (context, mut feed) = Context::new(CancellationToken::new());
    let command = format!("S={seconds}; echo key; {STUBBORN}");
    let prepared = all.check("shell.run", &json!({"command": command, "shell": "bash"}), None).unwrap();
    tokio::select! {
        run = all.run(prepared, attempt(LONG), None, context) => panic!("{run:?}"),
        _ = key_when_ready(&mut feed) => {}
    }
    assert_eq!(with_word(&seconds), [0; 0]);
}

#[tokio::test]
async fn a_fork_bomb_of_short_lived_children_is_stopped() {
    let seconds = sleep_of_its_own();
    let all = registry(&options());
    let command =
        format!("trap '' TERM; f() {{ while :; do (sleep {seconds} & sleep 0.01); sleep 0.05; done; }}; f & f & echo ready; wait");
    let token = CancellationToken::new();
    let cancel = async |_: &str| token.cancel();
    let (run, ..) = once_ready(&all, &command, LONG, token.clone(), cancel).await;
    assert_eq!(run.outcome, Outcome::Cancelled);
    assert_eq!(with_word(&seconds), [0; 0]);
}

#[tokio::test]
async fn a_command_inherits_no_descriptor_beyond_the_first_three() {
    use std::os::fd::AsRawFd;
    let secret = tempfile::NamedTempFile::new().unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let own = |fd: i32| std::fs::read_link(format!("/proc/self/fd/{fd}")).unwrap();
    let hidden = [own(secret.as_file().as_raw_fd()), own(listener.as_raw_fd())];
    // What whoever started the tests has left open for all its children is not the agent's doing.
    let inherited = |fd: &str| {
        let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).unwrap_or_default();
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).and_then(|flags| i64::from_str_radix(flags.trim(), 8).ok());
        flags.is_some_and(|flags| flags & 0o2_000_000 == 0)
    };
    let token = CancellationToken::new();
    let look = async |key: &str| {
        let marker = format!("MUSTER_ATTEMPT_KEY={key}");
        let child = procfs::all().into_iter().find(|process| procfs::has_variable(process.pid, marker.as_bytes())).unwrap();
        let entries = std::fs::read_dir(format!("/proc/{}/fd", child.pid)).unwrap();
        let open: Vec<_> =
            entries.flatten().map(|e| (e.file_name().into_string().unwrap(), std::fs::read_link(e.path()).unwrap())).collect();
        token.cancel();
        open
    };
    let command = "echo ready; exec sleep 1000";
    let (.., open) = once_ready(&registry(&options()), command, LONG, token.clone(), look).await;
    assert!(open.len() >= 3);
    for (fd, target) in open {
        assert!(!hidden.contains(&target), "{target:?} is open in the child");
        assert!(["0", "1", "2", "255"].contains(&fd.as_str()) || inherited(&fd), "{fd} → {target:?}");
    }
}

/// Options whose settings were changed.
fn with(change: impl FnOnce(&mut Settings)) -> Options {
    let mut options = options();
    change(&mut options.settings);
    options
}
