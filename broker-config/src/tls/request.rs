//! Requests for certificates, as agents make them: what of one is believed.
//!
//! Only that whoever made it has the private key of its public key. Anything else that it asks for is a reason to refuse it, rather than to
//! overlook it: whoever asks for more than it gets would go on with a wrong idea of what it has.

use rcgen::{CertificateParams, CertificateSigningRequestParams, DnType, DnValue, IsCa, PublicKey, PublicKeyData as _};

use super::TlsError;

/// The longest request that is looked at, in bytes of PEM. One with a key over P-256 has some 400.
const REQUEST_MAX: usize = 4096;

/// Why a request got no certificate.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// It is longer than any that is right.
    #[error("the request has {0} bytes; {REQUEST_MAX} are enough")]
    TooLong(usize),
    /// It is no request.
    #[error("it is no request for a certificate (PKCS #10, PEM): {0}")]
    Malformed(String),
    /// Whoever made it does not have the private key.
    #[error("its own signature does not hold")]
    Signature,
    /// It is for another identity.
    #[error("its subject must be empty or CN={0}")]
    Subject(String),
    /// It asks for something that is not in its gift.
    #[error("it asks for {0}; a request must not ask for anything")]
    Extension(&'static str),
    /// Its key is of another kind.
    #[error("its key must be one of ECDSA over P-256, or of Ed25519")]
    Key,
    /// It is in order, and could not be signed.
    #[error(transparent)]
    Sign(TlsError),
}

/// The public key of a request that is in order.
pub(super) fn check(pem: &str, name: &str) -> Result<PublicKey, RequestError> {
    if pem.len() > REQUEST_MAX {
        return Err(RequestError::TooLong(pem.len()));
    }
    let asked = CertificateSigningRequestParams::from_pem(pem).map_err(|error| match error {
        rcgen::Error::InvalidCertificationRequestSignature => RequestError::Signature,
        rcgen::Error::UnsupportedExtension => RequestError::Extension("something unknown"),
        error => RequestError::Malformed(error.to_string()),
    })?;
    subject(&asked.params, name)?;
    nothing_else(&asked.params)?;
    // The two numbers are the lengths of a point of P-256 and of an Ed25519 key: rcgen takes the algorithm of the signature for the key's.
    let (algorithm, length) = (asked.public_key.algorithm(), asked.public_key.der_bytes().len());
    let known = [(&rcgen::PKCS_ECDSA_P256_SHA256, 65), (&rcgen::PKCS_ED25519, 32)];
    if !known.contains(&(algorithm, length)) {
        return Err(RequestError::Key);
    }
    Ok(asked.public_key)
}

fn subject(asked: &CertificateParams, name: &str) -> Result<(), RequestError> {
    let mut fields = asked.distinguished_name.iter();
    let is_name = |value: &DnValue| match value {
        DnValue::Utf8String(text) => text == name,
        DnValue::PrintableString(text) => text.as_str() == name,
        DnValue::Ia5String(text) => text.as_str() == name,
        _ => false,
    };
    match (fields.next(), fields.next()) {
        (None, _) => Ok(()),
        (Some((DnType::CommonName, value)), None) if is_name(value) => Ok(()),
        _ => Err(RequestError::Subject(name.to_owned())),
    }
}

fn nothing_else(asked: &CertificateParams) -> Result<(), RequestError> {
    let wanted = [
        (!asked.subject_alt_names.is_empty(), "further names"),
        (asked.is_ca != IsCa::NoCa, "basic constraints"),
        (!asked.key_usages.is_empty(), "key usages"),
        (!asked.extended_key_usages.is_empty(), "extended key usages"),
    ];
    match wanted.into_iter().find(|(wants, _)| *wants) {
        Some((_, what)) => Err(RequestError::Extension(what)),
        None => Ok(()),
    }
}
