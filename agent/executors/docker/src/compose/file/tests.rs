//! Tests of [`super`].
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests fail by panicking")]
use std::time::Instant;

use proptest::prelude::*;

use super::*;
use crate::parts::{Limits, Restart};

fn parse(text: &str) -> Result<File, String> {
    File::parse(text, &["/srv/jobs".into()])
}

fn refusal(text: &str) -> String {
    match parse(text) {
        Ok(file) => format!("accepted: {file:?}"),
        Err(problem) => problem,
    }
}

/// A service with these fields.
fn service(fields: &str) -> String {
    format!("services:\n  web:\n    image: app\n    {}\n", fields.replace('\n', "\n    "))
}

const WHOLE: &str = r#"
version: "3.9"
x-common: &common
  restart: unless-stopped
  labels: {team: shop}
services:
  db:
    <<: *common
    image: postgres:16
    environment: {POSTGRES_PASSWORD: "a$$b", PORT: 5432, DEBUG: true}
    volumes: ["data:/var/lib/data", "/srv/jobs/seed:/seed:ro", "/cache"]
    healthcheck: {test: pg_isready, interval: 1s, timeout: 2s, retries: 3, start_period: 1m}
    stop_grace_period: 1m30s
    mem_limit: 512m
    cpus: "0.5"
    pids_limit: 100
    networks: {back: {aliases: [database]}}
  migrate:
    image: app:1
    command: ./migrate --all 'two words'
    depends_on: {db: {condition: service_healthy}}
    networks: [back]
    restart: no
  web:
    image: app:1
    command: ["./web", "--port", "80"]
    entrypoint: /entry.sh
    user: "1000:1000"
    working_dir: /app
    container_name: shop-web
    hostname: web
    environment: ["A=1", "B=x=y"]
    ports: ["8080:80", 9000, {target: 443, published: "8443", host_ip: 127.0.0.1, protocol: tcp}]
    volumes: [{type: tmpfs, target: /tmp}, {type: volume, source: data, target: /data, read_only: true}]
    depends_on:
      migrate: {condition: service_completed_successfully}
      db: {condition: service_started}
networks:
  back: {internal: true}
volumes:
  data:
  old: {external: true, name: legacy}
"#;

#[test]
fn all_that_is_supported_is_read() {
    let file = parse(WHOLE).unwrap();
    let db = &file.services["db"];
    assert_eq!(db.spec.env["POSTGRES_PASSWORD"], "a$b");
    assert_eq!((db.spec.env["PORT"].as_str(), db.spec.env["DEBUG"].as_str()), ("5432", "true"));
    assert_eq!(db.spec.labels["team"], "shop");
    assert_eq!(db.spec.restart, Some(Restart::UnlessStopped));
    assert_eq!(db.spec.limits, Limits { memory_bytes: Some(512 << 20), cpus: Some(0.5), pids: Some(100) });
    assert_eq!((db.spec.stop_grace, db.spec.mounts.len()), (Some(90), 3));
    assert_eq!(db.spec.health.as_ref().unwrap().test, ["CMD-SHELL", "pg_isready"]);
    assert_eq!(db.networks["back"], ["database"]);
    let migrate = &file.services["migrate"];
    assert_eq!(migrate.spec.command.as_ref().unwrap(), &["./migrate", "--all", "two words"]);
    assert_eq!(migrate.spec.restart, Some(Restart::No));
    let web = &file.services["web"];
    assert_eq!(web.spec.entrypoint.as_ref().unwrap(), &["/entry.sh"]);
    assert_eq!((web.spec.env["B"].as_str(), web.spec.ports.len(), web.spec.mounts.len()), ("x=y", 3, 2));
    assert_eq!(web.depends_on["migrate"], Condition::Completed);
    assert!(web.networks.contains_key(DEFAULT_NETWORK));
    assert_eq!(file.order(&[]).unwrap(), ["db", "migrate", "web"]);
    assert_eq!(file.order(&["migrate".to_owned()]).unwrap(), ["db", "migrate"]);
    assert!(file.order(&["nope".to_owned()]).is_err());
    assert_eq!(file.volumes["old"].name("shop", "old"), "legacy");
    assert_eq!(file.volumes["data"].name("shop", "data"), "shop_data");
    assert_eq!(file.images().len(), 2);
}

#[test]
fn all_else_is_refused_by_its_place() {
    for field in [
        "privileged: true",
        "cap_add: [ALL]",
        "devices: [/dev/sda]",
        "network_mode: host",
        "pid: host",
        "ipc: host",
        "userns_mode: host",
        "build: .",
        "env_file: .env",
        "security_opt: [seccomp=unconfined]",
        "volumes_from: [db]",
        "extends: {service: x}",
        "deploy: {replicas: 2}",
        "sysctls: {a: 1}",
        "cgroup_parent: /",
        "runtime: x",
        "configs: [a]",
        "secrets: [a]",
        "tmpfs: /x",
        "links: [db]",
        "logging: {driver: x}",
        "profiles: [a]",
        "scale: 2",
        "init: true",
        "gpus: all",
        "uts: host",
    ] {
        let name = field.split(':').next().unwrap();
        let problem = refusal(&service(field));
        assert!(problem.starts_with(&format!("services.web.{name}: is not supported")), "{field}: {problem}");
    }
    for (text, place) in [
        ("secrets: {}\nservices: {web: {image: a}}", "secrets: is not supported"),
        ("name: shop\nservices: {web: {image: a}}", "name: is not supported"),
        ("include: [a.yml]\nservices: {web: {image: a}}", "include: is not supported"),
        (
            "services: {web: {image: a}}\nvolumes: {v: {driver_opts: {type: none, device: /, o: bind}}}",
            "volumes.v.driver_opts: is not supported",
        ),
        ("services: {web: {image: a}}\nvolumes: {v: {driver: local}}", "volumes.v.driver: is not supported"),
        ("services: {web: {image: a}}\nnetworks: {n: {driver: host}}", "networks.n.driver: only"),
        ("services: {web: {image: a}}\nnetworks: {n: {name: host, external: true}}", "networks.n: `host` is refused"),
        ("services: {web: {image: a}}\nnetworks: {host: {external: true}}", "networks.host: `host` is refused"),
        ("services: {web: {image: a, healthcheck: {tst: x}}}", "services.web.healthcheck.tst: is not supported"),
        ("services: {web: {image: a, networks: {default: {ipv4_address: 1.2.3.4}}}}", "services.web.networks.default.ipv4_address: is not"),
        (
            "services: {web: {image: a, depends_on: {b: {condition: service_healthy, restart: true}}}, b: {image: a}}",
            "services.web.depends_on.b.restart",
        ),
        (
            "services: {web: {image: a, volumes: [{type: bind, source: /srv/jobs/a, target: /x, bind: {propagation: shared}}]}}",
            "services.web.volumes[0].bind",
        ),
    ] {
        let problem = refusal(text);
        assert!(problem.starts_with(place), "{text}: {problem}");
    }
}

#[test]
fn nothing_is_taken_from_the_agents_surroundings() {
    for (fields, place) in [
        ("command: echo $HOME", "services.web.command: `$`"),
        ("environment: {A: \"${B:-c}\"}", "services.web.environment.A: `$`"),
        ("environment: [A]", "services.web.environment[0]: `A` has no value"),
        ("environment: {A: }", "services.web.environment.A: `A` has no value"),
        ("volumes: [\"./data:/data\"]", "services.web.volumes[0]: "),
        ("volumes: [\"~/data:/data\"]", "services.web.volumes[0]: "),
        ("volumes: [\"/etc:/data\"]", "services.web.volumes[0]: `/etc` is not beneath"),
        ("volumes: [\"/srv/jobs/../../etc:/data\"]", "services.web.volumes[0]: "),
        ("volumes: [\"/var/run/docker.sock:/s\"]", "services.web.volumes[0]: "),
        ("labels: {com.docker.compose.project: other}", "services.web.labels: "),
        ("labels: [muster.agent=x]", "services.web.labels: "),
    ] {
        let problem = refusal(&service(fields));
        assert!(problem.starts_with(place), "{fields}: {problem}");
    }
}

#[test]
fn what_contradicts_itself_is_refused() {
    for (text, place) in [
        ("", "expected a map"),
        ("services: {}", "services: must be"),
        ("{}", "services: is missing"),
        ("services: {web: {}}", "services.web: `image` is missing"),
        ("services: {web: {image: App}}", "services.web.image: "),
        ("services: {\"a/b\": {image: a}}", "services.a/b: "),
        ("services: {web: {image: a, depends_on: [db]}}", "services.web.depends_on.db: there is no such service"),
        ("services: {a: {image: a, depends_on: [b]}, b: {image: a, depends_on: [a]}}", "services.a.depends_on: depends on itself"),
        ("services: {web: {image: a, networks: [back]}}", "services.web.networks.back: is not in"),
        ("services: {web: {image: a, volumes: [\"data:/x\"]}}", "services.web.volumes: `data` is not in"),
        ("services: {a: {image: a, container_name: x}, b: {image: a, container_name: x}}", "services.b.container_name: "),
        ("services: {web: {image: a, image: b}}", "is not YAML"),
        ("services: {web: {image: a}}\n---\nservices: {}", "is not YAML"),
        ("services: [", "is not YAML"),
    ] {
        let problem = refusal(text);
        assert!(problem.starts_with(place), "{text}: {problem}");
    }
    let many: String = (0..65).map(|number| format!("  s{number}: {{image: a}}\n")).collect();
    assert!(refusal(&format!("services:\n{many}")).starts_with("services: must be 1 to 64"));
}

#[test]
fn bombs_are_refused_at_once() {
    let started = Instant::now();
    let mut laughs = "x-a: &a0 [lol, lol, lol, lol, lol, lol, lol, lol]\n".to_owned();
    for level in 1..12 {
        let before = format!("*a{}, ", level - 1).repeat(8);
        laughs.push_str(&format!("x-{level}: &a{level} [{}]\n", before.trim_end_matches(", ")));
    }
    for bomb in [
        format!("{laughs}services: {{web: {{image: a}}}}"),
        format!("x: {}", "[".repeat(100_000)),
        format!("x: {}", "{a: ".repeat(10_000)),
        format!("services: {{web: {{image: a}}}}\nx-a: [{}]", "a, ".repeat(60_000)),
        format!("x: {}", "a".repeat(300_000)),
    ] {
        let problem = refusal(&bomb);
        assert!(problem.starts_with("is not YAML") || problem.starts_with("has more"), "{problem}");
        assert!(problem.len() < 500, "{problem}");
    }
    assert!(started.elapsed().as_secs() < 5, "{:?}", started.elapsed());
}

proptest! {
    #[test]
    fn reading_a_file_never_panics(text in "[ -~\n]{0,200}") {
        let _ = parse(&text);
    }

    /// Whatever stands in a service: it is one of the fields that are supported, or the file is refused for it.
    #[test]
    fn no_field_is_ignored(field in "[a-z_]{1,16}", value in prop::sample::select(vec!["true", "[a]", "{a: b}", "host", "1"])) {
        const KNOWN: [&str; 19] = [
            "image", "command", "entrypoint", "environment", "ports", "volumes", "networks", "depends_on", "restart", "labels", "user",
            "working_dir", "healthcheck", "mem_limit", "cpus", "pids_limit", "stop_grace_period", "container_name", "hostname",
        ];
        prop_assume!(!KNOWN.contains(&field.as_str()));
        let problem = refusal(&service(&format!("{field}: {value}")));
        let expected = format!("services.web.{field}: is not supported");
        prop_assert!(problem.starts_with(&expected), "{}", problem);
    }

    /// Texts come through as they were written, and no variable does.
    #[test]
    fn texts_come_through_and_variables_do_not(value in "[ -~]{0,24}") {
        let quoted = serde_json::to_string(&value.replace('$', "$$")).unwrap();
        let file = parse(&service(&format!("environment: {{A: {quoted}}}"))).unwrap();
        prop_assert_eq!(&file.services["web"].spec.env["A"], &value);
        let raw = serde_json::to_string(&value).unwrap();
        prop_assert_eq!(parse(&service(&format!("environment: {{A: {raw}}}"))).is_err(), value.replace("$$", "").contains('$'));
    }
}
