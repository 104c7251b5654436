//! What the tests share: registries with the real launcher, and one job after the other.

pub(crate) use std::{
    os::unix::fs::PermissionsExt as _,
    path::Path,
    time::{Duration, Instant},
};

pub(crate) use muster_agent::executors::{Attempt, Base, Context, Execution, Launcher, Limits, Options, Registry, Settings, Update};
pub(crate) use muster_schemas::{code::Code, result::Outcome};
pub(crate) use serde_json::{Value, json};
pub(crate) use tokio_util::sync::CancellationToken;

pub(crate) const LONG: Duration = Duration::from_secs(60);

pub(crate) fn options() -> Options {
    let settings = Settings { kill_grace: Duration::from_millis(400), drain: Duration::from_millis(400), ..Settings::default() };
    Options { settings, launcher: Some(Launcher::at(env!("CARGO_BIN_EXE_muster-agent"), &[])), ..Options::default() }
}

pub(crate) fn registry(options: &Options) -> Registry {
    Registry::new(&["shell"], options).unwrap()
}

pub(crate) fn attempt(timeout: Duration) -> Attempt {
    Attempt { agent_id: "agt_01ARZ3NDEKTSV4RRFFQ69G5FAV".parse().unwrap(), job_id: "job-1".parse().unwrap(), number: 1, timeout }
}

pub(crate) async fn run(registry: &Registry, params: Value) -> Execution {
    let (context, _feed) = Context::new(CancellationToken::new());
    let prepared = registry.check("shell.run", &params, None).unwrap();
    registry.run(prepared, attempt(LONG), None, context).await
}

pub(crate) async fn shell(params: Value) -> Execution {
    run(&registry(&options()), params).await
}

pub(crate) fn out(execution: &Execution) -> String {
    execution.stdout.to_text().into_owned()
}

pub(crate) fn code(execution: &Execution) -> Option<Code> {
    execution.error.as_ref().map(|error| error.code)
}

pub(crate) fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// What goes through the launcher for a limit that changes nothing.
pub(crate) fn launched(mut params: Value) -> Value {
    params["limits"] = json!({"file_bytes": 1_i64 << 40});
    params
}

/// The processes that sleep so many seconds.
pub(crate) fn sleepers(seconds: u64) -> Vec<i32> {
    let pids = std::fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let sleeps =
        |pid: &i32| std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line == format!("sleep\0{seconds}\0").as_bytes());
    pids.filter(sleeps).collect()
}
