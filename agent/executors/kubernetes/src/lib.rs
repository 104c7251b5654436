//! `kubernetes.*`: objects of a Kubernetes cluster, applied by the server, read, scaled, restarted and waited for, and the logs of its pods.
//!
//! The cluster is that of the job's connection or, for an agent that runs in a pod, its own. The client is made for each attempt and nothing
//! before it. Kinds are the cluster's word (`kinds`), not a table's, so custom ones work alike. An attempt that ends early stops
//! watching and no more: what the cluster was told, it goes on with.
//!
//! | to find | look in |
//! |---|---|
//! | what of a connection counts, and what a kubeconfig may not do | `connect`, `kubeconfig` |
//! | requests: bounds, which are tried again, what went wrong | `cluster`, `problem` |
//! | kinds and their paths | `kinds` |
//! | when something is done | `wait`, `rollout` |
//! | the verbs | `apply`, `delete`, `get`, `scale`, `restart`, `logs` |

mod apply;
mod cluster;
mod connect;
mod delete;
mod fields;
mod get;
mod kinds;
mod kubeconfig;
mod logs;
mod manifest;
mod object;
mod problem;
mod restart;
mod rollout;
mod scale;
mod wait;

use std::sync::Arc;

use cluster::Cluster;
use muster_executor::{BoxFuture, Executor, Finish, Rejection, Scope, Work, schema};
use muster_schemas::{connection::ConnectionKind, describe::TypeInfo};
use problem::Problem;
use serde_json::{Value, json};

/// The executor's name.
pub const NAME: &str = "kubernetes";

/// Under what name this agent's changes are kept apart from others' in the cluster.
const MANAGER: &str = "muster";

/// The executor.
#[derive(Debug)]
pub struct Kubernetes {
    kinds: Arc<kinds::Cache>,
    /// Whether this agent runs in a cluster, so that a job may do without a connection.
    in_cluster: bool,
}

impl Kubernetes {
    /// Looks whether this agent runs in a cluster. Connects to nothing.
    #[expect(clippy::new_without_default, reason = "it looks at the machine")]
    pub fn new() -> Self {
        Self { kinds: Arc::default(), in_cluster: connect::in_cluster() }
    }

    fn work<T: Action>(&self, action: T) -> Box<dyn Work> {
        Box::new(Job { kinds: Arc::clone(&self.kinds), action })
    }
}

impl Executor for Kubernetes {
    fn name(&self) -> &str {
        NAME
    }

    fn about(&self) -> &str {
        "objects of a Kubernetes cluster"
    }

    fn types(&self) -> Vec<TypeInfo> {
        let info = |verb: &str, about: &str, params: Value, example: Value| TypeInfo {
            connections: vec![ConnectionKind::Kubernetes],
            needs_connection: !self.in_cluster,
            ..schema::type_info(NAME, verb, about, params, example)
        };
        let object = json!({"kind": "Deployment", "name": "web", "namespace": "shop"});
        let manifest = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: colours\ndata:\n  sky: blue\n";
        vec![
            info("apply", "Applies objects (server-side).", apply::schema(), json!({"manifest": manifest, "namespace": "shop"})),
            info("delete", "Deletes objects.", delete::schema(), object.clone()),
            info("get", "Reads an object, or those that a selector finds.", get::schema(), object.clone()),
            info(
                "scale",
                "Sets how many replicas there are to be.",
                scale::schema(),
                json!({"kind": "Deployment", "name": "web", "replicas": 3}),
            ),
            info("restart", "Restarts a rollout's pods, one after the other.", restart::schema(), object),
            info("logs", "Prints what pods have logged.", logs::schema(), json!({"selector": "app=web", "namespace": "shop", "tail": 100})),
        ]
    }

    fn check(&self, verb: &str, params: &Value) -> Result<Option<Box<dyn Work>>, Rejection> {
        Ok(Some(match verb {
            "apply" => self.work(apply::Apply::parse(params)?),
            "delete" => self.work(delete::Delete::parse(params)?),
            "get" => self.work(get::Get::parse(params)?),
            "scale" => self.work(scale::Scale::parse(params)?),
            "restart" => self.work(restart::Restart::parse(params)?),
            "logs" => self.work(logs::Logs::parse(params)?),
            _ => return Ok(None),
        }))
    }

    fn probe(&self, kind: ConnectionKind) -> Option<Box<dyn Work>> {
        (kind == ConnectionKind::Kubernetes).then(|| self.work(Probe))
    }
}

/// What one verb does with the cluster.
trait Action: std::fmt::Debug + Send + Sync + 'static {
    /// Does it.
    fn act<'a>(&'a self, cluster: &'a Cluster, scope: &'a Scope) -> BoxFuture<'a, Result<Finish, Problem>>;
}

/// A verb, and what to connect with.
#[derive(Debug)]
struct Job<T> {
    kinds: Arc<kinds::Cache>,
    action: T,
}

impl<T: Action> Work for Job<T> {
    fn run<'a>(self: Box<Self>, scope: &'a Scope) -> BoxFuture<'a, Finish> {
        Box::pin(async move {
            let cluster = match connect::open(scope.connection.as_ref(), Arc::clone(&self.kinds)) {
                Ok(cluster) => cluster,
                Err(finish) => return *finish,
            };
            self.action.act(&cluster, scope).await.unwrap_or_else(Problem::finish)
        })
    }
}

/// Asks for the cluster's version: that it answers, and takes the credentials.
#[derive(Debug)]
struct Probe;

impl Action for Probe {
    fn act<'a>(&'a self, cluster: &'a Cluster, _: &'a Scope) -> BoxFuture<'a, Result<Finish, Problem>> {
        Box::pin(async move {
            let version = cluster.read(cluster::get("/version")?, "the cluster's version").await?;
            let fact = |name: &str| version.get(name).cloned().unwrap_or_default();
            Ok(Finish::succeeded(Some(json!({"version": fact("gitVersion"), "platform": fact("platform")}))))
        })
    }
}
