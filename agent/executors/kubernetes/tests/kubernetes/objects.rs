//! Reading, deleting and scaling objects.

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use muster_schemas::{code::Code, result::Outcome};
use serde_json::json;

use crate::{
    apply::{code, deployment, message, stdout},
    cluster::Cluster,
};

async fn make(cluster: &Cluster, objects: serde_json::Value) {
    let run = cluster.run("apply", json!({ "objects": objects })).await;
    assert_eq!(run.outcome, Outcome::Succeeded, "{run:?}");
}

fn config_map(name: &str, text: &str) -> serde_json::Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": {"set": "mine", "name": name}}, "data": {"text": text}})
}

#[tokio::test]
async fn an_object_is_read_by_any_word_for_its_kind() {
    let cluster = Cluster::start().await;
    make(&cluster, json!([deployment("web", 2)])).await;
    for word in ["Deployment", "deployment", "deployments", "deploy", "deployments.apps"] {
        let run = cluster.run("get", json!({"kind": word, "name": "web", "fields": ["metadata.name", "spec.replicas"]})).await;
        assert_eq!(run.data.unwrap_or_default()["object"], json!({"metadata": {"name": "web"}, "spec": {"replicas": 2}}), "{word}");
    }
    let whole = cluster.run("get", json!({"kind": "Deployment", "api_version": "apps/v1", "name": "web"})).await.data.unwrap();
    assert!(whole["object"]["metadata"].get("managedFields").is_none() && whole["object"]["metadata"]["uid"].is_string());
    for (params, said) in [
        (json!({"kind": "Deployment", "name": "no"}), "404 NotFound"),
        (json!({"kind": "Nonsense", "name": "no"}), "no kind `Nonsense`"),
        (json!({"kind": "Deployment", "api_version": "apps/v9", "name": "web"}), "no kind `Deployment` in apps/v9"),
    ] {
        let run = cluster.run("get", params).await;
        assert!(code(&run) == Some(Code::ClusterRefused) && message(&run).contains(said), "{run:?}");
    }
}

#[tokio::test]
async fn a_list_is_bounded_in_number_and_size_and_says_when_there_is_more() {
    let cluster = Cluster::start().await;
    make(&cluster, json!((0..5).map(|n| config_map(&format!("c{n}"), &"x".repeat(20_000))).collect::<Vec<_>>())).await;
    let run = cluster.run("get", json!({"kind": "cm", "selector": "set=mine"})).await;
    let data = run.data.as_ref().unwrap();
    assert_eq!(
        (data["count"].as_i64(), data["more"].as_bool(), stdout(&run).as_str()),
        (Some(3), Some(true), "configmap/c0\nconfigmap/c1\nconfigmap/c2\n")
    );
    let names =
        cluster.run("get", json!({"kind": "cm", "selector": "set=mine", "fields": ["metadata.name"], "limit": 4})).await.data.unwrap();
    assert_eq!((names["count"].as_i64(), names["more"].as_bool()), (Some(4), Some(true)));
    let one = cluster.run("get", json!({"kind": "cm", "selector": "name=c3", "fields": ["metadata.name"]})).await.data.unwrap();
    assert_eq!((&one["items"], one["more"].as_bool()), (&json!([{"metadata": {"name": "c3"}}]), Some(false)));
    assert_eq!(cluster.run("get", json!({"kind": "cm", "selector": "set=none"})).await.data.unwrap()["count"], 0);
    make(&cluster, json!([config_map("large", &"x".repeat(100_000))])).await;
    for params in [json!({"kind": "cm", "name": "large"}), json!({"kind": "cm", "selector": "name=large"})] {
        let large = cluster.run("get", params).await;
        assert!(code(&large) == Some(Code::ResultTooLarge) && message(&large).contains("choose `fields`"), "{large:?}");
    }
}

#[tokio::test]
async fn what_is_in_a_secret_is_never_given_back() {
    let cluster = Cluster::start().await;
    let (plain, encoded) = ("hunter2hunter2", BASE64.encode("hunter2hunter2"));
    let last =
        json!({"kubectl.kubernetes.io/last-applied-configuration": format!("{{\"data\":{{\"key\":\"{encoded}\"}}}}"), "note": "kept"});
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "keys", "labels": {"a": "b"}, "annotations": last}, "data": {"key": encoded}});
    make(&cluster, json!([secret])).await;
    for params in [
        json!({"kind": "Secret", "name": "keys"}),
        json!({"kind": "secrets", "name": "keys", "fields": ["data", "data.key", "metadata.annotations"]}),
        json!({"kind": "secret", "selector": "a=b"}),
    ] {
        let run = cluster.run("get", params).await;
        let all = format!("{run:?}");
        assert!(run.outcome == Outcome::Succeeded && all.contains("(left out)") && all.contains("kept"), "{all}");
        assert!(!all.contains(plain) && !all.contains(&encoded), "{all}");
    }
}

#[tokio::test]
async fn deleting_names_what_was_there_and_what_was_not() {
    let cluster = Cluster::start().await;
    make(&cluster, json!([config_map("a", "1"), config_map("b", "2")])).await;
    let both = json!({"manifest": format!("{}\n---\n{}", config_map("a", ""), config_map("c", "")), "wait": true});
    let run = cluster.run("delete", both).await;
    assert_eq!((run.outcome, stdout(&run).as_str()), (Outcome::Succeeded, "configmap/c absent\nconfigmap/a deleted\n"), "{run:?}");
    let run = cluster.run("delete", json!({"kind": "cm", "name": "b"})).await;
    assert_eq!(run.data.unwrap()["objects"][0]["outcome"], "deleted");
    assert!(cluster.get("v1/configmaps/b").await["error"].is_string());
}

#[tokio::test]
async fn waiting_for_a_deletion_lasts_until_the_object_is_gone() {
    let cluster = Cluster::start().await;
    let held = |name: &str| {
        let mut held = config_map(name, "");
        held["metadata"]["finalizers"] = json!(["example.com/hold"]);
        held
    };
    make(&cluster, json!([held("held"), held("stays")])).await;
    let connection = cluster.connection();
    let stays = json!({"kind": "cm", "name": "stays", "wait": true});
    let (run, said) = cluster.job("delete", stays, connection, Duration::from_millis(1500)).await;
    assert_eq!(run.outcome, Outcome::TimedOut);
    assert!(said.iter().any(|said| said.contains("waiting for configmap/stays to go (1 finalizers)")), "{said:?}");
    let release = async {
        while cluster.get("v1/configmaps/held").await["metadata"]["deletionTimestamp"].is_null() {
            tokio::time::sleep(Duration::from_millis(20)).await; // poll
        }
        cluster.merge("v1/configmaps/held", json!({"metadata": {"finalizers": null}})).await
    };
    let (run, _) = tokio::join!(cluster.run("delete", json!({"kind": "cm", "name": "held", "wait": true})), release);
    assert_eq!((run.outcome, stdout(&run).as_str()), (Outcome::Succeeded, "configmap/held deleted\n"), "{run:?}");
    assert!(cluster.get("v1/configmaps/held").await["error"].is_string());
}

#[tokio::test]
async fn scaling_tells_from_what_to_what_and_waits_for_it() {
    let cluster = Cluster::start().await;
    make(&cluster, json!([deployment("web", 2)])).await;
    let run = cluster.run("scale", json!({"kind": "deploy", "name": "web", "replicas": 4})).await;
    let data = run.data.as_ref().unwrap();
    assert_eq!((data["before"].as_i64(), data["replicas"].as_i64()), (Some(2), Some(4)), "{run:?}");
    assert_eq!(cluster.get("apps/v1/deployments/web").await["spec"]["replicas"], 4);
    let wait = json!({"kind": "deploy", "name": "web", "replicas": 1, "wait": true});
    let run = tokio::select! { run = cluster.run("scale", wait) => run, never = cluster.control() => match never {} };
    assert_eq!((run.outcome, stdout(&run).as_str()), (Outcome::Succeeded, "deployment.apps/web scaled from 4 to 1\n"));
    assert_eq!(cluster.get("apps/v1/deployments/web").await["status"]["availableReplicas"], 1);
    let not = cluster.run("scale", json!({"kind": "deploy", "name": "no", "replicas": 1})).await;
    assert!(message(&not).contains("404"), "{not:?}");
}
