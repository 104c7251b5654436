//! The agent's settings: contract row A8, one struct, checked before anything starts.
//!
//! Defaults and their documentation are in `default.toml`; flags are in [`args`]. It never reads a file or the environment itself.

pub mod args;
mod labels;

use std::{
    collections::BTreeSet,
    path::{Component, PathBuf},
    time::Duration,
};

pub use labels::Labels;
use muster_files::Roots;
use muster_runtime::{
    config::{ByteSize, EnvVar, Period, Problem, Secret, Settings, in_range},
    logs::{LogFilter, LogFormat},
};
use muster_schemas::{
    job::check_labels,
    names::{AgentName, ExecutorName},
};
use nkeys::KeyPair;
use serde::{Deserialize, Serialize};

use crate::{
    admin::token,
    executors::{self, Launcher, Limits, Registry},
    identity::certificate,
};

/// The settings of an agent.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where the gateway is.
    pub api_url: Option<String>,
    /// Certificates to trust for the gateway.
    pub api_ca: Option<PathBuf>,
    /// The API key that an operator gave.
    pub api_key: Option<Secret>,
    /// A file that holds that key; read again whenever the agent registers.
    pub api_key_file: Option<PathBuf>,
    /// The token to join a pool with.
    pub join_token: Option<Secret>,
    /// A file that holds that token, for where environments can be read by others.
    pub join_token_file: Option<PathBuf>,
    /// Whether the agent is removed once it leaves.
    pub ephemeral: bool,
    /// The name; the host's name if absent.
    pub name: Option<String>,
    /// What jobs may choose this agent by; as labels of jobs.
    pub labels: Labels,
    /// Between heartbeats, 1 s to 1 h; what the gateway says if absent.
    pub heartbeat_interval: Option<Period>,
    /// Slots, 1 to 50.
    pub max_concurrent_jobs: u32,
    /// Port of the local endpoints; 0 is any free one.
    pub admin_port: u16,
    /// Token of the local admin interface.
    pub admin_token: Option<Secret>,
    /// The vault's file.
    pub vault_path: Option<PathBuf>,
    /// Where identity and spool are kept.
    pub state_dir: PathBuf,
    /// How much is logged.
    pub log_level: LogFilter,
    /// How log lines look.
    pub log_format: LogFormat,
    /// Whether `http.request` may reach private addresses.
    pub allow_private_network: bool,
    /// Whether jobs may restart the machine.
    pub allow_os_restart: bool,
    /// Where the container engine listens, if not at the usual socket.
    pub docker_host: Option<String>,
    /// The folders beneath which containers may be given folders of the host.
    pub docker_bind_roots: Vec<PathBuf>,
    /// The units of systemd that jobs may reach; all if absent.
    pub service_units: Option<Vec<String>>,
    /// Output of one job that goes into its log.
    pub job_log_limit: ByteSize,
    /// Executors that are on beside `probe`.
    pub executors: Vec<String>,
    /// The folder whose programs are executors too.
    pub plugin_dir: Option<PathBuf>,
    /// Variables that commands may set although they change which code runs, and that pass from the agent's environment.
    pub shell_env_allow: Vec<String>,
    /// The folders whose files jobs may have.
    pub files_roots: Vec<PathBuf>,
    /// What each command of `shell.run` may use at most.
    pub shell_limits: Limits,
    /// Where commands get cgroups: `auto`, `none` or a folder.
    pub job_cgroup: String,
    /// How this process starts itself again to put limits on a command. No setting: the binary knows.
    #[serde(skip)]
    pub launcher: Option<Launcher>,
    /// Addresses of the broker instead of those that the gateway tells.
    pub nats_url: Option<Vec<String>>,
    /// Certificates to trust for the broker.
    pub nats_ca: Option<PathBuf>,
    /// Whether jobs without a signature are run too.
    pub accept_unsigned: bool,
    /// The only keys whose jobs are run; empty goes by the list that gateways give.
    pub trusted_signers: Vec<String>,
    /// Time that running jobs have at a shutdown.
    pub shutdown_grace: Period,
}

/// In the state directory, the keys of other machines that were taken at the first use.
pub(crate) const KNOWN_HOSTS: &str = "known_hosts";

/// The largest number of slots. A pull request asks for at most 64 jobs, and each lane asks for as many as there are free slots.
const SLOTS_MAX: u32 = 50;

/// The largest log of a job: as many chunks of the full size are kept.
const JOB_LOG_MAX: u64 = 128 << 20;

impl Settings for Config {
    const DEFAULTS: &'static str = include_str!("default.toml");
    const ENV: &'static [EnvVar] = &[
        EnvVar::new("AGENT_API_URL", "api_url"),
        EnvVar::new("AGENT_CA_FILE", "api_ca"),
        EnvVar::new("AGENT_API_KEY", "api_key"),
        EnvVar::new("AGENT_API_KEY_FILE", "api_key_file"),
        EnvVar::new("AGENT_JOIN_TOKEN", "join_token"),
        EnvVar::new("AGENT_JOIN_TOKEN_FILE", "join_token_file"),
        EnvVar::new("EPHEMERAL", "ephemeral"),
        EnvVar::new("AGENT_NAME", "name"),
        EnvVar::list("LABELS", "labels"),
        EnvVar::new("HEARTBEAT_INTERVAL", "heartbeat_interval"),
        EnvVar::new("MAX_CONCURRENT_JOBS", "max_concurrent_jobs"),
        EnvVar::new("ADMIN_PORT", "admin_port"),
        EnvVar::new("ADMIN_TOKEN", "admin_token"),
        EnvVar::new("VAULT_PATH", "vault_path"),
        EnvVar::new("STATE_DIR", "state_dir"),
        EnvVar::new("LOG_LEVEL", "log_level"),
        EnvVar::new("LOG_FORMAT", "log_format"),
        EnvVar::new("ALLOW_PRIVATE_NETWORK", "allow_private_network"),
        EnvVar::new("ALLOW_OS_RESTART", "allow_os_restart"),
        EnvVar::new("DOCKER_HOST", "docker_host"),
        EnvVar::list("DOCKER_BIND_ROOTS", "docker_bind_roots"),
        EnvVar::list("SERVICE_UNITS", "service_units"),
        EnvVar::new("JOB_LOG_LIMIT", "job_log_limit"),
        EnvVar::list("EXECUTORS", "executors"),
        EnvVar::new("PLUGIN_DIR", "plugin_dir"),
        EnvVar::list("SHELL_ENV_ALLOW", "shell_env_allow"),
        EnvVar::list("FILES_ROOTS", "files_roots"),
        EnvVar::new("JOB_CGROUP", "job_cgroup"),
        EnvVar::new("NATS_URL", "nats_url"),
        EnvVar::new("NATS_CA", "nats_ca"),
        EnvVar::new("ACCEPT_UNSIGNED", "accept_unsigned"),
        EnvVar::list("TRUSTED_SIGNERS", "trusted_signers"),
        EnvVar::new("SHUTDOWN_GRACE", "shutdown_grace"),
    ];

    fn check(&self) -> Result<(), Problem> {
        in_range("max_concurrent_jobs", self.max_concurrent_jobs, 1..=SLOTS_MAX)?;
        if let Some(interval) = self.heartbeat_interval {
            in_range("heartbeat_interval", interval, Period::from_secs(1)..=Period::from_secs(3600))?;
        }
        in_range("job_log_limit", self.job_log_limit, ByteSize::new(0)..=ByteSize::new(JOB_LOG_MAX))?;
        in_range("shutdown_grace", self.shutdown_grace, Period::from_secs(0)..=Period::from_secs(600))?;
        if let Some(name) = &self.name {
            name.parse::<AgentName>().map_err(|error| Problem::new("name", error.to_string()))?;
        }
        check_labels(&self.labels.0).map_err(|error| Problem::new("labels", error.to_string()))?;
        self.check_executors()?;
        self.check_commands()?;
        self.check_bind_roots()?;
        self.files()?;
        self.check_urls()?;
        let is_key = |key: &String| key.trim().starts_with('U') && KeyPair::from_public_key(key.trim()).is_ok();
        if let Some(wrong) = self.trusted_signers.iter().find(|key| !is_key(key)) {
            return Err(Problem::new("trusted_signers", format!("{wrong:?} is no public key of a user: an nkey that starts with U")));
        }
        if self.state_dir.as_os_str().is_empty() {
            return Err(Problem::new("state_dir", "must not be empty"));
        }
        for (key, secret) in [("api_key", &self.api_key), ("join_token", &self.join_token), ("admin_token", &self.admin_token)] {
            if secret.as_ref().is_some_and(|secret| secret.expose().trim().is_empty()) {
                return Err(Problem::new(key, "must not be empty"));
            }
        }
        if self.join_token.is_some() && self.join_token_file.is_some() {
            return Err(Problem::new("join_token_file", "contradicts join_token; give one of the two"));
        }
        if self.api_key.is_some() && self.api_key_file.is_some() {
            return Err(Problem::new("api_key_file", "contradicts api_key; give one of the two"));
        }
        let mut own = ["identity.json", "signers.json", "lock", "spool", "spool.salt", KNOWN_HOSTS]
            .into_iter()
            .chain(certificate::FILES)
            .chain(token::FILES)
            .map(|name| self.state_dir.join(name));
        if let Some(vault) = &self.vault_path
            && own.any(|path| vault.starts_with(path))
        {
            return Err(Problem::new("vault_path", "is where the agent keeps something else; take another path"));
        }
        Ok(())
    }
}

impl Config {
    fn check_executors(&self) -> Result<(), Problem> {
        let mut seen = BTreeSet::new();
        for name in &self.executors {
            // Which plugins there are is seen at the start.
            let may_be_plugin = self.plugin_dir.is_some() && name.parse::<ExecutorName>().is_ok();
            if name != executors::ALL && !Registry::KNOWN.contains(&name.as_str()) && !may_be_plugin {
                let known = Registry::KNOWN.join(", ");
                return Err(Problem::new("executors", format!("{name:?} is not an executor of this build; it has {known}")));
            }
            if !seen.insert(name) {
                return Err(Problem::new("executors", format!("{name:?} is named twice")));
            }
        }
        Ok(())
    }

    fn check_bind_roots(&self) -> Result<(), Problem> {
        let odd = |root: &&PathBuf| !root.is_absolute() || root.components().any(|part| part == Component::ParentDir);
        match self.docker_bind_roots.iter().find(odd) {
            Some(root) => Err(Problem::new("docker_bind_roots", format!("{} is not an absolute path without `..`", root.display()))),
            None => Ok(()),
        }
    }

    fn check_commands(&self) -> Result<(), Problem> {
        for name in &self.shell_env_allow {
            executors::may_be_allowed(name).map_err(|problem| Problem::new("shell_env_allow", format!("{name:?} {problem}")))?;
        }
        if !matches!(self.job_cgroup.as_str(), "auto" | "none") && !self.job_cgroup.starts_with('/') {
            return Err(Problem::new("job_cgroup", "must be auto, none or the absolute path of a cgroup"));
        }
        self.shell_limits.check()
    }

    fn check_urls(&self) -> Result<(), Problem> {
        if let Some(text) = &self.api_url {
            let url = url::Url::parse(text).map_err(|error| Problem::new("api_url", format!("is not a URL: {error}")))?;
            if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
                return Err(Problem::new("api_url", "must begin with http:// or https:// and name a host"));
            }
            if !url.username().is_empty() || url.password().is_some() {
                return Err(Problem::new("api_url", "must not hold a user or password; the agent identifies itself by its key"));
            }
        }
        if self.nats_url.as_ref().is_some_and(|urls| urls.iter().all(|url| url.trim().is_empty())) {
            return Err(Problem::new("nats_url", "must name at least one address"));
        }
        Ok(())
    }

    /// The folders whose files jobs may have.
    ///
    /// # Errors
    /// When one can't be.
    pub(crate) fn files(&self) -> Result<Roots, Problem> {
        Roots::new(&self.files_roots).map_err(|error| Problem::new("files_roots", error.to_string()))
    }

    /// The configured name, or the host's made to fit.
    ///
    /// # Errors
    /// When there is neither a configured name nor a usable host name.
    pub fn agent_name(&self) -> Result<AgentName, Problem> {
        let name = match &self.name {
            Some(name) => name.clone(),
            None => slug(&sysinfo::System::host_name().unwrap_or_default()),
        };
        name.parse().map_err(|error| Problem::new("name", format!("is not set, and the host's name does not do: {error}")))
    }

    /// Between heartbeats, given what the gateway says.
    pub(crate) fn heartbeat_interval(&self, from_gateway: Option<Duration>) -> Duration {
        let own = self.heartbeat_interval.map(Period::get);
        own.or(from_gateway).unwrap_or(muster_schemas::heartbeat::INTERVAL_DEFAULT).max(Duration::from_secs(1))
    }

    /// The vault's file.
    #[must_use]
    pub fn vault_path(&self) -> PathBuf {
        self.vault_path.clone().unwrap_or_else(|| self.state_dir.join("vault"))
    }
}

/// A host name as an agent name: lower case, what is not allowed becomes `-`, at most 63 characters.
fn slug(host: &str) -> String {
    let mut slug = String::new();
    for letter in host.trim().to_ascii_lowercase().chars().take(63) {
        match letter {
            'a'..='z' | '0'..='9' => slug.push(letter),
            _ if slug.is_empty() || slug.ends_with('-') => {}
            _ => slug.push('-'),
        }
    }
    slug.trim_end_matches('-').to_owned()
}

#[cfg(test)]
mod tests;
