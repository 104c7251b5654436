//! What the services of a project share: its networks and volumes. What is there is used as it is, if it is the project's.

use bollard::{
    Docker,
    models::{NetworkCreateRequest, VolumeCreateRequest},
};
use muster_schemas::code::Code;

use super::{
    file::{File, Service},
    project::{NETWORK, PROJECT, VOLUME, shared_labels},
};
use crate::{
    failure::{Failure, is_missing},
    parts::mounts::Source,
};

/// Has the networks of these services there.
///
/// # Errors
/// One that is another project's, or is not there and `external`.
pub(super) async fn networks<'a>(
    client: &Docker,
    project: &str,
    file: &File,
    services: impl Iterator<Item = (&'a str, &'a Service)>,
) -> Result<(), Failure> {
    let mut keys: Vec<&str> = services.flat_map(|(_, service)| service.networks.keys()).map(String::as_str).collect();
    keys.sort_unstable();
    keys.dedup();
    for key in keys {
        let network = file.networks.get(key).cloned().unwrap_or_default();
        let name = network.name(project, key);
        match client.inspect_network(&name, None).await {
            Ok(found) => {
                must_be_ours(project, "network", &name, network.is_external, found.labels.as_ref().and_then(|labels| labels.get(PROJECT)))?
            }
            Err(error) if is_missing(&error) && !network.is_external => {
                let mut labels = shared_labels(project, NETWORK, key);
                labels.extend(network.labels);
                let request = NetworkCreateRequest {
                    name,
                    driver: Some("bridge".to_owned()),
                    internal: Some(network.is_internal),
                    labels: Some(labels),
                    ..NetworkCreateRequest::default()
                };
                client.create_network(request).await.map_err(|error| Failure::from(error).of(&format!("network `{key}`")))?;
            }
            Err(error) => return Err(Failure::from(error).of(&format!("network `{name}`"))),
        }
    }
    Ok(())
}

/// Has the volumes of these services there.
///
/// # Errors
/// One that is another project's, or is not there and `external`.
pub(super) async fn volumes<'a>(
    client: &Docker,
    project: &str,
    file: &File,
    services: impl Iterator<Item = (&'a str, &'a Service)>,
) -> Result<(), Failure> {
    let mounts = services.flat_map(|(_, service)| &service.spec.mounts);
    let mut keys: Vec<&str> =
        mounts.filter_map(|mount| if let Source::Volume(key) = &mount.source { Some(key.as_str()) } else { None }).collect();
    keys.sort_unstable();
    keys.dedup();
    for key in keys {
        let volume = file.volumes.get(key).cloned().unwrap_or_default();
        let name = volume.name(project, key);
        match client.inspect_volume(&name).await {
            Ok(found) => must_be_ours(project, "volume", &name, volume.is_external, found.labels.get(PROJECT))?,
            Err(error) if is_missing(&error) && !volume.is_external => {
                let mut labels = shared_labels(project, VOLUME, key);
                labels.extend(volume.labels);
                let request = VolumeCreateRequest { name: Some(name), labels: Some(labels), ..VolumeCreateRequest::default() };
                client.create_volume(request).await.map_err(|error| Failure::from(error).of(&format!("volume `{key}`")))?;
            }
            Err(error) => return Err(Failure::from(error).of(&format!("volume `{name}`"))),
        }
    }
    Ok(())
}

/// What is there by that name and is another project's is not to be used without a word.
fn must_be_ours(project: &str, what: &str, name: &str, is_external: bool, owner: Option<&String>) -> Result<(), Failure> {
    if is_external || owner.is_some_and(|owner| owner == project) {
        return Ok(());
    }
    let message = format!("{what} `{name}` is there and not of this project; say `external: true` in the file to use it as it is");
    Err(Failure::new(Code::EngineFailed, message))
}
