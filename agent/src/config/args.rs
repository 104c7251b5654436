//! The agent's flags: one for each setting of contract row A8. The rest can be set with `--set KEY=VALUE`.

use clap::Parser;
use muster_runtime::config::{ConfigArgs, Overrides};

use crate::command::Command;

/// Runs jobs for Muster on this machine.
#[derive(Debug, Parser)]
#[command(name = "muster-agent", version)]
pub struct Args {
    /// What to do instead of running an agent.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Config file, single keys, and printing the result.
    #[command(flatten)]
    pub config: ConfigArgs,
    /// Where the gateway is
    #[arg(long, value_name = "URL")]
    pub api_url: Option<String>,
    /// Certificates to trust for the gateway
    #[arg(long, value_name = "FILE")]
    pub api_ca: Option<String>,
    /// API key, when an operator gave one
    #[arg(long, value_name = "KEY", hide = true)]
    pub api_key: Option<String>,
    /// File that holds the API key that an operator gave; it may be replaced while the agent runs
    #[arg(long, value_name = "FILE")]
    pub api_key_file: Option<String>,
    /// Token to join a pool with at the first start
    #[arg(long, value_name = "TOKEN")]
    pub join_token: Option<String>,
    /// File that holds the token to join a pool with
    #[arg(long, value_name = "FILE")]
    pub join_token_file: Option<String>,
    /// Remove this agent once it leaves: at its shutdown, or an hour after its last sign of life
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    pub ephemeral: Option<String>,
    /// Name of this agent; default is the host's
    #[arg(long)]
    pub name: Option<String>,
    /// A label of this agent; may be given several times
    #[arg(long = "label", value_name = "KEY=VALUE")]
    pub labels: Vec<String>,
    /// Time between heartbeats, 1s to 1h
    #[arg(long, value_name = "TIME")]
    pub heartbeat_interval: Option<String>,
    /// Jobs that run at once, 1 to 50
    #[arg(long, value_name = "N")]
    pub max_concurrent_jobs: Option<String>,
    /// Port on 127.0.0.1 of /healthz, /readyz, /metrics and the admin interface; 0 takes any free one
    #[arg(long, value_name = "PORT")]
    pub admin_port: Option<String>,
    /// Token of the local admin interface
    #[arg(long, value_name = "TOKEN", hide = true)]
    pub admin_token: Option<String>,
    /// The vault's file
    #[arg(long, value_name = "FILE")]
    pub vault_path: Option<String>,
    /// Where identity, spool and vault are kept
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<String>,
    /// How much is logged
    #[arg(long, value_name = "LEVEL")]
    pub log_level: Option<String>,
    /// auto, text or json
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<String>,
    /// Let http.request reach private addresses
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    pub allow_private_network: Option<String>,
    /// Let jobs restart this machine
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    pub allow_os_restart: Option<String>,
    /// Where the container engine listens: a unix socket
    #[arg(long, value_name = "SOCKET")]
    pub docker_host: Option<String>,
    /// Folders of the host, divided by commas, beneath which containers may be given folders
    #[arg(long, value_name = "DIRS")]
    pub docker_bind_roots: Option<String>,
    /// Units of systemd that jobs may reach, divided by commas
    #[arg(long, value_name = "LIST")]
    pub service_units: Option<String>,
    /// Output of one job that goes into its log, up to 128MiB
    #[arg(long, value_name = "SIZE")]
    pub job_log_limit: Option<String>,
    /// Executors that are on beside probe, divided by commas
    #[arg(long, value_name = "LIST")]
    pub executors: Option<String>,
    /// Folder whose programs are executors too, where --executors names them
    #[arg(long, value_name = "DIR")]
    pub plugin_dir: Option<String>,
    /// Variables, divided by commas, that commands may set although they change which code runs, and that pass from this environment
    #[arg(long, value_name = "NAMES")]
    pub shell_env_allow: Option<String>,
    /// Folders whose files jobs may have, divided by commas
    #[arg(long, value_name = "DIRS")]
    pub files_roots: Option<String>,
    /// Where commands get cgroups: auto, none or a folder
    #[arg(long, value_name = "DIR")]
    pub job_cgroup: Option<String>,
    /// Addresses of the broker, divided by commas, instead of those that the gateway tells
    #[arg(long, value_name = "URLS")]
    pub nats_url: Option<String>,
    /// Certificates to trust for the broker
    #[arg(long, value_name = "FILE")]
    pub nats_ca: Option<String>,
    /// Run jobs that are not signed too
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    pub accept_unsigned: Option<String>,
    /// The only public keys whose jobs are run, divided by commas, instead of the list that gateways give
    #[arg(long, value_name = "KEYS")]
    pub trusted_signers: Option<String>,
    /// Time that running jobs have at a shutdown, 0s to 10m
    #[arg(long, value_name = "TIME")]
    pub shutdown_grace: Option<String>,
}

impl Args {
    /// The flags that were given, by key.
    pub fn overrides(&self) -> Overrides {
        // One to a line: a value may hold a comma.
        let labels = self.labels.iter().map(|label| format!("{label}\n")).collect::<String>();
        Overrides::new()
            .set("--api-url", "api_url", self.api_url.as_ref())
            .set("--api-ca", "api_ca", self.api_ca.as_ref())
            .set("--api-key", "api_key", self.api_key.as_ref())
            .set("--api-key-file", "api_key_file", self.api_key_file.as_ref())
            .set("--join-token", "join_token", self.join_token.as_ref())
            .set("--join-token-file", "join_token_file", self.join_token_file.as_ref())
            .set("--ephemeral", "ephemeral", self.ephemeral.as_ref())
            .set("--name", "name", self.name.as_ref())
            .set("--label", "labels", (!labels.is_empty()).then_some(labels))
            .set("--heartbeat-interval", "heartbeat_interval", self.heartbeat_interval.as_ref())
            .set("--max-concurrent-jobs", "max_concurrent_jobs", self.max_concurrent_jobs.as_ref())
            .set("--admin-port", "admin_port", self.admin_port.as_ref())
            .set("--admin-token", "admin_token", self.admin_token.as_ref())
            .set("--vault-path", "vault_path", self.vault_path.as_ref())
            .set("--state-dir", "state_dir", self.state_dir.as_ref())
            .set("--log-level", "log_level", self.log_level.as_ref())
            .set("--log-format", "log_format", self.log_format.as_ref())
            .set("--allow-private-network", "allow_private_network", self.allow_private_network.as_ref())
            .set("--allow-os-restart", "allow_os_restart", self.allow_os_restart.as_ref())
            .set("--docker-host", "docker_host", self.docker_host.as_ref())
            .set("--docker-bind-roots", "docker_bind_roots", self.docker_bind_roots.as_ref())
            .set("--service-units", "service_units", self.service_units.as_ref())
            .set("--job-log-limit", "job_log_limit", self.job_log_limit.as_ref())
            .set("--executors", "executors", self.executors.as_ref())
            .set("--plugin-dir", "plugin_dir", self.plugin_dir.as_ref())
            .set("--shell-env-allow", "shell_env_allow", self.shell_env_allow.as_ref())
            .set("--files-roots", "files_roots", self.files_roots.as_ref())
            .set("--job-cgroup", "job_cgroup", self.job_cgroup.as_ref())
            .set("--nats-url", "nats_url", self.nats_url.as_ref())
            .set("--nats-ca", "nats_ca", self.nats_ca.as_ref())
            .set("--accept-unsigned", "accept_unsigned", self.accept_unsigned.as_ref())
            .set("--trusted-signers", "trusted_signers", self.trusted_signers.as_ref())
            .set("--shutdown-grace", "shutdown_grace", self.shutdown_grace.as_ref())
    }
}
