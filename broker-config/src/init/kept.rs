//! The server's settings as the last init wrote them, read back from the config: an init that is not given one leaves it as it is.
//!
//! It reads what [`super::config`] renders, and no other config of nats-server's.

use std::path::Path;

use super::{
    InitError,
    config::{Broker, Endpoint},
    damaged,
};
use crate::{files, layout::Layout};

impl Broker {
    /// The settings of the deployment in `dir` as they were at its last init; `None` where there has been none.
    ///
    /// TLS is not among them: once on, it stays on by itself. Nor is a lack of durability: the next init ends it. A store in the deployment's
    /// folder moves with that.
    ///
    /// # Errors
    /// [`InitError::Damaged`] when the config says no settings, or it cannot be read.
    pub fn of_last_init(dir: &Path) -> Result<Option<Self>, InitError> {
        let path = Layout::new(dir).server_config();
        let Some(text) = files::read(&path)? else { return Ok(None) };
        let mut broker = parse(&text).map_err(|what| damaged(&path, format!("it does not say {what}")))?;
        let here = Self::store_in(dir)?;
        if !broker.store_dir.exists() && here.exists() {
            broker.store_dir = here;
        }
        Ok(Some(broker))
    }
}

/// The settings, or the name of the one that is missing.
fn parse(text: &str) -> Result<Broker, &'static str> {
    let host = value(text, "host:").and_then(unquoted).ok_or("host")?;
    let port = value(text, "port:").and_then(port).ok_or("port")?;
    let store = value(text, "  store_dir:").and_then(unquoted).ok_or("store_dir")?;
    let monitoring = value(text, "http:").map(|http| endpoint(http).ok_or("http")).transpose()?;
    let max_file_store = value(text, "  max_file_store:").map(|most| most.parse().map_err(|_| "max_file_store")).transpose()?;
    let websocket = text.find("\nwebsocket {").and_then(|at| text.get(at..));
    let websocket = websocket.map(|block| listener(block).ok_or("websocket")).transpose()?;
    Ok(Broker { host, monitoring, websocket, max_file_store, ..Broker::local(port, store) })
}

/// The rest of the first line that starts so.
fn value<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim)
}

/// A quoted string at the start of a text.
fn unquoted(text: &str) -> Option<String> {
    let mut chars = text.trim_start().strip_prefix('"')?.chars();
    let mut plain = String::new();
    loop {
        match chars.next()? {
            '"' => return Some(plain),
            '\\' => plain.push(chars.next()?),
            other => plain.push(other),
        }
    }
}

/// The outer `None` is no port, the inner one a free one.
fn port(text: &str) -> Option<Option<u16>> {
    let text = text.trim();
    if text == super::config::ANY_PORT.to_string() { Some(None) } else { text.parse().ok().map(Some) }
}

/// `"host:port"`.
fn endpoint(quoted: &str) -> Option<Endpoint> {
    let text = unquoted(quoted)?;
    let (host, of_host) = text.rsplit_once(':')?;
    Some(Endpoint { host: host.to_owned(), port: port(of_host)? })
}

/// The first host and port of a block, which may be one line or several.
fn listener(block: &str) -> Option<Endpoint> {
    let (_, host) = block.split_once("host:")?;
    let (_, of_host) = block.split_once("port:")?;
    let digits = of_host.trim_start().split(|c: char| !c.is_ascii_digit() && c != '-').next()?;
    Some(Endpoint { host: unquoted(host)?, port: port(digits)? })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;
    use crate::init::config::{TlsFiles, render};

    #[test]
    fn every_setting_is_read_as_it_was_written() {
        let tls = TlsFiles { certificate: "/c".into(), key: "/k".into(), authority: "/a".into() };
        let at = |host: &str, port| Some(Endpoint { host: host.into(), port });
        let plain = Broker::local(None, "/tmp/a \"b\" \\c");
        let full = Broker {
            host: "::1".into(),
            port: Some(4333),
            websocket: at("0.0.0.0", Some(443)),
            monitoring: at("127.0.0.1", Some(8222)),
            max_file_store: Some(7),
            ..plain.clone()
        };
        let free = Broker { websocket: at("::", None), monitoring: at("127.0.0.1", None), ..plain.clone() };
        for broker in [plain, full, free] {
            for tls in [None, Some(&tls)] {
                assert_eq!(parse(&render(&broker, tls, "jwt", "ASYS", &[])).unwrap(), broker);
            }
        }
    }

    #[test]
    fn a_server_that_was_not_durable_is_so_after_the_next_init() {
        let plain = Broker::local(None, "/s");
        let text = render(&Broker { durable: false, ..plain.clone() }, None, "jwt", "ASYS", &[]);
        assert_eq!(parse(&text).unwrap(), plain);
    }

    #[test]
    fn a_setting_that_is_not_there_is_named() {
        assert_eq!(parse("host: \"h\"\nport: 1\n"), Err("store_dir"));
        assert_eq!(parse("host: \"h\nport: 1\n"), Err("host"));
        assert_eq!(parse(""), Err("host"));
    }
}
