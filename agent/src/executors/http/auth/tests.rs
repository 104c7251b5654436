//! Where a connection's secret goes, and where it does not.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail by panicking")]

use std::sync::Arc;

use muster_executor::Context;
use muster_schemas::{connection::ConnectionKind, result::Outcome, sealed::Credentials, wire::V};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::super::tests::{
    local,
    site::{Reply, Seen, Site, text},
};
use super::*;
use crate::executors::{
    Execution,
    tests::{LONG, attempt, code},
};

fn connection(settings: Value, fields: &[(&str, &str)]) -> Connection {
    let fields = fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let credentials = Credentials { v: V, fields, shared: true, bound: None };
    Connection { name: "site".parse().unwrap(), kind: ConnectionKind::Http, settings, credentials }
}

/// Runs a job of this type over a connection.
async fn over(connection: &Connection, kind: &str, params: Value) -> Execution {
    let registry = local();
    registry.masks().replace(connection.credentials.secrets());
    let prepared = registry.check(kind, &params, Some(&connection.name)).unwrap();
    prepared.takes(&connection.name, connection.kind).unwrap();
    let (context, _feed) = Context::new(CancellationToken::new());
    registry.run(prepared, attempt(LONG), Some(connection.clone()), context).await
}

async fn get(connection: &Connection, site: &Site, params: Value) -> (Execution, Vec<Seen>) {
    site.during(over(connection, "http.request", params)).await
}

#[tokio::test]
async fn each_kind_of_credentials_arrives_and_what_the_server_repeats_of_it_is_masked() {
    let ways = [
        (json!({"auth": "basic"}), vec![("username", "ann"), ("password", "p4ssw0rd!")], "authorization", "Basic YW5uOnA0c3N3MHJkIQ=="),
        (json!({"auth": "bearer"}), vec![("token", "t0k3n-of-mine")], "authorization", "Bearer t0k3n-of-mine"),
        (json!({"auth": "header", "header": "X-Api-Key"}), vec![("value", "k3y-of-mine")], "x-api-key", "k3y-of-mine"),
    ];
    for (mut settings, fields, header, value) in ways {
        let answer = |seen: &Seen| {
            let said = ["authorization", "x-api-key"].iter().find_map(|name| seen.header(name)).unwrap_or("nobody").to_owned();
            text(200, &format!("X-You-Are: {said}\r\n"), &said)
        };
        let site = Site::new(answer).await;
        settings["base_url"] = site.url("/").into();
        let (execution, seen) = get(&connection(settings, &fields), &site, json!({"url": site.url("/a")})).await;
        assert_eq!((execution.outcome, seen[0].header(header)), (Outcome::Succeeded, Some(value)));
        let said = format!("{} {}", execution.stdout.to_text(), execution.data.unwrap());
        assert!(said.contains("***") && !fields.iter().any(|(name, secret)| *name != "username" && said.contains(secret)), "{said}");
        assert!(!said.contains("OnA0c3N3MHJkI"), "{said}");
    }
}

#[tokio::test]
async fn a_job_cannot_take_the_secret_elsewhere() {
    let site = Site::new(|_| text(200, "", "")).await;
    let api = connection(json!({"base_url": site.url("/api"), "auth": "bearer"}), &[("token", "t0k3n-of-mine")]);
    for url in [
        site.url("/"),
        site.url("/apis"),
        site.url("/api/../admin"),
        site.url("/api/%2e%2e/admin"),
        site.url("/api/..%2fadmin"),
        site.url("/api/x%5c..%5cadmin"),
        site.url("/api").replace("http:", "https:"),
        site.url("/api").replace("127.0.0.1", "localhost"),
        "http://evil.example/api/".to_owned(),
    ] {
        let (execution, seen) = get(&api, &site, json!({"url": url})).await;
        assert_eq!((execution.outcome, code(&execution), seen.len()), (Outcome::Rejected, Some(Code::ConnectionMismatch), 0), "{url}");
    }
    for url in [site.url("/api"), site.url("/api/"), site.url("/api/x/y?z=/../")] {
        let (execution, seen) = get(&api, &site, json!({"url": url})).await;
        assert_eq!((execution.outcome, seen[0].header("authorization")), (Outcome::Succeeded, Some("Bearer t0k3n-of-mine")), "{url}");
    }
    let own = json!({"url": site.url("/api"), "headers": {"authorization": "mine"}});
    let (execution, seen) = get(&api, &site, own).await;
    assert_eq!((code(&execution), seen.len()), (Some(Code::ParamsInvalid), 0));
}

#[tokio::test]
async fn a_redirect_takes_the_secret_no_further_than_the_connection_goes() {
    let other = Site::new(|_| text(200, "", "elsewhere")).await;
    let away = other.url("/x");
    let site = Site::new(move |seen| match seen.line.split(' ').nth(1).unwrap() {
        "/api/in" => text(302, "Location: /api/there\r\n", ""),
        "/api/up" => text(302, "Location: /other\r\n", ""),
        "/api/out" => text(302, &format!("Location: {away}\r\n"), ""),
        _ => text(200, "", ""),
    })
    .await;
    let api = connection(json!({"base_url": site.url("/api"), "auth": "bearer"}), &[("token", "t0k3n-of-mine")]);
    let follow = |path: &str| json!({"url": site.url(path), "follow_redirects": true});
    for (path, second) in [("/api/in", true), ("/api/up", false)] {
        let (execution, seen) = get(&api, &site, follow(path)).await;
        let sent: Vec<bool> = seen.iter().map(|seen| seen.header("authorization").is_some()).collect();
        assert_eq!((execution.outcome, sent), (Outcome::Succeeded, vec![true, second]), "{path}");
    }
    let ((execution, _), seen) = other.during(get(&api, &site, follow("/api/out"))).await;
    assert_eq!((execution.outcome, seen[0].header("authorization")), (Outcome::Succeeded, None));
}

#[tokio::test]
async fn a_client_certificate_is_shown_to_the_connections_server_alone() {
    let (server, authority) = site_with_certificates().await;
    let url = format!("https://localhost:{}/", server.port);
    let settings = json!({"base_url": url, "auth": "mtls", "ca": authority.pem});
    let (certificate, key) = authority.issue("agent");
    let own = connection(settings.clone(), &[("certificate", &certificate), ("private_key", &key)]);
    let execution = over(&own, "http.request", json!({"url": url})).await;
    assert_eq!((execution.outcome, &*execution.stdout.to_text()), (Outcome::Succeeded, "hello agent"), "{:?}", execution.error);
    // Somebody else's authority.
    let (certificate, key) = Authority::new().issue("agent");
    let stranger = connection(settings, &[("certificate", &certificate), ("private_key", &key)]);
    let execution = over(&stranger, "http.request", json!({"url": url})).await;
    assert_eq!(code(&execution), Some(Code::RequestFailed));
    let broken = connection(json!({"base_url": url, "auth": "mtls"}), &[("certificate", "x"), ("private_key", "y-of-mine")]);
    let execution = over(&broken, "http.request", json!({"url": url})).await;
    assert_eq!((execution.outcome, code(&execution)), (Outcome::Rejected, Some(Code::CredentialsInvalid)));
    assert!(!execution.error.unwrap().message.contains("y-of-mine"));
}

#[tokio::test]
async fn settings_and_credentials_that_do_not_fit_are_refused_by_name() {
    for (settings, fields, code_, word) in [
        (json!({}), vec![], Code::SettingsInvalid, "settings.base_url: is missing"),
        (json!({"base_url": "ftp://a/", "auth": "basic"}), vec![], Code::SettingsInvalid, "settings.base_url: scheme"),
        (json!({"base_url": "http://127.0.0.1/"}), vec![], Code::SettingsInvalid, "settings.auth: is missing"),
        (json!({"base_url": "http://127.0.0.1/", "auth": "digest"}), vec![], Code::SettingsInvalid, "`digest`"),
        (json!({"base_url": "http://127.0.0.1/", "auth": "header", "header": "Host"}), vec![], Code::SettingsInvalid, "settings.header"),
        (json!({"base_url": "http://127.0.0.1/", "auth": "bearer", "x": 1}), vec![], Code::SettingsInvalid, "settings.x: unknown"),
        (json!({"base_url": "http://127.0.0.1/", "auth": "bearer"}), vec![("value", "v")], Code::CredentialsInvalid, "no `token`"),
        (json!({"base_url": "http://127.0.0.1/", "auth": "bearer"}), vec![("token", "a\r\nX: b")], Code::CredentialsInvalid, "line breaks"),
    ] {
        let execution = over(&connection(settings, &fields), "http.request", json!({"url": "http://127.0.0.1/"})).await;
        let error = execution.error.unwrap();
        assert!(execution.outcome == Outcome::Rejected && error.code == code_ && error.message.contains(word), "{error:?}");
        assert!(error.message.contains("connection `site`"), "{error:?}");
    }
}

#[tokio::test]
async fn a_try_says_whether_the_server_takes_the_credentials() {
    let knows = |seen: &Seen| text(if seen.header("authorization") == Some("Bearer t0k3n-of-mine") { 204 } else { 401 }, "", "");
    let site = Site::new(knows).await;
    for (token, outcome) in [("t0k3n-of-mine", Outcome::Succeeded), ("another-token", Outcome::Failed)] {
        let tried = connection(json!({"base_url": site.url("/api"), "auth": "bearer"}), &[("token", token)]);
        let (execution, seen) = site.during(over(&tried, "probe.connection", json!({}))).await;
        assert_eq!((execution.outcome, &*seen[0].line), (outcome, "GET /api HTTP/1.1"));
    }
    let nowhere = Site::new(|_| Reply::Hang).await.url("/");
    let tried = connection(json!({"base_url": nowhere, "auth": "bearer"}), &[("token", "t0k3n-of-mine")]);
    assert_eq!(code(&over(&tried, "probe.connection", json!({})).await), Some(Code::RequestFailed));
}

/// Makes certificates.
struct Authority {
    issuer: rcgen::CertifiedIssuer<'static, rcgen::KeyPair>,
    pem: String,
}

impl Authority {
    fn new() -> Self {
        let mut params = rcgen::CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let issuer = rcgen::CertifiedIssuer::self_signed(params, rcgen::KeyPair::generate().unwrap()).unwrap();
        let pem = issuer.pem();
        Self { issuer, pem }
    }

    fn issue(&self, name: &str) -> (String, String) {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }
}

struct TlsSite {
    port: u16,
    _serving: tokio::task::JoinSet<()>,
}

/// A server that lets in only whom the authority knows, and greets by name.
async fn site_with_certificates() -> (TlsSite, Authority) {
    use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    let authority = Authority::new();
    let (certificate, key) = authority.issue("localhost");
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.pem.as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build().unwrap();
    let config = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()];
    let config = config.with_client_cert_verifier(verifier);
    let config = config.with_single_cert(chain, PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap()).unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = tokio::net::TcpListener::bind("localhost:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut serving = tokio::task::JoinSet::new();
    serving.spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            if !matches!(stream.read(&mut [0; 4096]).await, Ok(1..)) {
                continue;
            }
            let known = stream.get_ref().1.peer_certificates().is_some();
            let body = if known { "hello agent" } else { "hello stranger" };
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len());
            let _gone = stream.write_all(answer.as_bytes()).await;
            let _gone = stream.shutdown().await;
        }
    });
    (TlsSite { port, _serving: serving }, authority)
}
