//! The certificate authority of a deployment, and the certificates that are made with its files.
//!
//! Keys stay; a certificate is made anew when it would say something else, or less than a third of its life is left.

use std::path::Path;

use muster_schemas::time::Timestamp;

use super::{InitError, config::TlsFiles, damaged};
use crate::{
    files,
    layout::{Layout, TlsPart},
    tls::{Authority, FILE_LIFETIME, Key, Purpose, Seen, TlsError, TlsName},
};

/// Makes what TLS takes, or completes it. `None` where it is neither wanted nor there.
pub(super) fn ensure(layout: &Layout, wanted: Option<&[TlsName]>, now: Timestamp) -> Result<Option<TlsFiles>, InitError> {
    if wanted.is_none() && files::read(&layout.ca_key())?.is_none() {
        return Ok(None);
    }
    if let Some(directory) = layout.ca_key().parent() {
        files::make_dir(directory)?;
    }
    let authority_key = key(&layout.ca_key())?;
    let authority = authority(layout, &authority_key, now)?;
    for part in TlsPart::ALL {
        files::replace(&layout.ca_of(part), authority.pem())?;
    }
    // The gateway signs with it.
    files::replace(&layout.tls_key(TlsPart::Gateway), &authority_key.to_pem())?;
    let names = names(&layout.tls_names(), wanted.unwrap_or_default())?;
    for (part, name, purpose) in
        [(TlsPart::Broker, "broker", Purpose::Server(names.as_slice())), (TlsPart::Dispatcher, "dispatcher", Purpose::Client)]
    {
        let key = key(&layout.tls_key(part))?;
        let make = || authority.issue(name, purpose, &key, FILE_LIFETIME, now);
        keep_or_make(&layout.tls_certificate(part), make, |seen| {
            seen.is_for(&key) && seen.is_signed_by(&authority) && seen.serves(purpose) && seen.is_fresh(now)
        })?;
    }
    // The server may be started in another directory than this.
    let absolute = |path: std::path::PathBuf| std::path::absolute(&path).map_err(files::failed("find", &path));
    Ok(Some(TlsFiles {
        certificate: absolute(layout.tls_certificate(TlsPart::Broker))?,
        key: absolute(layout.tls_key(TlsPart::Broker))?,
        authority: absolute(layout.ca_of(TlsPart::Broker))?,
    }))
}

/// Makes the client certificate of a service beside its credentials, or renews it there; for a year. `None` where TLS is off.
///
/// # Errors
/// See [`InitError`].
pub fn certify(layout: &Layout, name: &str, creds: &Path) -> Result<Option<Certified>, InitError> {
    if files::read(&layout.ca_key())?.is_none() {
        return Ok(None);
    }
    let now = Timestamp::now();
    let authority = authority(layout, &key(&layout.ca_key())?, now)?;
    let (certificate, key_path) = Layout::beside_creds(creds);
    let key = key(&key_path)?;
    let make = || authority.issue(name, Purpose::Client, &key, FILE_LIFETIME, now);
    keep_or_make(&certificate, make, |seen| {
        seen.is_for(&key) && seen.is_signed_by(&authority) && seen.serves(Purpose::Client) && seen.is_fresh(now)
    })?;
    Ok(Some(Certified { certificate, key: key_path }))
}

/// The files of a service's certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certified {
    /// The certificate.
    pub certificate: std::path::PathBuf,
    /// Its key.
    pub key: std::path::PathBuf,
}

/// Reads a key, or makes one where there is none.
fn key(path: &Path) -> Result<Key, InitError> {
    if let Some(pem) = files::read(path)?.map(zeroize::Zeroizing::new) {
        let key = Key::from_pem(&pem).map_err(|error| damaged(path, error))?;
        files::restrict(path)?;
        return Ok(key);
    }
    let key = Key::generate()?;
    files::replace(path, &key.to_pem())?;
    Ok(key)
}

/// The authority. Its certificate is made anew with the same key, so that those who have the old one go on trusting what it signs.
fn authority(layout: &Layout, key: &Key, now: Timestamp) -> Result<Authority, InitError> {
    let path = layout.ca();
    let pem = keep_or_make(&path, || Authority::certify(key, now), |seen| seen.is_fresh(now))?;
    Authority::load(&key.to_pem(), &pem).map_err(|error| damaged(&path, error))
}

/// The certificate in a file while it can stay, else a new one. A file that holds none is damaged.
fn keep_or_make(
    path: &Path,
    make: impl FnOnce() -> Result<String, TlsError>,
    stays: impl FnOnce(&Seen) -> bool,
) -> Result<String, InitError> {
    if let Some(pem) = files::read(path)? {
        let seen = Seen::read(&pem).map_err(|error| damaged(path, error))?;
        if stays(&seen) {
            return Ok(pem);
        }
    }
    let pem = make()?;
    files::replace(path, &pem)?;
    Ok(pem)
}

/// The names to use: the given ones and the usual ones, or those of the last time.
fn names(path: &Path, wanted: &[TlsName]) -> Result<Vec<TlsName>, InitError> {
    if let Some(text) = files::read(path)?.filter(|_| wanted.is_empty()) {
        return text.lines().map(|line| line.parse().map_err(|error| damaged(path, error))).collect();
    }
    let mut names = TlsName::defaults();
    names.extend(wanted.iter().cloned());
    names.sort();
    names.dedup();
    let text: String = names.iter().map(|name| format!("{name}\n")).collect();
    files::replace(path, &text)?;
    Ok(names)
}
