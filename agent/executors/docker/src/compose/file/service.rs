//! A service of a file.

use std::{collections::BTreeMap, path::PathBuf};

use super::{
    labels_of,
    node::{Keys, Node},
    words,
};
use crate::{
    image::Image,
    parts::{
        self, Limits, Port, STOP_MAX_S,
        mounts::{self, Mount, Source},
    },
    spec::{Health, Spec},
};

/// A service, before names are made from the project's.
#[derive(Debug, Clone)]
pub(in crate::compose) struct Service {
    pub(in crate::compose) image: Image,
    pub(in crate::compose) container_name: Option<String>,
    /// Services, and what has to be true of each before this one starts.
    pub(in crate::compose) depends_on: BTreeMap<String, Condition>,
    /// By the names that the file gives them, with the names that it has there beside its own.
    pub(in crate::compose) networks: BTreeMap<String, Vec<String>>,
    /// All else; volumes by the names that the file gives them.
    pub(in crate::compose) spec: Spec,
}

/// What has to be true of a service that another one depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::compose) enum Condition {
    Started,
    Healthy,
    Completed,
}

impl Condition {
    /// The word of the specification.
    pub(in crate::compose) fn as_str(self) -> &'static str {
        match self {
            Self::Started => "service_started",
            Self::Healthy => "service_healthy",
            Self::Completed => "service_completed_successfully",
        }
    }

    fn parse(text: &str) -> Result<Self, String> {
        let known = [Self::Started, Self::Healthy, Self::Completed];
        let words = || known.map(Self::as_str).join(", ");
        known.into_iter().find(|known| known.as_str() == text).ok_or_else(|| format!("expected {}", words()))
    }
}

impl Service {
    pub(super) fn read(node: &Node<'_>, roots: &[PathBuf]) -> Result<Self, String> {
        let mut keys = node.keys()?;
        let image: Image = keys.take("image").ok_or_else(|| node.problem("`image` is missing"))?.read(str::parse)?;
        let limits = Limits {
            memory_bytes: take(&mut keys, "mem_limit", |node| node.read(|text| parts::bytes(text).and_then(Limits::memory)))?,
            cpus: take(&mut keys, "cpus", |node| Limits::cpus(node.number()?).map_err(|problem| node.problem(problem)))?,
            pids: take(&mut keys, "pids_limit", |node| Limits::pids(node.integer()?).map_err(|problem| node.problem(problem)))?,
        };
        let spec = Spec {
            image: image.full(),
            command: take(&mut keys, "command", argv)?,
            entrypoint: take(&mut keys, "entrypoint", argv)?,
            env: take(&mut keys, "environment", environment)?.unwrap_or_default(),
            workdir: take(&mut keys, "working_dir", |node| node.read(mounts::target))?,
            user: take(&mut keys, "user", Node::text)?,
            hostname: take(&mut keys, "hostname", |node| node.read(parts::name))?,
            labels: labels_of(&mut keys)?,
            ports: list(&mut keys, "ports", port)?,
            mounts: list(&mut keys, "volumes", |node| mount(node, roots))?,
            limits,
            restart: take(&mut keys, "restart", |node| node.read(str::parse))?,
            health: take(&mut keys, "healthcheck", health)?,
            stop_grace: take(&mut keys, "stop_grace_period", |node| node.read(seconds))?,
            ..Spec::default()
        };
        let service = Self {
            image,
            container_name: take(&mut keys, "container_name", |node| node.read(parts::name))?,
            depends_on: take(&mut keys, "depends_on", depends_on)?.unwrap_or_default(),
            networks: take(&mut keys, "networks", networks)?
                .unwrap_or_else(|| BTreeMap::from([(super::DEFAULT_NETWORK.to_owned(), Vec::new())])),
            spec,
        };
        keys.end()?;
        Ok(service)
    }
}

fn take<'a, T>(keys: &mut Keys<'a>, key: &'static str, read: impl Fn(&Node<'a>) -> Result<T, String>) -> Result<Option<T>, String> {
    keys.take(key).map(|node| read(&node)).transpose()
}

fn list<'a, T>(keys: &mut Keys<'a>, key: &'static str, read: impl Fn(&Node<'a>) -> Result<T, String>) -> Result<Vec<T>, String> {
    keys.take(key).map_or(Ok(Vec::new()), |node| node.list()?.iter().map(&read).collect())
}

/// A list of words, or a line.
fn argv(node: &Node<'_>) -> Result<Vec<String>, String> {
    if node.is_list() { node.texts() } else { node.read(words::split) }
}

fn environment(node: &Node<'_>) -> Result<BTreeMap<String, String>, String> {
    let pairs =
        node.pairs(|key| Err(format!("`{}` has no value; it is not taken from the agent's", muster_executor::fields::shown(key))))?;
    pairs.keys().try_for_each(|key| parts::variable(key).map_err(|problem| node.problem(problem)))?;
    Ok(pairs)
}

fn port(node: &Node<'_>) -> Result<Port, String> {
    if !node.is_map() {
        return node.read(str::parse);
    }
    let mut keys = node.keys()?;
    let port = Port {
        host_ip: take(&mut keys, "host_ip", |node| node.read(parts::address))?,
        host: take(&mut keys, "published", |node| node.read(Port::number))?,
        container: keys.take("target").ok_or_else(|| node.problem("`target` is missing"))?.read(Port::number)?,
        protocol: take(&mut keys, "protocol", |node| node.read(Port::protocol))?.unwrap_or("tcp"),
    };
    keys.end()?;
    Ok(port)
}

fn mount(node: &Node<'_>, roots: &[PathBuf]) -> Result<Mount, String> {
    let mount = if node.is_map() { long_mount(node)? } else { node.read(str::parse::<Mount>)? };
    mount.allowed(roots).map_err(|problem| node.problem(problem))?;
    Ok(mount)
}

fn long_mount(node: &Node<'_>) -> Result<Mount, String> {
    let mut keys = node.keys()?;
    let kind = keys.take("type").ok_or_else(|| node.problem("`type` is missing"))?;
    let source = keys.take("source");
    let target = keys.take("target").ok_or_else(|| node.problem("`target` is missing"))?.read(mounts::target)?;
    let read_only = take(&mut keys, "read_only", Node::flag)?.unwrap_or(false);
    keys.end()?;
    let source = match (kind.text()?.as_str(), source) {
        ("volume", None) => Source::Anonymous,
        ("volume", Some(source)) => Source::Volume(source.read(parts::name)?),
        ("bind", Some(source)) => Source::Bind(source.read(mounts::bind)?),
        ("bind", None) => return Err(node.problem("`source` is missing")),
        ("tmpfs", None) => Source::Tmpfs,
        ("tmpfs", Some(source)) => return Err(source.problem("a tmpfs has none")),
        _ => return Err(kind.problem("expected volume, bind or tmpfs")),
    };
    Ok(Mount { source, target, read_only })
}

fn networks(node: &Node<'_>) -> Result<BTreeMap<String, Vec<String>>, String> {
    if node.is_list() {
        return node.list()?.iter().map(|node| Ok((node.text()?, Vec::new()))).collect();
    }
    let one = |(key, node): (&str, Node<'_>)| {
        if node.is_null() {
            return Ok((key.to_owned(), Vec::new()));
        }
        let mut keys = node.keys()?;
        let aliases = list(&mut keys, "aliases", |node| node.read(parts::name))?;
        keys.end()?;
        Ok((key.to_owned(), aliases))
    };
    node.entries()?.into_iter().map(one).collect()
}

fn depends_on(node: &Node<'_>) -> Result<BTreeMap<String, Condition>, String> {
    if node.is_list() {
        return node.list()?.iter().map(|node| Ok((node.text()?, Condition::Started))).collect();
    }
    let one = |(key, node): (&str, Node<'_>)| {
        let mut keys = node.keys()?;
        let condition = keys.take("condition").ok_or_else(|| node.problem("`condition` is missing"))?.read(Condition::parse)?;
        keys.end()?;
        Ok((key.to_owned(), condition))
    };
    node.entries()?.into_iter().map(one).collect()
}

fn health(node: &Node<'_>) -> Result<Health, String> {
    let mut keys = node.keys()?;
    let test = take(&mut keys, "test", |node| {
        let test = if node.is_list() { node.texts()? } else { vec!["CMD-SHELL".to_owned(), node.text()?] };
        match test.first().map(String::as_str) {
            Some("NONE" | "CMD" | "CMD-SHELL") => Ok(test),
            _ => Err(node.problem("a list begins with NONE, CMD or CMD-SHELL")),
        }
    })?;
    let time = |keys: &mut Keys<'_>, key| take(keys, key, |node| node.read(parts::nanoseconds));
    let health = Health {
        interval: time(&mut keys, "interval")?,
        timeout: time(&mut keys, "timeout")?,
        start_period: time(&mut keys, "start_period")?,
        retries: take(&mut keys, "retries", |node| {
            let retries = node.integer()?;
            if (0..=1000).contains(&retries) { Ok(retries) } else { Err(node.problem("must be 0 to 1000")) }
        })?,
        // Without one of its own, the image's goes on.
        test: test.unwrap_or_default(),
    };
    let disable = take(&mut keys, "disable", Node::flag)?.unwrap_or(false);
    keys.end()?;
    match disable {
        true if health != Health::default() => Err(node.problem("`disable` stands alone")),
        true => Ok(Health { test: vec!["NONE".to_owned()], ..Health::default() }),
        false => Ok(health),
    }
}

/// A time in whole seconds, rounded up.
fn seconds(text: &str) -> Result<i64, String> {
    let nanoseconds = parts::nanoseconds(text)?;
    let seconds = nanoseconds / 1_000_000_000 + i64::from(nanoseconds % 1_000_000_000 > 0);
    if seconds <= STOP_MAX_S { Ok(seconds) } else { Err(format!("must be at most {STOP_MAX_S}s")) }
}
