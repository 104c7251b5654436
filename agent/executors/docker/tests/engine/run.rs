//! `docker.run`.

use std::{collections::HashMap, time::Duration};

use bollard::{models::ContainerCreateBody, query_parameters::RemoveVolumeOptions};
use muster_schemas::{code::Code, result::Outcome};
use serde_json::json;

use crate::bench::{AGENT, Bench, IMAGE, error, eventually, fact, texts};

fn sh(line: &str) -> serde_json::Value {
    json!({"image": IMAGE, "command": ["sh", "-c", line]})
}

fn with(mut params: serde_json::Value, more: serde_json::Value) -> serde_json::Value {
    params.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    params
}

#[tokio::test]
async fn a_container_runs_a_command_and_nothing_is_left() {
    let bench = Bench::new().await;
    let params = with(
        sh("echo out; echo $WORD >&2; pwd; id -u; exit 3"),
        json!({"env": {"WORD": "err"}, "workdir": "/tmp", "user": "1234", "name": "run-plain", "labels": {"team": "x"}}),
    );
    let execution = bench.run("docker.run", params).await;
    assert_eq!(texts(&execution), ("out\n/tmp\n1234\n".to_owned(), "err\n".to_owned()));
    assert_eq!((execution.outcome, execution.exit_code, error(&execution).0), (Outcome::Failed, Some(3), Code::ExitNonzero));
    assert_eq!(fact(&execution, "/removed"), true);
    assert!(bench.inspect("run-plain").await.is_none());
    let kept = bench.run("docker.run", with(sh("echo kept"), json!({"name": "run-kept", "remove": false}))).await;
    assert_eq!((kept.outcome, kept.exit_code), (Outcome::Succeeded, Some(0)));
    let labels = bench.inspect("run-kept").await.unwrap().config.unwrap().labels.unwrap();
    assert_eq!((labels["muster.job"].as_str(), labels["muster.agent"].as_str()), ("job-1", AGENT));
    assert_eq!(texts(&bench.run("docker.logs", json!({"container": "run-kept"})).await).0, "kept\n");
    assert_eq!(bench.run("docker.rm", json!({"container": "run-kept"})).await.outcome, Outcome::Succeeded);
    assert!(bench.inspect("run-kept").await.is_none());
}

#[tokio::test]
async fn a_container_is_stopped_and_removed_when_its_time_is_over() {
    let bench = Bench::new().await;
    let line = "trap 'echo bye; exit 0' TERM; echo hello; while :; do sleep 0.1; done";
    let mut job = bench.job("docker.run", with(sh(line), json!({"name": "run-gentle"})));
    job.timeout = Duration::from_secs(3);
    let execution = job.run().await;
    assert_eq!((execution.outcome, error(&execution).0), (Outcome::TimedOut, Code::TimedOut));
    assert_eq!(texts(&execution).0, "hello\nbye\n");
    assert!(bench.inspect("run-gentle").await.is_none());
    // The first process of a container does not even see a TERM that it has not asked for.
    for remove in [true, false] {
        let mut job = bench.job("docker.run", with(sh("while :; do sleep 1; done"), json!({"name": "run-deaf", "remove": remove})));
        (job.timeout, job.grace) = (Duration::from_secs(2), Duration::from_millis(300));
        assert_eq!(job.run().await.outcome, Outcome::TimedOut);
        assert!(bench.inspect("run-deaf").await.is_none());
    }
}

#[tokio::test]
async fn a_cancelled_container_is_removed() {
    let bench = Bench::new().await;
    let job = bench.job("docker.run", with(sh("trap 'exit 0' TERM; while :; do sleep 0.1; done"), json!({"name": "run-cancelled"})));
    let cancelled = job.cancelled.clone();
    let cancel = async {
        eventually("the container runs", async || {
            bench.inspect("run-cancelled").await.is_some_and(|container| container.state.unwrap().running == Some(true))
        })
        .await;
        cancelled.cancel();
    };
    let (execution, ()) = tokio::join!(job.run(), cancel);
    assert_eq!((execution.outcome, error(&execution).0), (Outcome::Cancelled, Code::Cancelled));
    assert!(bench.inspect("run-cancelled").await.is_none());
}

#[tokio::test]
async fn a_flood_is_cut_and_fills_no_disk() {
    let bench = Bench::new().await;
    let job = bench.job("docker.run", with(sh("yes 0123456789 | head -c 3000000; echo end"), json!({"name": "run-flood"})));
    let execution = job.run().await;
    assert_eq!(execution.outcome, Outcome::Succeeded);
    assert!(execution.truncated && execution.stdout.as_bytes().len() == 64 * 1024 && texts(&execution).0.ends_with("end\n"));
    let mut job = bench.job("docker.run", with(sh("yes"), json!({"name": "run-endless"})));
    job.timeout = Duration::from_secs(3);
    job.grace = Duration::from_millis(200);
    let look = async {
        eventually("the container runs", async || bench.inspect("run-endless").await.is_some()).await;
        bench.inspect("run-endless").await.unwrap()
    };
    let (execution, container) = tokio::join!(job.run(), look);
    assert_eq!(execution.outcome, Outcome::TimedOut);
    assert_eq!(container.host_config.unwrap().log_config.unwrap().typ.as_deref(), Some("none"));
}

#[tokio::test]
async fn a_container_has_its_limits_and_no_privileges() {
    let bench = Bench::new().await;
    let limits = json!({"memory_bytes": 33_554_432, "cpus": 0.5, "pids": 20});
    let params =
        json!({"image": IMAGE, "command": ["sleep", "100"], "name": "run-limits", "detach": true, "limits": limits, "network": "none"});
    assert_eq!(bench.run("docker.run", params).await.outcome, Outcome::Succeeded);
    let host = bench.inspect("run-limits").await.unwrap().host_config.unwrap();
    assert_eq!((host.memory, host.nano_cpus, host.pids_limit), (Some(33_554_432), Some(500_000_000), Some(20)));
    assert_eq!((host.privileged, host.cap_add, host.devices.unwrap_or_default().len()), (Some(false), None, 0));
    assert_eq!((host.pid_mode.as_deref(), host.network_mode.as_deref()), (Some(""), Some("none")));
    bench.run("docker.rm", json!({"container": "run-limits", "force": true})).await;
    // As many processes as it may have, and no more.
    let bomb = with(sh("for n in $(seq 50); do sleep 5 & done 2>&1; echo $?"), json!({"limits": {"pids": 10}}));
    assert!(texts(&bench.run("docker.run", bomb).await).0.contains("can't fork"));
}

#[tokio::test]
async fn what_would_reach_out_of_a_container_is_refused() {
    let bench = Bench::new().await;
    for (more, place) in [
        (json!({"privileged": true}), "params.privileged: unknown"),
        (json!({"cap_add": ["ALL"]}), "params.cap_add: unknown"),
        (json!({"devices": ["/dev/sda"]}), "params.devices: unknown"),
        (json!({"pid": "host"}), "params.pid: unknown"),
        (json!({"network": "host"}), "params.network: `host` is refused"),
        (json!({"network": "container:web"}), "params.network: "),
        (json!({"volumes": ["/:/host"]}), "params.volumes[0]: `/` is not beneath"),
        (json!({"volumes": ["/var/run/docker.sock:/s"]}), "params.volumes[0]: "),
        (json!({"volumes": [format!("{}/../x:/x", bench.root.display())]}), "params.volumes[0]: "),
        (json!({"restart": "always"}), "params.restart: only with"),
        (json!({"limits": {"memory_bytes": 1}}), "params.limits.memory_bytes: must be"),
        (json!({"limits": {"swap": 1}}), "params.limits.swap: unknown"),
        (json!({"labels": {"muster.agent": "x"}}), "params.labels.muster.agent: "),
        (json!({"name": "../x"}), "params.name: "),
        (json!({"image": "Up"}), "params.image: "),
    ] {
        let (code, message) = bench.refusal("docker.run", with(sh("true"), more));
        assert!(code == Code::ParamsInvalid && message.starts_with(place), "{place}: {message}");
    }
}

#[tokio::test]
async fn the_network_of_the_host_is_refused_by_its_id_too() {
    let bench = Bench::new().await;
    let id = bench.client.inspect_network("host", None).await.unwrap().id.unwrap();
    let execution = bench.run("docker.run", with(sh("true"), json!({"network": id, "name": "run-host"}))).await;
    assert_eq!((execution.outcome, error(&execution).0), (Outcome::Rejected, Code::ParamsInvalid));
    let file = format!("services: {{a: {{image: {IMAGE}, networks: [n]}}}}\nnetworks: {{n: {{external: true, name: {id}}}}}");
    let execution = bench.run("compose.up", json!({"project": "host", "file": file})).await;
    assert_eq!((execution.outcome, error(&execution).0), (Outcome::Rejected, Code::ParamsInvalid));
    assert!(bench.inspect("run-host").await.is_none() && bench.inspect("host-a-1").await.is_none());
}

#[tokio::test]
async fn folders_of_the_host_are_mounted_where_they_are_allowed() {
    let bench = Bench::new().await;
    let folder = bench.root.join("shared");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("file"), "from the host\n").unwrap();
    let mount = |mode: &str| json!({"volumes": [format!("{}:/m{mode}", folder.display()), "run-volume:/v"]});
    let line = "cat /m/file; echo new >/m/new && echo wrote; echo data >/v/data && cat /v/data";
    assert_eq!(texts(&bench.run("docker.run", with(sh(line), mount(""))).await).0, "from the host\nwrote\ndata\n");
    assert_eq!(std::fs::read_to_string(folder.join("new")).unwrap(), "new\n");
    assert_eq!(texts(&bench.run("docker.run", with(sh(line), mount(":ro"))).await).0, "from the host\ndata\n");
    // A link on the way leads out.
    let _old = std::fs::remove_file(bench.root.join("out"));
    std::os::unix::fs::symlink("/etc", bench.root.join("out")).unwrap();
    let escape = json!({"volumes": [format!("{}:/m", bench.root.join("out").display())]});
    let execution = bench.run("docker.run", with(sh("cat /m/passwd"), escape)).await;
    assert!(error(&execution).0 == Code::EngineFailed && error(&execution).1.contains("leads out"), "{execution:?}");
    bench.client.remove_volume("run-volume", None::<RemoveVolumeOptions>).await.unwrap();
}

#[tokio::test]
async fn what_can_not_be_started_says_why_and_leaves_nothing() {
    let bench = Bench::new().await;
    let missing = bench.run("docker.run", json!({"image": IMAGE, "command": ["/no/such"], "name": "run-missing"})).await;
    assert!(error(&missing).0 == Code::SpawnFailed && error(&missing).1.contains("/no/such"), "{missing:?}");
    assert!(bench.inspect("run-missing").await.is_none());
    let absent = bench.run("docker.run", json!({"image": "muster-test/absent", "pull": "never"})).await;
    assert_eq!(error(&absent).0, Code::ImageNotFound);
    let network = bench.run("docker.run", with(sh("true"), json!({"network": "no-such-network"}))).await;
    assert!(error(&network).1.contains("no-such-network"), "{network:?}");
}

#[tokio::test]
async fn what_a_killed_agent_left_is_removed_at_the_next_first_use() {
    const OWN: &str = "agt_01ARZ3NDEKTSV4RRFFQ69G5FAX";
    let bench = Bench::of(OWN).await;
    let leave = async |name: &str, labels: &[(&str, &str)]| {
        let options = bollard::query_parameters::CreateContainerOptionsBuilder::default().name(name).build();
        let labels: HashMap<_, _> = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let body = ContainerCreateBody {
            image: Some(IMAGE.to_owned()),
            cmd: Some(vec!["sleep".to_owned(), "1000".to_owned()]),
            labels: Some(labels),
            ..ContainerCreateBody::default()
        };
        bench.client.create_container(Some(options), body).await.unwrap();
        bench.client.start_container(name, None).await.unwrap();
    };
    let (job, transient) = (("muster.job", "job-0"), ("muster.ends-with-job", "true"));
    leave("left-behind", &[job, transient, ("muster.agent", OWN), ("muster.process", "1-1")]).await;
    leave("left-detached", &[job, ("muster.agent", OWN)]).await;
    leave("left-others", &[job, transient, ("muster.agent", "agt_01ARZ3NDEKTSV4RRFFQ69G5FAW"), ("muster.process", "1-1")]).await;
    let running = bench.job("docker.run", with(sh("trap 'exit 0' TERM; while :; do sleep 0.1; done"), json!({"name": "left-running"})));
    let cancelled = running.cancelled.clone();
    let first_use = async {
        eventually("a job's container runs", async || bench.inspect("left-running").await.is_some()).await;
        let restarted = Bench::of(OWN).await;
        assert_eq!(restarted.run("docker.ps", json!({})).await.outcome, Outcome::Succeeded);
        let there = [restarted.inspect("left-behind").await, restarted.inspect("left-running").await].map(|found| found.is_some());
        cancelled.cancel();
        there
    };
    let (_, there) = tokio::join!(running.run(), first_use);
    assert_eq!(there, [false, true]);
    for name in ["left-detached", "left-others"] {
        assert!(bench.inspect(name).await.is_some(), "{name}");
        bench.run("docker.rm", json!({"container": name, "force": true})).await;
    }
}
