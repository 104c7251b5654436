//! The keys with which gateway and dispatcher sign jobs, and the first list of signers.

use std::path::Path;

use muster_schemas::{
    signature::{Scope, SignedSigners, Signer, Signers, TrustedSigner},
    time::Timestamp,
    wire::V,
};
use nkeys::KeyPair;
use zeroize::Zeroizing;

use super::{InitError, damaged};
use crate::{files, jwt::JwtError, layout::Layout};

/// Reads the keys, or makes them, writes the public ones down for the gateway, and signs the first list of signers with the gateway's.
pub(super) fn ensure(layout: &Layout, now: Timestamp) -> Result<SignedSigners, InitError> {
    let (gateway, dispatcher) = (keys(&layout.gateway_job_keys())?, keys(&layout.dispatcher_job_keys())?);
    let all = || gateway.iter().map(|key| ("gateway", key)).chain(dispatcher.iter().map(|key| ("dispatcher", key)));
    let lines: String = all().map(|(name, key)| format!("{name} {}\n", key.public_key())).collect();
    files::replace(&layout.control_plane_keys(), &lines)?;
    let trusted = |(name, key): (&str, &Signer)| TrustedSigner {
        key: key.public_key().into(),
        name: name.into(),
        scope: Scope::ControlPlane,
        added_at: now,
    };
    let list = Signers { v: V, serial: 1, signers: all().map(trusted).collect() };
    let signer = gateway.first().ok_or_else(|| damaged(&layout.gateway_job_keys(), "it holds no key"))?;
    Ok(list.sign(signer, now))
}

/// The keys of a file, one a line; where there is none, a new one.
fn keys(path: &Path) -> Result<Vec<Signer>, InitError> {
    if let Some(text) = files::read(path)?.map(Zeroizing::new) {
        files::restrict(path)?;
        let read = |line: &str| Signer::from_seed(line).ok_or_else(|| damaged(path, "a line of it holds no seed of a user (SU…)"));
        return text.lines().filter(|line| !line.trim().is_empty()).map(read).collect();
    }
    let seed = Zeroizing::new(KeyPair::new_user().seed().map_err(JwtError::Sign)?);
    files::replace(path, &Zeroizing::new(format!("{}\n", seed.as_str())))?;
    Ok(Signer::from_seed(&seed).into_iter().collect())
}
