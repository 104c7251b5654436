//! What signals, and a parent's death, do to a real process. The test starts itself as that process,
//! which is why it has a `main` of its own.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "tests fail by panicking; a test harness prints names")]

use std::{
    io::{BufRead as _, BufReader, Write as _},
    process::{Child, ChildStdout, Command, ExitCode, Stdio},
    time::Duration,
};

use muster_runtime::{
    process::{DIE_WITH_PARENT, Options, block_on, run_main},
    tasks::Group,
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// For all of them together.
const DEADLINE: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    let role = std::env::args().nth(1).unwrap_or_default();
    match role.as_str() {
        "graceful" | "stuck" => run_main("child", || service(role == "stuck")),
        "parent" => parent(),
        _ => {
            let tests: [(&str, fn()); 4] = [
                ("the_first_term_shuts_down_gracefully", the_first_term_shuts_down_gracefully),
                ("the_first_int_shuts_down_gracefully", the_first_int_shuts_down_gracefully),
                (
                    "a_second_signal_exits_at_once_even_when_every_thread_is_stuck",
                    a_second_signal_exits_at_once_even_when_every_thread_is_stuck,
                ),
                ("a_child_does_not_outlive_its_parent", a_child_does_not_outlive_its_parent),
            ];
            std::thread::spawn(|| {
                std::thread::sleep(DEADLINE); // stuck on purpose
                println!("a process did not end within {DEADLINE:?}");
                std::process::exit(1);
            });
            for (name, test) in tests {
                test();
                println!("test {name} ... ok");
            }
            ExitCode::SUCCESS
        }
    }
}

/// Says "ready", and "draining" when it is asked to stop; then ends with code 7, or hangs.
fn service(stuck: bool) -> anyhow::Result<ExitCode> {
    let options = Options { worker_threads: Some(1), ..Options::default() };
    block_on(&options, async |shutdown| {
        say("ready");
        shutdown.requested().await;
        say("draining");
        if stuck {
            // The worker and the main thread both stop for good.
            Group::new("stuck").spawn(async { park_for_ever() });
            park_for_ever();
        }
        Ok(ExitCode::from(7))
    })
}

fn park_for_ever() {
    loop {
        std::thread::park();
    }
}

/// Starts a service that must not outlive it, tells its id, and waits to be killed.
fn parent() -> ExitCode {
    let mut child = command("graceful").env(DIE_WITH_PARENT, std::process::id().to_string()).stdout(Stdio::inherit()).spawn().unwrap();
    child.wait().unwrap();
    ExitCode::SUCCESS
}

fn say(word: &str) {
    // The reader may be gone; that is no concern of the service.
    let _ = writeln!(std::io::stdout(), "{word}");
}

fn the_first_term_shuts_down_gracefully() {
    let (mut child, mut lines) = start("graceful");
    signal(&child, Signal::SIGTERM);
    assert_eq!(next(&mut lines), "draining");
    assert_eq!(child.wait().unwrap().code(), Some(7));
}

fn the_first_int_shuts_down_gracefully() {
    let (mut child, mut lines) = start("graceful");
    signal(&child, Signal::SIGINT);
    assert_eq!(next(&mut lines), "draining");
    assert_eq!(child.wait().unwrap().code(), Some(7));
}

fn a_second_signal_exits_at_once_even_when_every_thread_is_stuck() {
    for (second, code) in [(Signal::SIGTERM, 143), (Signal::SIGINT, 130)] {
        let (mut child, mut lines) = start("stuck");
        signal(&child, Signal::SIGTERM);
        assert_eq!(next(&mut lines), "draining");
        signal(&child, second);
        assert_eq!(child.wait().unwrap().code(), Some(code));
    }
}

fn a_child_does_not_outlive_its_parent() {
    let (mut parent, mut lines) = start("parent");
    parent.kill().unwrap();
    parent.wait().unwrap();
    assert_eq!(next(&mut lines), "draining");
    assert_eq!(next(&mut lines), "", "its end closes the pipe");
}

fn command(role: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.arg(role).stderr(Stdio::null()).env_remove(DIE_WITH_PARENT);
    command
}

fn start(role: &str) -> (Child, BufReader<ChildStdout>) {
    let mut child = command(role).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap());
    assert_eq!(next(&mut lines), "ready");
    (child, lines)
}

fn next(lines: &mut BufReader<ChildStdout>) -> String {
    let mut line = String::new();
    lines.read_line(&mut line).unwrap();
    line.trim_end().to_owned()
}

fn signal(child: &Child, signal: Signal) {
    kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), signal).unwrap();
}
