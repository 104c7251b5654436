//! `compose.*`.

use std::collections::HashMap;

use bollard::query_parameters::{ListContainersOptionsBuilder, RemoveVolumeOptions};
use muster_executor::Execution;
use muster_schemas::{code::Code, result::Outcome};
use serde_json::{Value, json};

use crate::{
    bench::{Bench, IMAGE, error, eventually, fact, registry, texts},
    host::PASSWORD,
};

/// The id of each service's container.
async fn ids(bench: &Bench, project: &str) -> HashMap<String, String> {
    let filters = HashMap::from([("label".to_owned(), vec![format!("com.docker.compose.project={project}")])]);
    let options = ListContainersOptionsBuilder::default().all(true).filters(&filters).build();
    let found = bench.client.list_containers(Some(options)).await.unwrap();
    found.into_iter().map(|container| (container.labels.unwrap()["com.docker.compose.service"].clone(), container.id.unwrap())).collect()
}

async fn up(bench: &Bench, project: &str, file: &str, more: Value) -> Execution {
    let mut params = json!({"project": project, "file": file, "wait_timeout_s": 30});
    params.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    bench.run("compose.up", params).await
}

async fn down(bench: &Bench, project: &str) {
    let execution = bench.run("compose.down", json!({"project": project, "volumes": true})).await;
    assert_eq!(execution.outcome, Outcome::Succeeded, "{execution:?}");
    assert!(ids(bench, project).await.is_empty());
}

fn actions(execution: &Execution) -> Value {
    let services = fact(execution, "/services");
    services
        .as_object()
        .unwrap()
        .iter()
        .map(|(name, service)| (name.clone(), service["action"].clone()))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

/// A store that is healthy after a second, a step that has to be done first, and a web that asks the store by its name.
fn shop(word: &str) -> String {
    format!(
        r#"
x-quick: &quick {{stop_grace_period: 1s}}
services:
  store:
    <<: *quick
    image: {IMAGE}
    command: sh -c 'sleep 1; mkdir -p /data/www; cd /data/www; cp /data/word index.html; exec httpd -f -p 8080'
    healthcheck: {{test: 'printf "GET / HTTP/1.0\r\n\r\n" | nc 127.0.0.1 8080 | grep -q 200', interval: 200ms, retries: 50}}
    volumes: ["data:/data"]
    networks: {{back: {{aliases: [shelf]}}}}
    depends_on: {{fill: {{condition: service_completed_successfully}}}}
  fill:
    image: {IMAGE}
    command: [sh, -c, "echo $$WORD >/data/word"]
    environment: {{WORD: {word}}}
    volumes: ["data:/data"]
  web:
    <<: *quick
    image: {IMAGE}
    command: [sh, -c, 'printf "GET / HTTP/1.0\r\n\r\n" | nc shelf 8080 | tail -n 1; exec sleep 1000']
    depends_on: {{store: {{condition: service_healthy}}}}
    networks: [back]
networks: {{back: }}
volumes: {{data: }}
"#
    )
}

#[tokio::test]
async fn a_project_comes_up_in_order_stays_as_it_is_and_goes_down() {
    let bench = Bench::new().await;
    let first = up(&bench, "shop", &shop("apples"), json!({})).await;
    assert_eq!(first.outcome, Outcome::Succeeded, "{first:?}");
    assert_eq!(actions(&first), json!({"fill": "created", "store": "created", "web": "created"}));
    eventually("what the store has", async || texts(&bench.run("docker.logs", json!({"container": "shop-web-1"})).await).0 == "apples\n")
        .await;
    let made = ids(&bench, "shop").await;
    // As `docker compose` labels them.
    let labels = bench.inspect("shop-store-1").await.unwrap().config.unwrap().labels.unwrap();
    for (key, value) in [
        ("com.docker.compose.project", "shop"),
        ("com.docker.compose.service", "store"),
        ("com.docker.compose.container-number", "1"),
        ("com.docker.compose.oneoff", "False"),
        ("com.docker.compose.depends_on", "fill:service_completed_successfully:false"),
        ("muster.job", "job-1"),
    ] {
        assert_eq!(labels[key], value, "{key}");
    }
    assert_eq!(labels["com.docker.compose.config-hash"].len(), 64);

    // Again: nothing changes, but for the step, which has ended and is done again.
    let again = up(&bench, "shop", &shop("apples"), json!({})).await;
    assert_eq!(actions(&again), json!({"fill": "started", "store": "unchanged", "web": "unchanged"}));
    assert_eq!(ids(&bench, "shop").await, made);

    // Only what has changed is made anew.
    let changed = up(&bench, "shop", &shop("pears"), json!({})).await;
    assert_eq!(actions(&changed), json!({"fill": "recreated", "store": "unchanged", "web": "unchanged"}), "{changed:?}");
    let now = ids(&bench, "shop").await;
    assert!(now["fill"] != made["fill"] && now["store"] == made["store"] && now["web"] == made["web"]);

    let listed = bench.run("compose.ps", json!({"project": "shop"})).await;
    let rows = fact(&listed, "/containers");
    let states: Vec<_> =
        rows.as_array().unwrap().iter().map(|row| (row["service"].as_str().unwrap(), row["state"].as_str().unwrap())).collect();
    assert_eq!(states, [("fill", "exited"), ("store", "running"), ("web", "running")]);

    let gone = bench.run("compose.down", json!({"project": "shop"})).await;
    let order: Vec<_> = fact(&gone, "/containers").as_array().unwrap().iter().map(|name| name.as_str().unwrap().to_owned()).collect();
    assert_eq!(order, ["shop-web-1", "shop-store-1", "shop-fill-1"]);
    assert_eq!(fact(&gone, "/volumes"), json!([]));
    assert!(bench.client.inspect_network("shop_back", None).await.is_err());
    assert!(bench.client.inspect_volume("shop_data").await.is_ok());
    down(&bench, "shop").await;
    assert!(bench.client.inspect_volume("shop_data").await.is_err());
}

#[tokio::test]
async fn a_container_has_what_its_service_says() {
    let bench = Bench::new().await;
    let folder = bench.root.join("compose");
    std::fs::create_dir_all(&folder).unwrap();
    let file = format!(
        r#"
services:
  app:
    image: {IMAGE}
    command: sleep 1000
    user: "12:34"
    working_dir: /tmp
    hostname: apphost
    container_name: app-by-name
    environment: [A=1]
    labels: {{team: x}}
    ports: ["127.0.0.1::80"]
    volumes: ["{}:/m:ro", {{type: tmpfs, target: /t}}]
    restart: on-failure:2
    mem_limit: 32m
    cpus: 0.25
    pids_limit: 33
    stop_grace_period: 1s
"#,
        folder.display()
    );
    let execution = up(&bench, "full", &file, json!({})).await;
    assert_eq!(execution.outcome, Outcome::Succeeded, "{execution:?}");
    let container = bench.inspect("app-by-name").await.unwrap();
    let (config, host) = (container.config.unwrap(), container.host_config.unwrap());
    assert_eq!(
        (config.user.as_deref(), config.working_dir.as_deref(), config.hostname.as_deref()),
        (Some("12:34"), Some("/tmp"), Some("apphost"))
    );
    assert!(config.env.unwrap().contains(&"A=1".to_owned()) && config.labels.unwrap()["team"] == "x");
    assert_eq!((host.memory, host.nano_cpus, host.pids_limit), (Some(32 << 20), Some(250_000_000), Some(33)));
    assert_eq!((host.privileged, host.restart_policy.unwrap().maximum_retry_count), (Some(false), Some(2)));
    let mounts = container.mounts.unwrap();
    let bind = mounts.iter().find(|mount| mount.destination.as_deref() == Some("/m")).unwrap();
    assert_eq!((bind.source.as_deref(), bind.rw), (folder.to_str(), Some(false)));
    let listed = bench.run("compose.ps", json!({"project": "full"})).await;
    assert_eq!(
        (fact(&listed, "/containers/0/ports/0/ip"), fact(&listed, "/containers/0/ports/0/container")),
        (json!("127.0.0.1"), json!(80))
    );
    down(&bench, "full").await;
}

#[tokio::test]
async fn a_service_that_is_not_ready_fails_the_job_with_its_last_words() {
    let bench = Bench::new().await;
    let file =
        |line: &str| format!("services:\n  bad:\n    image: {IMAGE}\n    command: [sh, -c, \"{line}\"]\n    stop_grace_period: 1s\n");
    let ended = up(&bench, "ended", &file("sleep 1; echo last words; exit 9"), json!({})).await;
    // It ran when it was looked at; what others depend on is looked at until it has ended.
    assert_eq!(ended.outcome, Outcome::Succeeded);
    let depends = format!(
        "{}  web:\n    image: {IMAGE}\n    depends_on: {{bad: {{condition: service_completed_successfully}}}}\n",
        file("echo last words; exit 9")
    );
    let failed = up(&bench, "ended", &depends, json!({})).await;
    assert!(error(&failed).0 == Code::ProjectUnready && error(&failed).1.contains("`bad` has ended with exit status 9"), "{failed:?}");
    assert_eq!(texts(&failed).0, "last words\n");
    assert!(!ids(&bench, "ended").await.contains_key("web"));
    down(&bench, "ended").await;
    let sick = format!("{}    healthcheck: {{test: [CMD, 'false'], interval: 100ms, retries: 2}}\n", file("sleep 100"));
    let failed = up(&bench, "sick", &sick, json!({})).await;
    assert!(error(&failed).0 == Code::ProjectUnready && error(&failed).1.contains("`bad` is unhealthy"), "{failed:?}");
    let slow = format!("{}    healthcheck: {{test: [CMD, 'false'], interval: 1s, start_period: 100s}}\n", file("sleep 100"));
    let failed = up(&bench, "sick", &slow, json!({"wait_timeout_s": 1})).await;
    assert!(error(&failed).1.contains("not ready in time"), "{failed:?}");
    let unwaited = up(&bench, "sick", &slow, json!({"wait": false})).await;
    assert_eq!(actions(&unwaited), json!({"bad": "unchanged"}));
    down(&bench, "sick").await;
}

#[tokio::test]
async fn only_what_is_asked_for_comes_up_and_orphans_go_when_asked() {
    let bench = Bench::new().await;
    let service = |name: &str| format!("  {name}:\n    image: {IMAGE}\n    command: sleep 1000\n    stop_grace_period: 1s\n");
    let both = format!("services:\n{}{}", service("one"), service("two"));
    let part = up(&bench, "orphans", &both, json!({"services": ["two"]})).await;
    assert_eq!(actions(&part), json!({"two": "created"}));
    let one = format!("services:\n{}", service("one"));
    assert_eq!(actions(&up(&bench, "orphans", &one, json!({})).await), json!({"one": "created"}));
    assert!(ids(&bench, "orphans").await.contains_key("two"));
    let cleaned = up(&bench, "orphans", &one, json!({"remove_orphans": true})).await;
    assert_eq!((actions(&cleaned), fact(&cleaned, "/removed")), (json!({"one": "unchanged"}), json!(["orphans-two-1"])));
    assert_eq!(
        bench.refusal("compose.up", json!({"project": "orphans", "file": one, "services": ["nope"]})).1,
        "params.services: there is no service `nope`"
    );
    down(&bench, "orphans").await;
}

#[tokio::test]
async fn what_is_anothers_is_not_taken() {
    let bench = Bench::new().await;
    let request = bollard::models::VolumeCreateRequest { name: Some("theirs".to_owned()), ..Default::default() };
    bench.client.create_volume(request).await.unwrap();
    let file = |more: &str| {
        format!(
            "services:\n  a:\n    image: {IMAGE}\n    command: sleep 1000\n    stop_grace_period: 1s\n    volumes: [\"v:/v\"]\nvolumes: {{v: {{name: theirs{more}}}}}\n"
        )
    };
    let refused = up(&bench, "taker", &file(""), json!({})).await;
    assert!(error(&refused).1.contains("not of this project"), "{refused:?}");
    assert_eq!(up(&bench, "taker", &file(", external: true"), json!({})).await.outcome, Outcome::Succeeded);
    down(&bench, "taker").await;
    assert!(bench.client.inspect_volume("theirs").await.is_ok());
    bench.client.remove_volume("theirs", None::<RemoveVolumeOptions>).await.unwrap();
}

#[tokio::test]
async fn images_of_a_project_are_pulled_with_the_credentials_of_their_registry() {
    let bench = Bench::new().await;
    crate::pull::pushed(&bench, "team/compose").await;
    let file =
        format!("services:\n  a:\n    image: {}/team/compose:1\n    command: sleep 1000\n    stop_grace_period: 1s\n", bench.host.locked);
    let bare = bench.run("compose.pull", json!({"project": "pulled", "file": file})).await;
    assert_eq!(error(&bare).0, Code::RegistryRefused);
    let mut job = bench.job("compose.pull", json!({"project": "pulled", "file": file}));
    job.connection = Some(registry(&bench.host.locked, PASSWORD));
    let pulled = job.run().await;
    assert_eq!(fact(&pulled, "/images/0/image"), json!(format!("{}/team/compose:1", bench.host.locked)));
    assert_eq!(actions(&up(&bench, "pulled", &file, json!({"pull": "never"})).await), json!({"a": "created"}));
    let mut job = bench.job("compose.up", json!({"project": "pulled", "file": file, "pull": "always"}));
    job.connection = Some(registry(&bench.host.locked, PASSWORD));
    assert_eq!(actions(&job.run().await), json!({"a": "unchanged"}));
    down(&bench, "pulled").await;
}

#[tokio::test]
async fn wrong_params_of_a_project_name_their_place() {
    let bench = Bench::new().await;
    let good = format!("services: {{a: {{image: {IMAGE}}}}}");
    for (kind, params, place) in [
        ("compose.up", json!({"file": good}), "params.project: is missing"),
        ("compose.up", json!({"project": "a"}), "params.file: is missing"),
        ("compose.up", json!({"project": "A", "file": good}), "params.project: must be"),
        (
            "compose.up",
            json!({"project": "a", "file": "services: {a: {image: a, privileged: true}}"}),
            "params.file: services.a.privileged: is not supported",
        ),
        ("compose.up", json!({"project": "a", "file": good, "build": true}), "params.build: unknown"),
        ("compose.up", json!({"project": "a", "file": good, "wait_timeout_s": 0}), "params.wait_timeout_s: must be"),
        ("compose.down", json!({}), "params.project: is missing"),
        ("compose.ps", json!({"project": "a", "file": good}), "params.file: unknown"),
        ("compose.pull", json!({"project": "a", "file": "x"}), "params.file: expected a map"),
    ] {
        let (code, message) = bench.refusal(kind, params);
        assert!(code == Code::ParamsInvalid && message.starts_with(place), "{place}: {message}");
    }
}
