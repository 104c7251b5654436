//! `muster bench` with the real binary and small numbers: that each bench finds what it is for, and leaves nothing behind.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail by panicking")]

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

/// A home of its own, with room for a stack.
struct Home(tempfile::TempDir);

/// A stack that runs until it is dropped.
struct Up(Child);

impl Drop for Up {
    fn drop(&mut self) {
        // The kernel ends its parts.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Home {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn data(&self) -> PathBuf {
        self.0.path().join("data")
    }

    fn muster(&self, line: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_muster"));
        command.args(line.split_whitespace()).arg("--data-dir").arg(self.data());
        command.env("XDG_CONFIG_HOME", self.0.path().join("config")).stdin(Stdio::null());
        for name in ["MUSTER_URL", "MUSTER_API_KEY", "MUSTER_PROFILE", "MUSTER_DATA_DIR"] {
            command.env_remove(name);
        }
        command
    }

    fn up(&self) -> Up {
        let mut child = self.muster("up --json --agents 1 --http-port 0 --nats-port 0").stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert!(line.contains("nats_url"), "{line:?}");
        Up(child)
    }

    /// The reports of a bench that succeeds, one for each setting of the flush.
    fn bench(&self, line: &str) -> Vec<Value> {
        let done = self.muster(&format!("bench --json {line}")).output().unwrap();
        assert!(done.status.success(), "{line}: {}", text(&done.stderr));
        let name = line.split_whitespace().next().unwrap();
        let reports: Vec<Value> = text(&done.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert!(reports.iter().all(|report| report["bench"] == name), "{reports:?}");
        reports
    }

    fn one(&self, line: &str) -> Value {
        let reports = self.bench(line);
        assert_eq!(reports.len(), 1);
        reports[0].clone()
    }

    /// Whether nothing of a bench is left in the data folder.
    fn is_tidy(&self) -> bool {
        fs::read_dir(self.data()).unwrap().all(|entry| !entry.unwrap().file_name().to_str().unwrap().starts_with("bench"))
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The one row whose name begins so.
fn row<'a>(report: &'a Value, what: &str) -> &'a Value {
    let rows = report["rows"].as_array().unwrap();
    let found: Vec<&Value> = rows.iter().filter(|row| row["what"].as_str().unwrap().starts_with(what)).collect();
    assert_eq!(found.len(), 1, "{what} in {report}");
    found[0]
}

/// Ours and the floor's of a row.
fn both(report: &Value, what: &str) -> (f64, f64) {
    let row = row(report, what);
    (row["ours"].as_f64().unwrap(), row["floor"].as_f64().unwrap_or_else(|| panic!("no floor: {row}")))
}

/// Flushes for each of the jobs that ran one at a time; what is next to nothing is left out.
fn flushes(report: &Value, what: &str) -> (f64, f64) {
    let what = format!("one at a time: {what}");
    let found = report["rows"].as_array().unwrap().iter().find(|row| row["what"] == what.as_str());
    found.map_or((0.0, 0.0), |row| (row["ours"].as_f64().unwrap(), row["floor"].as_f64().unwrap()))
}

fn assert_ratio(report: &Value, what: &str, bar: Option<&str>) {
    let (ours, floor) = both(report, what);
    assert!(ours > 0.0 && floor > 0.0 && (row(report, what)["ratio"].as_f64().unwrap() - ours / floor).abs() < 1e-9, "{report}");
    assert_eq!(row(report, what)["bar"].as_str(), bar, "{what}");
}

#[test]
fn the_running_stack_is_measured_beside_its_floor_and_is_as_before_afterwards() {
    let home = Home::new();
    let _up = home.up();
    let report = home.one("throughput --jobs 300 --rounds 1");
    assert_eq!(report["fsync"], "always");
    assert_ratio(&report, "jobs put in over NATS", Some("≥ 2.0"));
    assert_ratio(&report, "jobs put in with POST /jobs/batch", Some("≥ 2.0"));
    for part in ["broker", "bench", "all parts"] {
        assert_ratio(&report, &format!("processor time of a job put in with a batch: {part}"), None);
    }
    let part = |part: &str| row(&report, &format!("processor time of a job put in with a batch: {part}"))["ours"].as_f64().unwrap();
    assert!(part("agents") > 0.0 && part("agents") < part("all parts"), "{report}");

    let report = home.one("latency --jobs 20");
    assert_ratio(&report, "over NATS p50", Some("≤ 1.59"));
    assert!(row(&report, "over REST p50")["ours"].as_f64().unwrap() > 0.0);

    let report = home.one("submit --jobs 160 --connections 8 --batches 1 --rounds 1");
    assert_ratio(&report, "POST /jobs", Some("≥ 1.5"));
    assert_ratio(&report, "jobs of POST /jobs/batch", None);
    assert!(both(&report, "the bench's own processor time").0 < 20_000.0, "{report}");

    let report = home.one("events --jobs 300 --rounds 1");
    assert_eq!(both(&report, "messages in EVENTS for each job"), (1.0, 0.0));
    assert_ratio(&report, "jobs, against without events", Some("≥ 0.90"));

    let report = home.one("idle --over 1s");
    for part in ["broker", "gateway", "dispatcher", "agent-1"] {
        assert!(row(&report, &format!("{part} resident"))["ours"].as_f64().unwrap() > 1.0, "{report}");
    }

    assert!(home.is_tidy());
    let pools = Command::new(env!("CARGO_BIN_EXE_muster"))
        .args(["pools", "list", "--json"])
        .env("XDG_CONFIG_HOME", home.0.path().join("config"))
        .output()
        .unwrap();
    assert!(pools.status.success() && !text(&pools.stdout).contains("bench-"), "{pools:?}");
}

#[test]
fn flushes_are_counted_with_each_message_on_disk_and_without_and_nobody_finds_those_stacks_later() {
    let home = Home::new();
    let reports = home.bench("flushes --fsync both --alone 30 --jobs 600");
    let [always, off] = reports.as_slice() else { panic!("{reports:?}") };
    assert_eq!((always["fsync"].as_str(), off["fsync"].as_str()), (Some("always"), Some("off")));
    // Stored and acked; its result. The states of consumers come on top, by the clock.
    assert_eq!((flushes(always, "the queue").1, flushes(always, "RESULTS").1), (2.0, 1.0), "{always}");
    let (ours, floor) = flushes(always, "all flushes");
    assert!(ours > 1.0 && floor >= 3.0, "{always}");
    let (ours, floor) = both(always, "many at once: all flushes");
    assert!(ours > 0.0 && ours < 0.95 * floor, "jobs that come together share flushes: {always}");
    for what in ["the queue", "RESULTS"] {
        let (ours, floor) = flushes(off, what);
        assert!(ours < 0.2 && floor < 0.2, "without fsync nothing waits for the disk: {off}");
    }
    assert!(home.is_tidy());
    assert!(!home.0.path().join("config").exists(), "no profile leads to a stack of the bench's own");
}

#[test]
fn without_strace_it_says_what_to_do() {
    let home = Home::new();
    let done = home.muster("bench flushes").env("PATH", home.0.path()).output().unwrap();
    assert_eq!(done.status.code(), Some(1));
    assert!(text(&done.stderr).contains("strace") && text(&done.stderr).contains("hint: install it"), "{}", text(&done.stderr));
    assert!(home.is_tidy());
}

#[test]
fn a_deep_queue_is_measured_beside_an_empty_one() {
    let home = Home::new();
    let report = home.one("deep --jobs 3000 --sample 200 --fsync off");
    assert_eq!(report["fsync"], "off");
    assert_ratio(&report, "submits, against an empty queue", Some("≥ 0.8"));
    assert_ratio(&report, "jobs given out and stored", Some("≥ 0.8"));
    for part in ["broker", "dispatcher", "gateway"] {
        assert!(row(&report, &format!("memory for each queued job, {part}"))["ours"].is_number(), "{report}");
    }
    assert!(home.is_tidy());
}

#[test]
fn a_soak_that_is_interrupted_reports_what_it_has_and_another_bench_says_that_it_was() {
    let home = Home::new();
    let done = interrupted(&home, "soak --for 1h --every 300ms --jobs 200 --load 0.3", "bench agent 1", 12);
    assert!(done.status.success(), "{}", text(&done.stderr));
    let report: Value = serde_json::from_slice(&done.stdout).unwrap();
    assert!(report["setting"]["seconds"].as_u64().unwrap() < 600, "{report}");
    assert_ratio(&report, "jobs, against what was meant", None);
    for none in ["submits refused", "jobs without a result", "processes started again"] {
        assert_eq!(row(&report, none)["ours"], 0.0, "{report}");
    }
    for series in ["broker, memory", "gateway, open files", "dispatcher, memory", "bench agent 2, memory", "broker's streams, disk"] {
        let what = row(&report, series)["what"].as_str().unwrap();
        assert!(what.contains("at the end: ") && (what.ends_with("flat") || what.ends_with("an hour")), "{what}");
    }
    assert!(home.is_tidy());

    let done = interrupted(&home, "deep --jobs 50000 --sample 100", "jobs wait", 1);
    assert_eq!(done.status.code(), Some(130), "{}", text(&done.stderr));
    assert!(done.stdout.is_empty() && text(&done.stderr).contains("interrupted"), "{}", text(&done.stderr));
    assert!(home.is_tidy());
}

/// Ends a bench with Ctrl-C once it has told something so many times.
fn interrupted(home: &Home, line: &str, told: &str, times: usize) -> Output {
    let deadline = Instant::now() + Duration::from_secs(180);
    let mut command = home.muster(&format!("bench --json {line}"));
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let (mut said, mut seen) = (String::new(), 0);
    let mut lines = BufReader::new(child.stderr.take().unwrap());
    while seen < times {
        assert!(Instant::now() < deadline, "{said}");
        let from = said.len();
        assert!(lines.read_line(&mut said).unwrap() > 0, "it ended by itself: {said}");
        seen += usize::from(said[from..].contains(told));
    }
    kill(Pid::from_raw(child.id().try_into().unwrap()), Signal::SIGINT).unwrap();
    std::io::Read::read_to_string(&mut lines, &mut said).unwrap();
    let done = child.wait_with_output().unwrap();
    Output { stderr: said.into_bytes(), ..done }
}
