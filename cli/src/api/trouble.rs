//! Why a gateway can't be reached, and what to do about each cause.

use std::{error::Error, path::Path};

use anyhow::Context as _;
use reqwest::Certificate;
use rustls::CertificateError;

use crate::{failure::Failure, target::Target};

/// The certificates of a file that the gateway's one must be signed by.
pub(super) fn authorities(path: &Path) -> anyhow::Result<Vec<Certificate>> {
    let unfit = || format!("can't use the certificates in {}", path.display());
    let pem = std::fs::read(path).with_context(unfit)?;
    let certificates = Certificate::from_pem_bundle(&pem).with_context(unfit)?;
    if certificates.is_empty() {
        return Err(Failure::new(format!("{} holds no certificate", path.display()))
            .hint("--ca and MUSTER_CA take a file with certificates in PEM, as tls/ca.pem in the folder of `muster init`")
            .into());
    }
    Ok(certificates)
}

/// Of a request that had no answer.
pub(super) fn unreachable(target: &Target, error: &reqwest::Error) -> Failure {
    // The last cause is the one that says something ("connection refused").
    let mut cause: &dyn Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    let hint = match tls(error) {
        Some(rustls::Error::InvalidCertificate(reason)) => distrusted(target, reason),
        // Such as an answer in plain text.
        Some(rustls::Error::InvalidMessage(_)) => {
            format!("does it speak TLS? If it does not, its address is {}", swapped(&target.url, "https://", "http://"))
        }
        // Something took the connection, and then did not answer as HTTP does.
        None if error.is_request() && !error.is_connect() && target.url.starts_with("http://") => {
            format!("does it speak TLS? If it does, its address is {}", swapped(&target.url, "http://", "https://"))
        }
        _ => "is it running? `muster up` starts one on this machine".to_owned(),
    };
    Failure::new(format!("can't reach the gateway at {}: {cause}", target.url)).hint(hint)
}

fn swapped(url: &str, from: &str, to: &str) -> String {
    format!("{to}{}", url.strip_prefix(from).unwrap_or(url))
}

/// What TLS says, if it was that.
fn tls(error: &reqwest::Error) -> Option<&rustls::Error> {
    let mut cause = error.source()?;
    loop {
        if let Some(found) = cause.downcast_ref() {
            return Some(found);
        }
        // An I/O error does not name as its source what it was made of, which may be another one.
        let made_of = cause.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        cause = match made_of {
            Some(inner) => inner,
            None => cause.source()?,
        };
    }
}

/// What to do about a certificate of the gateway's that is not accepted.
fn distrusted(target: &Target, reason: &CertificateError) -> String {
    match (reason, &target.ca) {
        (CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. }, _) => {
            "its certificate is for other names than the one in --url; `muster init --tls --tls-name NAME` adds one".to_owned()
        }
        (CertificateError::Expired | CertificateError::ExpiredContext { .. }, _) => {
            "its certificate has run out; is the clock of this machine right?".to_owned()
        }
        (_, None) => "give the certificate of the authority that signed the gateway's: --ca FILE or MUSTER_CA, \
             such as tls/ca.pem in the folder of `muster init`"
            .to_owned(),
        (_, Some(path)) => {
            format!("the gateway's certificate is not signed by those in {}; give the right file with --ca or MUSTER_CA", path.display())
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use std::{path::PathBuf, sync::Arc};

    use muster_broker_config::{
        init::{Broker, InitOptions, init},
        layout::{Layout, TlsPart},
    };
    use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    use super::*;
    use crate::api::Api;

    /// What is said of an address behind which is nothing that answers.
    async fn failure(scheme: &str, listener: TcpListener, ca: Option<PathBuf>, serve: impl AsyncFn(tokio::net::TcpStream)) -> Failure {
        let url = format!("{scheme}://127.0.0.1:{}", listener.local_addr().unwrap().port());
        let api = Api::new(Target { url, api_key: None, ca }).unwrap();
        let served = async {
            loop {
                serve(listener.accept().await.unwrap().0).await;
            }
        };
        let error = tokio::select! {
            answer = api.get::<serde_json::Value>("/pools/x", &[]) => answer.unwrap_err(),
            () = served => unreachable!(),
        };
        error.downcast::<Failure>().unwrap()
    }

    async fn listener() -> TcpListener {
        TcpListener::bind("127.0.0.1:0").await.unwrap()
    }

    #[tokio::test]
    async fn http_where_tls_is_spoken_and_tls_where_it_is_not_name_the_other_address() {
        // A TLS alert, as a gateway sends it, and nothing at all.
        for answer in [&[0x15, 3, 3, 0, 2, 2, 10][..], &[]] {
            let failed = failure("http", listener().await, None, async |mut stream| {
                let _ = stream.read(&mut [0; 1024]).await;
                let _ = stream.write_all(answer).await;
            });
            let failed = failed.await;
            assert!(failed.hint.as_ref().unwrap().contains("https://127.0.0.1:"), "{failed:?}");
        }
        let failed = failure("https", listener().await, None, async |mut stream| {
            let _ = stream.read(&mut [0; 1024]).await;
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        });
        let failed = failed.await;
        assert!(failed.hint.as_ref().unwrap().contains("http://127.0.0.1:"), "{failed:?}");
    }

    #[tokio::test]
    async fn a_certificate_of_an_unknown_authority_leads_to_the_option_that_names_one() {
        let dir = tempfile::tempdir().unwrap();
        let made = |name: &str| {
            let broker = Broker { tls: Some(Vec::new()), ..Broker::local(None, dir.path().join("store")) };
            init(&dir.path().join(name), &InitOptions { broker, pool: "p".parse().unwrap() }).unwrap().layout
        };
        let (ours, other): (Layout, Layout) = (made("ours"), made("other"));
        let chain = vec![CertificateDer::from_pem_file(ours.tls_certificate(TlsPart::Broker)).unwrap()];
        let key = PrivateKeyDer::from_pem_file(ours.tls_key(TlsPart::Broker)).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let config = Arc::new(config.with_no_client_auth().with_single_cert(chain, key).unwrap());
        for (ca, named) in [(None, "--ca FILE or MUSTER_CA".to_owned()), (Some(other.ca()), other.ca().display().to_string())] {
            let failed = failure("https", listener().await, ca, async |stream| {
                let mut stream = stream.into_std().unwrap();
                stream.set_nonblocking(false).unwrap();
                let config = config.clone();
                let shake = move || rustls::ServerConnection::new(config).unwrap().complete_io(&mut stream).map(drop);
                let _ = tokio::task::spawn_blocking(shake).await;
            });
            let failed = failed.await;
            let hint = failed.hint.as_ref().unwrap();
            assert!(hint.contains(&named) && hint.contains("MUSTER_CA") && !hint.contains("muster up"), "{failed:?}");
        }
    }

    #[test]
    fn a_file_without_a_certificate_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for (text, what) in
            [("", "holds no certificate"), ("nothing\n", "holds no certificate"), ("-----BEGIN CERTIFICATE-----\n", "can't use")]
        {
            std::fs::write(file.path(), text).unwrap();
            let target = Target { url: "https://localhost".into(), api_key: None, ca: Some(file.path().to_owned()) };
            let said = Api::new(target).unwrap_err().to_string();
            assert!(said.contains(file.path().to_str().unwrap()) && said.contains(what), "{text}: {said}");
        }
    }
}
