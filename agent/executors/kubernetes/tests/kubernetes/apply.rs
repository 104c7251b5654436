//! Applying: what becomes of objects, whose fields they are, rollouts that are waited for.

use std::time::Duration;

use muster_schemas::{code::Code, result::Outcome};
use serde_json::{Value, json};

use crate::cluster::Cluster;

pub(crate) fn code(execution: &muster_executor::Execution) -> Option<Code> {
    execution.error.as_ref().map(|error| error.code)
}

pub(crate) fn message(execution: &muster_executor::Execution) -> &str {
    execution.error.as_ref().map_or("", |error| &error.message)
}

pub(crate) fn stdout(execution: &muster_executor::Execution) -> String {
    String::from_utf8_lossy(execution.stdout.as_bytes()).into_owned()
}

fn config_map(name: &str, data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data})
}

pub(crate) fn deployment(name: &str, replicas: i64) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name, "labels": {"app": name}},
           "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": name}},
                    "template": {"metadata": {"labels": {"app": name}}, "spec": {"containers": [{"name": "main", "image": "web:1"}]}}}})
}

/// What became of the objects, in order.
fn outcomes(execution: &muster_executor::Execution) -> Vec<String> {
    let objects = execution.data.as_ref().and_then(|data| data["objects"].as_array()).unwrap_or_else(|| panic!("{execution:?}"));
    objects.iter().map(|object| format!("{} {}", object["name"].as_str().unwrap(), object["outcome"].as_str().unwrap())).collect()
}

#[tokio::test]
async fn objects_are_created_configured_or_unchanged_and_what_a_manifest_drops_goes() {
    let cluster = Cluster::start().await;
    let manifest =
        |data: &str| format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: colours}}\ndata: {data}\n---\n{}", deployment("web", 2));
    let first = cluster.run("apply", json!({"manifest": manifest("{sky: blue, sea: green}")})).await;
    assert_eq!((first.outcome, outcomes(&first)), (Outcome::Succeeded, vec!["colours created".into(), "web created".into()]), "{first:?}");
    assert_eq!(stdout(&first), "configmap/colours created\ndeployment.apps/web created\n");
    let again = cluster.run("apply", json!({"manifest": manifest("{sky: blue, sea: green}")})).await;
    assert_eq!(outcomes(&again), ["colours unchanged", "web unchanged"]);
    cluster.merge("v1/configmaps/colours", json!({"data": {"sun": "yellow"}})).await;
    let changed = cluster.run("apply", json!({"manifest": manifest("{sky: grey}")})).await;
    assert_eq!(outcomes(&changed), ["colours configured", "web unchanged"]);
    let data = cluster.get("v1/configmaps/colours").await["data"].take();
    assert_eq!(data, json!({"sky": "grey", "sun": "yellow"}), "its own field is gone, that of another is not");
}

#[tokio::test]
async fn a_field_of_somebody_else_is_left_alone_and_its_owner_named_unless_forced() {
    let cluster = Cluster::start().await;
    let mine = |sky: &str| json!({"objects": [config_map("colours", json!({"sky": sky}))]});
    assert_eq!(cluster.run("apply", mine("blue")).await.outcome, Outcome::Succeeded);
    cluster.merge("v1/configmaps/colours", json!({"data": {"sky": "red"}})).await;
    let refused = cluster.run("apply", mine("grey")).await;
    assert_eq!((refused.outcome, code(&refused)), (Outcome::Failed, Some(Code::ApplyConflict)), "{refused:?}");
    let conflict = &refused.data.as_ref().unwrap()["objects"][0]["conflicts"][0];
    assert!(conflict["owner"].as_str().unwrap().starts_with("tester"), "{conflict}");
    assert_eq!(conflict["field"], ".data.sky");
    assert!(message(&refused).contains("tester") && message(&refused).contains("`force`"), "{}", message(&refused));
    assert_eq!(cluster.get("v1/configmaps/colours").await["data"]["sky"], "red");
    let mut forced = mine("grey");
    forced["force"] = true.into();
    assert_eq!(outcomes(&cluster.run("apply", forced).await), ["colours configured"]);
    assert_eq!(cluster.get("v1/configmaps/colours").await["data"]["sky"], "grey");
}

#[tokio::test]
async fn one_object_that_is_refused_does_not_keep_the_others_from_being_applied() {
    let cluster = Cluster::start().await;
    let unknown = json!({"apiVersion": "nowhere.example/v1", "kind": "Thing", "metadata": {"name": "x"}});
    let objects = json!([config_map("NotAName", json!({})), unknown, config_map("good", json!({"a": "b"}))]);
    let run = cluster.run("apply", json!({ "objects": objects })).await;
    assert_eq!(outcomes(&run), ["NotAName refused", "x refused", "good created"]);
    assert_eq!((run.outcome, code(&run)), (Outcome::Failed, Some(Code::ClusterRefused)));
    assert!(message(&run).contains("2 of 3 objects") && message(&run).contains("422 Invalid"), "{}", message(&run));
    assert!(run.data.as_ref().unwrap()["objects"][1]["error"].as_str().unwrap().contains("no kind `Thing` in nowhere.example/v1"));
    let elsewhere = cluster.run("apply", json!({"objects": [config_map("a", json!({}))], "namespace": "no-such-namespace"})).await;
    assert!(message(&elsewhere).contains("404 NotFound") && message(&elsewhere).contains("no-such-namespace"), "{elsewhere:?}");
}

#[tokio::test]
async fn a_dry_run_says_what_would_become_of_it_and_changes_nothing() {
    let cluster = Cluster::start().await;
    let of = |sky: &str, dry: bool| json!({"objects": [config_map("colours", json!({"sky": sky}))], "dry_run": dry, "wait": dry});
    assert_eq!(outcomes(&cluster.run("apply", of("blue", true)).await), ["colours created"]);
    assert!(cluster.get("v1/configmaps/colours").await["error"].as_str().unwrap().contains("not found"));
    cluster.run("apply", of("blue", false)).await;
    let dry = cluster.run("apply", of("grey", true)).await;
    assert_eq!((outcomes(&dry), stdout(&dry).as_str()), (vec!["colours configured".into()], "configmap/colours configured (dry run)\n"));
    assert_eq!(outcomes(&cluster.run("apply", of("blue", true)).await), ["colours unchanged"]);
    assert_eq!(cluster.get("v1/configmaps/colours").await["data"]["sky"], "blue");
}

#[tokio::test]
async fn a_kind_that_a_manifest_defines_can_be_used_in_it_and_after_it() {
    let cluster = Cluster::start().await;
    let group = format!("{}.example.com", cluster.namespace);
    let schema = json!({"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}});
    let definition = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": format!("widgets.{group}")},
        "spec": {"group": group, "scope": "Namespaced", "names": {"plural": "widgets", "singular": "widget", "kind": "Widget"},
                 "versions": [{"name": "v1", "served": true, "storage": true, "schema": schema}]}});
    let widget = json!({"apiVersion": format!("{group}/v1"), "kind": "Widget", "metadata": {"name": "first"}, "spec": {"size": 3}});
    // So that the cluster's kinds are known from before.
    assert_eq!(code(&cluster.run("get", json!({"kind": format!("widgets.{group}")})).await), Some(Code::ClusterRefused));
    let run = cluster.run("apply", json!({"objects": [definition, widget]})).await;
    assert_eq!(run.outcome, Outcome::Succeeded, "{run:?}");
    let read = cluster.run("get", json!({"kind": format!("widgets.{group}"), "name": "first", "fields": ["spec.size"]})).await;
    assert_eq!(read.data.unwrap()["object"], json!({"spec": {"size": 3}}));
    let gone = cluster.run("delete", json!({"kind": "CustomResourceDefinition", "name": format!("widgets.{group}")})).await;
    assert_eq!(gone.outcome, Outcome::Succeeded);
}

#[tokio::test]
async fn waiting_shows_how_far_rollouts_are_and_fails_when_one_gets_nowhere() {
    let cluster = Cluster::start().await;
    let connection = cluster.connection();
    let good = json!({"objects": [deployment("web", 3)], "wait": true});
    let run = tokio::select! { run = cluster.job("apply", good, connection, Duration::from_secs(20)) => run, never = cluster.control() => match never {} };
    assert_eq!(
        (run.0.outcome, stdout(&run.0).as_str()),
        (Outcome::Succeeded, "deployment.apps/web created\ndeployment.apps/web rolled out\n"),
        "{run:?}"
    );
    assert!(run.1.iter().any(|said| said.contains("rolled out, 3 of 3 available")), "{:?}", run.1);
    let mut stuck = deployment("stuck", 1);
    stuck["metadata"]["labels"]["stuck"] = "yes".into();
    let run = tokio::select! { run = cluster.run("apply", json!({"objects": [stuck], "wait": true})) => run, never = cluster.control() => match never {} };
    assert_eq!((run.outcome, code(&run)), (Outcome::Failed, Some(Code::RolloutFailed)), "{run:?}");
    assert!(
        message(&run).contains("deployment.apps/stuck: ProgressDeadlineExceeded: ReplicaSet \"web-1\" has timed out"),
        "{}",
        message(&run)
    );
    assert_eq!(outcomes(&run), ["stuck created"], "it is there all the same");
}

#[tokio::test]
async fn what_the_cluster_says_of_a_secret_is_left_out() {
    let cluster = Cluster::start().await;
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "keys"}, "data": {"key": "not base64: hunter2hunter2"}});
    let run = cluster.run("apply", json!({"objects": [secret]})).await;
    assert_eq!((run.outcome, code(&run)), (Outcome::Failed, Some(Code::ClusterRefused)));
    assert!(message(&run).contains("left out"), "{}", message(&run));
    let all = format!("{run:?}");
    assert!(!all.contains("hunter2"), "{all}");
}
