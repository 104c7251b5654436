//! The agent's client certificate, where the deployment has TLS on: its key, made here and kept here, the request for a certificate, and the
//! newest one with the authority's.
//!
//! They lie in the state directory as files, which the connection reads anew at each connect; so a renewed one needs no restart. What the
//! certificate says is the gateway's to decide, and what it is good for the broker's.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use muster_runtime::nats::ClientCertificate;
use muster_schemas::{api, signature::SKEW_MAX, time::Timestamp};
use rcgen::{CertificateParams, DistinguishedName, KeyPair};
use x509_parser::{parse_x509_certificate, pem::parse_x509_pem};

use super::file::{FileError, read_private, write_private};

/// The private key.
const KEY: &str = "tls.key";
/// The certificate.
const CERTIFICATE: &str = "tls.pem";
/// The certificate of the authority that signed it, and the broker's.
const AUTHORITY: &str = "tls-ca.pem";
/// All of them.
pub(crate) const FILES: [&str; 3] = [KEY, CERTIFICATE, AUTHORITY];

/// The certificate and its key; clones share them.
#[derive(Debug, Clone)]
pub(crate) struct Certificates(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state_dir: PathBuf,
    /// Set while the gateway gives none, so that it is not asked again and again.
    none_given: AtomicBool,
}

impl Certificates {
    /// Those of this state directory.
    pub(crate) fn new(state_dir: &Path) -> Self {
        Self(Arc::new(Shared { state_dir: state_dir.to_owned(), none_given: AtomicBool::new(false) }))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.state_dir.join(name)
    }

    /// A request for a certificate (PKCS #10, PEM) that names nobody: who asks is said by what it is sent with. Makes the key where there is none.
    pub(crate) fn request(&self) -> Option<String> {
        self.try_request().inspect_err(|error| tracing::error!(error, "can't ask for a certificate")).ok()
    }

    fn try_request(&self) -> Result<String, String> {
        let text = |error: FileError| muster_runtime::process::chain(&error.into());
        let unfit = |error: rcgen::Error| format!("{}: {error}", self.path(KEY).display());
        let key = match read_private(&self.path(KEY)).map_err(text)? {
            Some(pem) => KeyPair::from_pem(&String::from_utf8_lossy(&pem)).map_err(unfit)?,
            None => {
                let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(unfit)?;
                write_private(&self.path(KEY), zeroize::Zeroizing::new(key.serialize_pem()).as_bytes()).map_err(text)?;
                key
            }
        };
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.serialize_request(&key).and_then(|request| request.pem()).map_err(unfit)
    }

    /// Takes what the gateway gave, if it gave one, for the next connect.
    pub(crate) fn keep(&self, given: Option<&api::Certificate>) {
        self.0.none_given.store(given.is_none(), Ordering::Relaxed);
        let Some(given) = given else { return };
        // The authority's first: a certificate without it is of no use.
        let written = write_private(&self.path(AUTHORITY), given.authority.as_bytes())
            .and_then(|()| write_private(&self.path(CERTIFICATE), given.chain.as_bytes()));
        match written {
            Ok(()) => tracing::info!(expires_at = %given.expires_at, "got a certificate"),
            Err(error) => tracing::error!(error = %muster_runtime::process::chain(&error.into()), "can't keep the certificate"),
        }
    }

    /// The authority's certificate, and what is shown to the broker; nothing where there is no certificate.
    pub(crate) fn for_broker(&self) -> Option<(PathBuf, ClientCertificate)> {
        let [key, certificate, authority] = FILES.map(|name| self.path(name));
        (key.exists() && certificate.exists() && authority.exists()).then_some((authority, ClientCertificate::Files { certificate, key }))
    }

    /// Whether there is one whose time is over, by this machine's clock.
    pub(crate) fn is_expired(&self, now: Timestamp) -> bool {
        self.validity().is_some_and(|(_, until)| now >= until)
    }

    /// Whether there is none.
    pub(crate) fn is_missing(&self) -> bool {
        self.for_broker().is_none()
    }

    /// How long until it is renewed, at two thirds of its life; `None` where there is none to renew.
    pub(crate) fn due_in(&self, now: Timestamp) -> Option<Duration> {
        if self.0.none_given.load(Ordering::Relaxed) {
            return None;
        }
        let (from, until) = self.validity()?;
        // It begins that much before it was made, for clocks that differ.
        let life = until.since(from).saturating_sub(SKEW_MAX);
        Some((until - life / 3).since(now))
    }

    fn validity(&self) -> Option<(Timestamp, Timestamp)> {
        let pem = read_private(&self.path(CERTIFICATE)).ok()??;
        let (_, pem) = parse_x509_pem(&pem).ok()?;
        let (_, certificate) = parse_x509_certificate(&pem.contents).ok()?;
        let at = |time: x509_parser::time::ASN1Time| Timestamp::from_secs(time.timestamp());
        Some((at(certificate.validity().not_before), at(certificate.validity().not_after)))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use std::os::unix::fs::PermissionsExt as _;

    use muster_broker_config::tls::{Authority, Key};

    use super::*;

    const LIFE: Duration = Duration::from_secs(3600);

    fn authority(now: Timestamp) -> Authority {
        let key = Key::generate().unwrap();
        Authority::load(&key.to_pem(), &Authority::certify(&key, now).unwrap()).unwrap()
    }

    fn given(authority: &Authority, request: &str, now: Timestamp) -> api::Certificate {
        let chain = authority.answer(request, "agt_1", LIFE, now).unwrap();
        api::Certificate { chain, authority: authority.pem().to_owned(), expires_at: now + LIFE }
    }

    #[test]
    fn the_key_is_made_once_for_its_owner_only_and_its_certificate_is_renewed_at_two_thirds() {
        let (dir, now) = (tempfile::tempdir().unwrap(), Timestamp::from_secs(1_800_000_000));
        let (certificates, authority) = (Certificates::new(dir.path()), authority(now));
        assert!(certificates.is_missing() && !certificates.is_expired(now));
        assert_eq!(certificates.due_in(now), None);
        let request = certificates.request().unwrap();
        let key = std::fs::read(dir.path().join(KEY)).unwrap();
        assert_eq!(std::fs::metadata(dir.path().join(KEY)).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(!request.contains("PRIVATE"));
        certificates.keep(Some(&given(&authority, &request, now)));
        assert!(!certificates.is_missing());
        assert_eq!(certificates.due_in(now), Some(LIFE * 2 / 3));
        assert_eq!(certificates.due_in(now + LIFE * 2 / 3), Some(Duration::ZERO));
        assert!(!certificates.is_expired(now + LIFE / 2) && certificates.is_expired(now + LIFE));
        let again = Certificates::new(dir.path());
        certificates.keep(Some(&given(&authority, &again.request().unwrap(), now + LIFE / 2)));
        assert_eq!(std::fs::read(dir.path().join(KEY)).unwrap(), key);
        assert!(!again.is_expired(now + LIFE));
    }

    #[test]
    fn a_gateway_that_gives_none_is_not_asked_on_and_on_and_what_is_there_stays() {
        let (dir, now) = (tempfile::tempdir().unwrap(), Timestamp::from_secs(1_800_000_000));
        let certificates = Certificates::new(dir.path());
        let request = certificates.request().unwrap();
        certificates.keep(Some(&given(&authority(now), &request, now)));
        certificates.keep(None);
        assert_eq!(certificates.due_in(now + LIFE), None);
        assert!(!certificates.is_missing());
    }

    #[test]
    fn a_key_that_others_may_read_is_not_used() {
        let dir = tempfile::tempdir().unwrap();
        let certificates = Certificates::new(dir.path());
        certificates.request().unwrap();
        std::fs::set_permissions(dir.path().join(KEY), std::fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(certificates.request(), None);
    }
}
