//! `ssh.run`, `ssh.upload`, `ssh.download`: commands and files on a machine that the agent reaches by SSH, with the credentials of a connection.
//!
//! One connection to the machine per job, closed with it. Nothing of the agent's user is used: no `~/.ssh`, no SSH agent, nothing is forwarded.
//!
//! | to find | look in |
//! |---|---|
//! | the connection's settings and credentials | `target` |
//! | whether it is the right machine | `host_keys` |
//! | connecting, logging in, being cut off | `session` |
//! | commands, and their end | `run`, `run/stop` |
//! | files there, by SFTP | `sftp` |
//! | the two directions | `upload`, `download` |

mod download;
mod host_keys;
mod paths;
mod problem;
mod run;
mod session;
mod sftp;
mod target;
mod upload;

use std::{path::PathBuf, sync::Arc, time::Duration};

use host_keys::HostKeys;
use muster_executor::{BoxFuture, Executor, Finish, Rejection, Scope, Work, schema};
use muster_files::Roots;
use muster_schemas::{connection::ConnectionKind, describe::TypeInfo};
use serde_json::{Value, json};
use session::Session;

/// The executor's name.
pub const NAME: &str = "ssh";

/// What the executor is made with.
#[derive(Debug, Clone)]
pub struct Options {
    /// The folders whose files may be uploaded from and downloaded to.
    pub files: Roots,
    /// Where the keys of machines are kept that were taken at the first use.
    pub known_hosts: PathBuf,
    /// How patient it is.
    pub patience: Patience,
    /// How much is carried over.
    pub limits: Limits,
}

impl Options {
    /// The usual ones.
    pub fn new(files: Roots, known_hosts: PathBuf) -> Self {
        Self { files, known_hosts, patience: Patience::default(), limits: Limits::default() }
    }
}

/// How long it waits for the other machine.
#[derive(Debug, Clone)]
pub struct Patience {
    /// To be connected and logged in.
    pub connect: Duration,
    /// Of silence, before the machine is asked whether it is still there.
    pub keep_alive: Duration,
    /// How many such questions may stay unanswered.
    pub missed: usize,
}

impl Default for Patience {
    fn default() -> Self {
        // A machine that is gone is known to be after a minute; a slow one has logged somebody in by half of that.
        Self { connect: Duration::from_secs(30), keep_alive: Duration::from_secs(15), missed: 3 }
    }
}

/// How much one job carries over at most.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Files and folders of a recursive download.
    pub entries: u64,
    /// Bytes of all files together.
    pub bytes: u64,
    /// How deep folders may lie in each other.
    pub depth: usize,
    /// What archives may unfold to.
    pub archives: muster_files::archive::Limits,
}

impl Default for Limits {
    fn default() -> Self {
        let archives = muster_files::archive::Limits::default();
        Self { entries: archives.entries, bytes: 16 << 30, depth: archives.depth, archives }
    }
}

/// The executor. Making it touches neither files nor the network.
#[derive(Debug)]
pub struct Ssh(Arc<Tools>);

/// What all its jobs share.
#[derive(Debug)]
struct Tools {
    options: Options,
    host_keys: HostKeys,
}

impl Ssh {
    /// The executor.
    pub fn new(options: Options) -> Self {
        let host_keys = HostKeys::new(options.known_hosts.clone());
        Self(Arc::new(Tools { options, host_keys }))
    }
}

impl Executor for Ssh {
    fn name(&self) -> &str {
        NAME
    }

    fn about(&self) -> &str {
        "commands and files on machines that the agent reaches by SSH"
    }

    fn types(&self) -> Vec<TypeInfo> {
        let info = |verb: &str, about: &str, params: Value, example: Value| TypeInfo {
            connections: vec![ConnectionKind::Ssh],
            needs_connection: true,
            ..schema::type_info(NAME, verb, about, params, example)
        };
        vec![
            info("run", "Runs a command on the connection's machine.", run::schema(), json!({"command": "uptime"})),
            info(
                "upload",
                "Puts a file, or the files of an archive, onto the connection's machine.",
                upload::schema(),
                json!({"content": "hello\n", "to": "hello.txt"}),
            ),
            info(
                "download",
                "Gets a file, or a folder, from the connection's machine.",
                download::schema(),
                json!({"path": "/etc/hostname"}),
            ),
        ]
    }

    fn check(&self, verb: &str, params: &Value) -> Result<Option<Box<dyn Work>>, Rejection> {
        let tools = || Arc::clone(&self.0);
        Ok(match verb {
            "run" => Some(Box::new(run::Run::new(tools(), params)?)),
            "upload" => Some(Box::new(upload::Upload::new(tools(), params)?)),
            "download" => Some(Box::new(download::Download::new(tools(), params)?)),
            _ => None,
        })
    }

    fn probe(&self, kind: ConnectionKind) -> Option<Box<dyn Work>> {
        (kind == ConnectionKind::Ssh).then(|| Box::new(Probe(Arc::clone(&self.0))) as Box<dyn Work>)
    }
}

/// Connects and logs in, and that is all.
#[derive(Debug)]
struct Probe(Arc<Tools>);

impl Work for Probe {
    fn run<'a>(self: Box<Self>, scope: &'a Scope) -> BoxFuture<'a, Finish> {
        Box::pin(async move {
            match Session::open(&self.0, scope).await {
                Ok(session) => {
                    let data = json!({"host": session.host(), "host_key": session.fingerprint()});
                    session.close().await;
                    Finish::succeeded(Some(data))
                }
                Err(problem) => problem.into(),
            }
        })
    }
}
