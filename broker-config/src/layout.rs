//! Where a deployment keeps which file.
//!
//! One directory per reader, so that each container or process can be given only what it needs. It never touches a file.

use std::path::{Path, PathBuf};

/// The paths in a deployment's directory. Directories are 0700, files 0600.
///
/// | directory | who needs it |
/// |---|---|
/// | `operator/`, `accounts/` | `muster init` and `muster creds issue`; nothing that runs |
/// | `broker/` | nats-server |
/// | `gateway/`, `dispatcher/` | the process of that name |
/// | `system/` | whoever looks after the server |
/// | `agent/` | agents that join by token |
/// | `services/` | credentials of services |
/// | `tls/` | the certificate authority, where TLS is on: `muster init` and `muster creds issue`; `ca.pem` is for everybody |
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    root: PathBuf,
}

/// An account of the deployment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Account {
    /// The broker's own.
    Sys,
    /// Streams, gateway, dispatcher, services.
    Core,
    /// Agents.
    Fleet,
}

impl Account {
    /// Every account.
    pub const ALL: [Self; 3] = [Self::Sys, Self::Core, Self::Fleet];

    fn stem(self) -> &'static str {
        match self {
            Self::Sys => "sys",
            Self::Core => "core",
            Self::Fleet => "fleet",
        }
    }
}

/// A part of the deployment that takes part in TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsPart {
    /// nats-server.
    Broker,
    /// The gateway.
    Gateway,
    /// The dispatcher.
    Dispatcher,
    /// Agents. Theirs is the authority's certificate only: they make their own keys.
    Agent,
}

impl TlsPart {
    /// Every part.
    pub const ALL: [Self; 4] = [Self::Broker, Self::Gateway, Self::Dispatcher, Self::Agent];

    fn directory(self) -> &'static str {
        match self {
            Self::Broker => "broker",
            Self::Gateway => "gateway",
            Self::Dispatcher => "dispatcher",
            Self::Agent => "agent",
        }
    }
}

impl Layout {
    /// The layout of the deployment in `root`.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The deployment's directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    fn at(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    /// Held while the deployment is made.
    pub fn lock(&self) -> PathBuf {
        self.at("init.lock")
    }

    /// The operator's seed. Whoever has it owns every account; keep it offline after `init` if you can.
    pub fn operator_key(&self) -> PathBuf {
        self.at("operator/operator.nk")
    }

    /// The seed of the operator's signing key, which may sign accounts: with it the dispatcher, which nothing outside can reach, puts
    /// revocations into the agents' account.
    pub fn operator_signing_key(&self) -> PathBuf {
        self.at("dispatcher/operator-signing.nk")
    }

    /// The dispatcher's credentials in the system account, for revocations only.
    pub fn revoker_creds(&self) -> PathBuf {
        self.at("dispatcher/revoker.creds")
    }

    /// The public key of `FLEET`, for the dispatcher.
    pub fn dispatcher_fleet_account(&self) -> PathBuf {
        self.at("dispatcher/fleet.pub")
    }

    /// The seeds with which the gateway signs jobs, one a line, the newest first.
    pub fn gateway_job_keys(&self) -> PathBuf {
        self.at("gateway/jobs.nk")
    }

    /// The seeds with which the dispatcher signs jobs, one a line, the newest first.
    pub fn dispatcher_job_keys(&self) -> PathBuf {
        self.at("dispatcher/jobs.nk")
    }

    /// The public keys of all of those, which the gateway sees to that agents trust: one a line, after the name of its process.
    pub fn control_plane_keys(&self) -> PathBuf {
        self.at("gateway/control-plane.pub")
    }

    /// The same, for the dispatcher.
    pub fn dispatcher_control_plane_keys(&self) -> PathBuf {
        self.at("dispatcher/control-plane.pub")
    }

    /// The operator's JWT.
    pub fn operator_jwt(&self) -> PathBuf {
        self.at("operator/operator.jwt")
    }

    /// An account's seed.
    pub fn account_key(&self, account: Account) -> PathBuf {
        self.at(&format!("accounts/{}.nk", account.stem()))
    }

    /// The seed of an account's signing key, which may sign its users. `FLEET`'s is with the gateway, which signs agents.
    pub fn signing_key(&self, account: Account) -> PathBuf {
        match account {
            Account::Fleet => self.at("gateway/fleet-signing.nk"),
            Account::Sys | Account::Core => self.at(&format!("accounts/{}-signing.nk", account.stem())),
        }
    }

    /// An account's JWT as last signed here. The server's resolver may hold a newer one, with more revocations.
    pub fn account_jwt(&self, account: Account) -> PathBuf {
        self.at(&format!("accounts/{}.jwt", account.stem()))
    }

    /// The server's config.
    pub fn server_config(&self) -> PathBuf {
        self.at("broker/nats-server.conf")
    }

    /// The gateway's credentials; also good for provisioning.
    pub fn gateway_creds(&self) -> PathBuf {
        self.at("gateway/gateway.creds")
    }

    /// The public key of `FLEET`, which an agent's JWT names.
    pub fn fleet_account(&self) -> PathBuf {
        self.at("gateway/fleet.pub")
    }

    /// The first records (see [`crate::provision::Bootstrap`]) as JSON: hashes only, no secret.
    pub fn bootstrap(&self) -> PathBuf {
        self.at("gateway/bootstrap.json")
    }

    /// The dispatcher's credentials.
    pub fn dispatcher_creds(&self) -> PathBuf {
        self.at("dispatcher/dispatcher.creds")
    }

    /// Credentials in the system account, for updating accounts.
    pub fn system_creds(&self) -> PathBuf {
        self.at("system/system.creds")
    }

    /// The first administrator's API key, in plain text. Delete it once it is kept elsewhere: it is not made again.
    pub fn admin_key(&self) -> PathBuf {
        self.at("admin.key")
    }

    /// The first pool's join token, in plain text.
    pub fn join_token(&self) -> PathBuf {
        self.at("agent/join.token")
    }

    /// The credentials of a service. `name` must be a checked name, such as an agent's or pool's.
    pub fn service_creds(&self, name: &str) -> PathBuf {
        self.at(&format!("services/{name}.creds"))
    }

    /// The key of the deployment's certificate authority, where TLS is on. Whoever has it can make certificates for every broker and agent.
    pub fn ca_key(&self) -> PathBuf {
        self.at("tls/ca.key")
    }

    /// The authority's certificate: what every process and every client checks others by. No secret.
    pub fn ca(&self) -> PathBuf {
        self.at("tls/ca.pem")
    }

    /// A part's own copy of the authority's certificate.
    pub fn ca_of(&self, part: TlsPart) -> PathBuf {
        self.at(&format!("{}/ca.pem", part.directory()))
    }

    /// A part's private key. The gateway's is the authority's: it signs agents, and makes its own certificates itself.
    pub fn tls_key(&self, part: TlsPart) -> PathBuf {
        let name = if part == TlsPart::Gateway { "ca.key" } else { "tls.key" };
        self.at(&format!("{}/{name}", part.directory()))
    }

    /// A part's certificate.
    pub fn tls_certificate(&self, part: TlsPart) -> PathBuf {
        self.at(&format!("{}/tls.pem", part.directory()))
    }

    /// The names by which broker and gateway are reached, one a line.
    pub fn tls_names(&self) -> PathBuf {
        self.at("gateway/tls.names")
    }

    /// The client certificate of a service, and its key, beside its credentials.
    pub fn beside_creds(creds: &Path) -> (PathBuf, PathBuf) {
        (creds.with_extension("pem"), creds.with_extension("key"))
    }

    /// Every directory that `init` makes.
    pub fn directories(&self) -> Vec<PathBuf> {
        ["operator", "accounts", "broker", "gateway", "dispatcher", "system", "agent", "services"].map(|dir| self.at(dir)).into()
    }
}
