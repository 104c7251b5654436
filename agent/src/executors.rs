//! What this agent can do: its executors, the one place that knows which there are and which are on.
//!
//! [`Registry::check`] reads a job's params before anything starts; [`Registry::run`] runs one attempt to its [`Execution`]. What an executor
//! is, and what holds alike for all of them, is in the crate `muster_executor`. Nothing here talks to the broker: what an attempt
//! writes and reports comes out of the [`Feed`], and the agent's core carries it on.
//!
//! To add an executor: a module here, or a crate beside where it needs more than the agent has, that implements
//! [`Executor`]; its name in [`Registry::KNOWN`]; and its making in [`make`].

mod http;
mod probe;
mod shell;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

pub use muster_executor::{
    Attempt, Settings,
    context::{self, Chunk, Context, Feed, Progress, Stream, Update},
    finish::{Execution, Rejection},
};
use muster_executor::{Connection, Executor, Masks, Work, runner};
use muster_schemas::{
    code::Code,
    connection::ConnectionKind,
    describe::{Description, ExecutorInfo, TypeInfo},
    names::ConnectionName,
    wire::V,
};
use serde_json::Value;
pub use shell::kill_orphans;

/// What the executors of an agent are made with.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// What holds for all of them.
    pub settings: Settings,
    /// Lets `http.request` reach private and reserved addresses (the agent's `ALLOW_PRIVATE_NETWORK`).
    pub allow_private_network: bool,
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
}

/// Turns on every executor that works on this host.
const ALL: &str = "all";

impl Registry {
    /// Every executor of this build. `probe` is always on.
    pub const KNOWN: &[&str] = &["probe", "shell", "http"];

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
        let mut on = BTreeMap::new();
        for name in wanted.into_iter().filter(|name| name != probe::NAME) {
            let executor = make(&name, options).ok_or_else(|| UnknownExecutor { name: name.clone() })?;
            on.insert(name, executor);
        }
        Ok(Self::of(on, Arc::new(options.settings.clone()), Masks::default()))
    }

    /// These, and `probe`.
    fn of(mut on: BTreeMap<String, Arc<dyn Executor>>, settings: Arc<Settings>, masks: Masks) -> Self {
        on.remove(probe::NAME);
        on.insert(probe::NAME.to_owned(), Arc::new(probe::Probe::new(on.values().cloned().collect())));
        let types = on.values().flat_map(|executor| executor.types()).map(|info| (info.name.to_string(), info)).collect();
        Self { on: Arc::new(on), types: Arc::new(types), settings, masks }
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
        Self::of(on, self.settings, self.masks)
    }

    /// The names of the executors that are on, in alphabetical order: an agent's capabilities.
    pub fn executors(&self) -> Vec<&str> {
        self.on.keys().map(String::as_str).collect()
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

/// Makes one executor; `None` when this build has none of that name.
fn make(name: &str, options: &Options) -> Option<Arc<dyn Executor>> {
    Some(match name {
        shell::NAME => Arc::new(shell::Shell),
        http::NAME => Arc::new(http::Http::new(options.allow_private_network)),
        _ => return None,
    })
}

#[cfg(test)]
mod tests;
