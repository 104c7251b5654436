//! `os.restart` through the whole stack: the machine is asked to restart only once the job's result is stored, and only by an agent that may. The
//! logind is made for the test, since a real one would restart this machine.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail by panicking")]

use std::{
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use muster_tests::{
    Stack, eventually,
    stack::{POOL, StackOptions},
};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(20);

const BUS: &str = r#"<busconfig><type>system</type><listen>unix:path=DIR/bus</listen><auth>EXTERNAL</auth>
<policy context="default"><allow send_destination="*"/><allow receive_sender="*"/><allow own="*"/><allow user="*"/></policy></busconfig>"#;

/// A bus, and nobody on it yet.
struct Bus(Child);

impl Bus {
    async fn start(dir: &Path) -> (Self, String) {
        let (config, socket) = (dir.join("bus.conf"), dir.join("bus"));
        std::fs::write(&config, BUS.replace("DIR", &dir.display().to_string())).unwrap();
        let daemon = muster_test_packages::program("dbus-daemon", "dbus");
        let mut command = Command::new(daemon);
        command.arg(format!("--config-file={}", config.display())).args(["--nofork", "--nopidfile"]).stderr(Stdio::null());
        let bus = Self(command.spawn().unwrap());
        let address = format!("unix:path={}", socket.display());
        eventually("the bus", SOON, || async { zbus::connection::Builder::address(address.as_str()).build().await.ok().map(drop) }).await;
        (bus, address)
    }
}

impl Drop for Bus {
    fn drop(&mut self) {
        let _ended_already = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Whom to ask for the job when the restart is asked for, and what was known then.
#[derive(Clone, Default)]
struct Logind {
    job: Arc<Mutex<Option<reqwest::RequestBuilder>>>,
    known: Arc<Mutex<Vec<Value>>>,
}

#[zbus::interface(name = "org.freedesktop.login1.Manager")]
impl Logind {
    fn can_reboot(&self) -> String {
        "yes".to_owned()
    }

    fn set_wall_message(&self, _message: String, _enable: bool) {}

    async fn schedule_shutdown(&self, kind: String, _at: u64) {
        let question = self.job.lock().unwrap().as_ref().map(|request| request.try_clone().unwrap());
        let job: Value = question.unwrap().send().await.unwrap().json().await.unwrap();
        self.known.lock().unwrap().push(json!({"kind": kind, "job": job["data"]}));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_machine_is_restarted_once_the_result_is_stored_and_only_by_an_agent_that_may() {
    let dir = tempfile::tempdir().unwrap();
    let (_bus, address) = Bus::start(dir.path()).await;
    let logind = Logind::default();
    let serving = zbus::connection::Builder::address(address.as_str());
    let serving = serving.serve_at("/org/freedesktop/login1", logind.clone()).name("org.freedesktop.login1").build().await.unwrap();
    let env = vec![("DBUS_SYSTEM_BUS_ADDRESS", address), ("EXECUTORS", "os".to_owned())];
    let mut stack = Stack::start(StackOptions { agents: 1, agent_env: env, ..StackOptions::default() }).await;

    // It was told to have the executor, and may not restart the machine: no agent of the pool has it.
    let refused = stack.rest.post("/jobs", &json!({"pool": POOL, "type": "os.restart"})).await;
    assert_eq!(refused.code(), "type_unknown", "{refused:?}");

    let nats = stack.broker.url();
    let may = stack.agent(1, &nats, &[("ALLOW_OS_RESTART", "true")]);
    stack.agents.push(may);
    stack.accepting(POOL, 2).await;
    let id = "restart-1";
    let question = stack.rest.request(reqwest::Method::GET, &format!("/jobs/{id}"));
    *logind.job.lock().unwrap() = Some(question);
    let body = json!({"pool": POOL, "type": "os.restart", "id": id, "params": {"delay_s": 60, "message": "new kernel"}});
    eventually("a lane for it", SOON, || async { stack.rest.post("/jobs", &body).await.status.is_success().then_some(()) }).await;
    let job = stack.rest.finished(id, 30).await;
    assert_eq!((&job["state"], &job["result"]["data"]["delay_s"]), (&json!("succeeded"), &json!(60)));
    let known = eventually("the restart", SOON, || async { logind.known.lock().unwrap().first().cloned() }).await;
    assert_eq!((&known["kind"], &known["job"]["state"]), (&json!("reboot"), &json!("succeeded")), "it was stored by then");
    drop(serving);
}
