//! A Compose file, read: the part of the specification that is supported, with every other field refused by its name and place.
//!
//! Nothing is taken from the agent's surroundings: no variables, no other files, no folder that paths would be relative to.

mod node;
mod service;
mod words;
mod yaml;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

use node::{Keys, Node};
pub(super) use service::{Condition, Service};

use super::project;
use crate::{
    image::Image,
    labels,
    parts::{self, ITEMS_MAX, mounts::Source},
};

/// Most services of a project: what is done with each fits into a result.
const SERVICES_MAX: usize = 64;

/// The network of services that name none.
pub(super) const DEFAULT_NETWORK: &str = "default";

/// A project's services, networks and volumes, by the names that the file gives them.
#[derive(Debug, Clone)]
pub(super) struct File {
    pub(super) services: BTreeMap<String, Service>,
    pub(super) networks: BTreeMap<String, Shared>,
    pub(super) volumes: BTreeMap<String, Shared>,
}

/// A network or a volume.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Shared {
    /// Its name, where it is not made from the project's.
    name: Option<String>,
    /// It is somebody else's: it has to be there, and stays.
    pub(super) is_external: bool,
    /// Of a network: without a way out.
    pub(super) is_internal: bool,
    pub(super) labels: BTreeMap<String, String>,
}

impl Shared {
    /// What the engine knows it by; `key` is what the file does.
    pub(super) fn name(&self, project: &str, key: &str) -> String {
        match &self.name {
            Some(name) => name.clone(),
            None if self.is_external => key.to_owned(),
            None => format!("{project}_{key}"),
        }
    }

    fn read(node: &Node<'_>, is_network: bool) -> Result<Self, String> {
        let mut shared = Self::default();
        if node.is_null() {
            return Ok(shared);
        }
        let mut keys = node.keys()?;
        shared.name = keys.take("name").map(|node| node.read(parts::name)).transpose()?;
        shared.is_external = keys.take("external").map(|node| node.flag()).transpose()?.unwrap_or(false);
        shared.labels = labels_of(&mut keys)?;
        if is_network {
            shared.is_internal = keys.take("internal").map(|node| node.flag()).transpose()?.unwrap_or(false);
            // A way out of the container's own namespace by another name.
            keys.take("driver")
                .map(|node| node.read(|text| if text == "bridge" { Ok(()) } else { Err("only `bridge` is supported".to_owned()) }))
                .transpose()?;
        }
        keys.end()?;
        if shared.is_external && (shared.is_internal || !shared.labels.is_empty()) {
            return Err(node.problem("what is external is taken as it is: only `name` beside it"));
        }
        Ok(shared)
    }
}

impl File {
    /// Reads and checks it.
    ///
    /// # Errors
    /// The place, and what is wrong there.
    pub(super) fn parse(text: &str, roots: &[PathBuf]) -> Result<Self, String> {
        let value = yaml::parse(text)?;
        let mut keys = Node::root(&value).keys()?;
        // Has had no meaning for years, and is in many files.
        keys.take("version");
        let services = keys.take("services").ok_or("services: is missing")?;
        let services = named(&services, |node| Service::read(node, roots))?;
        let networks = keys.take("networks").map_or(Ok(BTreeMap::new()), |node| named(&node, |node| Shared::read(node, true)))?;
        let volumes = keys.take("volumes").map_or(Ok(BTreeMap::new()), |node| named(&node, |node| Shared::read(node, false)))?;
        keys.end()?;
        let file = Self { services, networks, volumes };
        file.check()?;
        Ok(file)
    }

    /// Each image once.
    pub(super) fn images(&self) -> Vec<Image> {
        let images: BTreeMap<_, _> = self.services.values().map(|service| (service.image.full(), service.image.clone())).collect();
        images.into_values().collect()
    }

    /// The services in an order in which each comes after those that it depends on; of `wanted` and those only, if it names any.
    ///
    /// # Errors
    /// One of `wanted` that there is not.
    pub(super) fn order(&self, wanted: &[String]) -> Result<Vec<String>, String> {
        let mut chosen: BTreeSet<&str> = BTreeSet::new();
        let mut next: Vec<&str> = wanted.iter().map(String::as_str).collect();
        while let Some(name) = next.pop() {
            let service =
                self.services.get(name).ok_or_else(|| format!("there is no service `{}`", muster_executor::fields::shown(name)))?;
            if chosen.insert(name) {
                next.extend(service.depends_on.keys().map(String::as_str));
            }
        }
        let dependencies = self.services.iter().filter(|(name, _)| wanted.is_empty() || chosen.contains(name.as_str()));
        project::order(&dependencies.map(|(name, service)| (name.clone(), service.depends_on.keys().cloned().collect())).collect())
            .map_err(|name| format!("services.{name}.depends_on: depends on itself, by way of others"))
    }

    /// What only the whole file can say.
    fn check(&self) -> Result<(), String> {
        if self.services.is_empty() || self.services.len() > SERVICES_MAX {
            return Err(format!("services: must be 1 to {SERVICES_MAX}"));
        }
        let mut names = BTreeSet::new();
        for (name, service) in &self.services {
            for other in service.depends_on.keys() {
                if !self.services.contains_key(other) {
                    return Err(format!("services.{name}.depends_on.{other}: there is no such service"));
                }
            }
            for network in service.networks.keys() {
                if network != DEFAULT_NETWORK && !self.networks.contains_key(network) {
                    return Err(format!("services.{name}.networks.{network}: is not in the file's `networks`"));
                }
            }
            for mount in &service.spec.mounts {
                if let Source::Volume(volume) = &mount.source
                    && !self.volumes.contains_key(volume)
                {
                    return Err(format!("services.{name}.volumes: `{volume}` is not in the file's `volumes`"));
                }
            }
            if let Some(container) = &service.container_name
                && !names.insert(container)
            {
                return Err(format!("services.{name}.container_name: another service has it, too"));
            }
        }
        for (key, network) in &self.networks {
            // Without a name of its own, what is external has the key for one.
            parts::network(&network.name("p", key)).map_err(|problem| format!("networks.{key}: {problem}"))?;
        }
        self.order(&[]).map(drop)
    }
}

/// A map whose keys are names of the file's own.
fn named<T>(node: &Node<'_>, read: impl Fn(&Node<'_>) -> Result<T, String>) -> Result<BTreeMap<String, T>, String> {
    let entries = node.entries()?;
    if entries.len() > ITEMS_MAX {
        return Err(node.problem(format!("has more than {ITEMS_MAX} entries")));
    }
    let one = |(key, node): (&str, Node<'_>)| {
        let key = parts::name(key).map_err(|problem| node.problem(problem))?;
        // It becomes part of a longer name.
        if key.len() > 63 {
            return Err(node.problem("a name has at most 63 bytes"));
        }
        Ok((key, read(&node)?))
    };
    entries.into_iter().map(one).collect()
}

fn labels_of(keys: &mut Keys<'_>) -> Result<BTreeMap<String, String>, String> {
    let Some(node) = keys.take("labels") else { return Ok(BTreeMap::new()) };
    let pairs = node.pairs(|_| Ok(String::new()))?;
    pairs.into_iter().map(|(key, value)| labels::check(&key).map(|()| (key, value)).map_err(|problem| node.problem(problem))).collect()
}

#[cfg(test)]
mod tests;
