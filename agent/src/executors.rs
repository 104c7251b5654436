//! What this agent can do: its executors, the one place that knows which there are and which are on.
//!
//! [`Registry::check`] reads a job's params before anything starts; [`Registry::run`] runs one attempt to its [`Execution`]. What an executor
//! is, and what holds alike for all of them, is in the crate `muster_executor`. Nothing here talks to the broker: what an attempt
//! writes and reports comes out of the [`Feed`], and the agent's core carries it on.
//!
//! To add an executor: a module here, or a crate beside where it needs more than the agent has, that implements
//! [`Executor`]; its name in [`Registry::KNOWN`]; and its making in [`make`].

mod http;
mod plugin;
mod probe;
mod process;
mod shell;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

pub use muster_executor::{
    Attempt, Settings,
    context::{self, Chunk, Context, Feed, Progress, Stream, Update},
    finish::{Execution, Rejection},
};
use muster_executor::{Connection, Executor, Masks, Work, runner};
use muster_files::Roots;
use muster_schemas::{
    code::Code,
    connection::ConnectionKind,
    describe::{Description, ExecutorInfo, TypeInfo},
    names::{AgentId, ConnectionName},
    wire::V,
};
pub use plugin::{Plugins, Refused};
use process::Host;
pub use process::{cgroup::Base, launcher::Launcher, limits::Limits};
pub(crate) use process::{environment::may_be_allowed, launcher::main as launch};
use serde_json::Value;

/// What the executors of an agent are made with.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// What holds for all of them.
    pub settings: Settings,
    /// Lets `http.request` reach private and reserved addresses (the agent's `ALLOW_PRIVATE_NETWORK`).
    pub allow_private_network: bool,
    /// Where the container engine listens, if not at the usual socket (`DOCKER_HOST`).
    pub docker_host: Option<String>,
    /// The folders beneath which containers may be given folders (`DOCKER_BIND_ROOTS`).
    pub docker_bind_roots: Vec<PathBuf>,
    /// The units that `service.*` may reach; all of them if `None` (`SERVICE_UNITS`).
    pub service_units: Option<Vec<String>>,
    /// Lets `os.restart` restart the machine (`ALLOW_OS_RESTART`).
    pub allow_os_restart: bool,
    /// What `shell.run` and plugins are started through where they are to have limits, a cgroup or another user.
    pub launcher: Option<Launcher>,
    /// Where their cgroups are made; `None` makes none.
    pub cgroup: Option<Base>,
    /// Variables that jobs may set although they change which code runs, and that pass from the agent's environment (`SHELL_ENV_ALLOW`).
    pub shell_env_allow: Vec<String>,
    /// What each `shell.run` gets at most.
    pub shell_limits: Limits,
    /// The folders whose files jobs may have (`FILES_ROOTS`).
    pub files: Roots,
    /// Where the keys of other machines are kept that `ssh.*` took at the first use.
    pub known_hosts: PathBuf,
    /// What the plugin folder holds, if there is one.
    pub plugins: Option<Plugins>,
}

/// `EXECUTORS` names something that this agent does not have.
#[derive(Debug, thiserror::Error)]
#[error("unknown executor `{name}` (known: {})", Registry::KNOWN.join(", "))]
pub struct UnknownExecutor {
    name: String,
}

/// Work whose params were found good: all that is left is to run it.
#[derive(Debug)]
pub struct Prepared {
    work: Box<dyn Work>,
    /// The kinds of connections that it may be given.
    connections: Vec<ConnectionKind>,
}

impl Prepared {
    /// Whether its connection may be of this kind.
    ///
    /// # Errors
    /// `connection_mismatch`, naming the kinds that it may be of.
    pub fn takes(&self, name: &ConnectionName, kind: ConnectionKind) -> Result<(), Rejection> {
        if self.connections.contains(&kind) {
            return Ok(());
        }
        let kinds = self.connections.iter().map(|kind| kind.as_str()).collect::<Vec<_>>().join(", ");
        let message = format!("connection `{name}` is of the kind {}; this type takes {kinds}", kind.as_str());
        Err(Rejection::new(Code::ConnectionMismatch, message))
    }
}

/// The executors that are on, with their settings. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Registry {
    on: Arc<BTreeMap<String, Arc<dyn Executor>>>,
    types: Arc<BTreeMap<String, TypeInfo>>,
    settings: Arc<Settings>,
    masks: Masks,
    host: Arc<Host>,
}

/// Turns on every executor that works on this host.
pub(crate) const ALL: &str = "all";

impl Registry {
    /// Every executor of this build. `probe` is always on.
    pub const KNOWN: &[&str] = &[
        "probe",
        "shell",
        "http",
        #[cfg(feature = "docker")]
        muster_executor_docker::Docker::NAME,
        #[cfg(feature = "docker")]
        muster_executor_docker::Compose::NAME,
        #[cfg(feature = "kubernetes")]
        muster_executor_kubernetes::NAME,
        #[cfg(feature = "ssh")]
        muster_executor_ssh::NAME,
        #[cfg(feature = "systemd")]
        muster_executor_systemd::Service::NAME,
        #[cfg(feature = "systemd")]
        muster_executor_systemd::Os::NAME,
    ];

    /// Turns on `probe` and the named executors; `all` is every one of them.
    ///
    /// # Errors
    /// A name that is not in [`Registry::KNOWN`].
    pub fn new<S: AsRef<str>>(enabled: &[S], options: &Options) -> Result<Self, UnknownExecutor> {
        let mut wanted = BTreeSet::new();
        for name in enabled {
            match name.as_ref().trim() {
                ALL => wanted.extend(Self::KNOWN.iter().map(|name| (*name).to_owned())),
                name => drop(wanted.insert(name.to_owned())),
            }
        }
        // Plugins are made later: each is asked for its description.
        let is_plugin = |name: &String| options.plugins.is_some() && !Self::KNOWN.contains(&name.as_str());
        wanted.retain(|name| !is_plugin(name));
        let host = Arc::new(Host {
            launcher: options.launcher.clone(),
            cgroup: options.cgroup.clone(),
            env_allow: options.shell_env_allow.clone(),
        });
        let mut on = BTreeMap::new();
        for name in wanted.into_iter().filter(|name| name != probe::NAME) {
            let executor = make(&name, options, &host).ok_or_else(|| UnknownExecutor { name: name.clone() })?;
            on.insert(name, executor);
        }
        Ok(Self { host, ..Self::of(on, Arc::new(options.settings.clone()), Masks::default()) })
    }

    /// These, and `probe`.
    fn of(mut on: BTreeMap<String, Arc<dyn Executor>>, settings: Arc<Settings>, masks: Masks) -> Self {
        on.remove(probe::NAME);
        on.insert(probe::NAME.to_owned(), Arc::new(probe::Probe::new(on.values().cloned().collect())));
        let types = on.values().flat_map(|executor| executor.types()).map(|info| (info.name.to_string(), info)).collect();
        Self { on: Arc::new(on), types: Arc::new(types), settings, masks, host: Arc::default() }
    }

    /// With the plugins that are named, or with all of the folder where `all` is. Asks each for its description.
    ///
    /// # Errors
    /// The first of the named that can't be used.
    pub async fn with_plugins<S: AsRef<str>>(self, enabled: &[S], options: &Options) -> Result<Self, Refused> {
        let Some(plugins) = &options.plugins else { return Ok(self) };
        let enabled = || enabled.iter().map(|name| name.as_ref().trim());
        let named: Vec<_> = enabled().filter(|name| *name != ALL && !Self::KNOWN.contains(name)).map(str::to_owned).collect();
        let made = plugins.make(&named, enabled().any(|name| name == ALL), &self.host).await?;
        let on = self.on.iter().map(|(name, executor)| (name.clone(), Arc::clone(executor)));
        let on = on.chain(made.into_iter().map(|plugin| (plugin.name().to_owned(), plugin))).collect();
        Ok(Self { host: self.host, ..Self::of(on, self.settings, self.masks) })
    }

    /// Without those that can't work on this host. Says which in the log.
    #[must_use]
    pub async fn that_work_here(self) -> Self {
        let mut on = BTreeMap::new();
        for (name, executor) in self.on.iter() {
            match executor.works_here().await {
                Ok(()) => drop(on.insert(name.clone(), Arc::clone(executor))),
                Err(why) => tracing::warn!(executor = name, why, "this executor can't work here; it is off"),
            }
        }
        Self { host: self.host, ..Self::of(on, self.settings, self.masks) }
    }

    /// The names of the executors that are on, in alphabetical order: an agent's capabilities.
    pub fn executors(&self) -> Vec<&str> {
        self.on.keys().map(String::as_str).collect()
    }

    /// One of the executors that are on.
    pub fn executor(&self, name: &str) -> Option<Arc<dyn Executor>> {
        self.on.get(name).cloned()
    }

    /// The secrets that no attempt lets out.
    pub fn masks(&self) -> &Masks {
        &self.masks
    }

    /// What the executors that are on take.
    pub fn description(&self) -> Description {
        let info = |executor: &Arc<dyn Executor>| {
            Some(ExecutorInfo { name: executor.name().parse().ok()?, about: executor.about().to_owned(), types: executor.types() })
        };
        Description { v: V, executors: self.on.values().filter_map(info).collect() }
    }

    /// Reads a job's params before anything starts. `kind` is the job's type, such as `shell.run`; `connection` the one that it names.
    ///
    /// # Errors
    /// `type_unknown` for a type that no executor here runs (or whose executor is off), `params_invalid` naming the
    /// field, `address_forbidden` for a URL that points at a forbidden address, `connection_mismatch` when the type needs a connection and none
    /// is named, or the other way round. All are final: the job is rejected.
    pub fn check(&self, kind: &str, params: &Value, connection: Option<&ConnectionName>) -> Result<Prepared, Rejection> {
        let (name, verb) = kind.split_once('.').unwrap_or((kind, ""));
        let Some(executor) = self.on.get(name) else {
            let on = self.executors().join(", ");
            return Err(Rejection::new(Code::TypeUnknown, format!("no executor here runs `{kind}` (on: {on})")));
        };
        let unknown = || Rejection::new(Code::TypeUnknown, format!("executor `{name}` has no type `{kind}`"));
        let info = self.types.get(kind).ok_or_else(unknown)?;
        match connection {
            Some(_) if info.connections.is_empty() => {
                return Err(Rejection::new(Code::ConnectionMismatch, format!("field `connection`: `{kind}` takes none")));
            }
            None if info.needs_connection => {
                return Err(Rejection::new(Code::ConnectionMismatch, format!("field `connection`: `{kind}` needs one")));
            }
            _ => {}
        }
        let work = executor.check(verb, params)?.ok_or_else(unknown)?;
        Ok(Prepared { work, connections: info.connections.clone() })
    }

    /// Runs one attempt to its end. Never fails: whatever happens is an [`Execution`].
    ///
    /// Dropping the future kills what the attempt started.
    pub async fn run(&self, prepared: Prepared, attempt: Attempt, connection: Option<Connection>, context: Context) -> Execution {
        let start = runner::Start { attempt, settings: Arc::clone(&self.settings), connection, mask: self.masks.now() };
        runner::run(prepared.work, start, context).await
    }
}

impl Registry {
    /// Kills what earlier attempts of this agent left running, and all that descends from it, when there is nobody any more who looks after
    /// them: at the agent's start, and when it ends without waiting for its jobs. Blocks for milliseconds. Returns how many it found.
    pub fn kill_orphans(&self, agent: &AgentId) -> usize {
        process::tree::kill_orphans(agent, self.host.cgroup.as_ref())
    }
}

/// Makes one executor; `None` when this build has none of that name.
fn make(name: &str, options: &Options, host: &Arc<Host>) -> Option<Arc<dyn Executor>> {
    Some(match name {
        shell::NAME => Arc::new(shell::Shell::new(Arc::clone(host), options.shell_limits.clone())),
        http::NAME => Arc::new(http::Http::new(options.allow_private_network)),
        #[cfg(feature = "docker")]
        muster_executor_docker::Docker::NAME => Arc::new(muster_executor_docker::Docker::new(&docker(options))),
        #[cfg(feature = "docker")]
        muster_executor_docker::Compose::NAME => Arc::new(muster_executor_docker::Compose::new(&docker(options))),
        #[cfg(feature = "kubernetes")]
        muster_executor_kubernetes::NAME => Arc::new(muster_executor_kubernetes::Kubernetes::new()),
        #[cfg(feature = "ssh")]
        muster_executor_ssh::NAME => {
            let options = muster_executor_ssh::Options::new(options.files.clone(), options.known_hosts.clone());
            Arc::new(muster_executor_ssh::Ssh::new(options))
        }
        #[cfg(feature = "systemd")]
        muster_executor_systemd::Service::NAME => Arc::new(muster_executor_systemd::Service::new(None, options.service_units.clone())),
        #[cfg(feature = "systemd")]
        muster_executor_systemd::Os::NAME => Arc::new(muster_executor_systemd::Os::new(None, options.allow_os_restart)),
        _ => return None,
    })
}

#[cfg(feature = "docker")]
fn docker(options: &Options) -> muster_executor_docker::Options {
    muster_executor_docker::Options { host: options.docker_host.clone(), bind_roots: options.docker_bind_roots.clone() }
}

#[cfg(test)]
mod tests;
