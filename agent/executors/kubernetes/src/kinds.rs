//! Which kinds a cluster has, and under which paths: asked of the cluster when a job needs one, and remembered for a minute.
//!
//! People's words for kinds (plural, singular, short names) are the cluster's as well.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kube::core::ApiResource;
use serde_json::Value;
use tokio::time::Instant;

use crate::{
    cluster::{Cluster, get},
    fields::is_kind,
    problem::Problem,
};

/// How long an answer counts. Kinds come and go with what is installed in a cluster, and a job for a new one should not have to wait.
const FRESH: Duration = Duration::from_secs(60);

/// The most answers that are kept, of all clusters: each is one version of one group.
const KEPT: usize = 512;

/// The most groups that are searched for a kind. Clusters with many operators have some fifty.
const GROUPS_MAX: usize = 256;

/// The most kinds of one version of one group.
const KINDS_MAX: usize = 1000;

/// One kind.
#[derive(Debug, Clone)]
pub(crate) struct Kind {
    pub(crate) resource: ApiResource,
    pub(crate) namespaced: bool,
    /// What people call it, in small letters: kind, plural, singular, short names.
    words: Vec<String>,
}

impl Kind {
    /// What an object of it is called in output: `deployment.apps/web`.
    pub(crate) fn call(&self, name: &str) -> String {
        let dot = if self.resource.group.is_empty() { "" } else { "." };
        format!("{}{dot}{}/{name}", self.resource.kind.to_lowercase(), self.resource.group)
    }

    /// Whether it is this one.
    pub(crate) fn is(&self, group: &str, kind: &str) -> bool {
        self.resource.group == group && self.resource.kind == kind
    }
}

/// The answers of clusters, by cluster and path.
#[derive(Debug, Default)]
pub(crate) struct Cache(Mutex<HashMap<Key, (Instant, Arc<Value>)>>);

/// Whose answer, and to which path.
type Key = (String, String);

impl Cache {
    fn find(&self, key: &Key) -> Option<Arc<Value>> {
        let entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        entries.get(key).filter(|(at, _)| at.elapsed() < FRESH).map(|(_, value)| Arc::clone(value))
    }

    fn keep(&self, key: Key, value: Arc<Value>) {
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if entries.len() >= KEPT {
            entries.retain(|_, (at, _)| at.elapsed() < FRESH);
        }
        if entries.len() < KEPT {
            entries.insert(key, (Instant::now(), value));
        }
    }

    /// Forgets what this cluster said.
    fn forget(&self, cluster: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|(key, _), _| key != cluster);
    }
}

impl Cluster {
    /// The kind that is meant. One that is not found is asked for anew: it may have been installed just now.
    ///
    /// # Errors
    /// When the cluster has none of that name, or does not say.
    pub(crate) async fn kind(&self, word: &str, api_version: Option<&str>) -> Result<Kind, Problem> {
        if let Some(kind) = self.look(word, api_version).await? {
            return Ok(kind);
        }
        self.kinds.forget(&self.key);
        let of = api_version.map_or(String::new(), |version| format!(" in {version}"));
        let absent = || Problem::absent(format!("{} has no kind `{word}`{of}", self.server));
        self.look(word, api_version).await?.ok_or_else(absent)
    }

    async fn look(&self, word: &str, api_version: Option<&str>) -> Result<Option<Kind>, Problem> {
        if let Some(version) = api_version {
            return self.of_version(version, word).await;
        }
        let (word, group) = word.split_once('.').map_or((word, None), |(word, group)| (word, Some(group)));
        if group.is_none()
            && let Some(kind) = self.of_version("v1", word).await?
        {
            return Ok(Some(kind));
        }
        let groups = self.ask("/apis").await?;
        for known in list(groups.as_deref(), "groups").iter().take(GROUPS_MAX) {
            let name = known.get("name").and_then(Value::as_str).unwrap_or_default();
            let preferred =
                known.pointer("/preferredVersion/groupVersion").and_then(Value::as_str).filter(|_| group.is_none_or(|group| group == name));
            if let Some(version) = preferred
                && let Some(kind) = self.of_version(version, word).await?
            {
                return Ok(Some(kind));
            }
        }
        Ok(None)
    }

    async fn of_version(&self, version: &str, word: &str) -> Result<Option<Kind>, Problem> {
        let path = if version.contains('/') { format!("/apis/{version}") } else { format!("/api/{version}") };
        let answer = self.ask(&path).await?;
        let word = word.to_lowercase();
        let kinds = list(answer.as_deref(), "resources").iter().take(KINDS_MAX).filter_map(|resource| kind(version, resource));
        Ok(kinds.into_iter().find(|kind| kind.words.contains(&word)))
    }

    /// What there is under a path; `None` where there is nothing.
    async fn ask(&self, path: &str) -> Result<Option<Arc<Value>>, Problem> {
        let key = (self.key.clone(), path.to_owned());
        if let Some(known) = self.kinds.find(&key) {
            return Ok(Some(known));
        }
        let answer = match self.find(get(path)?, "the cluster's kinds").await {
            Ok(answer) => answer.map(Arc::new),
            // A group that is served by somebody else who is down must not keep the others from being found.
            Err(problem) if path.starts_with("/apis/") && problem.status_code() == 503 => None,
            Err(problem) => return Err(problem),
        };
        if let Some(answer) = &answer {
            self.kinds.keep(key, Arc::clone(answer));
        }
        Ok(answer)
    }
}

fn list<'a>(answer: Option<&'a Value>, field: &str) -> &'a [Value] {
    answer.and_then(|answer| answer.get(field)).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// One entry of an APIResourceList; `None` for what is none, such as `deployments/scale`.
fn kind(api_version: &str, resource: &Value) -> Option<Kind> {
    let text = |field: &str| resource.get(field).and_then(Value::as_str).filter(|text| !text.is_empty());
    let plural = text("name").filter(|name| is_kind(name))?;
    let kind = text("kind")?;
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let short = resource.get("shortNames").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
    let words = [kind, plural].into_iter().chain(text("singularName")).chain(short).map(str::to_lowercase).collect();
    let resource_of = ApiResource {
        group: group.to_owned(),
        version: version.to_owned(),
        api_version: api_version.to_owned(),
        kind: kind.to_owned(),
        plural: plural.to_owned(),
    };
    Some(Kind { resource: resource_of, namespaced: resource.get("namespaced").and_then(Value::as_bool) == Some(true), words })
}
