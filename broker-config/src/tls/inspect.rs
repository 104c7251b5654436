//! What a certificate says that is there already: whether it can stay.

use std::{net::IpAddr, time::Duration};

use muster_schemas::time::Timestamp;
use rcgen::PublicKeyData as _;
use x509_parser::{
    certificate::X509Certificate,
    extensions::GeneralName,
    pem::parse_x509_pem,
    prelude::{FromDer as _, Pem},
};

use super::{Authority, Key, Purpose, TlsError, TlsName, failed};

/// A certificate that was read. Only the first of a file is looked at.
pub struct Seen(Pem);

impl std::fmt::Debug for Seen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Seen")
    }
}

impl Seen {
    /// Reads a certificate (PEM).
    ///
    /// # Errors
    /// When it is none.
    pub fn read(pem: &str) -> Result<Self, TlsError> {
        let (_, pem) = parse_x509_pem(pem.as_bytes()).map_err(failed("read a certificate"))?;
        X509Certificate::from_der(&pem.contents).map_err(failed("read a certificate"))?;
        Ok(Self(pem))
    }

    pub(super) fn with<T>(&self, look: impl FnOnce(&X509Certificate<'_>) -> T) -> Option<T> {
        X509Certificate::from_der(&self.0.contents).ok().map(|(_, certificate)| look(&certificate))
    }

    /// When it begins and ends to be good.
    pub fn validity(&self) -> Option<(Timestamp, Timestamp)> {
        self.with(|it| {
            let at = |time: x509_parser::time::ASN1Time| Timestamp::from_secs(time.timestamp());
            (at(it.validity().not_before), at(it.validity().not_after))
        })
    }

    /// Whether it is for the public half of this key.
    pub fn is_for(&self, key: &Key) -> bool {
        self.with(|it| it.public_key().subject_public_key.data.as_ref() == key.0.der_bytes()).unwrap_or(false)
    }

    /// Whether at least a third of its life is left.
    pub fn is_fresh(&self, now: Timestamp) -> bool {
        let Some((from, until)) = self.validity() else { return false };
        let (life, left) = (until.since(from), until.since(now));
        now >= from && left >= life / 3 && left > Duration::ZERO
    }

    /// Whether this authority signed it.
    pub fn is_signed_by(&self, authority: &Authority) -> bool {
        let Ok(by) = Self::read(authority.pem()) else { return false };
        by.with(|by| self.with(|it| it.issuer() == by.subject() && it.verify_signature(Some(by.public_key())).is_ok()))
            .flatten()
            .unwrap_or(false)
    }

    /// Whether it says what a certificate for this purpose would say now.
    pub fn serves(&self, purpose: Purpose<'_>) -> bool {
        self.with(|it| {
            let usage = it.extended_key_usage().ok().flatten().map(|usage| (usage.value.server_auth, usage.value.client_auth));
            match purpose {
                Purpose::Client => usage == Some((false, true)),
                Purpose::Server(wanted) => {
                    let (mut have, mut wanted) = (names(it), wanted.to_vec());
                    have.sort();
                    wanted.sort();
                    usage == Some((true, false)) && have == wanted
                }
            }
        })
        .unwrap_or(false)
    }
}

fn names(certificate: &X509Certificate<'_>) -> Vec<TlsName> {
    let Ok(Some(names)) = certificate.subject_alternative_name() else { return Vec::new() };
    let address = |bytes: &[u8]| -> Option<IpAddr> {
        <[u8; 4]>::try_from(bytes).map(IpAddr::from).or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
    };
    let name = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) => Some(TlsName::Dns((*name).to_owned())),
        GeneralName::IPAddress(bytes) => address(bytes).map(TlsName::Ip),
        _ => None,
    };
    names.value.general_names.iter().filter_map(name).collect()
}
