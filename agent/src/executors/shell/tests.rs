//! `shell.run` with real processes: params, output, stdin, starts that fail. How trees end is in `trees`.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail by panicking")]

mod trees;

use std::time::{Duration, Instant};

use muster_schemas::code::Code;
use muster_schemas::result::Outcome;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::super::tests::{LONG, attempt, code, options, refusal, registry, run as run_kind};
use super::super::{Context, Execution, Limits, Options, Update};

async fn shell(params: Value) -> Execution {
    run_kind(&registry(&options()), "shell.run", params).await
}

fn stdout(execution: &Execution) -> String {
    execution.stdout.to_text().into_owned()
}

#[tokio::test]
async fn a_command_gives_its_output_and_its_exit_status() {
    let good = shell(json!({"command": "echo out; echo err >&2"})).await;
    assert_eq!((good.outcome, good.exit_code, &*stdout(&good), &*good.stderr.to_text()), (Outcome::Succeeded, Some(0), "out\n", "err\n"));
    let bad = shell(json!({"command": "echo no; exit 3"})).await;
    assert_eq!((bad.outcome, bad.exit_code, code(&bad), &*stdout(&bad)), (Outcome::Failed, Some(3), Some(Code::ExitNonzero), "no\n"));
    let killed = shell(json!({"command": "kill -9 $$"})).await;
    assert_eq!((killed.outcome, killed.exit_code), (Outcome::Failed, Some(137)));
    assert_eq!(killed.error.unwrap().message, "ended by signal 9 (SIGKILL)");
}

#[tokio::test]
async fn argv_is_not_looked_at_by_any_shell() {
    let run = shell(json!({"argv": ["printf", "%s|", "-n", "--", "$(id)", "a b", "*", "; exit 9", ""]})).await;
    assert_eq!((run.exit_code, &*stdout(&run)), (Some(0), "-n|--|$(id)|a b|*|; exit 9||"));
}

#[tokio::test]
async fn a_command_that_begins_with_a_dash_is_not_an_option_of_the_shell() {
    for command in ["-c 'echo pwned'", "-s", "--version", "+x", "-"] {
        let run = shell(json!({"command": command})).await;
        assert_eq!((run.exit_code, &*stdout(&run)), (Some(127), ""), "{command}");
    }
}

#[tokio::test]
async fn another_shell_may_run_the_command() {
    let run = shell(json!({"command": "echo ${BASH_VERSION:+bash}", "shell": "bash"})).await;
    assert_eq!(stdout(&run), "bash\n");
}

#[tokio::test]
async fn a_command_sees_the_allow_list_its_own_variables_and_nothing_of_the_agent() {
    let run = shell(json!({"argv": ["env"], "env": {"GREETING": "hello", "LANG": "C.UTF-8"}})).await;
    let output = stdout(&run);
    let names: Vec<&str> = output.lines().filter_map(|line| Some(line.split_once('=')?.0)).collect();
    for name in &names {
        let inherited = ["PATH", "HOME", "LANG", "TZ", "USER", "LOGNAME", "TMPDIR", "SHELL"].contains(name) || name.starts_with("LC_");
        let ours = ["GREETING", "MUSTER_AGENT_ID", "MUSTER_JOB_ID", "MUSTER_ATTEMPT", "MUSTER_ATTEMPT_KEY"].contains(name);
        assert!(inherited || ours, "{name} was passed on");
    }
    for line in
        ["GREETING=hello", "LANG=C.UTF-8", "MUSTER_AGENT_ID=agt_01ARZ3NDEKTSV4RRFFQ69G5FAV", "MUSTER_JOB_ID=job-1", "MUSTER_ATTEMPT=2"]
    {
        assert!(output.lines().any(|l| l == line), "{line} is missing in {output}");
    }
    assert!(muster_runtime::env::var("CARGO_MANIFEST_DIR").unwrap().is_some(), "cargo sets it, so its absence above says something");
}

#[test]
fn params_that_do_not_fit_are_refused_with_the_field() {
    let all = registry(&options());
    for (params, field) in [
        (json!({}), "params.command:"),
        (json!({"command": "a", "argv": ["a"]}), "params.command:"),
        (json!({"command": " "}), "params.command:"),
        (json!({"command": 5}), "params.command:"),
        (json!({"command": "a\0b"}), "params.command:"),
        (json!({"argv": []}), "params.argv:"),
        (json!({"argv": [""]}), "params.argv:"),
        (json!({"argv": "ls"}), "params.argv:"),
        (json!({"argv": ["ls", 1]}), "params.argv[1]:"),
        (json!({"argv": ["ls", "\0"]}), "params.argv[1]:"),
        (json!({"argv": ["ls"], "shell": "sh"}), "params.shell:"),
        (json!({"command": "a", "shell": "-x"}), "params.shell:"),
        (json!({"command": "a", "cwd": "tmp"}), "params.cwd:"),
        (json!({"command": "a", "cwd": ""}), "params.cwd:"),
        (json!({"command": "a", "stdin": 1}), "params.stdin:"),
        (json!({"command": "a", "env": []}), "params.env:"),
        (json!({"command": "a", "env": {"A": 1}}), "params.env.A:"),
        (json!({"command": "a", "env": {"A": "\0"}}), "params.env.A:"),
        (json!({"command": "a", "env": {"LD_PRELOAD": "x"}}), "params.env.LD_PRELOAD:"),
        (json!({"command": "a", "env": {"A\r\n": "x"}}), "params.env.A\\r\\n:"),
        (json!({"command": "a", "timeuot": 5}), "params.timeuot:"),
        (json!({"command": "a", "user": ""}), "params.user:"),
        (json!({"command": "a", "user": 0}), "params.user:"),
        (json!({"command": "a", "group": "root"}), "params.group:"),
        (json!({"command": "a", "limits": 5}), "params.limits:"),
        (json!({"command": "a", "limits": {"cpu": 5}}), "params.limits.cpu:"),
        (json!({"command": "a", "limits": {"cpu_s": 0}}), "params.limits.cpu_s:"),
        (json!({"command": "a", "limits": {"cpu_s": 1.5}}), "params.limits.cpu_s:"),
        (json!({"command": "a", "limits": {"cpus": 0}}), "params.limits.cpus:"),
        (json!({"command": "a", "limits": {"memory_bytes": -1}}), "params.limits.memory_bytes:"),
        (json!({"command": "a", "limits": {"processes": i64::MAX}}), "params.limits.processes:"),
        (json!({"command": "a", "limits": {"open_files": 2}}), "params.limits.open_files:"),
        (json!({"command": "a", "limits": {"file_bytes": "1MiB"}}), "params.limits.file_bytes:"),
    ] {
        let (code, message) = refusal(&all, "shell.run", params.clone());
        assert!(code == Code::ParamsInvalid && message.starts_with(field), "{params}: {message}");
    }
}

#[tokio::test]
async fn what_the_operator_allows_may_be_set_and_passes_from_the_agents_environment() {
    let shell_env_allow = vec!["CARGO_MANIFEST_DIR".to_owned(), "LD_LIBRARY_PATH".to_owned()];
    let all = registry(&Options { shell_env_allow, ..options() });
    let params = json!({"command": "echo $CARGO_MANIFEST_DIR:$LD_LIBRARY_PATH:$CARGO_PKG_NAME", "env": {"LD_LIBRARY_PATH": "/opt/none"}});
    let run = run_kind(&all, "shell.run", params).await;
    assert_eq!(stdout(&run), format!("{}:/opt/none:\n", env!("CARGO_MANIFEST_DIR")));
    let (code, message) = refusal(&all, "shell.run", json!({"command": "true", "env": {"LD_PRELOAD": "x"}}));
    assert!(code == Code::ParamsInvalid && message.starts_with("params.env.LD_PRELOAD:"), "{message}");
}

#[tokio::test]
async fn without_a_launcher_nothing_that_needs_it_runs_without_it() {
    for params in [json!({"command": "echo ran", "limits": {"cpu_s": 5}}), json!({"command": "echo ran", "user": "0"})] {
        let run = shell(params).await;
        assert_eq!((run.outcome, code(&run), &*stdout(&run)), (Outcome::Failed, Some(Code::SpawnFailed), ""));
    }
}

#[test]
fn the_agents_limits_are_those_of_each_job_and_no_job_gets_more() {
    let shell_limits = Limits { cpu_s: Some(10), ..Limits::default() };
    let all = registry(&Options { shell_limits, ..options() });
    let (code, message) = refusal(&all, "shell.run", json!({"command": "true", "limits": {"cpu_s": 11}}));
    assert_eq!((code, &*message), (Code::SettingForbids, "params.limits.cpu_s: shell_limits of this agent allows 10 at most"));
    for (asked, got) in [(json!({}), 10), (json!({"cpu_s": 10}), 10), (json!({"cpu_s": 3, "open_files": 20}), 3)] {
        let prepared = all.check("shell.run", &json!({"command": "true", "limits": asked}), None).unwrap();
        assert!(format!("{prepared:?}").contains(&format!("cpu_s: Some({got})")), "{prepared:?}");
    }
}

#[tokio::test]
async fn a_command_that_cannot_be_started_fails_and_says_why() {
    let file = tempfile::NamedTempFile::new().unwrap();
    for (params, problem) in [
        (json!({"argv": ["no-such-program-here"]}), "no such program"),
        (json!({"argv": ["/dev/null"]}), "denied"),
        (json!({"argv": [file.path()]}), "denied"),
        (json!({"command": "true", "shell": "/no/such/shell"}), "no such program"),
        (json!({"command": "true", "cwd": "/no/such/place"}), "params.cwd"),
        (json!({"command": "true", "cwd": file.path()}), "not a directory"),
        (json!({"argv": ["true", "x".repeat(3 << 20)]}), "more than the system takes"),
        (json!({"argv": ["true"], "env": {"A": "x".repeat(3 << 20)}}), "more than the system takes"),
    ] {
        let run = shell(params).await;
        assert_eq!((run.outcome, code(&run), run.exit_code), (Outcome::Failed, Some(Code::SpawnFailed), None), "{problem}");
        let message = run.error.unwrap().message;
        assert!(message.contains(problem) && message.len() < 500, "{message}");
    }
}

#[tokio::test]
async fn a_command_runs_where_it_is_told_to() {
    let run = shell(json!({"command": "pwd", "cwd": "/usr"})).await;
    assert_eq!(stdout(&run), "/usr\n");
}

#[tokio::test]
async fn a_large_stdin_and_a_large_stdout_do_not_block_each_other() {
    let input = "0123456789abcde\n".repeat(500_000); // 8 MB, more than any pipe holds
    let run = shell(json!({"command": "tee /dev/stderr", "stdin": input})).await;
    assert_eq!((run.outcome, run.truncated), (Outcome::Succeeded, true));
    assert_eq!(run.stdout.as_bytes(), &input.as_bytes()[input.len() - 65536..]);
    assert_eq!(run.stderr, run.stdout);
}

#[tokio::test]
async fn a_command_need_not_read_its_stdin_and_without_one_finds_it_at_its_end() {
    let input = "x".repeat(1 << 20);
    let began = Instant::now();
    for command in ["true", "head -c 1 >/dev/null", "exec <&-; sleep 0.05"] {
        let run = shell(json!({"command": command, "stdin": input})).await;
        assert_eq!(run.outcome, Outcome::Succeeded, "{command}");
    }
    assert_eq!(stdout(&shell(json!({"command": "cat; echo end"})).await), "end\n");
    assert!(began.elapsed() < Duration::from_secs(10));
}

#[tokio::test]
async fn bytes_that_are_not_text_survive() {
    let run = shell(json!({"command": "printf '\\377\\376a\\000b\\303'"})).await;
    assert_eq!(run.stdout.as_bytes(), b"\xff\xfea\0b\xc3");
    assert!(!run.truncated);
}

#[tokio::test]
async fn a_flood_of_output_is_read_quickly_and_kept_bounded_even_when_nobody_reads_the_log() {
    let began = Instant::now();
    let run = shell(json!({"command": "head -c 50000000 /dev/zero | tr '\\000' x; printf end"})).await;
    let took = began.elapsed();
    assert_eq!((run.outcome, run.truncated, run.stdout.as_bytes().len()), (Outcome::Succeeded, true, 65536));
    assert!(run.stdout.as_bytes().ends_with(b"xxend"));
    assert!(took < Duration::from_secs(20), "{took:?}");
}

#[tokio::test]
async fn the_log_has_every_byte_in_order_while_the_command_runs() {
    let all = registry(&options());
    let (context, mut feed) = Context::new(CancellationToken::new());
    let script = "echo first; read line; seq 1 60000; echo err >&2";
    let fifo = tempfile::tempdir().unwrap();
    let path = fifo.path().join("go");
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let command = format!("exec <{}; {script}", path.display());
    let opened = tokio::task::spawn_blocking(move || std::fs::write(path, "go\n"));
    let prepared = all.check("shell.run", &json!({"command": command}), None).unwrap();
    let reading = async {
        let (mut out, mut err, mut skipped) = (Vec::new(), Vec::new(), 0);
        while let Some(update) = feed.next().await {
            if let Update::Output(chunk) = update {
                skipped += chunk.skipped;
                assert!(chunk.bytes.len() <= 16 * 1024);
                match chunk.stream {
                    crate::executors::Stream::Stdout => out.extend_from_slice(&chunk.bytes),
                    crate::executors::Stream::Stderr => err.extend_from_slice(&chunk.bytes),
                }
            }
        }
        (out, err, skipped)
    };
    let (execution, (out, err, skipped)) = tokio::join!(all.run(prepared, attempt(LONG), None, context), reading);
    opened.await.unwrap().unwrap();
    let expected: String = std::iter::once("first\n".to_owned()).chain((1..=60000).map(|n| format!("{n}\n"))).collect();
    assert_eq!((execution.outcome, err.as_slice(), skipped), (Outcome::Succeeded, b"err\n".as_slice(), 0));
    assert!(out == expected.as_bytes());
}
