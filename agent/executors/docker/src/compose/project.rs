//! Names and labels of a project's parts, as `docker compose` writes them, so that it sees what is made here; and the order of services.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use bollard::{Docker, models::ContainerSummary, query_parameters::ListContainersOptionsBuilder};
use sha2::{Digest as _, Sha256};

use super::file::Service;
use crate::{failure::Failure, labels, spec::Spec};

/// The project.
pub(super) const PROJECT: &str = "com.docker.compose.project";
const SERVICE: &str = "com.docker.compose.service";
const HASH: &str = "com.docker.compose.config-hash";
const NUMBER: &str = "com.docker.compose.container-number";
const ONE_OFF: &str = "com.docker.compose.oneoff";
const IMAGE: &str = "com.docker.compose.image";
const VERSION: &str = "com.docker.compose.version";
const DEPENDS_ON: &str = "com.docker.compose.depends_on";
/// The name of a network in its file.
pub(super) const NETWORK: &str = "com.docker.compose.network";
/// The name of a volume in its file.
pub(super) const VOLUME: &str = "com.docker.compose.volume";

/// The container of a service, unless the file names it.
pub(super) fn container_name(project: &str, service: &str) -> String {
    format!("{project}-{service}-1")
}

/// What changes when the container has to be another one. Labels of ours are not part of it.
pub(super) fn hash(name: &str, spec: &Spec) -> String {
    // The 1 counts up whenever what a file says comes to mean another container.
    let text = serde_json::to_string(&("1", name, spec)).unwrap_or_default();
    Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The labels of a service's container.
pub(super) fn container_labels(project: &str, name: &str, service: &Service, hash: &str, image_id: &str) -> BTreeMap<String, String> {
    let depends = service.depends_on.iter().map(|(other, condition)| format!("{other}:{}:false", condition.as_str()));
    let pairs = [
        (PROJECT, project.to_owned()),
        (SERVICE, name.to_owned()),
        (HASH, hash.to_owned()),
        (NUMBER, "1".to_owned()),
        (ONE_OFF, "False".to_owned()),
        (IMAGE, image_id.to_owned()),
        (VERSION, concat!("muster-", env!("CARGO_PKG_VERSION")).to_owned()),
        (DEPENDS_ON, depends.collect::<Vec<_>>().join(",")),
    ];
    pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

/// The labels of a network or volume; `kind` is [`NETWORK`] or [`VOLUME`], `key` its name in the file.
pub(super) fn shared_labels(project: &str, kind: &str, key: &str) -> HashMap<String, String> {
    HashMap::from([(PROJECT.to_owned(), project.to_owned()), (kind.to_owned(), key.to_owned())])
}

/// The filter for what belongs to the project.
pub(super) fn filter(project: &str) -> HashMap<String, Vec<String>> {
    labels::filter([format!("{PROJECT}={project}")])
}

/// A container of the project that is there.
#[derive(Debug, Clone)]
pub(super) struct Existing {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) service: String,
    pub(super) hash: String,
    pub(super) image_id: String,
    /// 1 unless somebody has scaled the service.
    pub(super) number: String,
    pub(super) depends_on: BTreeSet<String>,
    pub(super) summary: ContainerSummary,
}

/// All of them, running or not.
pub(super) async fn containers(client: &Docker, project: &str) -> Result<Vec<Existing>, Failure> {
    let options = ListContainersOptionsBuilder::default().all(true).filters(&filter(project)).build();
    Ok(client.list_containers(Some(options)).await?.into_iter().filter_map(Existing::of).collect())
}

impl Existing {
    fn of(summary: ContainerSummary) -> Option<Self> {
        let label = |key: &str| summary.labels.as_ref().and_then(|labels| labels.get(key)).cloned().unwrap_or_default();
        let name = summary.names.as_ref().and_then(|names| names.first()).map(|name| name.trim_start_matches('/').to_owned());
        Some(Self {
            id: summary.id.clone()?,
            name: name.unwrap_or_default(),
            service: label(SERVICE),
            hash: label(HASH),
            image_id: summary.image_id.clone().unwrap_or_default(),
            number: label(NUMBER),
            depends_on: label(DEPENDS_ON)
                .split(',')
                .filter_map(|one| one.split(':').next())
                .filter(|name| !name.is_empty())
                .map(str::to_owned)
                .collect(),
            summary,
        })
    }
}

/// Names, each after those that it depends on. Those that are not among the names count as there.
///
/// # Errors
/// One that depends on itself.
pub(super) fn order(dependencies: &BTreeMap<String, BTreeSet<String>>) -> Result<Vec<String>, String> {
    let mut left: BTreeMap<_, _> = dependencies.iter().collect();
    let mut order = Vec::new();
    while let Some(first) = left.keys().next().copied() {
        let ready = left.iter().find(|(_, needs)| needs.iter().all(|need| !left.contains_key(need))).map(|(name, _)| *name);
        let next = ready.ok_or_else(|| first.clone())?;
        left.remove(next);
        order.push(next.clone());
    }
    Ok(order)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_come_after_those_that_they_depend_on() {
        let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
        let map =
            |pairs: &[(&str, &[&str])]| pairs.iter().map(|(name, needs)| ((*name).to_owned(), set(needs))).collect::<BTreeMap<_, _>>();
        let sorted = order(&map(&[("a", &["b", "c"]), ("b", &["c"]), ("c", &["gone"]), ("d", &[])]));
        assert_eq!(sorted, Ok(["c", "b", "a", "d"].map(str::to_owned).to_vec()));
        assert_eq!(order(&map(&[("a", &["b"]), ("b", &["a"])])), Err("a".to_owned()));
        assert_eq!(order(&map(&[("a", &["a"])])), Err("a".to_owned()));
    }
}
