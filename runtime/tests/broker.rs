//! The connection to the broker, against a real nats-server in operator mode.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail by panicking")]

mod broker {
    pub(crate) mod server;
}

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use broker::server::{Server, User};
use muster_broker_config::tls::{Authority, Key};
use muster_runtime::{
    config::Secret,
    nats::{Broker, Connect, ConnectError, Identity, IdentityError, Login, Status},
};
use muster_schemas::time::Timestamp;

const DEADLINE: Duration = Duration::from_secs(20);

async fn eventually(broker: &Broker, condition: impl Fn(&Status) -> bool) -> Status {
    let waited = tokio::time::timeout(DEADLINE, broker.wait_for(condition)).await;
    waited.unwrap_or_else(|_| panic!("not within {DEADLINE:?}: {:?}", broker.status()))
}

fn connect(server: &Server, login: Login) -> Connect {
    Connect { login, ..Connect::new(vec![server.url()], "test") }
}

#[tokio::test]
async fn credentials_in_a_text_or_file_connect_and_the_version_is_good() {
    let server = Server::start();
    let creds = User::new().creds(&server);
    let file = server.dir().join("user.creds");
    std::fs::write(&file, &creds).unwrap();
    for login in [Login::Text(Secret::new(creds)), Login::File(file)] {
        let mut connect = connect(&server, login);
        connect.inbox_prefix = Some("_INBOX.me".to_owned());
        let broker = connect.connect().await.unwrap();
        assert!(broker.status().connected);
        assert_eq!(broker.status().connects, 1);
        assert!(broker.client().new_inbox().starts_with("_INBOX.me."));
        broker.check_version().await.unwrap();
    }
}

#[tokio::test]
async fn a_refused_login_is_an_error_that_says_so() {
    let server = Server::start();
    let login = Login::Text(Secret::new(User::new().creds_expiring(&server, Some(-10))));
    let error = connect(&server, login).connect().await.unwrap_err();
    assert!(matches!(error, ConnectError::Refused { .. }), "{error:?}");

    let missing = Login::File(server.dir().join("missing.creds"));
    let error = connect(&server, missing).connect().await.unwrap_err();
    assert!(error.to_string().contains("missing.creds"), "{error}");
}

#[tokio::test]
async fn an_identity_is_asked_for_at_each_connect_so_that_a_renewed_one_is_used() {
    let server = Server::start();
    let user = Arc::new(User::new());
    // The first identity expires soon, the second is expired, the third is good.
    let jwts = [user.jwt(&server, Some(2)), user.jwt(&server, Some(-10)), user.jwt(&server, Some(600))];
    let asked = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&asked);
    let login = Login::callback(move || {
        let (user, jwts) = (Arc::clone(&user), jwts.clone());
        let time = counted.fetch_add(1, Ordering::SeqCst);
        async move {
            let jwt = match time {
                0 => &jwts[0],
                1 | 2 => &jwts[1],
                3 => return Err(IdentityError::new("not now")),
                _ => &jwts[2],
            };
            Ok(Identity::new(jwt, move |nonce| user.sign(nonce).map_err(IdentityError::new)))
        }
    });
    let broker = connect(&server, login).connect().await.unwrap();
    assert_eq!(asked.load(Ordering::SeqCst), 1);

    let refused = eventually(&broker, |status| status.refusals > 0).await;
    assert!(!refused.connected);
    assert!(refused.last_refusal.is_some());
    let back = eventually(&broker, |status| status.connected).await;
    assert_eq!((back.connects, back.refusals, back.refusals_total), (2, 0, 2));
    assert_eq!(back.last_refusal, None);
    assert_eq!(asked.load(Ordering::SeqCst), 5);
}

#[tokio::test]
async fn a_broker_that_restarts_is_found_again_within_the_longest_delay() {
    let mut server = Server::start();
    let login = Login::Text(Secret::new(User::new().creds(&server)));
    let broker = connect(&server, login).connect().await.unwrap();
    server.kill();
    let lost = eventually(&broker, |status| !status.connected).await;
    assert_eq!(lost.refusals, 0);
    server.restart();
    let since = Instant::now();
    let back = eventually(&broker, |status| status.connected && status.connects == 2).await;
    assert!(back.since >= lost.since);
    assert!(since.elapsed() < Duration::from_secs(4), "{:?}", since.elapsed());
    broker.client().publish("a", "b".into()).await.unwrap();
    broker.client().flush().await.unwrap();
}

#[tokio::test]
async fn a_broker_without_tls_gets_no_login_of_whoever_says_whom_to_trust() {
    let server = Server::start();
    let user = Arc::new(User::new());
    let (jwt, asked) = (user.jwt(&server, None), Arc::new(AtomicU64::new(0)));
    let counted = Arc::clone(&asked);
    let login = Login::callback(move || {
        let (user, jwt) = (Arc::clone(&user), jwt.clone());
        counted.fetch_add(1, Ordering::SeqCst);
        async move { Ok(Identity::new(jwt, move |nonce| user.sign(nonce).map_err(IdentityError::new))) }
    });
    let key = Key::generate().unwrap();
    let authority = server.dir().join("ca.pem");
    std::fs::write(&authority, Authority::certify(&key, Timestamp::now()).unwrap()).unwrap();
    let mut trusting = connect(&server, login.clone());
    trusting.root_certificates = Some(authority);
    let refused = trusting.connect().await.unwrap_err();
    assert!(matches!(refused, ConnectError::Unreachable { .. }), "{refused:?}");
    assert_eq!(asked.load(Ordering::SeqCst), 0);
    connect(&server, login).connect().await.unwrap();
    assert_eq!(asked.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_process_may_start_before_its_broker() {
    let mut server = Server::start();
    let creds = User::new().creds(&server);
    server.kill();
    let mut connect = connect(&server, Login::Text(Secret::new(creds)));
    connect.retry_first = true;
    let broker = connect.connect().await.unwrap();
    assert!(!broker.status().connected);
    assert!(broker.server_info().is_none());
    server.restart();
    eventually(&broker, |status| status.connected).await;
    broker.check_version().await.unwrap();
}
