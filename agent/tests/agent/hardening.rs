//! What others of the same user see of an agent's process: of the real binary, since a library changes no process that it is in.

use std::{
    fs,
    os::unix::{fs::MetadataExt as _, process::CommandExt as _},
    process::{Command, Stdio},
};

use crate::bench::{Bench, eventually};

/// Nobody, where root runs the tests: root may look at everything.
fn user() -> u32 {
    let own = nix::unistd::geteuid();
    if own.is_root() { 65_534 } else { own.as_raw() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn neither_memory_nor_environment_can_be_read_by_others_of_its_user_and_no_core_is_written() {
    let bench = Bench::start().await;
    let dir = tempfile::tempdir().unwrap();
    nix::unistd::chown(dir.path(), Some(user().into()), None).unwrap();
    fs::copy(env!("CARGO_BIN_EXE_muster-agent"), dir.path().join("agent")).unwrap();
    // It waits for a gateway, which is enough of an agent.
    let mut command = Command::new(dir.path().join("agent"));
    command.args([
        "--admin-port",
        "0",
        "--api-url",
        &bench.server.url().replace("nats", "http"),
        "--join-token",
        "mst_join_aaaaaaaaaa_bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb",
    ]);
    command.arg("--state-dir").arg(dir.path().join("state")).env_clear().env("OF_ITS_OWN", "hunter2").current_dir("/");
    // Somebody forgot to close this one.
    let open = fs::File::open(dir.path().join("agent")).unwrap();
    nix::fcntl::fcntl(&open, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty())).unwrap();
    let mut agent = command.uid(user()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let mut other = Command::new("sleep").arg("60").env_clear().env("OF_ITS_OWN", "hunter2").uid(user()).spawn().unwrap();
    let proc = format!("/proc/{}", agent.id());
    eventually("it is up", async || dir.path().join("state/admin.token").exists()).await;

    let read = |pid: u32, file: &str| {
        let output = Command::new("cat").arg(format!("/proc/{pid}/{file}")).uid(user()).output().unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stdout).contains("hunter2"))
    };
    assert_eq!(read(other.id(), "environ"), (true, true), "of any other process it can be read");
    for file in ["environ", "mem", "maps", "auxv", "io"] {
        assert_eq!(read(agent.id(), file), (false, false), "{file}");
    }
    assert_eq!(fs::metadata(format!("{proc}/mem")).unwrap().uid(), 0, "not dumpable");
    let limits = fs::read_to_string(format!("{proc}/limits")).unwrap();
    let core: Vec<_> =
        limits.lines().find(|line| line.starts_with("Max core file size")).unwrap().split_whitespace().skip(4).take(2).collect();
    assert_eq!(core, ["0", "0"]);
    let inherited = fs::read_dir(format!("{proc}/fd")).unwrap().filter(|fd| {
        let path = fd.as_ref().unwrap().path();
        fs::read_link(path).is_ok_and(|to| to == dir.path().join("agent"))
    });
    assert_eq!(inherited.count(), 0);
    for child in [&mut agent, &mut other] {
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_sees_nothing_of_the_agent_and_works_as_ever() {
    let bench = Bench::start().await;
    let agent = bench.process(1).await;
    let command = "stat -c %u /proc/$PPID/environ /proc/self/environ; ulimit -c; ls /proc/self/fd | wc -l";
    let id = bench.submit(serde_json::json!({"type": "shell.run", "params": {"command": command}})).await;
    let result = bench.result(&id).await;
    let text = String::from_utf8(result.stdout.as_bytes().to_vec()).unwrap();
    let own = nix::unistd::geteuid();
    // The three standard ones, and the folder that `ls` reads.
    assert_eq!(text.split_whitespace().collect::<Vec<_>>(), ["0", &own.to_string(), "0", "4"]);
    drop(agent);
}
