//! Restarting workloads, and waiting for it.

use std::time::Duration;

use muster_schemas::{code::Code, result::Outcome};
use serde_json::{Value, json};

use crate::{
    apply::{code, deployment, message},
    cluster::Cluster,
};

async fn with(change: Value) -> Cluster {
    let cluster = Cluster::start().await;
    let mut web = deployment("web", 3);
    for (pointer, value) in change.as_object().unwrap() {
        let (parent, last) = pointer.rsplit_once('/').unwrap();
        web.pointer_mut(parent).unwrap()[last] = value.clone();
    }
    let run = cluster.run("apply", json!({"objects": [web]})).await;
    assert_eq!(run.outcome, Outcome::Succeeded, "{run:?}");
    cluster
}

fn web() -> Value {
    json!({"kind": "Deployment", "name": "web"})
}

#[tokio::test]
async fn a_restart_changes_the_template_and_waits_until_all_pods_are_new() {
    let cluster = with(json!({})).await;
    let connection = cluster.connection();
    let (run, said) = tokio::select! { run = cluster.job("restart", web(), connection, Duration::from_secs(20)) => run, never = cluster.control() => match never {} };
    assert_eq!(run.outcome, Outcome::Succeeded, "{run:?}");
    let data = run.data.unwrap();
    assert_eq!(data["available"], 3);
    let stored = cluster.get("apps/v1/deployments/web").await;
    let annotation = &stored["spec"]["template"]["metadata"]["annotations"]["kubectl.kubernetes.io/restartedAt"];
    assert!(annotation.is_string() && *annotation == data["restarted_at"], "{stored}");
    assert!(said.last().unwrap().contains("rolled out, 3 of 3 available"), "{said:?}");
}

#[tokio::test]
async fn a_restart_that_gets_nowhere_fails_with_the_clusters_reason() {
    let cluster = with(json!({"/metadata/labels/stuck": "yes"})).await;
    let run = tokio::select! { run = cluster.run("restart", web()) => run, never = cluster.control() => match never {} };
    assert_eq!((run.outcome, code(&run)), (Outcome::Failed, Some(Code::RolloutFailed)));
    assert!(message(&run).contains("ProgressDeadlineExceeded"), "{}", message(&run));
}

#[tokio::test]
async fn a_time_out_ends_the_wait_and_leaves_the_cluster_to_go_on() {
    let cluster = with(json!({})).await;
    let (run, _) = cluster.job("restart", web(), cluster.connection(), Duration::from_secs(1)).await;
    assert_eq!((run.outcome, code(&run)), (Outcome::TimedOut, Some(Code::TimedOut)));
    let run = cluster.run("restart", json!({"kind": "Deployment", "name": "web", "wait": false})).await;
    assert_eq!(run.outcome, Outcome::Succeeded);
    assert!(cluster.get("apps/v1/deployments/web").await["spec"]["template"]["metadata"]["annotations"].is_object());
}

#[tokio::test]
async fn what_can_not_restart_says_so_and_is_left_alone() {
    let cluster = with(json!({"/spec/paused": true})).await;
    let run = cluster.run("restart", web()).await;
    assert!(code(&run) == Some(Code::RolloutFailed) && message(&run).contains("paused"), "{run:?}");
    assert!(cluster.get("apps/v1/deployments/web").await["spec"]["template"]["metadata"].get("annotations").is_none());
    let run = cluster.run("restart", json!({"kind": "ConfigMap", "name": "web"})).await;
    assert_eq!((run.outcome, code(&run)), (Outcome::Rejected, Some(Code::ParamsInvalid)));
}

#[tokio::test]
async fn a_deployment_that_is_deleted_meanwhile_ends_the_wait() {
    let cluster = with(json!({})).await;
    let delete = async {
        while cluster.get("apps/v1/deployments/web").await["spec"]["template"]["metadata"]["annotations"].is_null() {
            tokio::time::sleep(Duration::from_millis(50)).await; // poll
        }
        cluster.ask("DELETE", &cluster.path("apps/v1/deployments/web"), "application/json", &Value::Null).await
    };
    let (run, _) = tokio::join!(cluster.run("restart", web()), delete);
    assert!(code(&run) == Some(Code::RolloutFailed) && message(&run).contains("deleted"), "{run:?}");
}
