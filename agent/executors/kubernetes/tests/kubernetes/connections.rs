//! What lets in, what is refused, and what a server that is another one gets.

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use muster_executor::{Connection, Execution, Executor as _};
use muster_schemas::{code::Code, connection::ConnectionKind, result::Outcome};
use serde_json::{Value, json};

use crate::{
    apply::{code, message},
    cluster::{ADMIN, Authority, Cluster, NOBODY},
};

async fn tried(cluster: &Cluster, connection: Connection) -> Execution {
    cluster.job("probe", json!({}), connection, Duration::from_secs(20)).await.0
}

fn kubeconfig(cluster: &Cluster, user: Value) -> String {
    let ca = BASE64.encode(&cluster.ca);
    json!({"apiVersion": "v1", "kind": "Config", "current-context": "here",
           "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u", "namespace": cluster.namespace}}],
           "clusters": [{"name": "c", "cluster": {"server": cluster.server, "certificate-authority-data": ca}}],
           "users": [{"name": "u", "user": user}]})
    .to_string()
}

#[tokio::test]
async fn a_token_a_certificate_and_a_kubeconfig_each_let_in() {
    let cluster = Cluster::start().await;
    let settings = json!({"server": cluster.server, "ca": cluster.ca});
    let (certificate, key) = &cluster.certificate;
    let (with_token, with_certificate) = (
        kubeconfig(&cluster, json!({"token": ADMIN})),
        kubeconfig(&cluster, json!({"client-certificate-data": BASE64.encode(certificate), "client-key-data": BASE64.encode(key)})),
    );
    for connection in [
        cluster.connection_with(settings.clone(), &[("token", ADMIN)]),
        cluster.connection_with(settings, &[("certificate", certificate), ("private_key", key)]),
        cluster.connection_with(json!({}), &[("kubeconfig", &with_token)]),
        cluster.connection_with(json!({"context": "here"}), &[("kubeconfig", &with_certificate)]),
    ] {
        let run = tried(&cluster, connection.clone()).await;
        assert_eq!(run.outcome, Outcome::Succeeded, "{run:?}");
        assert!(run.data.unwrap()["version"].as_str().unwrap().starts_with('v'));
        let read = cluster.job("get", json!({"kind": "ns", "name": cluster.namespace}), connection, Duration::from_secs(20)).await.0;
        assert_eq!(read.outcome, Outcome::Succeeded, "{read:?}");
    }
    assert!(cluster.executor.probe(ConnectionKind::Ssh).is_none());
}

#[tokio::test]
async fn credentials_that_the_cluster_does_not_take_and_roles_that_do_not_allow_it_are_told_apart() {
    let cluster = Cluster::start().await;
    let settings = json!({"server": cluster.server, "ca": cluster.ca, "namespace": cluster.namespace});
    let wrong = tried(&cluster, cluster.connection_with(settings.clone(), &[("token", "some-other-token")])).await;
    assert_eq!((wrong.outcome, code(&wrong)), (Outcome::Failed, Some(Code::ClusterRefused)));
    assert!(message(&wrong).contains("401 Unauthorized") && message(&wrong).contains("does not accept the credentials"), "{wrong:?}");
    let nobody = cluster.connection_with(settings, &[("token", NOBODY)]);
    let read = cluster.job("get", json!({"kind": "cm"}), nobody, Duration::from_secs(20)).await.0;
    assert_eq!(code(&read), Some(Code::ClusterRefused));
    assert!(message(&read).contains("403 Forbidden") && message(&read).contains("User \"nobody\""), "{read:?}");
    assert_eq!(read.data.unwrap()["status"]["code"], 403);
}

#[tokio::test]
async fn a_server_that_is_not_who_it_should_be_or_not_there_gets_no_credentials() {
    let cluster = Cluster::start().await;
    let other = Authority::new().pem;
    let stranger = tried(&cluster, cluster.connection_with(json!({"server": cluster.server, "ca": other}), &[("token", ADMIN)])).await;
    assert_eq!((stranger.outcome, code(&stranger)), (Outcome::Failed, Some(Code::RequestFailed)));
    assert!(message(&stranger).contains("certificate") && message(&stranger).contains("`ca`"), "{stranger:?}");
    if let Some(api) = &cluster.api {
        assert!(!api.seen().iter().any(|line| line.contains("/version")));
    }
    let nobody_there = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let gone = cluster.connection_with(json!({"server": format!("https://{nobody_there}"), "ca": cluster.ca}), &[("token", ADMIN)]);
    let gone = tried(&cluster, gone).await;
    assert_eq!(code(&gone), Some(Code::RequestFailed));
    assert!(message(&gone).contains("refused") && message(&gone).contains(&nobody_there.to_string()), "{gone:?}");
}

#[tokio::test]
async fn a_connection_that_is_wrong_for_good_is_rejected_and_names_the_field() {
    let cluster = Cluster::start().await;
    let exec = kubeconfig(
        &cluster,
        json!({"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": "/bin/touch", "args": ["/tmp/x"]}}),
    );
    let config = kubeconfig(&cluster, json!({"token": ADMIN}));
    let (certificate, key) = &cluster.certificate;
    let server = || json!({"server": cluster.server, "ca": cluster.ca});
    let cases: Vec<(Value, Vec<(&str, &str)>, Code, &str)> = vec![
        (json!({}), vec![("kubeconfig", exec.as_str())], Code::CredentialsInvalid, "`exec` is refused"),
        (json!({}), vec![("kubeconfig", "no: [kubeconfig")], Code::CredentialsInvalid, "no YAML"),
        (server(), vec![("kubeconfig", config.as_str())], Code::SettingsInvalid, "`server` and `ca`"),
        (json!({}), vec![("kubeconfig", config.as_str()), ("token", "a-token")], Code::CredentialsInvalid, "stands alone"),
        (json!({}), vec![("token", "a-token")], Code::SettingsInvalid, "`server` is missing"),
        (json!({"server": "http://127.0.0.1:1"}), vec![("token", "a-token")], Code::SettingsInvalid, "no https URL"),
        (
            json!({"server": "https://127.0.0.1:1", "ca": "no PEM"}),
            vec![("token", "a-token")],
            Code::SettingsInvalid,
            "ca: no certificates",
        ),
        (json!({"server": "https://127.0.0.1:1", "prxy": "x"}), vec![("token", "a-token")], Code::SettingsInvalid, "prxy"),
        (json!({"server": "https://127.0.0.1:1", "context": "x"}), vec![("token", "a-token")], Code::SettingsInvalid, "`context`"),
        (server(), vec![], Code::CredentialsInvalid, "give one of"),
        (server(), vec![("token", "a-token"), ("certificate", certificate), ("private_key", key)], Code::CredentialsInvalid, "give one of"),
        (server(), vec![("certificate", certificate)], Code::CredentialsInvalid, "no `private_key`"),
        (server(), vec![("certificate", certificate), ("private_key", "no key")], Code::CredentialsInvalid, "can't be used"),
        (server(), vec![("token", "with\na line break")], Code::CredentialsInvalid, "can't be used"),
    ];
    for (settings, fields, expected, said) in cases {
        let run = tried(&cluster, cluster.connection_with(settings, &fields)).await;
        assert_eq!((run.outcome, code(&run)), (Outcome::Rejected, Some(expected)), "{said}: {run:?}");
        assert!(message(&run).contains(said), "{said}: {}", message(&run));
    }
}

#[tokio::test]
async fn a_job_without_a_connection_says_that_this_is_no_pod() {
    let cluster = Cluster::start().await;
    let work = cluster.executor.check("get", &json!({"kind": "Pod"})).unwrap().unwrap();
    let attempt = muster_executor::Attempt {
        agent_id: muster_schemas::names::AgentId::generate(),
        job_id: "job".parse().unwrap(),
        number: 1,
        timeout: Duration::from_secs(5),
    };
    let start = muster_executor::runner::Start { attempt, settings: Default::default(), connection: None, mask: Default::default() };
    let (context, _feed) = muster_executor::Context::new(Default::default());
    let run = muster_executor::runner::run(work, start, context).await;
    assert_eq!((run.outcome, code(&run)), (Outcome::Failed, Some(Code::ExecutorUnavailable)));
    assert!(message(&run).contains("names no connection"), "{run:?}");
}
