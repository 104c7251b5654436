//! Flags of what starts processes or makes a deployment.

use muster_broker_config::tls::TlsName;

use super::*;

const UP_HELP: &str = "Examples:
  muster up
  muster up --agents 5 --pool build
  muster up --http-port 0 --nats-port 0 --data-dir /tmp/try --json

Everything listens on 127.0.0.1 only. Ctrl-C stops all of it in order, and the next `muster up` goes on with the same jobs,
agents and key. The data is in --data-dir: `logs/` has one file per process, `deployment/` the keys.
Agents take their settings from the environment: `MAX_CONCURRENT_JOBS=10 LOG_LEVEL=debug muster up`.
With --json one line is printed once jobs run: {\"url\", \"nats_url\", \"api_key\", \"data_dir\", \"service_creds\"}.";

/// `muster up`.
#[derive(Debug, Args)]
#[command(after_long_help = UP_HELP, after_help = "More with --help")]
pub(crate) struct UpArgs {
    /// How many agents to start
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(0..=64))]
    pub(crate) agents: u16,
    /// The pool of the agents; made if it is not there
    #[arg(long, default_value = "default")]
    pub(crate) pool: PoolName,
    /// Where everything is kept [default: $XDG_DATA_HOME/muster, or ~/.local/share/muster]
    #[arg(long, value_name = "FOLDER", env = "MUSTER_DATA_DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// The port of the gateway; 0 takes a free one
    #[arg(long, default_value_t = 8080)]
    pub(crate) http_port: u16,
    /// The port of the broker; 0 takes a free one
    #[arg(long, default_value_t = 4222)]
    pub(crate) nats_port: u16,
    /// TLS with certificates of the folder's own authority, between all parts and for REST; once on, it stays on
    #[arg(long)]
    pub(crate) tls: bool,
}

const INIT_HELP: &str = "Examples:
  muster init --dir /var/lib/muster
  muster init --dir /data --listen 0.0.0.0:4222 --store-dir /data/jetstream
  muster init --dir /data --listen 0.0.0.0:4222 --tls --tls-name muster.example.com --websocket 0.0.0.0:443

It may be run again: what is there stays as it is, and so does every option that is not given; TLS and WebSocket that are on stay on. A broker
that runs takes other options at its next start. With another --store-dir it starts with an empty store, and jobs and records stay in the old one.

Certificates of the broker and the dispatcher last for a year; an init makes them anew once less than a third of it is left, or for other names.
nats-server reads them at its next start, or after `nats-server --signal reload`. Those of gateways and agents last for 24 hours and are renewed
by themselves.";

/// `muster init`.
#[derive(Debug, Args)]
#[command(after_help = INIT_HELP)]
pub(crate) struct InitArgs {
    /// The deployment's folder
    #[arg(long, value_name = "FOLDER")]
    pub(crate) dir: PathBuf,
    /// Where the broker is to listen [default: as at the last init, at the first 127.0.0.1:4222]
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub(crate) listen: Option<std::net::SocketAddr>,
    /// Where the broker keeps its streams [default: as at the last init, at the first in the deployment's folder]
    #[arg(long, value_name = "FOLDER")]
    pub(crate) store_dir: Option<PathBuf>,
    /// The pool that the first join token is for
    #[arg(long, default_value = "default")]
    pub(crate) pool: PoolName,
    /// Make a certificate authority, and have everybody show a certificate of it: TLS 1.3 on broker and gateway
    #[arg(long)]
    pub(crate) tls: bool,
    /// A DNS name or address by which broker and gateway are reached, beside localhost, 127.0.0.1, ::1, broker and gateway; may be repeated
    #[arg(long = "tls-name", value_name = "NAME", requires = "tls")]
    pub(crate) tls_names: Vec<TlsName>,
    /// Where the broker is to listen for WebSocket too, for agents that only get through to the web; with TLS where that is on
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub(crate) websocket: Option<std::net::SocketAddr>,
    /// Only give gateway and dispatcher new keys to sign jobs with, beside their old ones; then restart them, gateways first
    #[arg(long, conflicts_with_all = ["listen", "store_dir", "pool", "tls", "tls_names", "websocket"])]
    pub(crate) roll_job_keys: bool,
    /// Only take the old ones away again, once no job waits that they signed; then restart both, gateways first
    #[arg(long, conflicts_with_all = ["roll_job_keys", "listen", "store_dir", "pool", "tls", "tls_names", "websocket"])]
    pub(crate) drop_old_job_keys: bool,
}

/// The services, as commands of this binary.
#[derive(Debug, Subcommand)]
#[command(disable_help_flag = true)]
pub(crate) enum ServiceCommand {
    /// The REST gateway
    Gateway(Passed),
    /// The dispatcher
    Dispatcher(Passed),
    /// An agent
    Agent(Passed),
    /// The broker: becomes a nats-server
    Broker {
        /// The nats-server to become
        #[arg(long)]
        binary: PathBuf,
        /// Its config file
        #[arg(long)]
        config: PathBuf,
    },
}

/// Arguments that the service itself understands.
#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Passed {
    /// Passed on
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) args: Vec<OsString>,
}
