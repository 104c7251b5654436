//! `service.*` and `os.restart` against a real systemd (a user's manager in namespaces of its own, where no systemd runs the machine), and a
//! logind that is made for the test, since a real one would restart this machine.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail by panicking")]

#[path = "units/manager.rs"]
mod manager;

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use manager::Manager;
use muster_executor::{Attempt, Context, Execution, Executor, Mask, Settings, runner};
use muster_executor_systemd::{Os, Service};
use muster_schemas::{code::Code, result::Outcome};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

const LONG: Duration = Duration::from_secs(60);

async fn run(executor: &dyn Executor, kind: &str, params: Value, timeout: Duration, cancel: CancellationToken) -> Execution {
    let work = executor.check(kind, &params).unwrap().unwrap();
    let (agent_id, job_id) = ("agt_01ARZ3NDEKTSV4RRFFQ69G5FAV".parse().unwrap(), "job-1".parse().unwrap());
    let attempt = Attempt { agent_id, job_id, number: 1, timeout };
    let settings = Arc::new(Settings { kill_grace: Duration::from_secs(2), ..Settings::default() });
    let (context, _feed) = Context::new(cancel);
    runner::run(work, runner::Start { attempt, settings, connection: None, mask: Mask::of(["s3cret-in-its-name"]) }, context).await
}

async fn unit(manager: &Manager, verb: &str, unit: &str) -> Execution {
    let service = Service::new(Some(manager.address()), None);
    run(&service, verb, json!({"unit": unit}), LONG, CancellationToken::new()).await
}

fn code(execution: &Execution) -> Option<Code> {
    execution.error.as_ref().map(|error| error.code)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn units_are_started_restarted_reloaded_and_stopped_and_shown_before_and_after() {
    let manager = Manager::start().await;
    assert_eq!(Service::new(Some(manager.address()), None).works_here().await, Ok(()));
    let started = unit(&manager, "start", "good").await;
    let data = started.data.clone().unwrap();
    assert_eq!((started.outcome, &data["job_result"]), (Outcome::Succeeded, &json!("done")), "{started:?}");
    assert_eq!((&data["before"]["active_state"], &data["after"]["active_state"]), (&json!("inactive"), &json!("active")));
    assert_eq!(&*started.stdout.to_text(), "good.service: inactive (dead)\ngood.service: active (running)\n");
    let first = data["after"]["main_pid"].as_u64().unwrap();
    let restarted = unit(&manager, "restart", "good.service").await.data.unwrap();
    assert_eq!(restarted["before"]["main_pid"], json!(first));
    assert_ne!(restarted["after"]["main_pid"], json!(first));
    assert_eq!(unit(&manager, "reload", "good").await.outcome, Outcome::Succeeded);
    let status = unit(&manager, "status", "good").await;
    assert_eq!((status.outcome, &status.data.unwrap()["state"]["sub_state"]), (Outcome::Succeeded, &json!("running")));
    let stopped = unit(&manager, "stop", "good").await.data.unwrap();
    assert_eq!(stopped["after"]["active_state"], json!("inactive"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_systemd_does_not_bring_about_fails_and_says_why() {
    let manager = Manager::start().await;
    for verb in ["start", "status"] {
        let missing = unit(&manager, verb, "no-such").await;
        assert_eq!((missing.outcome, code(&missing)), (Outcome::Failed, Some(Code::UnitNotFound)), "{missing:?}");
    }
    let broken = unit(&manager, "start", "broken").await;
    let error = broken.error.clone().unwrap();
    assert_eq!((broken.outcome, error.code), (Outcome::Failed, Code::UnitFailed));
    assert!(error.message.contains("exit status is 7") && error.message.contains("journal"), "{}", error.message);
    assert_eq!(broken.data.unwrap()["after"]["active_state"], json!("failed"));
    // It can't be reloaded, since it says nowhere how.
    assert_eq!(unit(&manager, "start", "slow-to-stop").await.outcome, Outcome::Succeeded);
    assert_eq!(code(&unit(&manager, "reload", "slow-to-stop").await), Some(Code::UnitFailed));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_time_out_and_a_cancel_end_what_systemd_does_for_the_job() {
    let manager = Manager::start().await;
    let service = Service::new(Some(manager.address()), None);
    let began = Instant::now();
    let late = run(&service, "start", json!({"unit": "slow"}), Duration::from_secs(1), CancellationToken::new()).await;
    assert_eq!((late.outcome, began.elapsed() < Duration::from_secs(10)), (Outcome::TimedOut, true));
    until(&manager, "slow", |state| state != "activating").await;
    let cancel = CancellationToken::new();
    let running = run(&service, "start", json!({"unit": "slow"}), LONG, cancel.clone());
    let (cancelled, ()) = tokio::join!(running, async {
        until(&manager, "slow", |state| state == "activating").await;
        cancel.cancel();
    });
    assert_eq!(cancelled.outcome, Outcome::Cancelled);
    until(&manager, "slow", |state| state != "activating").await;
}

/// Waits until a unit is in such a state.
async fn until(manager: &Manager, name: &str, wanted: impl Fn(&str) -> bool) {
    let end = Instant::now() + Duration::from_secs(10);
    loop {
        let state = unit(manager, "status", name).await.data.unwrap()["state"]["active_state"].as_str().unwrap().to_owned();
        if wanted(&state) {
            return;
        }
        assert!(Instant::now() < end, "{name} is still {state}");
        tokio::time::sleep(Duration::from_millis(20)).await; // poll
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_there_is_no_systemd_the_executor_is_off_and_a_job_says_so() {
    let manager = Manager::start().await;
    let address = manager.address();
    let service = Service::new(Some(address), None);
    manager.stop();
    assert!(service.works_here().await.is_err());
    let gone = run(&service, "status", json!({"unit": "good"}), LONG, CancellationToken::new()).await;
    assert_eq!((gone.outcome, code(&gone)), (Outcome::Failed, Some(Code::ExecutorUnavailable)));
    let nowhere = Service::new(Some("unix:path=/nonexistent/bus".to_owned()), None);
    assert!(nowhere.works_here().await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn secrets_in_what_systemd_says_are_masked() {
    let manager = Manager::start().await;
    let shown = unit(&manager, "status", "s3cret-in-its-name").await;
    assert_eq!(shown.outcome, Outcome::Succeeded);
    let said = format!("{} {:?}", shown.stdout.to_text(), shown.data);
    assert!(said.contains("***") && !said.contains("s3cret"), "{said}");
}

/// Notes what it is asked for, and does nothing of it.
#[derive(Clone, Default)]
struct Logind {
    asked: Arc<Mutex<Vec<String>>>,
    may: Arc<Mutex<&'static str>>,
}

#[zbus::interface(name = "org.freedesktop.login1.Manager")]
impl Logind {
    fn can_reboot(&self) -> String {
        (*self.may.lock().unwrap()).to_owned()
    }

    fn set_wall_message(&self, message: String, enable: bool) {
        self.asked.lock().unwrap().push(format!("wall {enable} {message}"));
    }

    fn schedule_shutdown(&self, kind: String, at: u64) {
        self.asked.lock().unwrap().push(format!("{kind} {at}"));
    }

    fn reboot(&self, _interactive: bool) {
        self.asked.lock().unwrap().push("reboot".to_owned());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_machine_is_restarted_only_where_that_is_allowed_and_only_afterwards() {
    let manager = Manager::start().await;
    let logind = Logind::default();
    let address = manager.address();
    let serving = zbus::connection::Builder::address(address.as_str());
    let serving = serving.serve_at("/org/freedesktop/login1", logind.clone()).name("org.freedesktop.login1").build().await.unwrap();
    let forbidden = Os::new(Some(address.clone()), false);
    assert!(forbidden.works_here().await.unwrap_err().contains("ALLOW_OS_RESTART"));
    assert_eq!(forbidden.check("restart", &json!({})).unwrap_err().code, Code::SettingForbids);

    let os = Os::new(Some(address), true);
    assert_eq!(os.works_here().await, Ok(()));
    *logind.may.lock().unwrap() = "challenge";
    let refused = run(&os, "restart", json!({}), LONG, CancellationToken::new()).await;
    assert_eq!((refused.outcome, code(&refused), refused.afterwards.is_some()), (Outcome::Failed, Some(Code::UnitFailed), false));

    *logind.may.lock().unwrap() = "yes";
    let good = run(&os, "restart", json!({"delay_s": 600, "message": "new kernel"}), LONG, CancellationToken::new()).await;
    assert_eq!(good.outcome, Outcome::Succeeded);
    assert!(good.stdout.to_text().contains("new kernel"));
    assert!(logind.asked.lock().unwrap().is_empty(), "nothing is done before the result is stored");
    good.afterwards.unwrap().run().await;
    let asked = logind.asked.lock().unwrap().clone();
    assert_eq!(asked[0], "wall true new kernel");
    let at: u64 = asked[1].strip_prefix("reboot ").unwrap().parse().unwrap();
    let now = u64::try_from(muster_schemas::time::Timestamp::now().micros()).unwrap();
    assert!((590_000_000..601_000_000).contains(&(at - now)), "{asked:?}");
    drop(serving);
}

#[test]
fn params_that_do_not_fit_are_refused_with_the_field() {
    let (service, os) = (Service::new(None, None), Os::new(None, true));
    for (executor, verb, params, field) in [
        (&service as &dyn Executor, "start", json!({}), "params.unit: is missing"),
        (&service, "start", json!({"unit": 5}), "params.unit: expected text"),
        (&service, "status", json!({"unit": "a", "x": 1}), "params.x: unknown"),
        (&os, "restart", json!({"delay_s": -1}), "params.delay_s: takes 0 to 3600"),
        (&os, "restart", json!({"delay_s": 3601}), "params.delay_s:"),
        (&os, "restart", json!({"message": "a\nb"}), "params.message:"),
    ] {
        let rejection = executor.check(verb, &params).unwrap_err();
        assert!(rejection.message.starts_with(field), "{params}: {rejection}");
    }
    assert!(service.check("destroy", &json!({})).unwrap().is_none() && os.check("stop", &json!({})).unwrap().is_none());
}
