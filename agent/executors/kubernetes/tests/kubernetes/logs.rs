//! Logs come from kubelets, of which a lone kube-apiserver has none: only against the stand-in.

use std::time::Duration;

use muster_schemas::{code::Code, result::Outcome};
use serde_json::json;
use tokio::sync::watch;

use crate::{
    apply::{code, message, stdout},
    cluster::{ADMIN, Cluster},
};

async fn with_pods(names: &[&str]) -> Cluster {
    let cluster = Cluster::start().await;
    let pod = |name: &&str| json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": "web"}}, "spec": {"containers": [{"name": "main", "image": "web:1"}]}});
    let run = cluster.run("apply", json!({"objects": names.iter().map(pod).collect::<Vec<_>>()})).await;
    assert_eq!(run.outcome, Outcome::Succeeded, "{run:?}");
    cluster
}

#[tokio::test]
async fn a_log_is_the_output_and_those_of_several_pods_are_told_apart() {
    let cluster = with_pods(&["web-a", "web-b"]).await;
    let Some(api) = &cluster.api else { return };
    api.log("web-a", "one\ntwo\nthree\n", None);
    api.log("web-b", "four\nno line break", None);
    let one = cluster.run("logs", json!({"pod": "web-a", "tail": 2})).await;
    assert_eq!((one.outcome, stdout(&one).as_str()), (Outcome::Succeeded, "two\nthree\n"));
    assert_eq!(one.data.unwrap()["pods"], json!([{"pod": "web-a", "bytes": 10, "truncated": false}]));
    let both = cluster.run("logs", json!({"selector": "app=web", "tail": 2})).await;
    assert_eq!(stdout(&both), "[web-a] two\n[web-a] three\n[web-b] four\n[web-b] no line break\n");
    let none = cluster.run("logs", json!({"selector": "app=other"})).await;
    assert!(code(&none) == Some(Code::ClusterRefused) && message(&none).contains("no pod has the labels `app=other`"));
    let missing = cluster.run("logs", json!({"pod": "web-c"})).await;
    assert!(message(&missing).contains("404 NotFound"), "{missing:?}");
    let query = api.seen().into_iter().find(|line| line.contains("web-a/log")).unwrap();
    assert!(query.contains("tailLines=2"), "{query}");
}

#[tokio::test]
async fn a_followed_log_goes_on_until_the_job_ends_and_masks_secrets() {
    let cluster = with_pods(&["web-a"]).await;
    let Some(api) = &cluster.api else { return };
    let (more, lines) = watch::channel(String::new());
    api.log("web-a", "first\n", Some(lines));
    let talk = async {
        for word in ["second\n".to_owned(), format!("the token is {ADMIN}\n")] {
            tokio::time::sleep(Duration::from_millis(200)).await; // stuck on purpose
            more.send_replace(word);
        }
        std::future::pending::<()>().await
    };
    let follow = cluster.job("logs", json!({"pod": "web-a", "follow": true}), cluster.connection(), Duration::from_secs(2));
    let run = tokio::select! { run = follow => run.0, () = talk => unreachable!() };
    assert_eq!(run.outcome, Outcome::TimedOut);
    let out = stdout(&run);
    assert!(out.starts_with("first\nsecond\nthe token is ") && !out.contains(ADMIN), "{out}");
}

#[tokio::test]
async fn a_flood_of_a_log_is_cut_and_says_so() {
    let cluster = with_pods(&["web-a"]).await;
    let Some(api) = &cluster.api else { return };
    api.log("web-a", &"0123456789abcdef0123456789abcde\n".repeat(300 * 1024), None);
    let run = cluster.run("logs", json!({"pod": "web-a"})).await;
    assert_eq!((run.outcome, run.truncated), (Outcome::Succeeded, true), "{:?}", run.error);
    let said = &run.data.as_ref().unwrap()["pods"][0];
    assert_eq!(said["truncated"], true);
    assert!((8 << 20..9 << 20).contains(&said["bytes"].as_u64().unwrap()), "{said}");
}
