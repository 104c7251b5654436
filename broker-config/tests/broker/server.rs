//! Finding, fetching, starting and stopping a server.

use std::time::Duration;

use muster_broker_config::{
    provision,
    server::{Places, Server, ServerError, Start, find_binary},
};
use muster_schemas::subjects::{About, broker};

use crate::support::{World, binary, pool};

#[tokio::test]
async fn what_was_stored_is_there_after_a_kill_and_a_restart_on_the_same_port() {
    let (mut world, gateway) = World::provisioned().await;
    let id = "j".parse().unwrap();
    gateway.store(&About::Result.job(&pool("p"), &id), "kept").await;
    let (url, pid) = (world.server.url(), world.server.pid());
    world.server.kill().await.unwrap();
    world.server.restart().await.unwrap();
    assert_eq!(world.server.url(), url);
    assert_ne!(world.server.pid(), pid);
    let gateway = world.gateway().await;
    assert_eq!(gateway.messages("RESULTS").await, 1);
    provision::provision_fixed(&gateway.client).await.unwrap();
    assert!(world.server.stop().await.unwrap().code().is_some());
}

#[tokio::test]
async fn a_config_that_the_server_refuses_is_shown_from_its_log() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("bad.conf");
    std::fs::write(&config, "port: 4222\nresolver: nonsense").unwrap();
    let error = Server::start(Start::new(binary().await, &config, dir.path())).await.unwrap_err();
    assert!(matches!(&error, ServerError::Ended { log, .. } if log.contains("resolver")), "{error}");
}

#[tokio::test]
async fn a_wrapper_that_execs_the_server_keeps_its_pid() {
    let world = World::start().await;
    let start = Start {
        wrapper: ["sh", "-c", "test \"$MARK\" = 1 && exec \"$0\" \"$@\""].map(Into::into).into(),
        env: vec![("MARK".into(), "1".into())],
        ready_within: Duration::from_secs(10),
        ..Start::new(binary().await, world.deployment.layout.server_config(), world.dir.path().join("second"))
    };
    let second = Server::start(start).await.unwrap();
    let name = std::fs::read_to_string(format!("/proc/{}/comm", second.pid())).unwrap();
    assert_eq!(name.trim(), "nats-server");
}

#[tokio::test]
async fn several_that_fetch_at_once_end_up_with_one_good_binary() {
    let dir = tempfile::tempdir().unwrap();
    let places = Places { cache: Some(dir.path().to_owned()), ..Places::default() };
    let found = futures_util::future::join_all((0..4).map(|_| find_binary(&places))).await;
    for path in found {
        assert_eq!(Some(path.unwrap()), places.cached());
    }
    let kept: Vec<_> = std::fs::read_dir(places.cached().unwrap().parent().unwrap()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(kept.len(), 2, "the binary and the lock: {kept:?}");
}

#[tokio::test]
async fn credentials_of_another_deployment_are_refused() {
    let (one, two) = (World::start().await, World::start().await);
    let creds = std::fs::read_to_string(one.deployment.layout.gateway_creds()).unwrap();
    let options = async_nats::ConnectOptions::with_credentials(&creds).unwrap().custom_inbox_prefix(broker::gateway_inbox("x"));
    assert!(options.connect(two.server.url()).await.is_err());
}
