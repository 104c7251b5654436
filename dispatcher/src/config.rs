//! The dispatcher's settings. What each means is said once, in `default.toml`.

use std::{net::SocketAddr, path::PathBuf};

use muster_broker_config::layout::Layout;
use muster_runtime::{
    config::{EnvVar, Period, Problem, Settings, in_range},
    logs::{LogFilter, LogFormat},
};
use serde::{Deserialize, Serialize};

use crate::history::AGE_MAX;

/// The dispatcher's settings; see `default.toml`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where `/healthz`, `/readyz` and `/metrics` are.
    pub listen: SocketAddr,
    /// Where the broker is.
    pub nats_urls: Vec<String>,
    /// The directory that `muster init` made. Credentials that are not set by themselves are read from their place there.
    pub deployment: Option<PathBuf>,
    /// The dispatcher's credentials on the broker; without any it connects without.
    pub credentials: Option<PathBuf>,
    /// Certificates that the broker's one must be signed by; the system's if absent.
    pub nats_ca: Option<PathBuf>,
    /// Where the history of jobs is kept, in a folder of its own; a temporary one if absent. No two dispatchers may share it.
    pub data_dir: Option<PathBuf>,
    /// The most jobs in the history.
    pub history_max_jobs: u64,
    /// How long a job that has ended stays in the history.
    pub history_max_age: Period,
    /// How long nothing must have been heard of a job before it is looked for on the broker.
    pub ledger_after: Period,
    /// How long after its expiry a job is ended that no agent took.
    pub expire_after: Period,
    /// Time between two looks at all agents.
    pub tick: Period,
    /// How much it logs.
    pub log_level: LogFilter,
    /// How it logs.
    pub log_format: LogFormat,
}

impl Config {
    /// The credentials to use: as set, or from their place in the deployment.
    pub fn credentials_file(&self) -> Option<PathBuf> {
        self.credentials.clone().or_else(|| self.deployment.as_ref().map(|root| Layout::new(root).dispatcher_creds()))
    }
}

impl Settings for Config {
    const DEFAULTS: &'static str = include_str!("default.toml");
    const ENV: &'static [EnvVar] = &[
        EnvVar::new("MUSTER_DISPATCHER_LISTEN", "listen"),
        EnvVar::new("MUSTER_NATS_URL", "nats_urls"),
        EnvVar::new("MUSTER_DEPLOYMENT", "deployment"),
        EnvVar::new("MUSTER_DISPATCHER_CREDENTIALS", "credentials"),
        EnvVar::new("MUSTER_NATS_CA", "nats_ca"),
        EnvVar::new("MUSTER_DISPATCHER_DATA_DIR", "data_dir"),
        EnvVar::new("LOG_LEVEL", "log_level"),
        EnvVar::new("LOG_FORMAT", "log_format"),
    ];

    fn check(&self) -> Result<(), Problem> {
        // A lease must be noticed as run out within a second, so ticks may not be longer.
        in_range("tick", self.tick, Period::from_millis(50)..=Period::from_secs(1))?;
        in_range("history_max_jobs", self.history_max_jobs, 1..=100_000_000)?;
        in_range("history_max_age", self.history_max_age, Period::from_secs(60)..=Period::from(AGE_MAX))?;
        in_range("ledger_after", self.ledger_after, Period::from_secs(1)..=Period::from_secs(24 * 3600))?;
        in_range("expire_after", self.expire_after, Period::from_secs(1)..=Period::from_secs(24 * 3600))?;
        if self.nats_urls.is_empty() {
            return Err(Problem::new("nats_urls", "at least one URL is needed"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use muster_runtime::config::{Overrides, Sources, load};

    use super::*;

    #[test]
    fn the_default_file_is_a_whole_configuration() {
        let config = load::<Config>(&Sources::default()).unwrap().settings;
        assert_eq!(config.listen.to_string(), "127.0.0.1:9292");
        assert_eq!(config.credentials_file(), None);
    }

    #[test]
    fn what_is_out_of_its_range_and_an_empty_list_of_brokers_are_refused() {
        for (key, value) in [
            ("tick", "2s"),
            ("tick", "0s"),
            ("nats_urls", "[]"),
            ("history_max_jobs", "0"),
            ("history_max_age", "1s"),
            ("expire_after", "0s"),
        ] {
            let flags = Overrides::new().set("--set", key, Some(value));
            let error = load::<Config>(&Sources { flags, ..Sources::default() }).unwrap_err();
            assert!(error.to_string().contains(key), "{error}");
        }
    }

    #[test]
    fn credentials_come_from_the_deployment_unless_they_are_set() {
        let flags = Overrides::new().set("--deployment", "deployment", Some("/d"));
        let mut config = load::<Config>(&Sources { flags, ..Sources::default() }).unwrap().settings;
        assert!(config.credentials_file().unwrap().starts_with("/d"));
        config.credentials = Some("/x.creds".into());
        assert_eq!(config.credentials_file(), Some("/x.creds".into()));
    }
}
