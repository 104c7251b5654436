//! What a container is made of, and how that is said to the engine. What is not here, no container has: privileges, capabilities, devices, namespaces
//! of the host.

use std::{
    collections::{BTreeMap, HashMap},
    path::PathBuf,
};

use bollard::models::{
    ContainerCreateBody, EndpointSettings, HealthConfig, HostConfig, HostConfigLogConfig, NetworkingConfig, PortBinding, RestartPolicy,
};
use muster_schemas::code::Code;
use serde::Serialize;

use crate::{
    failure::Failure,
    parts::{Limits, Port, Restart, mounts::Mount},
};

/// A container to be.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(crate) struct Spec {
    pub(crate) image: String,
    pub(crate) command: Option<Vec<String>>,
    pub(crate) entrypoint: Option<Vec<String>>,
    pub(crate) env: BTreeMap<String, String>,
    pub(crate) workdir: Option<String>,
    pub(crate) user: Option<String>,
    pub(crate) hostname: Option<String>,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) ports: Vec<Port>,
    pub(crate) mounts: Vec<Mount>,
    pub(crate) limits: Limits,
    pub(crate) restart: Option<Restart>,
    pub(crate) health: Option<Health>,
    /// In seconds.
    pub(crate) stop_grace: Option<i64>,
    /// Networks by name, each with the names that the container has there. None is the engine's default one.
    pub(crate) networks: BTreeMap<String, Vec<String>>,
    /// The engine keeps no log: what it writes goes to whoever is attached, or nowhere.
    pub(crate) is_unlogged: bool,
    /// The engine removes it when it ends.
    pub(crate) is_removed_at_end: bool,
}

/// How to see whether it is well. Times in nanoseconds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Health {
    pub(crate) test: Vec<String>,
    pub(crate) interval: Option<i64>,
    pub(crate) timeout: Option<i64>,
    pub(crate) start_period: Option<i64>,
    pub(crate) retries: Option<i64>,
}

impl Spec {
    /// For the engine. The networks beyond the first have to be joined afterwards: older engines take one.
    ///
    /// # Errors
    /// A folder to be mounted that is not there or leads out.
    pub(crate) async fn body(&self, roots: &[PathBuf]) -> Result<ContainerCreateBody, Failure> {
        let (mounts, roots) = (self.mounts.clone(), roots.to_vec());
        let resolve = move || mounts.iter().map(|mount| mount.resolved(&roots)).collect::<Result<Vec<_>, _>>();
        let mounts = tokio::task::spawn_blocking(resolve).await.map_err(|error| Failure::new(Code::Internal, error.to_string()))?;
        let mounts = mounts.map_err(|problem| Failure::new(Code::EngineFailed, problem))?;
        let network = self.networks.first_key_value();
        let host = HostConfig {
            mounts: Some(mounts),
            port_bindings: Some(self.bindings()),
            memory: self.limits.memory_bytes,
            // Else as much again of swap.
            memory_swap: self.limits.memory_bytes,
            nano_cpus: self.limits.cpus.map(|cpus| (cpus * 1e9) as i64),
            pids_limit: self.limits.pids,
            restart_policy: self.restart.as_ref().map(RestartPolicy::from),
            network_mode: network.map(|(name, _)| name.clone()),
            log_config: self.is_unlogged.then(|| HostConfigLogConfig { typ: Some("none".to_owned()), config: None }),
            auto_remove: Some(self.is_removed_at_end),
            privileged: Some(false),
            ..HostConfig::default()
        };
        let endpoints =
            network.filter(|(_, aliases)| !aliases.is_empty()).map(|(name, aliases)| HashMap::from([(name.clone(), endpoint(aliases))]));
        Ok(ContainerCreateBody {
            image: Some(self.image.clone()),
            cmd: self.command.clone(),
            entrypoint: self.entrypoint.clone(),
            env: Some(self.env.iter().map(|(name, value)| format!("{name}={value}")).collect()),
            working_dir: self.workdir.clone(),
            user: self.user.clone(),
            hostname: self.hostname.clone(),
            labels: Some(self.labels.clone().into_iter().collect()),
            exposed_ports: Some(self.ports.iter().map(Port::key).collect()),
            healthcheck: self.health.as_ref().map(HealthConfig::from),
            stop_timeout: self.stop_grace,
            host_config: Some(host),
            networking_config: Some(NetworkingConfig { endpoints_config: endpoints }),
            ..ContainerCreateBody::default()
        })
    }

    fn bindings(&self) -> HashMap<String, Option<Vec<PortBinding>>> {
        let mut bindings: HashMap<_, Option<Vec<_>>> = HashMap::new();
        for port in &self.ports {
            let binding = PortBinding {
                host_ip: port.host_ip.map(|ip| ip.to_string()),
                host_port: Some(port.host.map_or_else(String::new, |host| host.to_string())),
            };
            bindings.entry(port.key()).or_default().get_or_insert_default().push(binding);
        }
        bindings
    }
}

/// A container's end in a network.
pub(crate) fn endpoint(aliases: &[String]) -> EndpointSettings {
    EndpointSettings { aliases: (!aliases.is_empty()).then(|| aliases.to_vec()), ..EndpointSettings::default() }
}

impl From<&Health> for HealthConfig {
    fn from(health: &Health) -> Self {
        Self {
            test: Some(health.test.clone()),
            interval: health.interval,
            timeout: health.timeout,
            retries: health.retries,
            start_period: health.start_period,
            start_interval: None,
        }
    }
}
