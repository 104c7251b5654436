//! Muster's own certificate authority: making it, and signing certificates of servers, clients and agents.
//!
//! A certificate opens the line and says nothing about rights: those are in the JWT or the API key that is shown on it. Whatever a certificate
//! says is decided here; of a request only its public key is taken over. It touches no file: see [`crate::init`].

mod inspect;
mod names;
mod request;

use std::time::Duration;

use muster_schemas::{signature::SKEW_MAX, time::Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PublicKeyData,
};
use time::OffsetDateTime;
use zeroize::Zeroizing;

pub use inspect::Seen;
pub use names::{NameError, TlsName};
pub use request::RequestError;

/// How long the authority's own certificate lasts. Everybody has a copy of it, so it is meant to outlive what it signs by far.
pub const AUTHORITY_LIFETIME: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// How long certificates last that are made with the files of a deployment: the broker's, the dispatcher's, services'.
pub const FILE_LIFETIME: Duration = Duration::from_secs(365 * 24 * 3600);

/// A key or a certificate could not be made or read.
#[derive(Debug, thiserror::Error)]
#[error("cannot {doing}: {problem}")]
pub struct TlsError {
    /// What was tried.
    pub doing: &'static str,
    /// What is wrong. It never holds a key.
    pub problem: String,
}

fn failed<E: ToString>(doing: &'static str) -> impl FnOnce(E) -> TlsError {
    move |error| TlsError { doing, problem: error.to_string() }
}

/// A private key (ECDSA over P-256, which every TLS library has).
pub struct Key(KeyPair);

impl Key {
    /// Makes one.
    ///
    /// # Errors
    /// When the system has no randomness.
    pub fn generate() -> Result<Self, TlsError> {
        KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map(Self).map_err(failed("make a key"))
    }

    /// Reads one (PKCS #8, PEM).
    ///
    /// # Errors
    /// When it is none.
    pub fn from_pem(pem: &str) -> Result<Self, TlsError> {
        KeyPair::from_pem(pem).map(Self).map_err(failed("read a private key"))
    }

    /// As PKCS #8, PEM.
    pub fn to_pem(&self) -> Zeroizing<String> {
        Zeroizing::new(self.0.serialize_pem())
    }

    /// As PKCS #8, DER.
    pub fn to_der(&self) -> Zeroizing<Vec<u8>> {
        Zeroizing::new(self.0.serialize_der())
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key")
    }
}

/// What a certificate is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose<'a> {
    /// A server that is reached by these names.
    Server(&'a [TlsName]),
    /// A client.
    Client,
}

/// The authority: it signs.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Authority")
    }
}

impl Authority {
    /// Makes the certificate of an authority with this key.
    ///
    /// # Errors
    /// When it cannot be signed.
    pub fn certify(key: &Key, now: Timestamp) -> Result<String, TlsError> {
        let mut params = params("Muster CA", AUTHORITY_LIFETIME, now);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        Ok(params.self_signed(&key.0).map_err(failed("make the authority's certificate"))?.pem())
    }

    /// The authority with this key and certificate, both PEM.
    ///
    /// # Errors
    /// When they cannot be read, or do not belong together.
    pub fn load(key: &str, pem: &str) -> Result<Self, TlsError> {
        let key = Key::from_pem(key)?;
        let seen = Seen::read(pem)?;
        if !seen.is_for(&key) {
            return Err(TlsError { doing: "use the authority's certificate", problem: "it is for another key".into() });
        }
        let issuer = Issuer::from_ca_cert_pem(pem, key.0).map_err(failed("use the authority's certificate"))?;
        Ok(Self { issuer, pem: pem.to_owned() })
    }

    /// Its own certificate, PEM: what others check against.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// A certificate (PEM) for a key of ours, under a name for people.
    ///
    /// # Errors
    /// When it cannot be signed.
    pub fn issue(&self, name: &str, purpose: Purpose<'_>, key: &Key, lifetime: Duration, now: Timestamp) -> Result<String, TlsError> {
        self.sign(name, purpose, &key.0, lifetime, now)
    }

    /// A client's certificate (PEM) for whoever made this request (PKCS #10, PEM), under `name`.
    ///
    /// # Errors
    /// See [`RequestError`].
    pub fn answer(&self, request: &str, name: &str, lifetime: Duration, now: Timestamp) -> Result<String, RequestError> {
        let key = request::check(request, name)?;
        self.sign(name, Purpose::Client, &key, lifetime, now).map_err(RequestError::Sign)
    }

    fn sign(
        &self,
        name: &str,
        purpose: Purpose<'_>,
        key: &impl PublicKeyData,
        lifetime: Duration,
        now: Timestamp,
    ) -> Result<String, TlsError> {
        let mut params = params(name, lifetime, now);
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        match purpose {
            Purpose::Client => params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth],
            Purpose::Server(names) => {
                params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
                params.subject_alt_names = names.iter().map(TlsName::to_san).collect::<Result<_, _>>().map_err(failed("name a server"))?;
            }
        }
        Ok(params.signed_by(key, &self.issuer).map_err(failed("sign a certificate"))?.pem())
    }
}

/// Clocks differ: a certificate is good a little before it was made.
fn params(name: &str, lifetime: Duration, now: Timestamp) -> CertificateParams {
    let at = |secs: i64| OffsetDateTime::from_unix_timestamp(secs).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    let secs = |duration: Duration| i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
    let mut params = CertificateParams::default();
    params.not_before = at(now.secs().saturating_sub(secs(SKEW_MAX)));
    params.not_after = at(now.secs().saturating_add(secs(lifetime)));
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

#[cfg(test)]
mod tests;
