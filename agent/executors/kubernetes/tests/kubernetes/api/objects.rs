//! The stand-in's objects: server-side apply with owners of fields, merge patches, scale and status, deletion, logs.

use super::*;

impl State {
    pub(super) fn get(&self, path: &str, query: &HashMap<String, String>) -> Answer {
        let (path, sub) = Self::split(path);
        if let Some(stored) = self.objects.get(path) {
            return Ok(if sub == "scale" { scale(&stored.object) } else { stored.object.clone() });
        }
        let Some((group, plural, kind, ..)) = self.row(path) else { return Err((404, json!({}))) };
        if !path.ends_with(&plural) {
            return Err(self.missing(path));
        }
        let wanted = query
            .get("labelSelector")
            .map(|text| text.split(',').filter_map(|part| part.split_once('=')).collect::<Vec<_>>())
            .unwrap_or_default();
        let fits = |object: &Value| wanted.iter().all(|(key, value)| object["metadata"]["labels"][*key] == *value);
        let limit = query.get("limit").and_then(|limit| limit.parse().ok()).unwrap_or(usize::MAX);
        let found: Vec<Value> = self
            .objects
            .iter()
            .filter(|(at, stored)| at.rsplit_once('/').is_some_and(|(dir, _)| dir == path) && fits(&stored.object))
            .map(|(_, stored)| stored.object.clone())
            .collect();
        let more = if found.len() > limit { "next" } else { "" };
        let items: Vec<_> = found.into_iter().take(limit).collect();
        Ok(
            json!({"kind": format!("{kind}List"), "apiVersion": group, "metadata": {"resourceVersion": self.version.to_string(), "continue": more}, "items": items}),
        )
    }

    pub(super) fn delete(&mut self, path: &str) -> Answer {
        let Some(stored) = self.objects.get_mut(path) else { return Err(self.missing(path)) };
        let uid = stored.object["metadata"]["uid"].clone();
        if stored.object["metadata"]["finalizers"].as_array().is_some_and(|list| !list.is_empty()) {
            stored.object["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
            let object = stored.object.clone();
            self.note(path, "MODIFIED");
            return Ok(object);
        }
        self.note(path, "DELETED");
        self.objects.remove(path);
        Ok(json!({"kind": "Status", "status": "Success", "details": {"uid": uid}}))
    }

    pub(super) fn apply(&mut self, path: &str, given: &Value, manager: &str, force: bool, dry: bool) -> Answer {
        let (path, _) = Self::split(path);
        let Some((_, _, kind, _, namespaced)) = self.row(path) else { return Err((404, json!({}))) };
        let name = path.rsplit('/').next().unwrap_or_default().to_owned();
        if let Some(problem) = invalid(&kind, &name, given) {
            return Err(problem);
        }
        let namespace =
            path.split("/namespaces/").nth(1).and_then(|rest| rest.split('/').next()).filter(|_| namespaced).unwrap_or_default().to_owned();
        if namespaced && !self.objects.contains_key(&format!("/api/v1/namespaces/{namespace}")) {
            return Err(status(404, "NotFound", &format!("namespaces \"{namespace}\" not found")));
        }
        let mut fields = BTreeMap::new();
        leaves(given, "", &mut fields);
        fields.retain(|at, _| !["/apiVersion", "/kind", "/metadata/name", "/metadata/namespace"].contains(&at.as_str()));
        let mut stored = self
            .objects
            .get(path)
            .map(|stored| Stored { object: stored.object.clone(), owners: stored.owners.clone() })
            .unwrap_or_default();
        let new = stored.object.is_null();
        let mut causes = Vec::new();
        for (owner, owned) in stored.owners.iter_mut().filter(|(owner, _)| *owner != manager) {
            for (at, value) in &fields {
                if owned.contains(at) && stored.object.pointer(at) != Some(value) {
                    let version = given["apiVersion"].as_str().unwrap_or_default();
                    causes.push(json!({"reason": "FieldManagerConflict", "message": format!("conflict with \"{owner}\" using {version}"), "field": at.replace('/', ".")}));
                    if force {
                        owned.remove(at);
                    }
                }
            }
        }
        if !causes.is_empty() && !force {
            let count = causes.len();
            let (code, mut body) = status(
                409,
                "Conflict",
                &format!(
                    "Apply failed with {count} conflict: {}: {}",
                    causes[0]["message"].as_str().unwrap(),
                    causes[0]["field"].as_str().unwrap()
                ),
            );
            body["details"] = json!({"causes": causes});
            return Err((code, body));
        }
        if new {
            stored.object = json!({"apiVersion": given["apiVersion"], "kind": given["kind"], "metadata": {"name": name, "uid": format!("uid-{}", self.version), "creationTimestamp": "2026-01-01T00:00:00Z", "generation": 1}});
            if namespaced {
                stored.object["metadata"]["namespace"] = namespace.into();
            }
        }
        let before = stored.object.clone();
        let mine = stored.owners.insert(manager.to_owned(), fields.keys().cloned().collect()).unwrap_or_default();
        for gone in mine.iter().filter(|at| !fields.contains_key(*at)) {
            if !stored.owners.values().any(|owned| owned.contains(gone)) {
                remove(&mut stored.object, gone);
            }
        }
        for (at, value) in fields {
            set(&mut stored.object, &at, value);
        }
        if kind == "Deployment" && stored.object["spec"]["replicas"].is_null() {
            stored.object["spec"]["replicas"] = 1.into();
        }
        if dry {
            return Ok(stored.object);
        }
        self.store(path, before, stored, new)
    }

    pub(super) fn merge(&mut self, path: &str, patch: &Value, manager: &str) -> Answer {
        let (path, sub) = Self::split(path);
        let Some(stored) = self.objects.get(path) else { return Err(self.missing(path)) };
        let mut stored = Stored { object: stored.object.clone(), owners: stored.owners.clone() };
        let before = stored.object.clone();
        let mut fields = BTreeMap::new();
        leaves(patch, "", &mut fields);
        for (at, value) in fields {
            // The status is its subresource's to change, and nothing else is.
            if (sub == "status") == at.starts_with("/status") && stored.object.pointer(&at) != Some(&value) {
                stored.owners.values_mut().for_each(|owned| owned.retain(|field| *field != at));
                stored.owners.entry(manager.to_owned()).or_default().insert(at.clone());
                if value.is_null() { remove(&mut stored.object, &at) } else { set(&mut stored.object, &at, value) }
            }
        }
        let object = self.store(path, before, stored, false)?;
        Ok(if sub == "scale" { scale(&object) } else { object })
    }

    fn store(&mut self, path: &str, before: Value, mut stored: Stored, new: bool) -> Answer {
        if before == stored.object && !new {
            return Ok(stored.object);
        }
        if before["spec"] != stored.object["spec"] && !new {
            let generation = before["metadata"]["generation"].as_i64().unwrap_or(0) + 1;
            stored.object["metadata"]["generation"] = generation.into();
        }
        if stored.object["kind"] == "CustomResourceDefinition" && new {
            let spec = &stored.object["spec"];
            let text = |at: &str| spec.pointer(at).and_then(Value::as_str).unwrap_or_default().to_owned();
            self.kinds.push((
                format!("{}/{}", text("/group"), text("/versions/0/name")),
                text("/names/plural"),
                text("/names/kind"),
                String::new(),
                text("/scope") == "Namespaced",
            ));
        }
        let gone = !stored.object["metadata"]["deletionTimestamp"].is_null()
            && stored.object["metadata"]["finalizers"].as_array().is_none_or(Vec::is_empty);
        self.objects.insert(path.to_owned(), stored);
        self.note(
            path,
            if gone {
                "DELETED"
            } else if new {
                "ADDED"
            } else {
                "MODIFIED"
            },
        );
        let object = self.objects[path].object.clone();
        if gone {
            self.objects.remove(path);
        }
        Ok(object)
    }

    /// Gives an object its version, and tells those who watch.
    fn note(&mut self, path: &str, kind: &'static str) {
        self.version += 1;
        if let Some(stored) = self.objects.get_mut(path) {
            stored.object["metadata"]["resourceVersion"] = self.version.to_string().into();
            self.events.push((self.version, path.to_owned(), kind, stored.object.clone()));
        }
    }

    pub(super) fn read_log(&self, pod: &str, query: &HashMap<String, String>) -> Response<Body> {
        let name = pod.rsplit('/').next().unwrap_or_default();
        let Some((text, more)) = self.logs.get(name) else {
            return reply(Err(status(404, "NotFound", &format!("pods \"{name}\" not found"))), StatusCode::OK);
        };
        let lines: Vec<&str> = text.split_inclusive('\n').collect();
        let tail = query.get("tailLines").and_then(|tail| tail.parse().ok()).unwrap_or(usize::MAX);
        let text = lines[lines.len().saturating_sub(tail)..].concat();
        match more {
            Some(more) if query.get("follow").is_some_and(|follow| follow == "true") => {
                let rest = stream::unfold(more.clone(), |mut more| async move {
                    more.changed().await.ok()?;
                    let line = more.borrow_and_update().clone();
                    Some((Ok::<_, std::io::Error>(line), more))
                });
                use futures_util::StreamExt as _;
                Response::new(Body::from_stream(stream::iter([Ok(text)]).chain(rest)))
            }
            _ => Response::new(Body::from(text)),
        }
    }
}

/// What the API refuses before it looks any further.
fn invalid(kind: &str, name: &str, given: &Value) -> Option<(u16, Value)> {
    if name != name.to_lowercase() {
        let message = format!(
            "{kind} \"{name}\" is invalid: metadata.name: Invalid value: \"{name}\": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters"
        );
        return Some(status(422, "Invalid", &message));
    }
    let bad =
        given["data"].as_object()?.iter().find(|(_, value)| kind == "Secret" && value.as_str().is_some_and(|text| text.contains(' ')));
    bad.map(|(key, value)| status(400, "BadRequest", &format!("illegal base64 data at input byte 3, error found in ...|{key}:{value}|...")))
}

fn scale(object: &Value) -> Value {
    json!({"kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": object["metadata"], "spec": {"replicas": object["spec"]["replicas"]},
           "status": {"replicas": object["status"]["replicas"].as_i64().unwrap_or(0)}})
}

/// All fields that are no maps, by JSON pointer. Lists are whole.
fn leaves(value: &Value, at: &str, into: &mut BTreeMap<String, Value>) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            for (key, value) in map {
                leaves(value, &format!("{at}/{}", key.replace('~', "~0").replace('/', "~1")), into);
            }
        }
        value => drop(into.insert(at.to_owned(), value.clone())),
    }
}

fn set(object: &mut Value, at: &str, value: Value) {
    let mut here = object;
    for step in at.split('/').skip(1) {
        if !here.is_object() {
            *here = json!({});
        }
        here = here.as_object_mut().unwrap().entry(step.replace("~1", "/").replace("~0", "~")).or_insert(Value::Null);
    }
    *here = value;
}

fn remove(object: &mut Value, at: &str) {
    let (parent, last) = at.rsplit_once('/').unwrap();
    if let Some(map) = object.pointer_mut(parent).and_then(Value::as_object_mut) {
        map.remove(&last.replace("~1", "/").replace("~0", "~"));
    }
}
