//! What a cluster does now and then, on demand: so only against the stand-in.

use std::time::Duration;

use axum::http::Method;
use muster_schemas::{code::Code, result::Outcome};
use serde_json::{Value, json};

use crate::{
    api::Fault,
    apply::{code, deployment, message},
    cluster::Cluster,
};

fn status(code: u16, reason: &str) -> (u16, Value) {
    (
        code,
        json!({"kind": "Status", "status": "Failure", "code": code, "reason": reason, "message": "on demand", "details": {"retryAfterSeconds": 1}}),
    )
}

fn count(cluster: &Cluster, start: &str) -> usize {
    cluster.api.as_ref().unwrap().seen().iter().filter(|line| line.starts_with(start)).count()
}

#[tokio::test]
async fn reads_are_tried_again_and_changes_never() {
    let cluster = Cluster::start().await;
    let Some(api) = &cluster.api else { return };
    for (number, reason) in [(429, "TooManyRequests"), (503, "ServiceUnavailable")] {
        let path = cluster.path("v1/configmaps");
        api.fail(Fault { method: Method::GET, path: path.clone(), answer: status(number, reason), times: 2 });
        let before = count(&cluster, &format!("GET {path}"));
        assert_eq!(cluster.run("get", json!({"kind": "cm"})).await.outcome, Outcome::Succeeded);
        assert_eq!(count(&cluster, &format!("GET {path}")) - before, 3);
    }
    let path = cluster.path("v1/configmaps/a");
    api.fail(Fault { method: Method::PATCH, path: path.clone(), answer: status(500, "InternalError"), times: 1 });
    let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}});
    let run = cluster.run("apply", json!({"objects": [object]})).await;
    assert_eq!((run.outcome, code(&run)), (Outcome::Failed, Some(Code::ClusterRefused)));
    assert!(message(&run).contains("500 InternalError: on demand"), "{run:?}");
    assert_eq!(count(&cluster, &format!("PATCH {path}")), 1);
}

#[tokio::test]
async fn an_answer_that_is_none_of_the_api_is_told_in_short() {
    let cluster = Cluster::start().await;
    let Some(api) = &cluster.api else { return };
    api.fail(Fault { method: Method::GET, path: "/version".into(), answer: (404, json!("<html>nothing to see here</html>")), times: 1 });
    let run = cluster.job("probe", json!({}), cluster.connection(), Duration::from_secs(5)).await.0;
    assert!(code(&run) == Some(Code::ClusterRefused) && message(&run).contains("nothing to see here"), "{run:?}");
    api.fail(Fault { method: Method::GET, path: "/version".into(), answer: (200, json!("x".repeat(17 << 20))), times: 3 });
    let run = cluster.job("probe", json!({}), cluster.connection(), Duration::from_secs(20)).await.0;
    assert!(code(&run) == Some(Code::RequestFailed) && message(&run).contains("more than 16777216 bytes"), "{:?}", message(&run));
}

#[tokio::test]
async fn a_watch_that_is_too_old_or_not_allowed_or_broken_off_does_not_end_the_wait() {
    for answer in [None, Some(status(403, "Forbidden")), Some((200, json!("no event")))] {
        let cluster = Cluster::start().await;
        let Some(api) = &cluster.api else { return };
        assert_eq!(cluster.run("apply", json!({"objects": [deployment("web", 2)]})).await.outcome, Outcome::Succeeded);
        match answer {
            None => api.compact(),
            Some(answer) => {
                api.fail(Fault { method: Method::GET, path: format!("{}?watch", cluster.path("apps/v1/deployments")), answer, times: 100 })
            }
        }
        let restart = cluster.run("restart", json!({"kind": "Deployment", "name": "web"}));
        let run = tokio::select! { run = restart => run, never = cluster.control() => match never {} };
        assert_eq!(run.outcome, Outcome::Succeeded, "{run:?}");
        assert!(count(&cluster, &format!("GET {}?&watch=true", cluster.path("apps/v1/deployments"))) >= 1, "{:?}", api.seen());
    }
}

#[tokio::test]
async fn an_api_that_is_away_for_a_while_does_not_end_the_wait() {
    let cluster = Cluster::start().await;
    let Some(api) = &cluster.api else { return };
    assert_eq!(cluster.run("apply", json!({"objects": [deployment("web", 2)]})).await.outcome, Outcome::Succeeded);
    api.compact();
    let away = async {
        while count(&cluster, "PATCH /apis/apps/v1") < 2 {
            tokio::time::sleep(Duration::from_millis(50)).await; // poll
        }
        api.fail(Fault {
            method: Method::GET,
            path: cluster.path("apps/v1/deployments/web"),
            answer: (502, json!("bad gateway")),
            times: 4,
        });
        cluster.control().await
    };
    let restart = cluster.run("restart", json!({"kind": "Deployment", "name": "web"}));
    let run = tokio::select! { run = restart => run, never = away => match never {} };
    assert_eq!(run.outcome, Outcome::Succeeded, "{run:?}");
}

#[tokio::test]
async fn kinds_are_asked_for_once_a_minute() {
    let cluster = Cluster::start().await;
    if cluster.api.is_none() {
        return;
    }
    for _ in 0..3 {
        assert_eq!(cluster.run("get", json!({"kind": "deploy"})).await.outcome, Outcome::Succeeded);
    }
    let asked: Vec<_> =
        cluster.api.as_ref().unwrap().seen().into_iter().filter(|line| line == "GET /apis/apps/v1" || line == "GET /apis").collect();
    assert_eq!(asked.len(), 2, "{asked:?}");
}
