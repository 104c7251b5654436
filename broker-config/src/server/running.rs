//! A `nats-server` that we started.

use std::{
    ffi::OsString,
    io,
    net::{SocketAddr, ToSocketAddrs},
    path::PathBuf,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde::Deserialize;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    net::TcpStream,
    process::{Child, Command},
    time::{Instant, sleep, timeout},
};

use crate::files::{self, FileError, failed};

/// How often to look whether the server is ready. It takes some 30 ms with an empty store.
const READY_POLL: Duration = Duration::from_millis(5);
/// How long it may take with a full one: with the consumers of 10 000 agents more than 30 s on two busy cores **[measured]**. A server that
/// ends is noticed at once, so this is only for one that hangs.
const READY_WITHIN: Duration = Duration::from_secs(180);
/// How long an asked-for end may take before the server is killed.
const STOP_WITHIN: Duration = Duration::from_secs(10);

/// How to start a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Start {
    /// The binary, see [`super::find_binary`].
    pub binary: PathBuf,
    /// Its config, see [`crate::layout::Layout::server_config`].
    pub config: PathBuf,
    /// A directory for its ports file and its log.
    pub run_dir: PathBuf,
    /// The port, whatever the config says; `None` is as the config says.
    pub port: Option<u16>,
    /// Program and arguments to put before the binary, for a wrapper that in the end `exec`s the rest; empty for none.
    pub wrapper: Vec<OsString>,
    /// Variables to set in its environment, such as for the wrapper.
    pub env: Vec<(OsString, OsString)>,
    /// How long it may take to become ready. A store with many messages takes a while.
    pub ready_within: Duration,
}

impl Start {
    /// A start with the port of the config, no wrapper, and 3 min to become ready.
    pub fn new(binary: impl Into<PathBuf>, config: impl Into<PathBuf>, run_dir: impl Into<PathBuf>) -> Self {
        Self {
            binary: binary.into(),
            config: config.into(),
            run_dir: run_dir.into(),
            port: None,
            wrapper: Vec::new(),
            env: Vec::new(),
            ready_within: READY_WITHIN,
        }
    }

    /// Where the server's log is appended.
    pub fn log(&self) -> PathBuf {
        self.run_dir.join("nats-server.log")
    }
}

/// Why a server did not start, or did not stop.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// A file could not be written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The program does not run.
    #[error("cannot start {program}")]
    Spawn {
        /// The program.
        program: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// It ended before it was ready.
    #[error("nats-server ended at once ({status}); its log ends: {log}")]
    Ended {
        /// How it ended.
        status: ExitStatus,
        /// The last lines of its log.
        log: String,
    },
    /// It is not ready in time. It has been killed.
    #[error("nats-server is not ready after {} s; its log ends: {log}", within.as_secs())]
    NotReady {
        /// How long it had.
        within: Duration,
        /// The last lines of its log.
        log: String,
    },
    /// It could not be waited for or signalled.
    #[error("cannot stop nats-server")]
    Stop(#[source] io::Error),
}

/// What the server writes when it knows its ports.
#[derive(Debug, Clone, Default, Deserialize)]
struct Ports {
    #[serde(default)]
    nats: Vec<String>,
    #[serde(default)]
    monitoring: Vec<String>,
    #[serde(default)]
    websocket: Vec<String>,
}

/// A running server. Dropping it kills it.
#[derive(Debug)]
pub struct Server {
    start: Start,
    child: Child,
    pid: u32,
    ports: Ports,
    address: SocketAddr,
}

impl Server {
    /// Starts a server and waits until it takes connections.
    ///
    /// # Errors
    /// See [`ServerError`]. Nothing keeps running then.
    pub async fn start(start: Start) -> Result<Self, ServerError> {
        files::make_dir(&start.run_dir)?;
        let log = start.log();
        let out = std::fs::OpenOptions::new().create(true).append(true).open(&log).map_err(failed("open", &log))?;
        let also = out.try_clone().map_err(failed("open", &log))?;
        let mut words = start.wrapper.iter().cloned().chain([start.binary.clone().into_os_string()]);
        let program = words.next().unwrap_or_default();
        let mut command = Command::new(&program);
        command.args(words).arg("-c").arg(&start.config).arg("--ports_file_dir").arg(&start.run_dir);
        if let Some(port) = start.port {
            command.arg("-p").arg(port.to_string());
        }
        command.envs(start.env.iter().cloned()).stdin(Stdio::null()).stdout(out).stderr(also).kill_on_drop(true);
        let child = command.spawn().map_err(|source| ServerError::Spawn { program: program.display().to_string(), source })?;
        // There is an id until the child has been waited for.
        let pid = child.id().unwrap_or_default();
        let unknown = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut server = Self { start, child, pid, ports: Ports::default(), address: unknown };
        server.until_ready().await?;
        Ok(server)
    }

    async fn until_ready(&mut self) -> Result<(), ServerError> {
        let (end, within) = (Instant::now() + self.start.ready_within, self.start.ready_within);
        loop {
            if let Some(status) = self.child.try_wait().map_err(ServerError::Stop)? {
                return Err(ServerError::Ended { status, log: self.log_end() });
            }
            if let Some((ports, address)) = self.read_ports()
                && timeout(Duration::from_secs(1), greets(address)).await.unwrap_or(false)
            {
                (self.ports, self.address) = (ports, address);
                return Ok(());
            }
            if Instant::now() >= end {
                let _ = self.child.start_kill();
                let _ = self.child.wait().await;
                return Err(ServerError::NotReady { within, log: self.log_end() });
            }
            sleep(READY_POLL).await;
        }
    }

    /// The ports file is named after program and pid; the program may be a wrapper's. It may be half written.
    fn read_ports(&self) -> Option<(Ports, SocketAddr)> {
        let wanted = format!("_{}.ports", self.pid);
        let file = std::fs::read_dir(&self.start.run_dir)
            .ok()?
            .filter_map(Result::ok)
            .find(|entry| entry.file_name().to_str().is_some_and(|name| name.ends_with(&wanted)))?;
        let ports: Ports = serde_json::from_slice(&std::fs::read(file.path()).ok()?).ok()?;
        let address = ports.nats.first()?.split_once("://")?.1.to_socket_addrs().ok()?.next()?;
        Some((ports, reachable(address)))
    }

    fn log_end(&self) -> String {
        let text = std::fs::read_to_string(self.start.log()).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        lines.iter().rev().take(5).rev().copied().collect::<Vec<_>>().join(" / ")
    }

    /// Where clients connect, such as `nats://127.0.0.1:4222`. A server on all addresses is named by loopback.
    pub fn url(&self) -> String {
        format!("nats://{}", self.address)
    }

    /// The port for clients.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Where WebSocket clients connect, if it listens for them.
    pub fn websocket_url(&self) -> Option<&str> {
        self.ports.websocket.first().map(String::as_str)
    }

    /// Where its monitoring pages are, if it serves them.
    pub fn monitoring_url(&self) -> Option<&str> {
        self.ports.monitoring.first().map(String::as_str)
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Its log.
    pub fn log(&self) -> PathBuf {
        self.start.log()
    }

    /// How it was started.
    pub fn options(&self) -> &Start {
        &self.start
    }

    /// Waits until it ends by itself, which it does not do unless something is wrong or somebody stops it.
    ///
    /// # Errors
    /// When it cannot be waited for.
    pub async fn wait(&mut self) -> Result<ExitStatus, ServerError> {
        self.child.wait().await.map_err(ServerError::Stop)
    }

    /// Sends it a signal, for tests of faults (`SIGSTOP`, `SIGCONT`). Does nothing once it has ended.
    ///
    /// # Errors
    /// When the signal cannot be sent.
    pub fn signal(&self, signal: Signal) -> Result<(), ServerError> {
        // Not yet waited for, so the pid is still its own.
        let Some(pid) = self.child.id().and_then(|pid| i32::try_from(pid).ok()) else { return Ok(()) };
        kill(Pid::from_raw(pid), signal).map_err(|errno| ServerError::Stop(errno.into()))
    }

    /// Ends it in good order, or by force after 10 s.
    ///
    /// # Errors
    /// When it cannot be signalled or waited for.
    pub async fn stop(&mut self) -> Result<ExitStatus, ServerError> {
        self.signal(Signal::SIGTERM)?;
        match timeout(STOP_WITHIN, self.child.wait()).await {
            Ok(ended) => ended.map_err(ServerError::Stop),
            Err(_) => self.kill().await,
        }
    }

    /// Ends it by force, as a power cut would.
    ///
    /// # Errors
    /// When it cannot be signalled or waited for.
    pub async fn kill(&mut self) -> Result<ExitStatus, ServerError> {
        self.child.start_kill().map_err(ServerError::Stop)?;
        self.child.wait().await.map_err(ServerError::Stop)
    }

    /// Starts it again on the same store and the same port, ending it first if it still runs.
    ///
    /// # Errors
    /// See [`ServerError`].
    pub async fn restart(&mut self) -> Result<(), ServerError> {
        if self.child.id().is_some() {
            self.stop().await?;
        }
        let start = Start { port: Some(self.port()), ..self.start.clone() };
        *self = Self::start(start).await?;
        Ok(())
    }
}

/// A server that listens on all addresses is reached by loopback.
fn reachable(address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() { SocketAddr::from(([127, 0, 0, 1], address.port())) } else { address }
}

/// Whether something there greets as a NATS server does.
async fn greets(address: SocketAddr) -> bool {
    let Ok(stream) = TcpStream::connect(address).await else { return false };
    let mut line = String::new();
    matches!(BufReader::new(stream).read_line(&mut line).await, Ok(read) if read > 0) && line.starts_with("INFO ")
}
