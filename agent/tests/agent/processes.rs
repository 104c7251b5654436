//! What a real agent's commands and plugins have of it: nothing.

use std::{path::Path, process::Stdio};

use muster_broker_config::provision;
use muster_schemas::{code::Code, lane::Priority, names::AgentId, result::Outcome};
use serde_json::json;

use crate::bench::{Bench, Process};

/// The real binary, with these arguments more.
async fn process(bench: &Bench, args: &[&str]) -> Process {
    let (id, state_dir) = bench.enrolled(std::time::Duration::from_secs(3600)).await;
    let child = command(&id, &state_dir, args).spawn().unwrap();
    let process = Process { id, state_dir, child };
    bench.heartbeat_of(&process.id, |_| true).await;
    process
}

fn command(id: &AgentId, state_dir: &Path, args: &[&str]) -> tokio::process::Command {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_muster-agent"));
    command.args(["--name", "agent-1", "--admin-port", "0", "--log-format", "text", "--accept-unsigned"]).args(args);
    command.arg("--state-dir").arg(state_dir).env_clear().env("AGENT_JOIN_TOKEN", format!("mst_join_of_{id}"));
    command.stdin(Stdio::null()).stderr(std::fs::File::create(state_dir.join("log")).unwrap()).kill_on_drop(true);
    command
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_of_a_real_agent_has_three_descriptors_and_none_of_its_secrets() {
    let bench = Bench::start().await;
    let agent = process(&bench, &["--executors", "shell", "--job-cgroup", "none"]).await;
    let own = std::fs::read_dir(format!("/proc/{}/fd", agent.child.id().unwrap())).unwrap().count();
    assert!(own > 10, "the agent has its log, sockets, spool and lock open: {own}");
    // Once straight, once through the launcher.
    for limits in [json!({}), json!({"file_bytes": 1_i64 << 40})] {
        let command = "ls -l /proc/self/fd; env; tr '\\0' '\\n' </proc/$PPID/cmdline; true";
        let id = bench.submit(json!({"type": "shell.run", "params": {"command": command, "limits": limits}})).await;
        let result = bench.result(&id).await;
        let text = result.stdout.to_text().into_owned();
        assert_eq!(result.outcome, Outcome::Succeeded, "{result:?}");
        let open: Vec<_> = text.lines().filter_map(|line| line.split_once(" -> ")).collect();
        let names: Vec<_> = open.iter().map(|(entry, _)| entry.rsplit(' ').next().unwrap()).collect();
        assert_eq!(names, ["0", "1", "2", "3"], "{text}");
        assert!(open[3].1.starts_with("/proc/"), "the one that ls itself reads: {text}");
        assert!(!text.contains("mst_join_of_") && text.contains("MUSTER_JOB_ID="), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plugin_that_is_named_takes_jobs_of_its_own_lane() {
    let bench = Bench::start().await;
    let folder = bench.dir.path().join("plugins");
    std::fs::create_dir(&folder).unwrap();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("plugins/disk");
    assert!(std::process::Command::new("install").args(["-m", "755"]).arg(source).arg(&folder).status().unwrap().success());
    provision::ensure_lanes(&bench.gateway, &bench.pool, &["disk".parse().unwrap()].into()).await.unwrap();
    let folder = folder.to_str().unwrap();
    let agent = process(&bench, &["--executors", "shell,disk", "--plugin-dir", folder]).await;
    let id = bench.submit(json!({"type": "disk.usage", "params": {"path": "/"}})).await;
    let result = bench.result(&id).await;
    assert_eq!((result.outcome, result.agent_id), (Outcome::Succeeded, Some(agent.id.clone())), "{:?}", result.error);
    assert!(result.data.unwrap()["kilobytes"].as_u64().unwrap() > 0);
    let id = bench.id();
    bench.submit_as(&id, Priority::High, json!({"type": "disk.usage", "params": {"path": 5}})).await;
    let refused = bench.result(&id).await;
    assert_eq!((refused.outcome, refused.error.unwrap().code), (Outcome::Rejected, Code::ParamsInvalid));
}

#[tokio::test]
async fn a_plugin_that_is_named_and_cannot_be_had_ends_the_start_with_the_reason() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().to_str().unwrap();
    let id = AgentId::generate();
    for (args, problem) in [
        (["--executors", "shell,ghost", "--plugin-dir", folder], "plugin `ghost`: there is no such file in the plugin folder"),
        (["--executors", "shell", "--plugin-dir", "/no/such/folder"], "plugin_dir"),
        (["--executors", "shell,ghost", "--job-cgroup", "none"], "\"ghost\" is not an executor of this build"),
        (["--executors", "shell", "--job-cgroup", "/proc"], "/proc: no cgroup (version 2)"),
    ] {
        let mut command = command(&id, dir.path(), &args);
        let output = command.stderr(Stdio::piped()).output().await.unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(64) && said.contains(problem), "{args:?}: {:?} {said}", output.status);
    }
}
