//! One request to the admin interface of the agent on this machine, and its answer.
//!
//! Before the token or a secret leaves this process it is made sure whose process listens there: where no agent runs, anybody may.

use std::{
    fs,
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    os::unix::fs::MetadataExt as _,
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context as _, bail};
use muster_runtime::config::Secret;
use serde_json::Value;
use zeroize::Zeroizing;

use super::refused;
use crate::{
    admin::{peer, token},
    config::Config,
};

/// How long each step may take. A change waits for the disk.
const PATIENCE: Duration = Duration::from_secs(30);
/// Longer than any answer.
const ANSWER_MAX: u64 = 1024 * 1024;

/// The agent on this machine.
#[derive(Debug)]
pub(super) struct Agent {
    address: SocketAddr,
    token: Secret,
    state_dir: PathBuf,
}

impl Agent {
    /// Finds it by its state directory, and makes sure that it is there.
    pub(super) fn find(config: &Config) -> anyhow::Result<Self> {
        let state_dir = config.state_dir.clone();
        let about = fs::metadata(&state_dir);
        let about = about.with_context(|| {
            format!(
                "no agent has run with {} on this machine, or you may not see it; say where its state is with --state-dir before `vault`",
                state_dir.display()
            )
        })?;
        let Some(token) = token::kept(config)? else {
            bail!("the agent has left no token in {}: it has not run there yet", state_dir.display());
        };
        let address = token::address(config)?;
        let own = nix::unistd::geteuid().as_raw();
        match peer::owner(address, peer::LISTENING).context("can't tell whose process listens there")? {
            None => bail!("the agent does not run: nothing listens on {address}"),
            Some(owner) if [0, own, about.uid()].contains(&owner) => Ok(Self { address, token, state_dir }),
            Some(owner) => bail!(
                "the agent does not run: on {address} listens a process of the user with id {owner}, and {} belongs to {}; nothing was sent to it",
                state_dir.display(),
                about.uid()
            ),
        }
    }

    /// Asks it for something; answers `data` of what it says.
    pub(super) fn ask(&self, method: &str, path: &str, body: &[u8]) -> anyhow::Result<Value> {
        let answer = self.exchange(method, path, body);
        let answer = answer.with_context(|| format!("can't talk to the agent of {} on {}", self.state_dir.display(), self.address))?;
        let text = String::from_utf8_lossy(&answer);
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let status: u16 = head.split_ascii_whitespace().nth(1).and_then(|status| status.parse().ok()).unwrap_or_default();
        let mut said: Value = serde_json::from_str(body).unwrap_or_default();
        match status {
            204 => Ok(Value::Null),
            200..=299 => Ok(said.get_mut("data").map(Value::take).unwrap_or_default()),
            _ => refused(&said),
        }
    }

    fn exchange(&self, method: &str, path: &str, body: &[u8]) -> io::Result<Vec<u8>> {
        let mut stream = TcpStream::connect_timeout(&self.address, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let head = Zeroizing::new(format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            self.address,
            self.token.expose().trim(),
            body.len()
        ));
        stream.write_all(head.as_bytes())?;
        stream.write_all(body)?;
        let mut answer = Vec::new();
        stream.take(ANSWER_MAX).read_to_end(&mut answer)?;
        Ok(answer)
    }
}
