//! The engine of this host: its socket, its client (made with the first job), and the leftovers of earlier processes of the agent.
//!
//! Only unix sockets: an engine elsewhere is not this host, and its folders are not those that [`crate::Options::bind_roots`] names.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use bollard::{
    API_DEFAULT_VERSION, BollardRequest, Docker,
    query_parameters::{ListContainersOptionsBuilder, RemoveContainerOptionsBuilder},
};
use muster_schemas::{code::Code, names::AgentId};
use tokio::sync::OnceCell;

use crate::{Options, failure::Failure, labels};

/// Where the engine listens unless somebody says otherwise.
const SOCKET: &str = "/var/run/docker.sock";

/// How long the engine may take to say that it is there.
const PING: Duration = Duration::from_secs(2);

/// For one answer to begin: longer than any attempt, whose own time-out decides.
const ANSWER_S: u64 = 7 * 24 * 3600;

/// The engine, and what may be asked of it. Nothing is opened before the first job.
#[derive(Debug)]
pub(crate) struct Engine {
    socket: Result<PathBuf, String>,
    pub(crate) bind_roots: Vec<PathBuf>,
    client: OnceCell<Docker>,
    swept: OnceCell<()>,
}

impl Engine {
    pub(crate) fn new(options: &Options) -> Self {
        let socket = socket(options.host.as_deref());
        Self { socket, bind_roots: options.bind_roots.clone(), client: OnceCell::new(), swept: OnceCell::new() }
    }

    /// Whether it answers, and soon.
    pub(crate) async fn answers(&self) -> Result<(), String> {
        let client = self.connect().map_err(|failure| failure.message)?;
        match tokio::time::timeout(PING, client.ping()).await {
            Ok(answer) => answer.map(drop).map_err(|error| Failure::from(error).message),
            Err(_) => Err(format!("the container engine at {} does not answer within {PING:?}", self.path()?.display())),
        }
    }

    /// The client. The first call agrees on the version of the API with the engine, and removes what an earlier process of this agent left.
    pub(crate) async fn client(&self, agent: &AgentId) -> Result<&Docker, Failure> {
        let connect = || async { Ok::<_, Failure>(self.connect()?.negotiate_version().await?) };
        let client = self.client.get_or_try_init(connect).await?;
        self.swept.get_or_try_init(|| sweep(client, agent)).await?;
        Ok(client)
    }

    /// Where its socket is.
    pub(crate) fn path(&self) -> Result<&Path, String> {
        self.socket.as_deref().map_err(Clone::clone)
    }

    fn connect(&self) -> Result<Docker, Failure> {
        let path = self.path().map_err(|problem| Failure::new(Code::ExecutorUnavailable, problem))?;
        let client = Docker::connect_with_unix(&path.to_string_lossy(), ANSWER_S, API_DEFAULT_VERSION)?;
        Ok(client.with_request_modifier(with_readable_auth))
    }
}

/// The engine reads base64 of the alphabet for URLs, and takes what it can't read for no credentials at all; the client writes the other one.
fn with_readable_auth(mut request: BollardRequest) -> BollardRequest {
    if let Some(auth) = request.headers_mut().get_mut("x-registry-auth") {
        let text = String::from_utf8_lossy(auth.as_bytes()).replace('+', "-").replace('/', "_");
        if let Ok(value) = hyper::header::HeaderValue::from_str(&text) {
            *auth = value;
            auth.set_sensitive(true);
        }
    }
    request
}

/// The path in `DOCKER_HOST`.
fn socket(host: Option<&str>) -> Result<PathBuf, String> {
    let host = host.map(str::trim).filter(|host| !host.is_empty()).unwrap_or(SOCKET);
    let path = Path::new(host.strip_prefix("unix://").unwrap_or(host));
    match path.is_absolute() {
        true => Ok(path.to_owned()),
        false => Err("DOCKER_HOST must be the path of a unix socket, as it is or after `unix://`".to_owned()),
    }
}

/// Removes what was to end with the attempts of an earlier process of this agent.
async fn sweep(client: &Docker, agent: &AgentId) -> Result<(), Failure> {
    let all = ListContainersOptionsBuilder::default().all(true).filters(&labels::transient_of(agent)).build();
    for left in client.list_containers(Some(all)).await? {
        let (Some(id), Some(labels)) = (left.id, left.labels) else { continue };
        if !labels::is_leftover(&labels) {
            continue;
        }
        let job = labels.get(labels::JOB).map_or("", String::as_str);
        tracing::warn!(container = id, job, "removing a container that an earlier process of this agent left");
        let force = RemoveContainerOptionsBuilder::default().force(true).v(true).build();
        if let Err(error) = client.remove_container(&id, Some(force)).await {
            tracing::warn!(container = id, %error, "it could not be removed");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;

    #[test]
    fn the_engine_is_at_the_usual_socket_or_where_one_says_but_never_on_a_network() {
        assert_eq!(socket(None).unwrap(), Path::new(SOCKET));
        assert_eq!(socket(Some(" ")).unwrap(), Path::new(SOCKET));
        assert_eq!(socket(Some("unix:///run/d.sock")).unwrap(), Path::new("/run/d.sock"));
        assert_eq!(socket(Some("/run/d.sock")).unwrap(), Path::new("/run/d.sock"));
        for host in ["tcp://10.0.0.1:2375", "unix://run/d.sock", "ssh://root@h", "d.sock"] {
            assert!(socket(Some(host)).is_err(), "{host}");
        }
    }
}
