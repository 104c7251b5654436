//! A stand-in for the Kubernetes API, as far as these tests go: TLS, tokens and client certificates; discovery; objects with versions and
//! generations; server-side apply with owners of fields; merge patches; scale and status; watches; logs; definitions of custom kinds.
//!
//! Its answers have the words and codes of kube-apiserver, against which the same tests run as well (`cluster`).

#[path = "api/objects.rs"] // relative to this file, wherever it is a module of
mod objects;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex};

use axum::body::Body;
use axum::http::{Method, Response, StatusCode, Uri};
use futures_util::stream;
use serde_json::{Value, json};
use tokio::sync::watch;

/// One kind: group and version, plural, kind, short name, whether it is namespaced.
type Row = (String, String, String, String, bool);

/// An answer that stands in for the right one.
pub(crate) struct Fault {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) answer: (u16, Value),
    pub(crate) times: usize,
}

#[derive(Default)]
struct Stored {
    object: Value,
    /// Manager, and the fields that it owns.
    owners: BTreeMap<String, BTreeSet<String>>,
}

struct State {
    kinds: Vec<Row>,
    /// By path.
    objects: BTreeMap<String, Stored>,
    version: i64,
    /// Version, path, type, object.
    events: Vec<(i64, String, &'static str, Value)>,
    /// Watches from before this version are too old.
    compacted: i64,
    logs: HashMap<String, (String, Option<watch::Receiver<String>>)>,
    faults: Vec<Fault>,
    /// Method and path with query of each request.
    pub(crate) seen: Vec<String>,
}

/// The API.
#[derive(Clone)]
pub(crate) struct Api {
    state: Arc<Mutex<State>>,
    news: watch::Sender<i64>,
}

type Answer = Result<Value, (u16, Value)>;

fn status(code: u16, reason: &str, message: &str) -> (u16, Value) {
    (
        code,
        json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": code, "reason": reason, "message": message}),
    )
}

impl Api {
    pub(crate) fn new() -> Self {
        let row = |group: &str, plural: &str, kind: &str, short: &str, namespaced| {
            (group.to_owned(), plural.to_owned(), kind.to_owned(), short.to_owned(), namespaced)
        };
        let kinds = vec![
            row("v1", "configmaps", "ConfigMap", "cm", true),
            row("v1", "namespaces", "Namespace", "ns", false),
            row("v1", "pods", "Pod", "po", true),
            row("v1", "secrets", "Secret", "", true),
            row("apps/v1", "deployments", "Deployment", "deploy", true),
            row("apps/v1", "replicasets", "ReplicaSet", "rs", true),
            row("apiextensions.k8s.io/v1", "customresourcedefinitions", "CustomResourceDefinition", "crd", false),
        ];
        let state = State {
            kinds,
            objects: BTreeMap::new(),
            version: 1,
            events: Vec::new(),
            compacted: 0,
            logs: HashMap::new(),
            faults: Vec::new(),
            seen: Vec::new(),
        };
        Self { state: Arc::new(Mutex::new(state)), news: watch::channel(0).0 }
    }

    pub(crate) fn fail(&self, fault: Fault) {
        self.state.lock().unwrap().faults.push(fault);
    }

    pub(crate) fn log(&self, pod: &str, text: &str, more: Option<watch::Receiver<String>>) {
        self.state.lock().unwrap().logs.insert(pod.to_owned(), (text.to_owned(), more));
    }

    pub(crate) fn compact(&self) {
        let mut state = self.state.lock().unwrap();
        state.compacted = i64::MAX;
    }

    pub(crate) fn seen(&self) -> Vec<String> {
        self.state.lock().unwrap().seen.clone()
    }

    /// Answers one request of a user.
    pub(crate) fn answer(&self, user: Option<&str>, method: &Method, uri: &Uri, kind_of_patch: &str, body: &[u8]) -> Response<Body> {
        let query: HashMap<String, String> = form(uri.query().unwrap_or_default());
        let path = uri.path().to_owned();
        let mut state = self.state.lock().unwrap();
        state.seen.push(format!("{method} {uri}"));
        let Some(user) = user else { return reply(Err(status(401, "Unauthorized", "Unauthorized")), StatusCode::OK) };
        let hit = |fault: &&mut Fault| fault.times > 0 && fault.method == *method && path.starts_with(&fault.path);
        if let Some(fault) = state.faults.iter_mut().find(hit) {
            fault.times -= 1;
            let answer = fault.answer.clone();
            return reply(Err(answer), StatusCode::OK);
        }
        if let Some(answer) = state.discovery(&path) {
            return reply(answer, StatusCode::OK);
        }
        if user == "nobody" {
            let plural = path.split('/').rev().nth(usize::from(!path.ends_with('s'))).unwrap_or_default();
            let message =
                format!("{plural} is forbidden: User \"nobody\" cannot {} resource", if method == Method::GET { "get" } else { "patch" });
            return reply(Err(status(403, "Forbidden", &message)), StatusCode::OK);
        }
        if query.contains_key("watch") {
            let version = query.get("resourceVersion").and_then(|version| version.parse().ok()).unwrap_or(0);
            let name =
                query.get("fieldSelector").map(|selector| selector.trim_start_matches("metadata.name=").to_owned()).unwrap_or_default();
            let old = version < state.compacted;
            drop(state);
            return self.watch(format!("{path}/{name}"), version, old);
        }
        if let Some(pod) = path.strip_suffix("/log") {
            return state.read_log(pod, &query);
        }
        let before = state.version;
        let existed = state.objects.contains_key(&path);
        let patch = || serde_json::from_slice::<Value>(body).unwrap_or_default();
        let dry = query.contains_key("dryRun");
        let manager = query.get("fieldManager").cloned().unwrap_or_else(|| "unknown".into());
        let answer = match *method {
            Method::GET => state.get(&path, &query),
            Method::DELETE => state.delete(&path),
            Method::POST => {
                let object = patch();
                let path = format!("{path}/{}", object["metadata"]["name"].as_str().unwrap_or_default());
                state.apply(&path, &object, &manager, true, false)
            }
            Method::PATCH if kind_of_patch.contains("apply-patch") => {
                state.apply(&path, &patch(), &manager, query.get("force").is_some_and(|force| force == "true"), dry)
            }
            Method::PATCH => state.merge(&path, &patch(), &manager),
            _ => Err(status(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")),
        };
        let (now, changed) = (state.version, state.version != before);
        drop(state);
        if changed {
            self.news.send_replace(now);
        }
        let created = !existed && *method != Method::GET && *method != Method::DELETE;
        reply(answer, if created { StatusCode::CREATED } else { StatusCode::OK })
    }

    fn watch(&self, path: String, version: i64, old: bool) -> Response<Body> {
        if old {
            let (_, gone) = status(410, "Expired", "too old resource version");
            return Response::new(Body::from(format!("{}\n", json!({"type": "ERROR", "object": gone}))));
        }
        let (state, news) = (Arc::clone(&self.state), self.news.subscribe());
        let events = stream::unfold((version, news), move |(mut version, mut news)| {
            let (state, path) = (Arc::clone(&state), path.clone());
            async move {
                loop {
                    let next = {
                        let state = state.lock().unwrap();
                        state.events.iter().find(|(at, of, ..)| *at > version && *of == path).cloned()
                    };
                    if let Some((at, _, kind, object)) = next {
                        version = at;
                        let line = format!("{}\n", json!({"type": kind, "object": object}));
                        return Some((Ok::<_, std::io::Error>(line), (version, news)));
                    }
                    news.changed().await.ok()?;
                }
            }
        });
        Response::new(Body::from_stream(events))
    }
}

impl State {
    fn discovery(&self, path: &str) -> Option<Answer> {
        let versions: BTreeSet<&str> = self.kinds.iter().map(|(group, ..)| group.as_str()).collect();
        let list = |version: &str| {
            let kinds = self.kinds.iter().filter(|(group, ..)| group == version);
            let resources = kinds.flat_map(|(_, plural, kind, short, namespaced)| {
                let scale = json!({"name": format!("{plural}/scale"), "singularName": "", "namespaced": namespaced, "kind": "Scale", "verbs": ["get", "patch"]});
                let mut one = json!({"name": plural, "singularName": kind.to_lowercase(), "namespaced": namespaced, "kind": kind, "verbs": ["get", "list", "patch", "watch"]});
                if !short.is_empty() {
                    one["shortNames"] = json!([short]);
                }
                [one, scale]
            });
            json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version, "resources": resources.collect::<Vec<_>>()})
        };
        match path {
            "/version" => Some(Ok(json!({"major": "1", "minor": "33", "gitVersion": "v1.33.0-muster", "platform": "linux/amd64"}))),
            "/apis" => {
                let group = |version: &&str| {
                    let (name, short) = version.split_once('/')?;
                    let preferred = json!({"groupVersion": version, "version": short});
                    Some(json!({"name": name, "versions": [preferred], "preferredVersion": preferred}))
                };
                let mut groups = vec![
                    json!({"name": "metrics.k8s.io", "preferredVersion": {"groupVersion": "metrics.k8s.io/v1beta1", "version": "v1beta1"}}),
                ];
                groups.extend(versions.iter().filter_map(group));
                Some(Ok(json!({"kind": "APIGroupList", "groups": groups})))
            }
            // An API that others serve, who are down.
            "/apis/metrics.k8s.io/v1beta1" => {
                Some(Err(status(503, "ServiceUnavailable", "the server is currently unable to handle the request")))
            }
            path => {
                let version = path.strip_prefix("/apis/").or_else(|| path.strip_prefix("/api/"))?;
                if version.split('/').count() > 2 || (version.contains('/') != path.starts_with("/apis/")) {
                    return None;
                }
                Some(if versions.contains(version) { Ok(list(version)) } else { Err((404, json!({}))) })
            }
        }
    }

    /// The stored path and the subresource of a request's path.
    fn split(path: &str) -> (&str, &str) {
        ["scale", "status"].iter().find_map(|sub| Some((path.strip_suffix(sub)?.strip_suffix('/')?, *sub))).unwrap_or((path, ""))
    }

    fn row(&self, path: &str) -> Option<Row> {
        self.kinds
            .iter()
            .find(|(group, plural, ..)| {
                let root = if group.contains('/') { format!("/apis/{group}/") } else { format!("/api/{group}/") };
                let rest = path.strip_prefix(&root).unwrap_or_default();
                let rest = rest
                    .strip_prefix("namespaces/")
                    .and_then(|rest| rest.split_once('/'))
                    .map_or(rest, |(_, rest)| if rest.is_empty() { "" } else { rest });
                rest == *plural || rest.strip_prefix(plural.as_str()).is_some_and(|name| name.starts_with('/'))
            })
            .cloned()
    }

    fn missing(&self, path: &str) -> (u16, Value) {
        let name = path.rsplit('/').next().unwrap_or_default();
        let what = self.row(path).map(|(group, plural, ..)| match group.split_once('/') {
            Some((group, _)) => format!("{plural}.{group}"),
            None => plural,
        });
        status(404, "NotFound", &format!("{} \"{name}\" not found", what.unwrap_or_default()))
    }
}

fn form(query: &str) -> HashMap<String, String> {
    let plain = |text: &str| text.replace("%3D", "=").replace("%2C", ",").replace("%2F", "/").replace('+', " ");
    query.split('&').filter_map(|pair| pair.split_once('=')).map(|(key, value)| (key.to_owned(), plain(value))).collect()
}

fn reply(answer: Answer, good: StatusCode) -> Response<Body> {
    let (code, value) = answer.map_or_else(|(code, value)| (StatusCode::from_u16(code).unwrap(), value), |value| (good, value));
    Response::builder().status(code).header("content-type", "application/json").body(Body::from(value.to_string())).unwrap()
}
