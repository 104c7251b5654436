//! The server's config file, rendered from keys and settings: the same input gives the same bytes.
//!
//! It never holds a secret: JWTs of operator and accounts only.

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
};

use crate::{
    files::{self, FileError},
    tls::TlsName,
};

/// Settings of the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broker {
    /// The address to listen on, such as `127.0.0.1`, or `0.0.0.0` in a container.
    pub host: String,
    /// The port; `None` takes a free one, to be read from the ports file (see [`crate::server::Server`]).
    pub port: Option<u16>,
    /// Where to listen for WebSocket: with TLS where that is on, else without, for a proxy in front.
    pub websocket: Option<Endpoint>,
    /// Where to serve the monitoring pages; they need no login, so only ever on loopback.
    pub monitoring: Option<Endpoint>,
    /// Where the server keeps streams and accounts, as the server sees it.
    pub store_dir: PathBuf,
    /// The most that streams may take on disk, in bytes; `None` leaves it to the server (three quarters of what is free).
    ///
    /// The caps of `EVENTS` and `LOGS` are set aside of it at once, and the server refuses to make them when it is less.
    pub max_file_store: Option<u64>,
    /// Whether what the server has acknowledged is on disk. `false` loses the last two minutes with the power: only for measuring what this
    /// costs. No init keeps it from the last one.
    pub durable: bool,
    /// `Some` turns TLS on, with these names of broker and gateway beside [`TlsName::defaults`] (none: those of the last time). TLS that is on
    /// stays on: `None` changes nothing then.
    pub tls: Option<Vec<TlsName>>,
}

/// The files that the server's TLS is made of, as the server sees them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TlsFiles {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
    pub(crate) authority: PathBuf,
}

/// An address and port to listen on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// The address.
    pub host: String,
    /// The port; `None` takes a free one.
    pub port: Option<u16>,
}

impl Broker {
    /// On loopback, without WebSocket and monitoring.
    pub fn local(port: Option<u16>, store_dir: impl Into<PathBuf>) -> Self {
        Self {
            host: "127.0.0.1".into(),
            port,
            websocket: None,
            monitoring: None,
            store_dir: store_dir.into(),
            max_file_store: None,
            durable: true,
            tls: None,
        }
    }

    /// Where the store is when nobody says otherwise: in the folder of the deployment.
    ///
    /// # Errors
    /// When a relative path cannot be completed.
    pub fn store_in(dir: &Path) -> Result<PathBuf, FileError> {
        Ok(std::path::absolute(dir).map_err(files::failed("find", dir))?.join("broker/store"))
    }

    /// Where the server keeps the JWTs of accounts that were updated while it ran.
    pub(super) fn accounts_dir(&self) -> PathBuf {
        self.store_dir.join("accounts")
    }
}

/// The longest line of the protocol that the server takes, in bytes.
const MAX_CONTROL_LINE: usize = crate::creds::JWT_MAX + 4096;

/// The server's word for "a free one".
pub(super) const ANY_PORT: i32 = -1;

fn port(port: Option<u16>) -> i32 {
    port.map_or(ANY_PORT, i32::from)
}

/// A quoted string of the config's language.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

/// TLS 1.3 with certificates on both sides.
fn tls_block(files: &TlsFiles, indent: &str) -> String {
    let file = |path: &PathBuf| quoted(&path.display().to_string());
    let lines = [
        "tls {".to_owned(),
        format!("  cert_file: {}", file(&files.certificate)),
        format!("  key_file: {}", file(&files.key)),
        format!("  ca_file: {}", file(&files.authority)),
        "  verify: true".to_owned(),
        "  min_version: \"1.3\"".to_owned(),
        // The default of 2 s is little for a thousand agents that come back at once.
        "  timeout: 10".to_owned(),
        "}".to_owned(),
    ];
    lines.iter().map(|line| format!("{indent}{line}\n")).collect()
}

/// Renders the config. `preload` is the public key and the JWT of each account.
pub(crate) fn render(
    broker: &Broker,
    tls: Option<&TlsFiles>,
    operator_jwt: &str,
    system_account: &str,
    preload: &[(String, String)],
) -> String {
    let store = |path: PathBuf| quoted(&path.display().to_string());
    let mut text = String::from(
        "# Written by `muster init`, and written anew at each init: change its options, not this file.\n\
         server_name: muster\n",
    );
    let mut line = |content: std::fmt::Arguments<'_>| {
        // Writing to a string cannot fail.
        let _ = text.write_fmt(content);
        text.push('\n');
    };
    line(format_args!("host: {}\nport: {}", quoted(&broker.host), port(broker.port)));
    if let Some(http) = &broker.monitoring {
        line(format_args!("http: {}", quoted(&format!("{}:{}", http.host, port(http.port)))));
    }
    line(format_args!("\n# A client that takes nothing for this long is cut off, rather than holding up the others."));
    line(format_args!("write_deadline: \"10s\""));
    line(format_args!("# A client's JWT travels in one line; that of a service with many pools is longer than the default of 4096."));
    line(format_args!("max_control_line: {MAX_CONTROL_LINE}"));
    if let Some(tls) = tls {
        line(format_args!("\n# Who has no certificate of this authority does not get as far as showing a JWT.\n{}", tls_block(tls, "")));
    }
    // The server makes a directory `jetstream` in it.
    line(format_args!("\njetstream {{\n  store_dir: {}", store(broker.store_dir.clone())));
    if broker.durable {
        line(format_args!("  # An acknowledged job or result is on disk. The default is one flush in two minutes."));
        line(format_args!("  sync_interval: always"));
    } else {
        line(format_args!("  # FOR MEASURING ONLY: what was acknowledged in the last two minutes is lost with the power."));
    }
    if let Some(most) = broker.max_file_store {
        line(format_args!("  max_file_store: {most}"));
    }
    line(format_args!("}}\n"));
    if let Some(ws) = &broker.websocket {
        let (host, port) = (quoted(&ws.host), port(ws.port));
        match tls {
            Some(tls) => line(format_args!("websocket {{\n  host: {host}\n  port: {port}\n{}}}\n", tls_block(tls, "  "))),
            None => {
                line(format_args!("# Plain: put a proxy with TLS in front.\nwebsocket {{ host: {host}, port: {port}, no_tls: true }}\n"))
            }
        }
    }
    line(format_args!("operator: {operator_jwt}\nsystem_account: {system_account}"));
    line(format_args!("# Accounts as updated later are kept in this directory; the newest of the two counts."));
    line(format_args!("resolver: {{ type: full, dir: {}, allow_delete: false, interval: \"2m\" }}", store(broker.accounts_dir())));
    line(format_args!("resolver_preload: {{"));
    for (account, jwt) in preload {
        line(format_args!("  {account}: {jwt}"));
    }
    line(format_args!("}}"));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_with_quotes_and_spaces_stays_one_string() {
        let broker = Broker::local(None, "/tmp/a \"b\" \\c");
        let text = render(&broker, None, "jwt", "ASYS", &[("ACORE".into(), "jwt2".into())]);
        assert!(text.contains(r#"store_dir: "/tmp/a \"b\" \\c""#), "{text}");
        assert!(text.contains("port: -1\n") && text.contains("sync_interval: always"), "{text}");
        assert!(!text.contains("http:") && !text.contains("websocket"), "{text}");
    }

    #[test]
    fn only_a_config_for_measuring_leaves_the_flush_to_the_server_and_says_so() {
        let text = render(&Broker { durable: false, ..Broker::local(None, "/s") }, None, "jwt", "ASYS", &[]);
        assert!(!text.contains("sync_interval") && text.contains("FOR MEASURING ONLY"), "{text}");
    }
}
