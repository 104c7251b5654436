//! `docker.ps`: the containers of the host, as data.

use std::{collections::HashMap, sync::Arc};

use bollard::{models::ContainerSummary, query_parameters::ListContainersOptionsBuilder};
use muster_executor::{BoxFuture, Finish, Rejection, Scope, Work, fields::Fields, schema};
use muster_schemas::describe::TypeInfo;
use serde_json::{Value, json};

use crate::{container::short, engine::Engine, failure::Failure};

/// Most containers that are told: at [`TEXT`] bytes to a text and [`PORTS`] ports each they fit into a result's data.
pub(crate) const CONTAINERS_MAX: usize = 100;

/// Most bytes of one text of them.
const TEXT: usize = 96;

/// Most ports of one of them.
const PORTS: usize = 4;

/// What it takes.
pub(super) fn info() -> TypeInfo {
    let params = schema::object(
        &[],
        [("all", schema::flag("Those that do not run, too.")), ("label", schema::text("Only those with this label: KEY or KEY=VALUE."))],
    );
    schema::type_info(super::Docker::NAME, "ps", "Lists containers.", params, json!({"all": true, "label": "muster.job"}))
}

/// A `docker.ps`.
#[derive(Debug)]
pub(super) struct Ps {
    engine: Arc<Engine>,
    all: bool,
    label: Option<String>,
}

impl Ps {
    pub(super) fn parse(engine: Arc<Engine>, fields: &mut Fields<'_>) -> Result<Self, Rejection> {
        Ok(Self { engine, all: fields.flag("all")?.unwrap_or(false), label: fields.text("label")?.map(str::to_owned) })
    }

    async fn list(&self, scope: &Scope) -> Result<Finish, Failure> {
        let client = self.engine.client(&scope.attempt.agent_id).await?;
        let filters: HashMap<_, _> = self.label.iter().map(|label| ("label".to_owned(), vec![label.clone()])).collect();
        let mut options = ListContainersOptionsBuilder::default().all(self.all).filters(&filters);
        // The engine's limit counts ended ones, too, whatever else is asked.
        if self.all {
            options = options.limit(i32::try_from(CONTAINERS_MAX + 1).unwrap_or(i32::MAX));
        }
        let mut found = client.list_containers(Some(options.build())).await?;
        let truncated = found.len() > CONTAINERS_MAX;
        found.truncate(CONTAINERS_MAX);
        let containers: Vec<_> = found.iter().map(row).collect();
        Ok(Finish::succeeded(Some(json!({"containers": containers, "truncated": truncated}))))
    }
}

impl Work for Ps {
    fn run<'a>(self: Box<Self>, scope: &'a Scope) -> BoxFuture<'a, Finish> {
        Box::pin(async move { self.list(scope).await.unwrap_or_else(Finish::from) })
    }
}

/// What is told of a container.
pub(crate) fn row(container: &ContainerSummary) -> Value {
    let text = |text: Option<&String>| text.map(|text| text.get(..text.floor_char_boundary(TEXT)).unwrap_or_default().to_owned());
    let label = |name: &str| text(container.labels.as_ref().and_then(|labels| labels.get(name)));
    let name = container.names.as_ref().and_then(|names| names.first()).map(|name| name.trim_start_matches('/').to_owned());
    let port = |port: &bollard::models::PortSummary| {
        let protocol = port.typ.map(|protocol| protocol.to_string());
        json!({"ip": port.ip, "host": port.public_port, "container": port.private_port, "protocol": protocol})
    };
    json!({
        "id": container.id.as_deref().map(short),
        "name": text(name.as_ref()),
        "image": text(container.image.as_ref()),
        "state": container.state.map(|state| state.to_string()),
        "status": text(container.status.as_ref()),
        "created": container.created,
        "ports": container.ports.iter().flatten().take(PORTS).map(port).collect::<Vec<_>>(),
        "job": label(crate::labels::JOB),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;
    use bollard::models::PortSummary;

    #[test]
    fn the_longest_list_fits_into_the_data_of_a_result() {
        let long = || Some("x".repeat(10_000));
        let port = PortSummary {
            ip: Some("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff".to_owned()),
            private_port: 65535,
            public_port: Some(65535),
            typ: None,
        };
        let container = ContainerSummary {
            id: long(),
            names: Some(vec![long().unwrap()]),
            image: long(),
            status: long(),
            created: Some(i64::MAX),
            ports: Some(vec![port; 100]),
            labels: Some(HashMap::from([(crate::labels::JOB.to_owned(), long().unwrap())])),
            ..ContainerSummary::default()
        };
        let rows: Vec<_> = (0..CONTAINERS_MAX).map(|_| row(&container)).collect();
        let size = serde_json::to_vec(&rows).unwrap().len();
        assert!(size <= 96 * 1024, "{size}");
    }
}
