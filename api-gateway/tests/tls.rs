//! HTTPS and certificates: the gateway's own, renewed while it serves, and those of agents.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail by panicking")]

#[path = "stack/stack.rs"]
mod stack;

use std::{path::PathBuf, sync::Arc, time::Duration};

use async_nats::ConnectOptions;
use muster_broker_config::tls::Seen;
use muster_schemas::{
    control::{RenewAnswer, RenewRequest},
    names::AgentId,
    subjects,
    time::Timestamp,
    wire::{self, V},
};
use nkeys::KeyPair;
use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, SanType};
use reqwest::StatusCode;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
    version::{TLS12, TLS13},
};
use serde_json::Value;
use stack::{Gateway, Http, Stack, body, eventually, join, user};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

const SOON: Duration = Duration::from_secs(30);

async fn stack() -> Stack {
    Stack::start_with(|broker| broker.tls = Some(Vec::new())).await
}

/// The certificate that the gateway shows, in a handshake with these versions of TLS.
async fn shown(
    stack: &Stack,
    gateway: &Gateway,
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> std::io::Result<CertificateDer<'static>> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(stack.deployment.layout.ca()).unwrap()).unwrap();
    let config = ClientConfig::builder_with_protocol_versions(versions).with_root_certificates(roots).with_no_client_auth();
    let stream = TcpStream::connect(gateway.url.strip_prefix("https://").unwrap()).await?;
    let stream = TlsConnector::from(Arc::new(config)).connect(ServerName::try_from("localhost").unwrap(), stream).await?;
    Ok(stream.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned())
}

#[tokio::test]
async fn https_is_tls_1_3_with_a_certificate_of_the_deployment_and_nothing_else_is_answered() {
    let stack = stack().await;
    let gateway = stack.gateway(&[]).await;
    assert_eq!(stack.admin(&gateway).get("/api/v1/pools").await.status, StatusCode::OK);
    assert!(Http::new(&gateway.url, None).try_get("/healthz").await.is_none(), "the system does not know this authority");
    let plain = gateway.url.replace("https://", "http://");
    assert!(Http::new(&plain, None).try_get("/healthz").await.is_none());
    shown(&stack, &gateway, &[&TLS13]).await.unwrap();
    shown(&stack, &gateway, &[&TLS12]).await.unwrap_err();
    // A caller that says nothing or nonsense holds up nobody else.
    let _silent = TcpStream::connect(gateway.url.strip_prefix("https://").unwrap()).await.unwrap();
    let mut nonsense = TcpStream::connect(gateway.url.strip_prefix("https://").unwrap()).await.unwrap();
    nonsense.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let _ = nonsense.read_to_end(&mut answer).await;
    assert!(!String::from_utf8_lossy(&answer).contains("HTTP"), "{answer:?}");
    assert_eq!(gateway.anybody().get("/healthz").await.status, StatusCode::OK);
    gateway.stop().await;
}

#[tokio::test]
async fn a_gateway_renews_its_certificates_while_it_serves_and_outlives_its_first_ones() {
    let mut stack = stack().await;
    let gateway = stack.gateway(&[("certificate_lifetime", "5s")]).await;
    let until = |der: &CertificateDer<'_>| {
        let text = rustls_pem(der);
        Seen::read(&text).unwrap().validity().unwrap().1
    };
    let first = shown(&stack, &gateway, &[&TLS13]).await.unwrap();
    let over = until(&first);
    eventually("a second certificate, and the first one's end", SOON, async || {
        let now = shown(&stack, &gateway, &[&TLS13]).await.ok()?;
        (until(&now) > over && Timestamp::now() > over).then_some(())
    })
    .await;
    // The client certificate of its start is over too: the broker takes it back only with a fresh one.
    stack.server.restart().await.unwrap();
    eventually("a gateway that is ready again", SOON, async || {
        let admin = stack.admin(&gateway);
        admin.try_get("/api/v1/pools").await.filter(|answer| answer.status == StatusCode::OK).map(drop)
    })
    .await;
    gateway.stop().await;
}

fn rustls_pem(der: &CertificateDer<'_>) -> String {
    use base64::{Engine as _, prelude::BASE64_STANDARD};
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", BASE64_STANDARD.encode(der))
}

fn csr(key: &rcgen::KeyPair, change: impl FnOnce(&mut CertificateParams)) -> String {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    change(&mut params);
    params.serialize_request(key).unwrap().pem().unwrap()
}

fn with_csr(name: &str, public_key: &str, csr: &str) -> Value {
    let mut body = body(name);
    body["public_key"] = public_key.into();
    body["csr"] = csr.into();
    body
}

/// The files of an agent's certificate.
fn files(stack: &Stack, certificate: &Value, key: &rcgen::KeyPair) -> (PathBuf, PathBuf) {
    let path = |name: &str| stack.deployment.layout.root().join(name);
    std::fs::write(path("agent-test.pem"), certificate["chain"].as_str().unwrap()).unwrap();
    std::fs::write(path("agent-test.key"), key.serialize_pem()).unwrap();
    (path("agent-test.pem"), path("agent-test.key"))
}

#[tokio::test]
async fn an_agent_gets_a_certificate_for_its_request_connects_with_it_and_renews_it_over_nats() {
    let stack = stack().await;
    let gateway = stack.gateway(&[]).await;
    let (key, user) = (rcgen::KeyPair::generate().unwrap(), user());
    let registered = join(&gateway, &stack.join_token(), &with_csr("web-1", &user.public_key(), &csr(&key, |_| {}))).await;
    let registered = registered.data(201).clone();
    let certificate = &registered["certificate"];
    let ca = std::fs::read_to_string(stack.deployment.layout.ca()).unwrap();
    assert_eq!(certificate["authority"], ca.as_str());
    let until: Timestamp = serde_json::from_value(certificate["expires_at"].clone()).unwrap();
    let life = until.since(Timestamp::now());
    assert!(life > Duration::from_secs(23 * 3600) && life <= Duration::from_secs(24 * 3600), "{life:?}");
    let (chain, key_file) = files(&stack, certificate, &key);
    let id: AgentId = registered["agent_id"].as_str().unwrap().parse().unwrap();
    let connect = async |certified: bool| {
        let user = Arc::new(KeyPair::from_seed(&user.seed().unwrap()).unwrap());
        let sign = move |nonce: Vec<u8>| {
            let user = Arc::clone(&user);
            async move { user.sign(&nonce).map_err(async_nats::AuthError::new) }
        };
        let options = ConnectOptions::with_jwt(registered["jwt"].as_str().unwrap().to_owned(), sign);
        let options = options.custom_inbox_prefix(subjects::agent_inbox(&id)).add_root_certificates(stack.deployment.layout.ca());
        let options = if certified { options.add_client_certificate(chain.clone(), key_file.clone()) } else { options };
        options.connect(stack.server.url()).await
    };
    assert!(connect(false).await.is_err());
    let nats = connect(true).await.unwrap();
    let renew = async |csr: &str| -> RenewAnswer {
        let request = RenewRequest { v: V, public_key: user.public_key(), csr: Some(csr.to_owned()) };
        let answer = nats.request(subjects::renew(&id), wire::encode(&request).into()).await.unwrap();
        wire::decode(&answer.payload).unwrap()
    };
    let answer = renew(&csr(&key, |params| params.distinguished_name.push(DnType::CommonName, id.as_str()))).await;
    assert!(answer.jwt.is_some() && answer.certificate.unwrap().expires_at >= until);
    let refused = renew(&csr(&key, |params| params.distinguished_name.push(DnType::CommonName, "another"))).await;
    assert!(refused.jwt.is_none() && refused.error.unwrap().code.to_string() == "certificate_invalid");
    gateway.stop().await;
}

#[tokio::test]
async fn a_request_for_another_identity_or_for_more_is_refused_before_anything_is_made() {
    let stack = stack().await;
    let gateway = stack.gateway(&[]).await;
    let key = rcgen::KeyPair::generate().unwrap();
    let good = csr(&key, |_| {});
    let cases = [
        ("another identity", csr(&key, |params| params.distinguished_name.push(DnType::CommonName, "gateway"))),
        ("further names", csr(&key, |params| params.subject_alt_names = vec![SanType::DnsName("broker".try_into().unwrap())])),
        ("an authority", csr(&key, |params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained))),
        ("truncated", good[..good.len() / 2].to_owned()),
        ("oversize", format!("{good}{}", "x".repeat(10_000))),
        ("garbage", "garbage".to_owned()),
        ("empty", String::new()),
    ];
    for (what, csr) in &cases {
        let refused = join(&gateway, &stack.join_token(), &with_csr("web-1", &user().public_key(), csr)).await;
        assert_eq!((refused.status, refused.code()), (StatusCode::BAD_REQUEST, "certificate_invalid"), "{what}: {}", refused.text);
    }
    // The name is free: none of them left half an agent.
    let joined = join(&gateway, &stack.join_token(), &with_csr("web-1", &user().public_key(), &good)).await;
    assert!(joined.data(201)["certificate"]["chain"].is_string());
    // Who asks for none gets none; the broker will not let it in.
    assert!(join(&gateway, &stack.join_token(), &body("web-2")).await.data(201)["certificate"].is_null());
    gateway.stop().await;
}

#[tokio::test]
async fn without_tls_a_request_for_a_certificate_is_not_looked_at() {
    let stack = Stack::start().await;
    let gateway = stack.gateway(&[]).await;
    let joined = join(&gateway, &stack.join_token(), &with_csr("web-1", &user().public_key(), "garbage")).await;
    assert!(joined.data(201)["certificate"].is_null());
    gateway.stop().await;
}

#[tokio::test]
async fn a_health_check_needs_no_more_than_the_settings_of_the_gateway_that_it_asks() {
    for tls in [Some(Vec::new()), None] {
        let stack = Stack::start_with(|broker| broker.tls = tls).await;
        let gateway = stack.gateway(&[]).await;
        let address = gateway.url.split_once("://").unwrap().1.to_owned();
        let check = async || {
            let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_muster-gateway"));
            command.env_clear().env("MUSTER_GATEWAY_LISTEN", &address).env("MUSTER_DEPLOYMENT", stack.deployment.layout.root());
            command.arg("--check").output().await.unwrap()
        };
        let ready = check().await;
        assert!(ready.status.success(), "{}", String::from_utf8_lossy(&ready.stderr));
        gateway.stop().await;
        assert!(!check().await.status.success());
    }
}
