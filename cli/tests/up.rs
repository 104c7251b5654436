//! `muster up` and the command line against it, with the real binary: what a person does on a fresh machine, and what goes wrong there.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail by panicking")]

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _},
    net::TcpListener,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use muster_schemas::time::Timestamp;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(90);

fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "never came true: {what}");
        std::thread::sleep(Duration::from_millis(20)); // poll
    }
}

/// A home of its own, with a stack's folder in it.
struct Home(tempfile::TempDir);

impl Home {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn data(&self) -> PathBuf {
        self.0.path().join("data")
    }

    /// `muster` with nothing but this home: it has to find everything by itself.
    fn muster<'a>(&self, args: impl IntoIterator<Item = &'a str>) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_muster"));
        command.args(args).env("XDG_CONFIG_HOME", self.0.path().join("config")).env("XDG_DATA_HOME", self.0.path());
        for name in ["MUSTER_URL", "MUSTER_API_KEY", "MUSTER_PROFILE", "MUSTER_DATA_DIR"] {
            command.env_remove(name);
        }
        command
    }

    fn run<'a>(&self, args: impl IntoIterator<Item = &'a str>) -> Output {
        self.muster(args).stdin(Stdio::null()).output().unwrap()
    }

    fn json<'a>(&self, args: impl IntoIterator<Item = &'a str>) -> Value {
        let done = self.run(args);
        assert!(done.status.success(), "{}", text(&done.stderr));
        serde_json::from_slice(&done.stdout).unwrap()
    }

    fn up_command(&self) -> Command {
        let mut command = self.muster(["up", "--json", "--http-port", "0", "--nats-port", "0", "--data-dir"]);
        command.arg(self.data()).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn up(&self) -> Up {
        self.up_with(&[])
    }

    fn up_with(&self, flags: &[&str]) -> Up {
        let mut child = self.up_command().args(flags).stderr(Stdio::inherit()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let said = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"));
        Up { child, said }
    }

    fn pid(&self, part: &str) -> Option<i32> {
        fs::read_to_string(self.data().join("run").join(format!("{part}.pid"))).ok()?.parse().ok()
    }

    fn pids(&self) -> Vec<i32> {
        ["broker", "gateway", "dispatcher", "agent-1", "agent-2"].map(|part| self.pid(part).unwrap_or_else(|| panic!("no {part}"))).into()
    }
}

/// A running stack, and the line that it said.
struct Up {
    child: Child,
    said: Value,
}

impl Up {
    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().try_into().unwrap()), signal).unwrap();
    }

    fn said(&self, field: &str) -> &str {
        self.said[field].as_str().unwrap_or_else(|| panic!("no {field} in {}", self.said))
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        // The kernel ends its parts.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn is_alive(pid: i32) -> bool {
    fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| !line.is_empty())
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn one_command_starts_a_stack_that_runs_jobs_and_goes_on_where_it_stopped() {
    let home = Home::new();
    let mut up = home.up();
    let fields: Vec<&String> = up.said.as_object().unwrap().keys().collect();
    assert_eq!(fields, ["api_key", "data_dir", "nats_url", "service_creds", "url"]);
    assert!(Path::new(up.said("service_creds")).is_file());
    let profiles = fs::read_to_string(home.0.path().join("config/muster/profiles.toml")).unwrap();
    assert!(profiles.contains(up.said("url")) && profiles.contains(up.said("api_key")));

    // The command line finds it by itself.
    let done = home.run(["submit", "--", "sh", "-c", "echo out; echo err >&2"]);
    assert_eq!((text(&done.stdout).as_str(), text(&done.stderr).as_str()), ("out\n", "err\n"));
    let done = home.run(["submit", "--command", "echo before; exit 7"]);
    assert_eq!((done.status.code(), text(&done.stdout).as_str()), (Some(7), "before\n"));
    assert!(text(&done.stderr).contains("exit_nonzero"), "{}", text(&done.stderr));
    let done = home.run(["submit", "--timeout", "1s", "--", "sleep", "30"]);
    assert_eq!(done.status.code(), Some(124), "{}", text(&done.stderr));
    let done = home.run(["submit", "--type", "nonsense"]);
    assert!(text(&done.stderr).contains("hint:"), "{}", text(&done.stderr));
    let job = home.json(["--json", "submit", "--label", "a=b", "--", "printf", "kept"]);
    assert_eq!((job["state"].as_str(), job["result"]["stdout"].as_str()), (Some("succeeded"), Some("kept")));
    assert_eq!(home.json(["agents", "--json"]).as_array().unwrap().len(), 2);
    assert!(home.run(["ping", "--count", "2"]).status.success());
    assert!(home.run(["ping", "--agent", "agent-1"]).status.success());

    jobs_are_operated(&home);

    // One folder, one stack.
    let second = home.up_command().output().unwrap();
    let said = text(&second.stderr);
    assert_eq!(second.status.code(), Some(1));
    assert!(said.contains(&format!("pid {}", up.child.id())), "{said}");

    // A part that dies is started again.
    let old = home.pid("agent-1").unwrap();
    kill(Pid::from_raw(old), Signal::SIGKILL).unwrap();
    eventually("another agent-1", || home.pid("agent-1").filter(|pid| *pid != old && is_alive(*pid)));
    assert!(home.run(["submit", "--", "true"]).status.success());

    // Ctrl-C stops all of it.
    let pids = home.pids();
    up.signal(Signal::SIGINT);
    let status = eventually("the end of `muster up`", || up.child.try_wait().unwrap());
    assert!(status.success(), "{status}");
    assert_eq!(pids.iter().filter(|pid| is_alive(**pid)).count(), 0);

    // Run again, it is the same one.
    let again = home.up();
    assert_eq!(again.said, up.said);
    let id = job["id"].as_str().unwrap();
    assert_eq!(home.json(["job", "get", id, "--json"])["result"]["stdout"], "kept");
    assert_eq!(home.json(["agents", "--json"]).as_array().unwrap().len(), 2);

    // Killed, it takes its parts along; and whatever is left of them does not hinder the next one.
    let pids = home.pids();
    again.signal(Signal::SIGKILL);
    let third = home.up();
    assert_eq!(third.said, up.said);
    eventually("the end of the killed stack's parts", || pids.iter().all(|pid| !is_alive(*pid)).then_some(()));
    assert!(home.run(["submit", "--", "true"]).status.success());

    let _fourth = a_revoked_administrator_gets_in_again(&home, third);
    assert_eq!(home.json(["job", "get", id, "--json"])["result"]["stdout"], "kept");
}

#[test]
fn a_stack_with_tls_is_found_by_the_command_line_and_keeps_it_the_next_time() {
    let home = Home::new();
    let up = home.up_with(&["--tls", "--agents", "1"]);
    assert!(up.said("url").starts_with("https://127.0.0.1:") && up.said("nats_url").starts_with("tls://127.0.0.1:"), "{}", up.said);
    assert_eq!(text(&home.run(["submit", "--", "echo", "sealed"]).stdout), "sealed\n");
    let ca = home.data().join("deployment/tls/ca.pem");
    let elsewhere = ["--url", up.said("url"), "--api-key", up.said("api_key"), "--profile", "", "--ca", ca.to_str().unwrap(), "agents"];
    assert!(home.run(elsewhere).status.success());
    assert!(!home.run(["--ca", up.said("service_creds"), "agents"]).status.success(), "a file without certificates trusts nobody");

    let out = home.0.path().join("billing.creds");
    let issue = ["creds", "issue", "--publish", "default", "--name", "billing", "--out", out.to_str().unwrap(), "--json"];
    let issued = home.json(issue);
    assert_eq!(issued["registered"], true, "{issued}");
    let key = issued["public_key"].as_str().unwrap();
    let known = || home.json(["signers", "list", "--json"]).as_array().unwrap().iter().any(|signer| signer["public_key"] == key);
    assert!(known());
    assert!(home.run(["signers", "remove", key]).status.success() && !known());
    let added = home.run(["signers", "add", out.to_str().unwrap(), "--publish", "default", "--name", "billing"]);
    assert!(added.status.success() && known(), "{}", text(&added.stderr));
    for (field, end) in [("path", "creds"), ("certificate", "pem"), ("key", "key")] {
        let path = out.with_extension(end);
        assert_eq!(issued[field].as_str().unwrap(), path.to_str().unwrap());
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o077, 0, "{}", path.display());
    }
    assert_eq!(issued["ca"].as_str().unwrap(), ca.to_str().unwrap());
    fs::remove_file(&out).unwrap();
    assert!(text(&home.run(issue).stderr).contains("billing.pem exists"), "a certificate is never written over");

    drop(up);
    let again = home.up_with(&["--agents", "1"]);
    assert!(again.said("url").starts_with("https://"));
    assert_eq!(text(&home.run(["submit", "--", "echo", "again"]).stdout), "again\n");
}

/// Stops the stack, and returns the next one.
fn a_revoked_administrator_gets_in_again(home: &Home, up: Up) -> Up {
    let first = home.json(["keys", "list", "--json"])[0]["id"].as_str().unwrap().to_owned();
    let spare = text(&home.run(["keys", "create", "--name", "spare", "--role", "admin"]).stdout);
    let revoked = home.run(["--api-key", spare.trim(), "keys", "revoke", &first]);
    assert!(revoked.status.success(), "{}", text(&revoked.stderr));
    let pids = home.pids();
    drop(up);
    eventually("the end of the stack's parts", || pids.iter().all(|pid| !is_alive(*pid)).then_some(()));

    let refused = home.up_command().output().unwrap();
    let said = text(&refused.stderr);
    let said: Value = serde_json::from_str(said.lines().last().unwrap()).unwrap_or_else(|error| panic!("{error}: {said}"));
    assert_eq!(refused.status.code(), Some(1));
    // The hint is a command that can be typed as it is.
    let (_, command) = said["hint"].as_str().unwrap().split_once(": ").unwrap_or_else(|| panic!("{said}"));
    assert!(Command::new("sh").args(["-c", command]).status().unwrap().success(), "{command}");
    let up = home.up();
    assert_ne!(up.said("api_key"), spare.trim());
    assert_eq!(home.json(["keys", "list", "--json"]).as_array().unwrap().len(), 3);
    assert!(home.run(["submit", "--", "true"]).status.success());
    up
}

/// What somebody types whose jobs fail, wait and have to be found again.
fn jobs_are_operated(home: &Home) {
    dead_letters_are_found_and_replayed(home);
    a_paused_pool_says_why_a_job_waits(home);
    a_job_runs_in_its_time_or_not_at_all(home);
    events_go_on_where_a_lost_gateway_left_them(home);
    let of = |line: &[&str]| {
        let jobs = home.json(line.iter().copied());
        let id = |job: &Value| job["id"].as_str().unwrap().to_owned();
        jobs.as_array().unwrap().iter().map(id).collect::<Vec<_>>()
    };

    // The list of jobs.
    eventually("the history of a job", || {
        of(&["jobs", "--json", "--label", "why=broken", "--status", "failed"]).contains(&"broken-1".to_owned()).then_some(())
    });
    assert!(of(&["jobs", "--json", "--label", "why=broken", "--since", "1h", "--pool", "other"]).is_empty());
    let table = text(&home.run(["jobs", "--status", "failed", "--type", "shell.run", "--limit", "500"]).stdout);
    let row = table.lines().find(|line| line.starts_with("broken-1 ")).unwrap_or_else(|| panic!("{table}"));
    assert!(row.contains("failed, exit 9") && row.contains("agent-"), "{row}");
    let mut watch = home.muster(["jobs", "--watch", "--json", "--label", "why=broken"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(watch.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    let _ = (watch.kill(), watch.wait());
    assert!(line.contains("broken-1"), "{line}");

    // A job's events, and the same job again.
    let events = text(&home.run(["job", "events", "held-1"]).stdout);
    assert!(events.contains("  queued") && events.contains("  stdout    let go"), "{events}");
    assert!(events.lines().last().unwrap().contains("  succeeded exit 0"), "{events}");
    let events = text(&home.run(["job", "events", "held-1", "--json"]).stdout);
    let events: Vec<Value> = events.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((&events[0]["event"], &events[0]["data"]["change"]), (&"state".into(), &"queued".into()));
    assert_eq!(events.last().unwrap()["event"], "end");
    let again = text(&home.run(["job", "retry", "held-1"]).stdout);
    assert_eq!(home.json(["job", "get", again.trim(), "--wait", "60s", "--json"])["state"], "succeeded");
    assert!(text(&home.run(["job", "events", "nowhere"]).stderr).contains("hint:"));
    assert_eq!(home.json(["pools", "stats", "default", "--json"])["counts"]["rejected"], Value::Null);
}

fn dead_letters_are_found_and_replayed(home: &Home) {
    let line = "echo almost; exit 9";
    let done = home.run(["submit", "--id", "broken-1", "--retry", "2", "--label", "why=broken", "--command", line]);
    assert_eq!(done.status.code(), Some(9), "{}", text(&done.stderr));
    let dead = |id: &str| home.run(["dead", "show", id]).status.success().then_some(());
    eventually("its dead letter", || dead("broken-1"));
    let shown = text(&home.run(["dead", "show", "broken-1"]).stdout);
    assert!(shown.contains("attempt 1") && shown.contains("attempt 2") && shown.contains("output:\nalmost"), "{shown}");
    assert!(text(&home.run(["dead"]).stdout).contains("broken-1"));

    let replayed = text(&home.run(["dead", "replay", "broken-1"]).stdout);
    let id = replayed.trim();
    assert_eq!(home.json(["job", "get", id, "--wait", "60s", "--json"])["state"], "failed");
    eventually("the dead letter of the replay", || dead(id));
    assert_eq!(home.json(["dead", "show", id, "--json"])["parent"], "broken-1");
    assert!(text(&home.run(["dead", "show", "broken-1"]).stderr).contains("dead_letter_not_found"));

    assert_eq!(home.run(["dead", "delete"]).status.code(), Some(2), "nothing said is not all");
    let deleted = home.json(["dead", "delete", "--all", "--json"]);
    assert_eq!((&deleted["done"], &deleted["left"]), (&1.into(), &0.into()));
    assert_eq!(home.json(["dead", "--json"]), Value::Array(vec![]));
}

fn events_go_on_where_a_lost_gateway_left_them(home: &Home) {
    let go = home.0.path().join("go");
    let line = format!("echo one; until test -e {}; do sleep 0.1; done; echo two", go.display());
    assert!(home.run(["submit", "--detach", "--id", "watched-1", "--command", &line]).status.success());
    let mut watch = home.muster(["job", "events", "watched-1"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut events = BufReader::new(watch.stdout.take().unwrap());
    let mut seen = String::new();
    while !seen.contains("stdout    one") {
        assert!(events.read_line(&mut seen).unwrap() > 0, "{seen}");
    }
    let old = home.pid("gateway").unwrap();
    kill(Pid::from_raw(old), Signal::SIGKILL).unwrap();
    eventually("another gateway", || home.pid("gateway").filter(|pid| *pid != old && is_alive(*pid)));
    fs::write(go, "").unwrap();
    events.read_to_string(&mut seen).unwrap();
    assert!(watch.wait().unwrap().success(), "{seen}");
    for once in ["  queued", "  stdout    one", "  stdout    two", "  succeeded exit 0"] {
        assert_eq!(seen.matches(once).count(), 1, "{once} in {seen}");
    }
}

fn a_paused_pool_says_why_a_job_waits(home: &Home) {
    assert!(home.run(["pool", "pause", "default", "--note", "the disk is full"]).status.success());
    assert!(home.run(["submit", "--detach", "--id", "held-1", "--", "echo", "let go"]).status.success());
    let why = text(&home.run(["job", "why", "held-1"]).stdout);
    assert!(why.contains("the disk is full"), "{why}");
    assert_eq!(home.json(["job", "why", "held-1", "--json"])["reason"], "pool_paused");
    assert!(text(&home.run(["pools", "get", "default"]).stdout).contains("the disk is full"));
    let refused = home.run(["job", "retry", "held-1"]);
    assert!(text(&refused.stderr).contains("job_not_finished"), "{}", text(&refused.stderr));
    assert!(home.run(["pools", "resume", "default"]).status.success());
    assert_eq!(home.json(["job", "get", "held-1", "--wait", "60s", "--json"])["state"], "succeeded");

    let put = ["pools", "put", "default", "--max-running", "500", "--default-timeout", "1h", "--json"];
    assert_eq!(home.json(put)["limits"]["max_running"], 500);
    let put = home.json(["pools", "put", "default", "--default-retry", "1", "--default-backoff", "2s", "--json"]);
    assert_eq!(put["defaults"], serde_json::json!({"timeout_s": 3600, "retry": {"max_attempts": 1, "initial_ms": 2000}}));
    assert_eq!(home.json(["pools", "put", "default", "--no-defaults", "--json"])["defaults"], Value::Null);
}

fn a_job_runs_in_its_time_or_not_at_all(home: &Home) {
    let done = home.run(["submit", "--id", "later-1", "--in", "2s", "--result-ttl", "1h", "--", "echo", "its time has come"]);
    let said = text(&done.stderr);
    assert_eq!((done.status.code(), text(&done.stdout).as_str()), (Some(0), "its time has come\n"), "{said}");
    assert!(said.contains("later-1 is put off until"), "{said}");
    let result = &home.json(["job", "get", "later-1", "--json"])["result"];
    let at = |field: &str| result[field].as_str().unwrap().parse::<Timestamp>().unwrap();
    assert!(at("started_at").since(at("queued_at")) >= Duration::from_millis(1900), "{result}");

    let done = home.run(["submit", "--expires-at", "2020-01-01T00:00:00Z", "--", "echo", "too late"]);
    let said = text(&done.stderr);
    assert!(done.status.code() == Some(1) && done.stdout.is_empty() && said.contains("expired before it could start"), "{said}");
    let done = home.run(["submit", "--in", "10m", "--expires-in", "5m", "--", "true"]);
    assert_eq!(done.status.code(), Some(2), "{}", text(&done.stderr));
}

#[test]
fn a_stack_comes_up_on_a_pool_that_is_paused_or_has_much_to_do_and_says_so() {
    let home = Home::new();
    let up = |home: &Home| {
        let errors = home.0.path().join("errors");
        let stderr = fs::File::create(&errors).unwrap();
        let mut child = home.up_command().args(["--agents", "1"]).stderr(stderr).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let errors = fs::read_to_string(errors).unwrap();
        let said = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}, {errors}"));
        (Up { child, said }, errors)
    };
    let (first, errors) = up(&home);
    assert!(!errors.contains("first job"), "{errors}");
    assert!(home.run(["pools", "pause", "default", "--note", "the disk is full"]).status.success());
    for id in ["long-1", "long-2"] {
        assert!(home.run(["submit", "--detach", "--id", id, "--", "sleep", "600"]).status.success());
    }
    drop(first);

    let (paused, errors) = up(&home);
    assert!(errors.contains("no first job was run") && errors.contains("the disk is full"), "{errors}");
    let queue = |home: &Home| {
        let queue = &home.json(["pools", "get", "default", "--json"])["queue"];
        (queue["pending"].as_u64().unwrap(), queue["running"].as_u64().unwrap())
    };
    assert_eq!(queue(&home), (2, 0), "what was tried is gone again");
    assert!(home.run(["pools", "put", "default", "--max-running", "1"]).status.success());
    assert!(home.run(["pools", "resume", "default"]).status.success());
    eventually("a job that runs", || (queue(&home) == (1, 1)).then_some(()));
    assert!(home.run(["submit", "--detach", "--id", "short-1", "--type", "probe.ping"]).status.success());
    let reason = || home.json(["job", "why", "short-1", "--json"])["reason"].clone();
    eventually("that no other job may run", || (reason() == "running_limit").then_some(()));
    drop(paused);

    let (_busy, errors) = up(&home);
    assert!(errors.contains("no first job was run") && errors.contains("As many jobs"), "{errors}");
    assert_eq!(queue(&home), (2, 1));
}

#[test]
fn output_comes_while_the_job_runs_and_ctrl_c_leaves_the_job_alone() {
    let home = Home::new();
    let _up = home.up();
    let mut submit =
        home.muster(["submit", "--command", "echo first; sleep 60"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(submit.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "first\n");
    kill(Pid::from_raw(submit.id().try_into().unwrap()), Signal::SIGINT).unwrap();
    assert_eq!(submit.wait().unwrap().code(), Some(130));
    let mut said = String::new();
    submit.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    let id = said.split_whitespace().find(|word| word.starts_with("job_")).unwrap_or_else(|| panic!("no id in {said}"));
    let job = home.json(["job", "get", id, "--json"]);
    assert_eq!(job["state"], "running");
    assert!(home.run(["job", "cancel", id]).status.success());
    assert_eq!(home.json(["job", "get", id, "--json", "--wait", "30s"])["state"], "cancelled");
    assert_eq!(text(&home.run(["job", "logs", id]).stdout), "first\n");
}

#[test]
fn output_larger_than_a_result_comes_whole_and_once() {
    let home = Home::new();
    let _up = home.up();
    let done = home.run(["submit", "--", "seq", "1", "40000"]);
    let wanted: String = (1..=40_000).map(|number| format!("{number}\n")).collect();
    assert!(text(&done.stdout) == wanted, "{} bytes of {}", done.stdout.len(), wanted.len());
}

#[test]
fn a_port_in_use_is_an_error_that_says_what_to_do() {
    let home = Home::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let done = home.run(["up", "--nats-port", "0", "--http-port", &port]);
    let said = text(&done.stderr);
    assert_eq!(done.status.code(), Some(1));
    assert!(said.contains(&port) && said.contains("--http-port"), "{said}");
}

#[test]
fn without_a_stack_every_command_says_how_to_get_one() {
    let home = Home::new();
    let done = home.run(["agents"]);
    assert_eq!(done.status.code(), Some(1));
    assert!(text(&done.stderr).contains("muster up"));
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let done = home.run(["--url", &format!("http://{free}"), "--json", "pools"]);
    let said: Value = serde_json::from_slice(&done.stderr).unwrap();
    assert!(said["hint"].as_str().unwrap().contains("muster up"), "{said}");
}

#[test]
fn a_deployment_is_made_once_and_credentials_are_issued_from_it() {
    let home = Home::new();
    let (dir, out) = (home.data().display().to_string(), home.0.path().join("service.creds").display().to_string());
    let first = home.json(["--json", "init", "--dir", &dir]);
    let key = fs::read_to_string(home.data().join("admin.key")).unwrap();
    let again = home.json(["--json", "init", "--dir", &dir, "--listen", "0.0.0.0:4333"]);
    assert_eq!((first["existed"].as_bool(), again["existed"].as_bool()), (Some(false), Some(true)));
    assert_eq!(fs::read_to_string(home.data().join("admin.key")).unwrap(), key);
    let config = fs::read_to_string(first["paths"]["server_config"].as_str().unwrap()).unwrap();
    assert!(config.contains("0.0.0.0") && config.contains("4333"), "{config}");
    for step in ["--roll-job-keys", "--drop-old-job-keys"] {
        assert!(home.run(["init", "--dir", &dir, step]).status.success(), "{step}");
        assert!(!home.run(["init", "--dir", &dir, step, "--tls"]).status.success(), "it does nothing else beside");
    }
    assert_eq!(fs::read_to_string(first["paths"]["server_config"].as_str().unwrap()).unwrap(), config);
    let issued = home.run(["creds", "issue", "--publish", "default", "--name", "billing", "--out", &out, "--dir", &dir]);
    assert!(issued.status.success(), "{}", text(&issued.stderr));
    assert!(text(&issued.stderr).contains("muster signers add U"), "it says what is left to do: {}", text(&issued.stderr));
    assert!(fs::read_to_string(out).unwrap().contains("NATS USER JWT"));
}

#[test]
fn wrong_command_lines_exit_with_2_and_help_shows_examples() {
    let home = Home::new();
    for line in [&["submit"][..], &["up", "--agents", "1000"], &["pools", "get", "A b"], &["nonsense"]] {
        assert_eq!(home.run(line.iter().copied()).status.code(), Some(2), "{line:?}");
    }
    let help = text(&home.run(["submit", "--help"]).stdout);
    assert!(help.contains("muster submit -- date"), "{help}");
    assert!(text(&home.run(["--help"]).stdout).contains("124  timed out"));
}
