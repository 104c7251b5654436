//! `docker.stop`, `rm`, `logs`, `ps`; a detached `docker.run`; an engine that is away.

use std::time::Duration;

use muster_executor::Executor as _;
use muster_executor_docker::{Docker, Options};
use muster_schemas::{code::Code, result::Outcome};
use serde_json::json;

use crate::bench::{Bench, IMAGE, Job, error, eventually, fact, texts};

#[tokio::test]
async fn a_detached_container_lives_on_and_can_be_listed_read_stopped_and_removed() {
    let bench = Bench::new().await;
    // The engine reads both outputs, each by itself: what comes at the same time is logged in either order.
    let line = "trap 'exit 7' TERM; echo one; sleep 0.5; echo two >&2; sleep 0.5; echo three; while :; do sleep 0.1; done";
    let params =
        json!({"image": IMAGE, "command": ["sh", "-c", line], "name": "long", "detach": true, "restart": "no", "labels": {"x": "y"}});
    assert_eq!(bench.run("docker.run", params).await.outcome, Outcome::Succeeded);
    eventually("its output", async || texts(&bench.run("docker.logs", json!({"container": "long"})).await).0.contains("three")).await;
    let logs = bench.run("docker.logs", json!({"container": "long", "tail": 2})).await;
    assert_eq!(texts(&logs), ("three\n".to_owned(), "two\n".to_owned()));
    let later = bench.run("docker.logs", json!({"container": "long", "since": i32::MAX})).await;
    assert_eq!(texts(&later), (String::new(), String::new()));
    let listed = bench.run("docker.ps", json!({"label": "x=y"})).await;
    assert_eq!((fact(&listed, "/containers/0/name"), fact(&listed, "/containers/0/state")), (json!("long"), json!("running")));
    assert_eq!(fact(&listed, "/containers/0/job"), "job-1");
    assert_eq!(fact(&bench.run("docker.ps", json!({"label": "x=z", "all": true})).await, "/containers"), json!([]));
    let refused = bench.run("docker.rm", json!({"container": "long"})).await;
    assert!(error(&refused).0 == Code::EngineFailed && error(&refused).1.contains("running"), "{refused:?}");
    // One that follows its log ends with it.
    let follow = bench.job("docker.logs", json!({"container": "long", "follow": true})).run();
    let stop = bench.run("docker.stop", json!({"container": "long", "grace_s": 5}));
    let (follow, stop) = tokio::join!(follow, stop);
    assert_eq!(follow.outcome, Outcome::Succeeded);
    assert_eq!((fact(&stop, "/was_running"), fact(&stop, "/exit_code")), (json!(true), json!(7)));
    assert_eq!(bench.run("docker.rm", json!({"container": "long"})).await.outcome, Outcome::Succeeded);
    for (kind, params) in [
        ("docker.rm", json!({"container": "long"})),
        ("docker.stop", json!({"container": "long"})),
        ("docker.logs", json!({"container": "long"})),
        ("docker.exec", json!({"container": "long", "argv": ["true"]})),
    ] {
        assert_eq!(error(&bench.run(kind, params).await).0, Code::ContainerNotFound, "{kind}");
    }
}

#[tokio::test]
async fn following_a_log_ends_with_the_job_and_not_the_container() {
    let bench = Bench::new().await;
    let params = json!({"image": IMAGE, "command": ["sleep", "100"], "name": "followed", "detach": true});
    assert_eq!(bench.run("docker.run", params).await.outcome, Outcome::Succeeded);
    let mut job = bench.job("docker.logs", json!({"container": "followed", "follow": true}));
    job.timeout = Duration::from_secs(1);
    assert_eq!(job.run().await.outcome, Outcome::TimedOut);
    assert_eq!(bench.inspect("followed").await.unwrap().state.unwrap().running, Some(true));
    bench.run("docker.rm", json!({"container": "followed", "force": true})).await;
}

#[tokio::test]
async fn an_engine_that_is_away_is_no_capability_and_a_clear_failure() {
    let bench = Bench::new().await;
    assert_eq!(bench.docker.works_here().await, Ok(()));
    assert_eq!(bench.compose.works_here().await, Ok(()));
    let dir = tempfile::tempdir().unwrap();
    // A socket that nobody answers at, one that is not there, and one that takes connections and says nothing.
    let stale = dir.path().join("stale.sock");
    drop(std::os::unix::net::UnixListener::bind(&stale).unwrap());
    let mute = dir.path().join("mute.sock");
    let _listener = std::os::unix::net::UnixListener::bind(&mute).unwrap();
    for path in [stale, dir.path().join("none.sock"), mute.clone()] {
        let docker = Docker::new(&Options { host: Some(format!("unix://{}", path.display())), ..Options::default() });
        let began = std::time::Instant::now();
        assert!(docker.works_here().await.is_err(), "{}", path.display());
        assert!(began.elapsed() < Duration::from_secs(4));
        if path != mute {
            let execution = Job::of(docker.check("ps", &json!({})).unwrap().unwrap()).run().await;
            assert_eq!(error(&execution).0, Code::ExecutorUnavailable, "{execution:?}");
        }
    }
}
