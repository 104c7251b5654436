//! What a person sees of the layers: which wins, and how a mistake is reported.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

use std::io::Write as _;

use serde::{Deserialize, Serialize};

use super::*;
use crate::{
    config::{ByteSize, EnvVar, Period, Secret, in_range, not_below},
    logs::LogFilter,
};

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Example {
    name: Option<String>,
    slots: u8,
    retries: Option<u16>,
    interval: Period,
    limit: ByteSize,
    private: bool,
    executors: Vec<String>,
    log_level: LogFilter,
    key: Option<Secret>,
    admin: Admin,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Admin {
    port: u16,
    timeout: Period,
}

impl Settings for Example {
    const DEFAULTS: &'static str = r#"
# The name; the host's by default.
# name = "…"
slots = 5
interval = "30s"
limit = "64KiB"
private = false
executors = ["probe"]
log_level = "INFO"

[admin]
port = 9191
timeout = 2
"#;

    const ENV: &'static [EnvVar] = &[
        EnvVar::new("NAME", "name"),
        EnvVar::new("SLOTS", "slots"),
        EnvVar::new("RETRIES", "retries"),
        EnvVar::new("INTERVAL", "interval"),
        EnvVar::new("LIMIT", "limit"),
        EnvVar::new("PRIVATE", "private"),
        EnvVar::new("EXECUTORS", "executors"),
        EnvVar::new("LOG_LEVEL", "log_level"),
        EnvVar::new("KEY", "key"),
        EnvVar::new("ADMIN_PORT", "admin.port"),
    ];

    fn check(&self) -> Result<(), Problem> {
        in_range("slots", self.slots, 1..=50)?;
        not_below("interval", self.interval, "admin.timeout", self.admin.timeout)
    }
}

fn environment<const N: usize>(pairs: [(&str, &str); N]) -> Sources {
    let pairs = pairs.map(|(name, value)| (name.to_owned(), value.to_owned()));
    Sources { environment: pairs.into(), ..Sources::default() }
}

fn file(text: &str) -> (tempfile::NamedTempFile, Sources) {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    let path = Some(file.path().to_owned());
    (file, Sources { file: path, ..Sources::default() })
}

fn refusal(sources: &Sources) -> String {
    load::<Example>(sources).expect_err("must be refused").to_string()
}

#[test]
fn the_defaults_are_a_valid_config() {
    let loaded = load::<Example>(&Sources::default()).unwrap();
    assert_eq!(loaded.settings.slots, 5);
    assert_eq!(loaded.settings.admin.timeout, Period::from_secs(2));
    assert_eq!(loaded.origin("slots"), Layer::Defaults);
}

#[test]
fn a_flag_wins_over_the_environment_over_the_file_over_the_default() {
    let (_file, mut sources) = file("slots = 6\nname = \"f\"\ninterval = 60\n[admin]\nport = 1\n");
    let path = sources.file.clone().unwrap();
    sources.environment = environment([("SLOTS", "7"), ("NAME", "e")]).environment;
    sources.flags = Overrides::new().set("--slots", "slots", Some(8)).set("--name", "name", None::<String>);
    let loaded = load::<Example>(&sources).unwrap();
    let settings = &loaded.settings;
    assert_eq!((settings.slots, settings.name.as_deref()), (8, Some("e")));
    assert_eq!((settings.interval, settings.admin.port), (Period::from_secs(60), 1));
    assert_eq!(settings.admin.timeout, Period::from_secs(2), "the rest of a table stays");
    assert_eq!(loaded.origin("slots"), Layer::Flag("--slots".to_owned()));
    assert_eq!(loaded.origin("name"), Layer::Environment("NAME".to_owned()));
    assert_eq!(loaded.origin("admin.port"), Layer::File(path));
    assert_eq!(loaded.origin("admin.timeout"), Layer::Defaults);
}

#[test]
fn texts_of_the_environment_become_what_the_key_needs() {
    let sources = environment([
        ("NAME", "123"),
        ("RETRIES", "3"),
        ("INTERVAL", "90"),
        ("LIMIT", "1MiB"),
        ("PRIVATE", "1"),
        ("EXECUTORS", "shell, http,"),
        ("LOG_LEVEL", "debug"),
        ("KEY", "true"),
        ("ADMIN_PORT", "0"),
    ]);
    let settings = load::<Example>(&sources).unwrap().settings;
    assert_eq!(settings.name.as_deref(), Some("123"));
    assert_eq!(settings.retries, Some(3));
    assert_eq!(settings.interval, Period::from_secs(90));
    assert_eq!(settings.limit, ByteSize::new(1 << 20));
    assert!(settings.private);
    assert_eq!(settings.executors, ["shell", "http"]);
    assert_eq!(settings.key.unwrap().expose(), "true");
    assert_eq!(settings.admin.port, 0);
}

#[test]
fn a_value_out_of_range_names_layer_key_range_and_value() {
    assert_eq!(refusal(&environment([("SLOTS", "90")])), "environment SLOTS: slots: must be between 1 and 50, but is 90");
    let contradiction = Sources { flags: Overrides::new().set("--interval", "interval", Some("1s")), ..Sources::default() };
    assert_eq!(refusal(&contradiction), "flag --interval: interval: must not be below admin.timeout (2s), but is 1s");
}

#[test]
fn a_value_of_the_wrong_kind_names_layer_and_key() {
    for (name, value, key, said) in [
        ("SLOTS", "many", "slots", "many"),
        ("SLOTS", "300", "slots", "300"),
        ("SLOTS", "-1", "slots", "-1"),
        ("INTERVAL", "30x", "interval", "30s, 1h30m"),
        ("LIMIT", "big", "limit", "64KiB"),
        ("PRIVATE", "maybe", "private", "boolean"),
        ("LOG_LEVEL", "loud", "log_level", "TRACE, DEBUG"),
        ("ADMIN_PORT", "70000", "admin.port", "70000"),
    ] {
        let refusal = refusal(&environment([(name, value)]));
        assert!(refusal.starts_with(&format!("environment {name}: {key}: ")), "{refusal}");
        assert!(refusal.contains(said), "{refusal}");
        assert!(!refusal.contains('\n'), "{refusal}");
    }
}

#[test]
fn a_mistake_in_the_file_names_the_file_and_the_key_or_line() {
    for (text, said) in [
        ("slots = \"many\"", ": slots: "),
        ("slot = 5", ": slot: unknown field `slot`"),
        ("[admin]\nprot = 1", ": admin.prot: unknown field `prot`"),
        ("[admin]\nport = -1", ": admin.port: "),
        ("slots = 0", ": slots: must be between 1 and 50, but is 0"),
        ("slots = 1\nslots = 2", ": line 2: "),
        ("a = 1\nslots 5", ": line 2: "),
        ("admin = 3", ": admin: "),
    ] {
        let (file, sources) = file(text);
        let refusal = refusal(&sources);
        let path = file.path().display();
        assert!(refusal.starts_with(&format!("config file {path}: ")), "{refusal}");
        assert!(refusal.contains(said), "{text:?}: {refusal}");
        assert!(!refusal.contains('\n'), "{refusal}");
    }
}

#[test]
fn a_file_or_key_that_is_not_there_is_an_error() {
    let missing = Sources { file: Some("/nowhere/muster.toml".into()), ..Sources::default() };
    assert_eq!(refusal(&missing), "can't read config file /nowhere/muster.toml");
    for key in ["sluts", "admin.prot", "slots.deep"] {
        let unknown = Sources { flags: Overrides::new().set("--set", key, Some(1)), ..Sources::default() };
        let refusal = refusal(&unknown);
        assert!(refusal.starts_with(&format!("flag --set: {key}: ")), "{refusal}");
    }
}

#[test]
fn the_printed_config_hides_secrets_shows_layers_and_is_valid_toml() {
    let sources = environment([("KEY", "hunter2"), ("NAME", "a\"b")]);
    let loaded = load::<Example>(&sources).unwrap();
    let printed = loaded.to_toml();
    assert!(!printed.contains("hunter2") && !format!("{loaded:?}").contains("hunter2"));
    assert!(printed.contains("key = \"(hidden)\"  # environment KEY"), "{printed}");
    assert!(printed.contains("interval = \"30s\"  # defaults"), "{printed}");
    assert!(printed.contains("\n[admin]\nport = 9191"), "{printed}");
    let (_file, again) = file(&printed);
    let again = load::<Example>(&again).unwrap().settings;
    assert_eq!(again.name.as_deref(), Some("a\"b"));
}
