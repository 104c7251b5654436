//! Mutual TLS on a real server: who gets in, by NATS and by WebSocket, and that what `init` makes stays.

use std::{collections::BTreeMap, path::Path, time::Duration};

use async_nats::{Client, ConnectError, ConnectOptions};
use muster_broker_config::{
    init::{self, Endpoint},
    layout::{Layout, TlsPart},
    tls::{Authority, Key, Purpose, Seen, TlsName},
};
use muster_schemas::{subjects::broker, time::Timestamp};
use tempfile::TempDir;

use crate::support::{World, options};

const DAY: Duration = Duration::from_secs(24 * 3600);

async fn world() -> World {
    World::start_with(|broker| {
        broker.tls = Some(Vec::new());
        broker.websocket = Some(Endpoint { host: "127.0.0.1".into(), port: None });
    })
    .await
}

fn authority(layout: &Layout) -> Authority {
    let read = |path| std::fs::read_to_string(path).unwrap();
    Authority::load(&read(layout.ca_key()), &read(layout.ca())).unwrap()
}

/// Another deployment's.
fn stranger(now: Timestamp) -> Authority {
    let key = Key::generate().unwrap();
    Authority::load(&key.to_pem(), &Authority::certify(&key, now).unwrap()).unwrap()
}

/// Writes a certificate and its key into one file.
fn write(dir: &Path, name: &str, certificate: &str, key: &Key) -> std::path::PathBuf {
    let path = dir.join(name);
    std::fs::write(&path, format!("{certificate}{}", *key.to_pem())).unwrap();
    path
}

fn client(authority: &Authority, dir: &Path, name: &str, now: Timestamp) -> std::path::PathBuf {
    let key = Key::generate().unwrap();
    write(dir, name, &authority.issue(name, Purpose::Client, &key, DAY, now).unwrap(), &key)
}

async fn connect(world: &World, url: &str, certificate: Option<&Path>) -> Result<Client, ConnectError> {
    let layout = &world.deployment.layout;
    let options = ConnectOptions::with_credentials_file(layout.gateway_creds()).await.unwrap();
    let options = options.custom_inbox_prefix(broker::gateway_inbox("t")).add_root_certificates(layout.ca()).require_tls(true);
    match certificate {
        Some(file) => options.add_client_certificate(file.into(), file.into()).connect(url).await,
        None => options.connect(url).await,
    }
}

#[tokio::test]
async fn only_a_client_with_a_living_certificate_of_the_own_authority_gets_in_over_nats_and_over_websocket() {
    let world = world().await;
    let (dir, own, now) = (world.dir.path(), authority(&world.deployment.layout), Timestamp::now());
    let good = client(&own, dir, "good", now);
    let expired = client(&own, dir, "expired", now - DAY * 2);
    let not_yet = client(&own, dir, "not-yet", now + DAY * 2);
    let foreign = client(&stranger(now), dir, "foreign", now);
    let key = Key::generate().unwrap();
    let names = TlsName::defaults();
    let server = write(dir, "server", &own.issue("x", Purpose::Server(&names), &key, DAY, now).unwrap(), &key);
    // What a thief of the broker's listening socket sees of `wss` is the same handshake.
    let websocket = world.server.websocket_url().unwrap().replace("ws://", "wss://");
    assert!(websocket.starts_with("wss://"), "{websocket}");
    for url in [world.server.url(), format!("tls://localhost:{}", world.server.port()), websocket] {
        connect(&world, &url, Some(&good)).await.unwrap().flush().await.unwrap();
        for (what, file) in [
            ("none", None),
            ("expired", Some(&expired)),
            ("too early", Some(&not_yet)),
            ("foreign", Some(&foreign)),
            ("server", Some(&server)),
        ] {
            let refused = connect(&world, &url, file.map(|file| &**file)).await;
            assert!(refused.is_err(), "a client whose certificate is {what} got in at {url}");
        }
    }
}

#[tokio::test]
async fn a_certificate_gives_no_rights_and_a_stolen_line_to_another_server_is_noticed() {
    let world = world().await;
    let (layout, now) = (&world.deployment.layout, Timestamp::now());
    let good = client(&authority(layout), world.dir.path(), "good", now);
    // The certificate alone, without a JWT.
    let alone = ConnectOptions::new().add_root_certificates(layout.ca()).add_client_certificate(good.clone(), good.clone());
    assert!(alone.connect(world.server.url()).await.is_err());
    // A server of another authority.
    let other = world.dir.path().join("other.pem");
    std::fs::write(&other, stranger(now).pem()).unwrap();
    let options = ConnectOptions::with_credentials_file(layout.gateway_creds()).await.unwrap().add_root_certificates(other);
    assert!(options.add_client_certificate(good.clone(), good.clone()).connect(world.server.url()).await.is_err());
    // A name that the broker's certificate does not have.
    let options = ConnectOptions::with_credentials_file(layout.gateway_creds()).await.unwrap().add_root_certificates(layout.ca());
    let url = format!("tls://127.0.0.2:{}", world.server.port());
    assert!(options.add_client_certificate(good.clone(), good).connect(url).await.is_err());
}

#[tokio::test]
async fn an_older_tls_than_1_3_is_refused() {
    use rustls::{ClientConfig, RootCertStore, pki_types::CertificateDer, pki_types::pem::PemObject, version};
    let world = world().await;
    let layout = &world.deployment.layout;
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(layout.ca()).unwrap()).unwrap();
    let good = client(&authority(layout), world.dir.path(), "good", Timestamp::now());
    for (versions, gets_in) in [(&[&version::TLS12], false), (&[&version::TLS13], true)] {
        let certificate = vec![CertificateDer::from_pem_file(&good).unwrap()];
        let key = rustls::pki_types::PrivateKeyDer::from_pem_file(&good).unwrap();
        let config = ClientConfig::builder_with_protocol_versions(versions).with_root_certificates(roots.clone());
        let config = config.with_client_auth_cert(certificate, key).unwrap();
        let options = ConnectOptions::with_credentials_file(layout.gateway_creds()).await.unwrap();
        let connected = options.custom_inbox_prefix(broker::gateway_inbox("t")).tls_client_config(config).require_tls(true);
        assert_eq!(connected.connect(world.server.url()).await.is_ok(), gets_in, "{versions:?}");
    }
}

/// Every file with its content.
fn files(dir: &Path) -> BTreeMap<std::path::PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(dir).unwrap().map(Result::unwrap) {
        match entry.file_type().unwrap().is_dir() {
            true => found.extend(files(&entry.path())),
            false => drop(found.insert(entry.path(), std::fs::read(entry.path()).unwrap())),
        }
    }
    found
}

fn made(dir: &TempDir, tls: Option<Vec<TlsName>>) -> Layout {
    let mut options = options(dir);
    options.broker.tls = tls;
    init::init(&dir.path().join("deployment"), &options).unwrap().layout
}

#[test]
fn a_second_init_changes_no_byte_and_never_turns_tls_off() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    let layout = made(&dir, Some(vec!["broker.example.com".parse().unwrap()]));
    let first = files(layout.root());
    assert!(first.contains_key(&layout.ca_of(TlsPart::Agent)) && first.contains_key(&layout.tls_key(TlsPart::Gateway)));
    let of_agents: Vec<_> = first.keys().filter(|path| path.starts_with(layout.root().join("agent"))).collect();
    assert_eq!(of_agents.len(), 2, "agents get the join token and the authority's certificate, and no key: {of_agents:?}");
    for path in first.keys() {
        assert_eq!(std::fs::metadata(path).unwrap().permissions().mode() & 0o077, 0, "{}", path.display());
    }
    for tls in [None, Some(Vec::new())] {
        made(&dir, tls);
        assert_eq!(files(layout.root()), first);
    }
}

#[test]
fn a_certificate_near_its_end_or_with_other_names_is_made_anew_for_the_same_key() {
    let dir = tempfile::tempdir().unwrap();
    let layout = made(&dir, Some(Vec::new()));
    let authority = authority(&layout);
    let key = Key::from_pem(&std::fs::read_to_string(layout.tls_key(TlsPart::Broker)).unwrap()).unwrap();
    let path = layout.tls_certificate(TlsPart::Broker);
    let old = authority.issue("broker", Purpose::Server(&TlsName::defaults()), &key, DAY * 100, Timestamp::now() - DAY * 80).unwrap();
    std::fs::write(&path, &old).unwrap();
    made(&dir, None);
    let renewed = std::fs::read_to_string(&path).unwrap();
    assert_ne!(renewed, old);
    let name: TlsName = "nats.example.com".parse().unwrap();
    made(&dir, Some(vec![name.clone()]));
    let named = Seen::read(&std::fs::read_to_string(&path).unwrap()).unwrap();
    let all: Vec<_> = TlsName::defaults().into_iter().chain([name]).collect();
    assert!(named.is_for(&key) && named.is_signed_by(&authority) && named.serves(Purpose::Server(&all)));
    std::fs::write(&path, "no certificate").unwrap();
    let mut options = options(&dir);
    options.broker.tls = None;
    let error = init::init(layout.root(), &options).unwrap_err().to_string();
    assert!(error.contains("tls.pem") && error.contains("damaged"), "{error}");
}
