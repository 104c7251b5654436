//! The gateway's settings. What each means is said once, in `default.toml`.

use std::{net::SocketAddr, path::PathBuf};

use muster_broker_config::{
    layout::{Account, Layout},
    tls::TlsName,
};
use muster_runtime::{
    config::{EnvVar, Period, Problem, Settings, in_range},
    logs::{LogFilter, LogFormat},
};
use serde::{Deserialize, Serialize};

use crate::door::proxy::Network;

/// The gateway's settings; see `default.toml`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where it listens.
    pub listen: SocketAddr,
    /// Where the broker is, for the gateway.
    pub nats_urls: Vec<String>,
    /// Where the broker is, for agents; empty means the same as for the gateway.
    #[serde(default)]
    pub agent_nats_urls: Vec<String>,
    /// The directory that `muster init` made. What is not set by itself is read from its place there.
    pub deployment: Option<PathBuf>,
    /// The gateway's credentials on the broker.
    pub credentials: Option<PathBuf>,
    /// The seed of the key that signs agents' JWTs.
    pub signing_key: Option<PathBuf>,
    /// The public key of the agents' account.
    pub fleet_account: Option<PathBuf>,
    /// The first records.
    pub bootstrap: Option<PathBuf>,
    /// The seeds of the keys that sign jobs, newest first.
    pub job_keys: Option<PathBuf>,
    /// The public keys of all gateways and dispatchers.
    pub control_plane_keys: Option<PathBuf>,
    /// The certificate of the deployment's own authority.
    pub tls_ca: Option<PathBuf>,
    /// The key of that authority.
    pub tls_ca_key: Option<PathBuf>,
    /// The names by which this gateway is reached; empty means those that `muster init` was told.
    #[serde(default)]
    pub tls_names: Vec<String>,
    /// Whether it serves HTTPS; if absent, where there is an authority.
    pub https: Option<bool>,
    /// How long certificates last that this gateway makes, for itself and for agents.
    pub certificate_lifetime: Period,
    /// Cost of the password hash of API keys made here.
    pub bcrypt_cost: u32,
    /// Refused keys and tokens per minute and address.
    pub refusals_per_minute: u32,
    /// Proxies whose word on the caller's address is believed.
    #[serde(default)]
    pub trusted_proxies: Vec<Network>,
    /// Requests per second of one key; 0 is any number.
    pub requests_per_second_per_key: u32,
    /// Requests per second from one address; 0 is any number.
    pub requests_per_second_per_address: u32,
    /// Waits and streams of one key that may be open at once.
    pub open_per_key: usize,
    /// Waits and streams that may be open at once.
    pub open_max: usize,
    /// Connections that may be open at once.
    pub max_connections: usize,
    /// How long a request's head may take to arrive.
    pub header_timeout: Period,
    /// How long running requests may take to finish at a shutdown.
    pub shutdown_grace: Period,
    /// Seconds between heartbeats that agents are told.
    pub heartbeat_interval: Period,
    /// How much it logs.
    pub log_level: LogFilter,
    /// How it logs.
    pub log_format: LogFormat,
}

/// The files that the gateway reads at its start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Files {
    pub(crate) credentials: Option<PathBuf>,
    pub(crate) signing_key: Option<PathBuf>,
    pub(crate) fleet_account: Option<PathBuf>,
    pub(crate) bootstrap: Option<PathBuf>,
    pub(crate) job_keys: Option<PathBuf>,
    pub(crate) control_plane_keys: Option<PathBuf>,
}

impl Config {
    /// Which files to read: each as it is set, or from its place in the deployment.
    pub(crate) fn files(&self) -> Files {
        let layout = self.deployment.as_ref().map(Layout::new);
        let place = |set: &Option<PathBuf>, place: fn(&Layout) -> PathBuf| set.clone().or_else(|| layout.as_ref().map(place));
        Files {
            credentials: place(&self.credentials, Layout::gateway_creds),
            signing_key: place(&self.signing_key, |layout| layout.signing_key(Account::Fleet)),
            fleet_account: place(&self.fleet_account, Layout::fleet_account),
            bootstrap: place(&self.bootstrap, Layout::bootstrap),
            job_keys: place(&self.job_keys, Layout::gateway_job_keys),
            control_plane_keys: place(&self.control_plane_keys, Layout::control_plane_keys),
        }
    }

    /// Where agents find the broker.
    pub(crate) fn urls_for_agents(&self) -> &[String] {
        if self.agent_nats_urls.is_empty() { &self.nats_urls } else { &self.agent_nats_urls }
    }
}

impl Settings for Config {
    const DEFAULTS: &'static str = include_str!("default.toml");
    const ENV: &'static [EnvVar] = &[
        EnvVar::new("MUSTER_GATEWAY_LISTEN", "listen"),
        EnvVar::new("MUSTER_NATS_URL", "nats_urls"),
        EnvVar::new("MUSTER_AGENT_NATS_URL", "agent_nats_urls"),
        EnvVar::new("MUSTER_TRUSTED_PROXIES", "trusted_proxies"),
        EnvVar::new("MUSTER_DEPLOYMENT", "deployment"),
        EnvVar::new("MUSTER_GATEWAY_CREDENTIALS", "credentials"),
        EnvVar::new("MUSTER_SIGNING_KEY", "signing_key"),
        EnvVar::new("MUSTER_FLEET_ACCOUNT", "fleet_account"),
        EnvVar::new("MUSTER_BOOTSTRAP", "bootstrap"),
        EnvVar::new("MUSTER_JOB_KEYS", "job_keys"),
        EnvVar::new("MUSTER_CONTROL_PLANE_KEYS", "control_plane_keys"),
        EnvVar::new("MUSTER_TLS_CA", "tls_ca"),
        EnvVar::new("MUSTER_TLS_CA_KEY", "tls_ca_key"),
        EnvVar::list("MUSTER_TLS_NAMES", "tls_names"),
        EnvVar::new("MUSTER_HTTPS", "https"),
        EnvVar::new("MUSTER_CERTIFICATE_LIFETIME", "certificate_lifetime"),
        EnvVar::new("LOG_LEVEL", "log_level"),
        EnvVar::new("LOG_FORMAT", "log_format"),
    ];

    fn check(&self) -> Result<(), Problem> {
        // Below 4 bcrypt does not exist, above 15 one check takes seconds.
        in_range("bcrypt_cost", self.bcrypt_cost, 4..=15)?;
        in_range("refusals_per_minute", self.refusals_per_minute, 1..=100_000)?;
        in_range("requests_per_second_per_key", self.requests_per_second_per_key, 0..=1_000_000)?;
        in_range("requests_per_second_per_address", self.requests_per_second_per_address, 0..=1_000_000)?;
        in_range("open_per_key", self.open_per_key, 1..=1_000_000)?;
        in_range("open_max", self.open_max, 1..=1_000_000)?;
        in_range("max_connections", self.max_connections, 1..=1_000_000)?;
        in_range("header_timeout", self.header_timeout, Period::from_secs(1)..=Period::from_secs(300))?;
        in_range("shutdown_grace", self.shutdown_grace, Period::from_secs(0)..=Period::from_secs(300))?;
        in_range("heartbeat_interval", self.heartbeat_interval, Period::from_secs(1)..=Period::from_secs(3600))?;
        // An agent renews at two thirds, and may be away for a moment then; a month is long for what cannot be taken back.
        in_range("certificate_lifetime", self.certificate_lifetime, Period::from_secs(5)..=Period::from_secs(30 * 24 * 3600))?;
        for name in &self.tls_names {
            name.parse::<TlsName>().map_err(|error| Problem::new("tls_names", error.to_string()))?;
        }
        // Half of it would be TLS that is silently off, or with a deployment a key that does not fit.
        if self.tls_ca.is_some() != self.tls_ca_key.is_some() {
            return Err(Problem::new("tls_ca_key", "goes with tls_ca; give both or neither"));
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
        assert_eq!(config.bcrypt_cost, 10);
        assert_eq!(config.urls_for_agents(), config.nats_urls);
    }

    #[test]
    fn a_file_that_is_set_wins_over_its_place_in_the_deployment() {
        let flags = Overrides::new().set("--set", "deployment", Some("/d")).set("--set", "signing_key", Some("/k"));
        let files = load::<Config>(&Sources { flags, ..Sources::default() }).unwrap().settings.files();
        assert_eq!(files.credentials.unwrap(), PathBuf::from("/d/gateway/gateway.creds"));
        assert_eq!(files.signing_key.unwrap(), PathBuf::from("/k"));
    }

    #[test]
    fn half_an_authority_is_refused_with_a_deployment_or_without() {
        for (key, deployment) in [("tls_ca", None), ("tls_ca_key", None), ("tls_ca", Some("/d")), ("tls_ca_key", Some("/d"))] {
            let flags = Overrides::new().set("--set", key, Some("/x")).set("--deployment", "deployment", deployment);
            let error = load::<Config>(&Sources { flags, ..Sources::default() }).unwrap_err();
            assert!(error.to_string().contains("tls_ca_key"), "{error}");
        }
    }

    #[test]
    fn a_value_out_of_its_range_is_refused() {
        for (key, value) in
            [("bcrypt_cost", "3"), ("refusals_per_minute", "0"), ("header_timeout", "0s"), ("nats_urls", "[]"), ("listen", "x")]
        {
            let flags = Overrides::new().set("--set", key, Some(value));
            assert!(load::<Config>(&Sources { flags, ..Sources::default() }).is_err(), "{key}");
        }
    }
}
