//! A certificate that is replaced while it is in use, and the TLS settings around it: TLS 1.3 only.
//!
//! Where certificates come from is for others to know. Those of files are read anew at each connect: see [`crate::nats::ClientCertificate`].

use std::sync::{Arc, PoisonError, RwLock};

use rustls::{
    ClientConfig, RootCertStore, ServerConfig, SignatureScheme,
    client::ResolvesClientCert,
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject as _},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
    version::TLS13,
};

/// A certificate and its key that can't be used.
#[derive(Debug, thiserror::Error)]
#[error("this certificate can't be used: {0}")]
pub struct CertificateError(String);

fn unfit(error: impl ToString) -> CertificateError {
    CertificateError(error.to_string())
}

/// The newest certificate; clones share it. Connections that are open go on with the one that they began with.
#[derive(Clone)]
pub struct Live(Arc<RwLock<Arc<CertifiedKey>>>);

impl std::fmt::Debug for Live {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Live")
    }
}

impl Live {
    /// Begins with this certificate (PEM, with those between it and the authority's) and its key (PKCS #8, DER).
    ///
    /// # Errors
    /// When they can't be read or do not belong together.
    pub fn new(certificate: &str, key: &[u8]) -> Result<Self, CertificateError> {
        Ok(Self(Arc::new(RwLock::new(certified(certificate, key)?))))
    }

    /// Takes another one into use, from the next handshake on.
    ///
    /// # Errors
    /// As [`Live::new`]; the old one stays in use then.
    pub fn replace(&self, certificate: &str, key: &[u8]) -> Result<(), CertificateError> {
        let fresh = certified(certificate, key)?;
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = fresh;
        Ok(())
    }

    fn newest(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Settings of an HTTP/1.1 server that shows this certificate and asks clients for none.
    ///
    /// # Errors
    /// Never, with the cryptography that is built in.
    pub fn server(&self) -> Result<Arc<ServerConfig>, CertificateError> {
        let builder = ServerConfig::builder_with_provider(provider()).with_protocol_versions(&[&TLS13]).map_err(unfit)?;
        let mut config = builder.with_no_client_auth().with_cert_resolver(Arc::new(self.clone()));
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }

    /// Settings of a client that shows this certificate, to servers of this authority (PEM).
    ///
    /// # Errors
    /// When the authority's certificate can't be read.
    pub fn client(&self, authority: &str) -> Result<ClientConfig, CertificateError> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(authority.as_bytes()) {
            roots.add(certificate.map_err(unfit)?).map_err(unfit)?;
        }
        if roots.is_empty() {
            return Err(unfit("there is no certificate of an authority in it"));
        }
        let builder = ClientConfig::builder_with_provider(provider()).with_protocol_versions(&[&TLS13]).map_err(unfit)?;
        Ok(builder.with_root_certificates(roots).with_client_cert_resolver(Arc::new(self.clone())))
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// Makes the cryptography that is built in the process's own, which clients need that are made without a word about it.
pub fn install_provider() {
    // An error means that there is one already, which does as well.
    let _already_set = ring::default_provider().install_default();
}

fn certified(certificate: &str, key: &[u8]) -> Result<Arc<CertifiedKey>, CertificateError> {
    let chain: Vec<_> = CertificateDer::pem_slice_iter(certificate.as_bytes()).collect::<Result<_, _>>().map_err(unfit)?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.to_vec()));
    let certified = CertifiedKey::from_der(chain, key, &ring::default_provider()).map_err(unfit)?;
    certified.keys_match().map_err(unfit)?;
    Ok(Arc::new(certified))
}

impl ResolvesServerCert for Live {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.newest())
    }
}

impl ResolvesClientCert for Live {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.newest())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use muster_broker_config::tls::{Authority, Key, Purpose};
    use muster_schemas::time::Timestamp;

    use super::*;

    const HOUR: std::time::Duration = std::time::Duration::from_secs(3600);

    fn pair(authority: &Authority) -> (String, Key) {
        let key = Key::generate().unwrap();
        (authority.issue("test", Purpose::Client, &key, HOUR, Timestamp::now()).unwrap(), key)
    }

    #[test]
    fn a_certificate_that_does_not_fit_its_key_is_refused_and_the_old_one_stays() {
        let key = Key::generate().unwrap();
        let authority = Authority::load(&key.to_pem(), &Authority::certify(&key, Timestamp::now()).unwrap()).unwrap();
        let ((first, first_key), (second, second_key)) = (pair(&authority), pair(&authority));
        let live = Live::new(&first, &first_key.to_der()).unwrap();
        let before = live.newest();
        for (certificate, key) in [(second.as_str(), &first_key), ("", &second_key), ("nonsense", &second_key)] {
            assert!(live.replace(certificate, &key.to_der()).is_err());
            assert!(Arc::ptr_eq(&before, &live.newest()));
        }
        assert!(live.replace(&second, b"no key").is_err());
        live.replace(&second, &second_key.to_der()).unwrap();
        assert!(!Arc::ptr_eq(&before, &live.newest()));
        assert!(live.client("nonsense").is_err(), "nobody to trust is no setting");
        assert!(live.client(authority.pem()).is_ok() && live.server().is_ok());
    }
}
