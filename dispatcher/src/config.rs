//! The dispatcher's settings. What each means is said once, in `default.toml`.

use std::{net::SocketAddr, path::PathBuf};

use muster_broker_config::layout::{Layout, TlsPart};
use muster_runtime::{
    config::{EnvVar, Period, Problem, Settings, in_range},
    logs::{LogFilter, LogFormat},
    nats::ClientCertificate,
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
    /// The dispatcher's credentials in the broker's system account, with which it has revoked agents refused.
    pub revoker_credentials: Option<PathBuf>,
    /// The seed of the operator's signing key, which signs the agents' account with its revocations.
    pub operator_key: Option<PathBuf>,
    /// The public key of the agents' account.
    pub fleet_account: Option<PathBuf>,
    /// The seeds of the keys that sign jobs, newest first.
    pub job_keys: Option<PathBuf>,
    /// The public keys of all gateways and dispatchers.
    pub control_plane_keys: Option<PathBuf>,
    /// Certificates that the broker's one must be signed by; those of the deployment's own authority, or the system's, if absent.
    pub nats_ca: Option<PathBuf>,
    /// The certificate to show to the broker.
    pub tls_certificate: Option<PathBuf>,
    /// The key of that certificate.
    pub tls_key: Option<PathBuf>,
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
    /// How long an ephemeral agent may stay away before it is removed.
    pub ephemeral_after: Period,
    /// How many agents of each executor of a pool pull its jobs; the others stand by.
    pub active_max: usize,
    /// Time between two looks at all agents.
    pub tick: Period,
    /// How much it logs.
    pub log_level: LogFilter,
    /// How it logs.
    pub log_format: LogFormat,
}

/// The files that the dispatcher reads at its start.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Files {
    pub(crate) credentials: Option<PathBuf>,
    pub(crate) revoker_credentials: Option<PathBuf>,
    pub(crate) operator_key: Option<PathBuf>,
    pub(crate) fleet_account: Option<PathBuf>,
    pub(crate) job_keys: Option<PathBuf>,
    pub(crate) control_plane_keys: Option<PathBuf>,
}

impl Config {
    /// Whom to trust, and what to show: as set, or as the deployment has it, if it has TLS on.
    pub(crate) fn tls(&self) -> (Option<PathBuf>, Option<ClientCertificate>) {
        let layout = self.deployment.as_ref().map(Layout::new);
        let place = |set: &Option<PathBuf>, place: fn(&Layout) -> PathBuf| {
            set.clone().or_else(|| layout.as_ref().map(place).filter(|path| path.exists()))
        };
        let authority = place(&self.nats_ca, |layout| layout.ca_of(TlsPart::Dispatcher));
        let certificate = place(&self.tls_certificate, |layout| layout.tls_certificate(TlsPart::Dispatcher));
        let key = place(&self.tls_key, |layout| layout.tls_key(TlsPart::Dispatcher));
        (authority, certificate.zip(key).map(|(certificate, key)| ClientCertificate::Files { certificate, key }))
    }

    /// Which files to read: each as it is set, or from its place in the deployment.
    pub(crate) fn files(&self) -> Files {
        let layout = self.deployment.as_ref().map(Layout::new);
        let place = |set: &Option<PathBuf>, place: fn(&Layout) -> PathBuf| set.clone().or_else(|| layout.as_ref().map(place));
        Files {
            credentials: place(&self.credentials, Layout::dispatcher_creds),
            revoker_credentials: place(&self.revoker_credentials, Layout::revoker_creds),
            operator_key: place(&self.operator_key, Layout::operator_signing_key),
            fleet_account: place(&self.fleet_account, Layout::dispatcher_fleet_account),
            job_keys: place(&self.job_keys, Layout::dispatcher_job_keys),
            control_plane_keys: place(&self.control_plane_keys, Layout::dispatcher_control_plane_keys),
        }
    }
}

impl Settings for Config {
    const DEFAULTS: &'static str = include_str!("default.toml");
    const ENV: &'static [EnvVar] = &[
        EnvVar::new("MUSTER_DISPATCHER_LISTEN", "listen"),
        EnvVar::new("MUSTER_NATS_URL", "nats_urls"),
        EnvVar::new("MUSTER_DEPLOYMENT", "deployment"),
        EnvVar::new("MUSTER_DISPATCHER_CREDENTIALS", "credentials"),
        EnvVar::new("MUSTER_REVOKER_CREDENTIALS", "revoker_credentials"),
        EnvVar::new("MUSTER_OPERATOR_KEY", "operator_key"),
        EnvVar::new("MUSTER_FLEET_ACCOUNT", "fleet_account"),
        EnvVar::new("MUSTER_JOB_KEYS", "job_keys"),
        EnvVar::new("MUSTER_CONTROL_PLANE_KEYS", "control_plane_keys"),
        EnvVar::new("MUSTER_NATS_CA", "nats_ca"),
        EnvVar::new("MUSTER_TLS_CERTIFICATE", "tls_certificate"),
        EnvVar::new("MUSTER_TLS_KEY", "tls_key"),
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
        in_range("ephemeral_after", self.ephemeral_after, Period::from_secs(1)..=Period::from_secs(30 * 24 * 3600))?;
        in_range("active_max", self.active_max, 1..=100_000)?;
        // Also with a deployment: its own key does not fit another certificate.
        if self.tls_certificate.is_some() != self.tls_key.is_some() {
            return Err(Problem::new("tls_key", "goes with tls_certificate; give both or neither"));
        }
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
        assert_eq!(config.files().credentials, None);
        assert_eq!(config.ephemeral_after.get(), muster_schemas::topology::EPHEMERAL_AWAY_MAX);
        assert_eq!(config.active_max, crate::state::standby::ACTIVE_MAX);
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
            ("ephemeral_after", "0s"),
            ("active_max", "0"),
        ] {
            let flags = Overrides::new().set("--set", key, Some(value));
            let error = load::<Config>(&Sources { flags, ..Sources::default() }).unwrap_err();
            assert!(error.to_string().contains(key), "{error}");
        }
    }

    #[test]
    fn half_a_pair_of_certificate_and_key_is_refused_with_a_deployment_too() {
        for key in ["tls_certificate", "tls_key"] {
            let flags = Overrides::new().set("--set", key, Some("/x")).set("--deployment", "deployment", Some("/d"));
            let error = load::<Config>(&Sources { flags, ..Sources::default() }).unwrap_err();
            assert!(error.to_string().contains("tls_certificate"), "{error}");
        }
    }

    #[test]
    fn files_come_from_the_deployment_unless_they_are_set() {
        let flags = Overrides::new().set("--deployment", "deployment", Some("/d")).set("--set", "operator_key", Some("/x.nk"));
        let files = load::<Config>(&Sources { flags, ..Sources::default() }).unwrap().settings.files();
        assert_eq!(files.credentials, Some("/d/dispatcher/dispatcher.creds".into()));
        assert_eq!(files.revoker_credentials, Some("/d/dispatcher/revoker.creds".into()));
        assert_eq!(files.operator_key, Some("/x.nk".into()));
        assert_eq!(files.fleet_account, Some("/d/dispatcher/fleet.pub".into()));
    }
}
