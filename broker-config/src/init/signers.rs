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
    signing::{RETIRED, parse_keys},
};

/// Reads the keys, or makes them, writes the public ones down for the gateway, and signs the first list of signers with the gateway's.
pub(super) fn ensure(layout: &Layout, now: Timestamp) -> Result<SignedSigners, InitError> {
    let (gateway, dispatcher) = (keys(&layout.gateway_job_keys())?, keys(&layout.dispatcher_job_keys())?);
    let all = || gateway.iter().map(|key| ("gateway", key)).chain(dispatcher.iter().map(|key| ("dispatcher", key)));
    let mut lines: String = all().map(|(name, key)| format!("{name} {}\n", key.public_key())).collect();
    for key in retired(layout)? {
        if !lines.contains(&key) {
            lines.push_str(&format!("{RETIRED} {key}\n"));
        }
    }
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
    change(
        dir,
        |layout| Ok(files::replace(&layout.control_plane_keys(), "").map(drop)?),
        |path| {
            let text = Zeroizing::new(files::read(path)?.unwrap_or_default());
            let seed = Zeroizing::new(KeyPair::new_user().seed().map_err(JwtError::Sign)?);
            files::replace(path, &Zeroizing::new(format!("{}\n{}", seed.as_str(), text.as_str())))?;
            Ok(())
        },
    )
}

/// Removes all keys of gateway and dispatcher but the newest. What the others signed is refused once gateways have started anew.
///
/// # Errors
/// See [`InitError`].
pub fn drop_old_job_keys(dir: &Path) -> Result<(), InitError> {
    change(dir, retire, |path| {
        let text = Zeroizing::new(files::read(path)?.unwrap_or_default());
        let newest = text.lines().find(|line| !line.trim().is_empty()).ok_or_else(|| damaged(path, "it holds no key"))?;
        files::replace(path, &Zeroizing::new(format!("{newest}\n")))?;
        Ok(())
    })
}

/// Keys that were dropped in the last roll-over.
fn retired(layout: &Layout) -> Result<Vec<String>, InitError> {
    let text = files::read(&layout.control_plane_keys())?.unwrap_or_default();
    Ok(text.lines().filter_map(|line| line.strip_prefix(RETIRED)).map(|key| key.trim().to_owned()).collect())
}

/// Writes down that all keys there are now are dropped, but for those that the files still have.
fn retire(layout: &Layout) -> Result<(), InitError> {
    let text = files::read(&layout.control_plane_keys())?.unwrap_or_default();
    let lines: String = text.lines().filter_map(|line| line.split(' ').next_back()).map(|key| format!("{RETIRED} {key}\n")).collect();
    files::replace(&layout.control_plane_keys(), &lines)?;
    Ok(())
}

/// Changes both files of keys, and what follows from them.
fn change(
    dir: &Path,
    retire: impl Fn(&Layout) -> Result<(), InitError>,
    change: impl Fn(&Path) -> Result<(), InitError>,
) -> Result<(), InitError> {
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
    retire(&layout)?;
    let signers = ensure(&layout, Timestamp::now())?;
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
        signing::{read_control_plane, read_keys},
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
            let known = read_control_plane(&path).unwrap();
            assert!(known.len() == 4 && both.iter().all(|key| known.contains_key(key)));
        }
        drop_old_job_keys(&root).unwrap();
        assert_eq!(public(), both.get(..1).unwrap());
        let first = init(&root, &options).unwrap().bootstrap.signers;
        let known = read_control_plane(&layout.control_plane_keys()).unwrap();
        let names = both.iter().map(|key| known.get(key).map(String::as_str)).collect::<Vec<_>>();
        assert_eq!(names, [Some("gateway"), Some("retired")], "the list that is in use is still signed by the old one");
        let list = muster_schemas::signature::Signers::pin(&first).unwrap();
        roll_job_keys(&root).unwrap();
        assert!(!read_control_plane(&layout.control_plane_keys()).unwrap().values().any(|name| name == "retired"));
        assert!(both.first().is_some_and(|new| list.is_control_plane(new)) && old.first().is_some_and(|old| !list.is_control_plane(old)));
    }
}
