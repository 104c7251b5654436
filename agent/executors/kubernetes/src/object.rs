//! One object that params name by kind and name: reading the params, and finding it in the cluster.

use muster_executor::{Rejection, fields::Fields};
use serde_json::Value;

use crate::{
    cluster::{Cluster, Request, built},
    fields,
    kinds::Kind,
    problem::Problem,
};

/// What names an object.
#[derive(Debug, Clone)]
pub(crate) struct Named {
    pub(crate) kind: String,
    pub(crate) api_version: Option<String>,
    pub(crate) name: String,
    pub(crate) namespace: Option<String>,
}

impl Named {
    /// Reads `kind`, `api_version`, `name` and `namespace`, of which the first and the third must be there.
    pub(crate) fn read(fields: &mut Fields<'_>) -> Result<Self, Rejection> {
        Ok(Self {
            kind: fields::needed(fields::kind(fields)?, "kind")?,
            api_version: fields::api_version(fields)?,
            name: fields::needed(fields::name(fields, "name")?, "name")?,
            namespace: fields::namespace(fields)?,
        })
    }

    /// Asks the cluster for its kind.
    pub(crate) async fn place(&self, cluster: &Cluster) -> Result<Place, Problem> {
        let kind = cluster.kind(&self.kind, self.api_version.as_deref()).await?;
        Ok(Place::new(cluster, kind, self.namespace.as_deref(), &self.name))
    }
}

/// Where an object is, or is to be.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) kind: Kind,
    pub(crate) namespace: Option<String>,
    pub(crate) name: String,
    /// What it is called in output and messages, such as `deployment.apps/web`.
    pub(crate) called: String,
}

impl Place {
    pub(crate) fn new(cluster: &Cluster, kind: Kind, namespace: Option<&str>, name: &str) -> Self {
        let namespace = cluster.namespace_of(&kind, namespace).map(str::to_owned);
        Self { called: kind.call(name), namespace, name: name.to_owned(), kind }
    }

    /// Makes requests for it.
    pub(crate) fn path(&self) -> kube::core::Request {
        Cluster::path(&self.kind.resource, self.namespace.as_deref())
    }

    pub(crate) fn get(&self) -> Result<Request, Problem> {
        self.path().get(&self.name, &kube::api::GetParams::default()).map_err(|error| built(&error))
    }

    /// The object; `None` when there is none.
    pub(crate) async fn find(&self, cluster: &Cluster) -> Result<Option<Value>, Problem> {
        cluster.find(self.get()?, &self.called).await
    }

    /// Whether its content is secret.
    pub(crate) fn is_secret(&self) -> bool {
        self.kind.is("", "Secret")
    }

    /// Where it is, for data.
    pub(crate) fn facts(&self) -> serde_json::Map<String, Value> {
        let mut facts = serde_json::Map::new();
        let mut fact = |name: &str, value: &str| facts.insert(name.to_owned(), value.into());
        fact("api_version", &self.kind.resource.api_version);
        fact("kind", &self.kind.resource.kind);
        fact("name", &self.name);
        if let Some(namespace) = &self.namespace {
            fact("namespace", namespace);
        }
        facts
    }
}

/// A text of an object, or nothing.
pub(crate) fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// A number of an object; one that is not there is 0, as the API leaves out zeros.
pub(crate) fn count(object: &Value, pointer: &str) -> i64 {
    object.pointer(pointer).and_then(Value::as_i64).unwrap_or(0)
}
