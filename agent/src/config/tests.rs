//! Tests of [`super`].
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking")]
use std::collections::BTreeMap;

use clap::{CommandFactory as _, Parser as _};
use muster_runtime::config::{Loaded, Sources, load};

use super::{args::Args, *};

fn from_env(pairs: &[(&str, &str)]) -> Result<Loaded<Config>, String> {
    let environment: BTreeMap<_, _> = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    load(&Sources { environment, ..Sources::default() }).map_err(|error| error.to_string())
}

#[test]
fn the_defaults_are_those_of_the_contract() {
    let config = from_env(&[]).unwrap().settings;
    assert_eq!(config.heartbeat_interval(None), Duration::from_secs(30));
    assert_eq!(config.heartbeat_interval(Some(Duration::from_secs(7))), Duration::from_secs(7));
    assert_eq!((config.max_concurrent_jobs, config.admin_port), (5, 9191));
    assert!(!config.allow_private_network && !config.allow_os_restart);
    assert_eq!(config.executors, ["shell", "http"]);
    assert_eq!(config.vault_path(), config.state_dir.join("vault"));
    assert_eq!(config.shutdown_grace.get(), Duration::from_secs(30));
    assert!(!config.agent_name().unwrap().as_str().is_empty());
}

#[test]
fn a_value_out_of_range_is_refused_with_its_range() {
    for (name, value, range) in [
        ("MAX_CONCURRENT_JOBS", "0", "1"),
        ("MAX_CONCURRENT_JOBS", "51", "50"),
        ("HEARTBEAT_INTERVAL", "0", "1h"),
        ("HEARTBEAT_INTERVAL", "2h", "1h"),
        ("SHUTDOWN_GRACE", "11m", "10m"),
        ("ADMIN_PORT", "65536", "admin_port"),
        ("MAX_CONCURRENT_JOBS", "many", "max_concurrent_jobs"),
    ] {
        let error = from_env(&[(name, value)]).unwrap_err();
        assert!(error.contains(range) && error.contains(name), "{error}");
    }
}

#[test]
fn what_contradicts_itself_is_refused() {
    for pairs in [
        &[("AGENT_API_URL", "ftp://h")][..],
        &[("AGENT_API_URL", "http://me:pass@h")],
        &[("AGENT_API_URL", "nothing")],
        &[("AGENT_NAME", "a.b")],
        &[("AGENT_NAME", "Web")],
        &[("EXECUTORS", "shell,telepathy")],
        &[("EXECUTORS", "shell,shell")],
        &[("EXECUTORS", "Telepathy"), ("PLUGIN_DIR", "/plugins")],
        &[("SHELL_ENV_ALLOW", "AGENT_API_KEY")],
        &[("SHELL_ENV_ALLOW", "LD_*")],
        &[("JOB_CGROUP", "sys/fs/cgroup")],
        &[("FILES_ROOTS", "srv")],
        &[("FILES_ROOTS", "/srv,/")],
        &[("STATE_DIR", "/s"), ("VAULT_PATH", "/s/known_hosts")],
        &[("STATE_DIR", "/s"), ("VAULT_PATH", "/s/spool/vault")],
        &[("AGENT_JOIN_TOKEN", " ")],
        &[("AGENT_JOIN_TOKEN", "mst_join_a"), ("AGENT_JOIN_TOKEN_FILE", "/token")],
        &[("AGENT_API_KEY", "mst_agent_a"), ("AGENT_API_KEY_FILE", "/key")],
    ] {
        assert!(from_env(pairs).is_err(), "{pairs:?}");
    }
}

#[test]
fn an_empty_list_of_executors_means_none() {
    for value in ["", ",", " ", "[]"] {
        assert!(from_env(&[("EXECUTORS", value)]).unwrap().settings.executors.is_empty(), "{value:?}");
    }
    assert_eq!(from_env(&[("EXECUTORS", "probe")]).unwrap().settings.executors, ["probe"]);
    assert_eq!(from_env(&[("EXECUTORS", "shell, http")]).unwrap().settings.executors, ["shell", "http"]);
}

#[test]
fn secrets_do_not_show() {
    let loaded = from_env(&[("AGENT_API_KEY", "hunter2"), ("AGENT_JOIN_TOKEN", "hunter2"), ("ADMIN_TOKEN", "hunter2")]).unwrap();
    assert!(!loaded.to_toml().contains("hunter2"));
    assert!(!format!("{loaded:?}").contains("hunter2"));
}

#[test]
fn every_setting_of_the_environment_is_also_a_flag() {
    Args::command().debug_assert();
    let key = nkeys::KeyPair::new_user().public_key();
    for variable in Config::ENV {
        let flag = match variable.key {
            "labels" => "--label".to_owned(),
            key => format!("--{}", key.replace('_', "-")),
        };
        let value = match variable.key {
            "heartbeat_interval" | "max_concurrent_jobs" | "shutdown_grace" => "7",
            "admin_port" => "0",
            "allow_private_network" | "allow_os_restart" | "ephemeral" | "accept_unsigned" => "false",
            "executors" => "http",
            "docker_bind_roots" | "files_roots" => "/srv",
            "job_cgroup" => "none",
            "labels" => "zone=north",
            "job_log_limit" => "64KiB",
            "log_level" => "debug",
            "log_format" => "json",
            "api_url" => "http://h",
            "trusted_signers" => &key,
            _ => "x",
        };
        let args = Args::try_parse_from(["muster-agent", &flag, value]).unwrap();
        let loaded = load::<Config>(&Sources { flags: args.overrides(), ..Sources::default() }).unwrap();
        assert_eq!(loaded.origin(variable.key).to_string(), muster_runtime::config::Layer::Flag(flag).to_string());
    }
}

fn labels(loaded: Result<Loaded<Config>, String>) -> Vec<(String, String)> {
    loaded.unwrap().settings.labels.0.into_iter().collect()
}

fn pairs(of: &[(&str, &str)]) -> Vec<(String, String)> {
    of.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

#[test]
fn labels_are_pairs_in_a_text_a_list_or_a_table() {
    let two = pairs(&[("role", "web"), ("zone", "a=b")]);
    for text in ["role=web, zone=a=b,", "zone = a=b\nrole=web\n", r#"["zone=a=b", "role=web"]"#, r#"{role = "web", zone = "a=b"}"#] {
        assert_eq!(labels(from_env(&[("LABELS", text)])), two, "{text}");
    }
    assert_eq!(labels(from_env(&[("LABELS", "names=a,b\n")])), pairs(&[("names", "a,b")]));
    for none in ["", " ", ",", "[]", "{}"] {
        assert_eq!(labels(from_env(&[("LABELS", none)])), [], "{none:?}");
    }
    assert_eq!(labels(from_env(&[("LABELS", "flag=")])), pairs(&[("flag", "")]));
}

#[test]
fn each_layer_of_labels_replaces_those_before_it_and_the_flag_may_be_repeated() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("agent.toml");
    std::fs::write(&file, "[labels]\n\"example.com/rack\" = \"7\"\n").unwrap();
    let load = |environment: &[(&str, &str)], flags: &[&str]| {
        let environment = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let args = Args::try_parse_from(["muster-agent"].iter().chain(flags)).unwrap();
        load::<Config>(&Sources { file: Some(file.clone()), environment, flags: args.overrides() }).map_err(|error| error.to_string())
    };
    let rack = ("example.com/rack", "7");
    assert_eq!(labels(load(&[], &[])), pairs(&[rack]));
    assert_eq!(labels(load(&[("LABELS", "a=1")], &[])), pairs(&[("a", "1")]));
    assert_eq!(labels(load(&[("LABELS", "")], &[])), []);
    let given = labels(load(&[("LABELS", "a=1")], &["--label", "b=2", "--label", "names=x,y"]));
    assert_eq!(given, pairs(&[("b", "2"), ("names", "x,y")]));
    let shown = load(&[], &["--label", "b=2"]).unwrap().to_toml();
    assert!(shown.contains("b = \"2\"  # flag --label"), "{shown}");
}

#[test]
fn labels_that_break_the_rules_of_job_labels_are_refused_in_words() {
    let many = (0..33).map(|n| format!("k{n}=v")).collect::<Vec<_>>().join(",");
    let long = format!("k={}", "v".repeat(256));
    for (text, said) in [
        ("zone", "\"zone\" is not key=value"),
        ("zone=a,zone=b", "\"zone\" is named twice"),
        ("=x", "1 to 63 bytes"),
        ("zone=a\tb", "control characters"),
        (&many, "at most 32"),
        (&long, "255"),
        ("7", "key=value"),
    ] {
        let error = from_env(&[("LABELS", text)]).unwrap_err();
        assert!(error.contains("LABELS: labels:") && error.contains(said), "{text}: {error}");
    }
}

#[test]
fn a_host_name_is_made_to_fit() {
    assert_eq!(slug("Web_1.Example.COM"), "web-1-example-com");
    assert_eq!(slug("--a..b--"), "a-b");
    assert_eq!(slug(""), "");
    assert!(slug(&"Ä".repeat(200)).is_empty());
    assert_eq!(slug(&"a".repeat(200)).len(), 63);
}
