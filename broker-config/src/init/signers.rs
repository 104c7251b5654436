//! The keys with which gateway and dispatcher sign jobs, the first list of signers, and how the keys roll over.
//!
//! A roll-over has two steps, with a restart of each process after either: first a new key beside the old one, which agents then come to know from
//! the list that the old one signs; then, when nothing waits that the old one signed, without it.

use std::path::Path;

use muster_schemas::{
    signature::{Scope, SignedSigners, Signer, Signers, TrustedSigner},
    time::Timestamp,
    wire::V,
};
use nkeys::KeyPair;
use zeroize::Zeroizing;

use super::{InitError, damaged, secrets};
use crate::{
    files,
    jwt::JwtError,
    layout::Layout,
    signing::{ControlPlane, parse_keys},
};

/// Reads the keys, or makes them, writes the public ones down for the gateway, and signs the first list of signers with the gateway's.
pub(super) fn ensure(layout: &Layout, now: Timestamp) -> Result<SignedSigners, InitError> {
    let (gateway, dispatcher) = (keys(&layout.gateway_job_keys())?, keys(&layout.dispatcher_job_keys())?);
    let all = || gateway.iter().map(|key| ("gateway", key)).chain(dispatcher.iter().map(|key| ("dispatcher", key)));
    let mut known = written(layout)?;
    known.present = all().map(|(name, key)| (key.public_key().to_owned(), name.to_owned())).collect();
    let lines = known.text(now);
    for path in [layout.control_plane_keys(), layout.dispatcher_control_plane_keys()] {
        files::replace(&path, &lines)?;
    }
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

/// Adds a new key before those of gateway and dispatcher each. Gateways put it into the list of signers when they start next.
///
/// # Errors
/// See [`InitError`].
pub fn roll_job_keys(dir: &Path) -> Result<(), InitError> {
    change(dir, ControlPlane::age, |path| {
        let text = Zeroizing::new(files::read(path)?.unwrap_or_default());
        let seed = Zeroizing::new(KeyPair::new_user().seed().map_err(JwtError::Sign)?);
        files::replace(path, &Zeroizing::new(format!("{}\n{}", seed.as_str(), text.as_str())))?;
        Ok(())
    })
}

/// Removes all keys of gateway and dispatcher but the newest. What the others signed is refused once gateways have started anew.
///
/// # Errors
/// See [`InitError`].
pub fn drop_old_job_keys(dir: &Path) -> Result<(), InitError> {
    change(
        dir,
        |known| known.retire(Timestamp::now()),
        |path| {
            let text = Zeroizing::new(files::read(path)?.unwrap_or_default());
            let newest = text.lines().find(|line| !line.trim().is_empty()).ok_or_else(|| damaged(path, "it holds no key"))?;
            files::replace(path, &Zeroizing::new(format!("{newest}\n")))?;
            Ok(())
        },
    )
}

/// The keys that are written down, those of earlier roll-overs among them. None before the first time.
fn written(layout: &Layout) -> Result<ControlPlane, InitError> {
    let path = layout.control_plane_keys();
    ControlPlane::parse(&files::read(&path)?.unwrap_or_default()).map_err(|problem| damaged(&path, problem))
}

/// Changes both files of keys, and what follows from them.
fn change(dir: &Path, past: impl Fn(&mut ControlPlane), change: impl Fn(&Path) -> Result<(), InitError>) -> Result<(), InitError> {
    let layout = Layout::new(dir);
    let paths = [layout.gateway_job_keys(), layout.dispatcher_job_keys()];
    for path in &paths {
        if files::read(path)?.is_none() {
            return Err(damaged(
                path,
                "there is no such file: no deployment is here, or it is one from before jobs were signed (`muster init`)",
            ));
        }
    }
    let _lock = files::lock(&layout.lock())?;
    for path in &paths {
        keys(path)?;
        change(path)?;
    }
    let now = Timestamp::now();
    let mut known = written(&layout)?;
    past(&mut known);
    files::replace(&layout.control_plane_keys(), &known.text(now))?;
    let signers = ensure(&layout, now)?;
    secrets::keep_signers(&layout, signers)
}

/// The keys of a file, one a line; where there is none, a new one.
fn keys(path: &Path) -> Result<Vec<Signer>, InitError> {
    if let Some(text) = files::read(path)?.map(Zeroizing::new) {
        files::restrict(path)?;
        return parse_keys(&text).map_err(|problem| damaged(path, problem));
    }
    let seed = Zeroizing::new(KeyPair::new_user().seed().map_err(JwtError::Sign)?);
    files::replace(path, &Zeroizing::new(format!("{}\n", seed.as_str())))?;
    Ok(Signer::from_seed(&seed).into_iter().collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use crate::{
        init::{Broker, InitOptions, drop_old_job_keys, init, roll_job_keys},
        signing::{ControlPlane, read_keys},
    };

    #[test]
    fn keys_roll_over_in_two_steps_and_a_new_broker_begins_with_the_newest() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("deployment");
        assert!(roll_job_keys(&root).is_err(), "there is nothing to roll over");
        let options = InitOptions { broker: Broker::local(None, dir.path().join("store")), pool: "p".parse().unwrap() };
        let layout = init(&root, &options).unwrap().layout;
        let public = || read_keys(&layout.gateway_job_keys()).unwrap().iter().map(|key| key.public_key().to_owned()).collect::<Vec<_>>();
        let old = public();
        roll_job_keys(&root).unwrap();
        let both = public();
        assert_eq!((both.len(), both.last()), (2, old.last()), "the new one comes first");
        for path in [layout.control_plane_keys(), layout.dispatcher_control_plane_keys()] {
            let known = ControlPlane::read(&path).unwrap();
            assert!(known.present.len() == 4 && both.iter().all(|key| known.present.contains_key(key)));
        }
        drop_old_job_keys(&root).unwrap();
        assert_eq!(public(), both.get(..1).unwrap());
        let first = init(&root, &options).unwrap().bootstrap.signers;
        let retired = |key: Option<&String>| {
            let known = ControlPlane::read(&layout.control_plane_keys()).unwrap();
            key.and_then(|key| known.retired.get(key).copied())
        };
        assert_eq!(retired(both.first()), None);
        let dropped = retired(old.first()).unwrap();
        assert!(dropped.lists, "the list that is in use is still signed by the old one");
        let list = muster_schemas::signature::Signers::pin(&first).unwrap();
        roll_job_keys(&root).unwrap();
        assert_eq!(retired(old.first()).map(|old| (old.until, old.lists)), Some((dropped.until, false)), "its results are still kept");
        assert!(both.first().is_some_and(|new| list.is_control_plane(new)) && old.first().is_some_and(|old| !list.is_control_plane(old)));
    }
}
