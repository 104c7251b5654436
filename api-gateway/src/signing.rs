//! What this gateway signs with, and the list of signers as it follows it.
//!
//! Every job that it publishes is signed, and so are results that it stores itself. At its start it makes the list say what the file with
//! the control plane's keys says, which is how keys roll over. Services' keys come and go by the endpoints in [`crate::signers`].
//! How keys and list go together is in [`muster_broker_config::signing`].

use anyhow::Context as _;
use async_nats::jetstream::kv;
use muster_broker_config::signing::{ListError, Present, Signing};
use muster_client::atomic::Outgoing;
use muster_schemas::{
    code::Code,
    headers,
    signature::{SIGNERS_KEY, Scope, Signed, SignedSigners, Signers, TrustedSigner},
    time::Timestamp,
    wire::{self, Body as _},
};

use crate::{
    app::{
        App,
        mirror::{Change, watch::watch},
    },
    problem::ApiError,
};

/// The check of `/readyz` that fails while agents trust none of this gateway's keys.
pub(crate) const CHECK: &str = "signing";
/// How often a change is tried again after somebody else's.
const TRIES: usize = 20;

/// Signs jobs that are published together, into their headers.
///
/// # Errors
/// `signing_unavailable`.
pub(crate) fn sign_jobs(signing: &Signing, jobs: &mut [Outgoing]) -> Result<(), ApiError> {
    let fresh = |job: &Outgoing| job.headers.get(headers::FRESH).is_some();
    let unsigned: Vec<_> = jobs.iter().map(|job| job.unsigned(Signed::Job { fresh: fresh(job) })).collect();
    let signatures = signing.sign_all(&unsigned).ok_or_else(|| unavailable(signing))?;
    for (job, signature) in jobs.iter_mut().zip(signatures) {
        job.headers.insert(headers::SIGNATURE, signature.to_string());
    }
    Ok(())
}

/// Why nothing can be signed.
fn unavailable(signing: &Signing) -> ApiError {
    let why = signing.check().err().unwrap_or_else(|| "agents trust none of this gateway's keys".into());
    ApiError::new(Code::SigningUnavailable, why)
}

/// Follows the list, for ever.
pub(crate) async fn follow(app: App) -> anyhow::Result<()> {
    let take = |change| match change {
        Change::Put { key, value, .. } if key == SIGNERS_KEY => take(&app, &value),
        Change::Deleted { key, .. } if key == SIGNERS_KEY => tracing::error!("the list of signers was deleted; going on with the last one"),
        _ => {}
    };
    watch(&app.broker, &app.buckets.trust, take).await
}

fn take(app: &App, value: &[u8]) {
    match app.signing.take(value) {
        Ok(()) => tracing::debug!("the list of signers is taken over"),
        Err(error) => tracing::error!(%error, "the list of signers in the bucket is not taken over"),
    }
}

/// The list as it is in the bucket, and its revision there.
async fn held(bucket: &kv::Store, signing: &Signing) -> Result<(Present, u64), ApiError> {
    let entry = bucket.entry(SIGNERS_KEY).await.map_err(|error| ApiError::broker("read the list of signers", error))?;
    let entry = entry.filter(|entry| entry.operation == kv::Operation::Put);
    let missing = || ApiError::new(Code::SigningUnavailable, "there is no list of signers in the bucket `trust`");
    let entry = entry.ok_or_else(missing)?;
    match signing.read(&entry.value) {
        Ok(present) => Ok((present, entry.revision)),
        // What the bucket has now is newer than what this change began with.
        Err(ListError::Older { .. }) => Err(ApiError::broker("give the newest list of signers", "it is older than the one known here")),
        Err(error) => Err(ApiError::new(Code::SigningUnavailable, error.to_string())),
    }
}

/// The list as it is in the bucket.
///
/// # Errors
/// `signing_unavailable`, or `broker_unavailable`.
pub(crate) async fn now(bucket: &kv::Store, signing: &Signing) -> Result<Signers, ApiError> {
    held(bucket, signing).await.map(|(present, _)| present.list)
}

/// Changes the list: `change` is given the present one and answers whether it changed anything. Answers the list as it is then.
///
/// # Errors
/// What `change` says, `signing_unavailable`, or `broker_unavailable`.
pub(crate) async fn change(
    bucket: &kv::Store,
    signing: &Signing,
    mut change: impl FnMut(&mut Signers) -> Result<bool, ApiError>,
) -> Result<Signers, ApiError> {
    for _ in 0..TRIES {
        let (present, revision) = held(bucket, signing).await?;
        let mut next = present.list.clone();
        if !change(&mut next)? {
            return Ok(next);
        }
        next.serial = present.list.serial + 1;
        let signer = signing.of_list(&present.list, &next).ok_or_else(|| unavailable(signing))?;
        let body = wire::encode(&next.sign(signer, Timestamp::now()));
        if body.len() > SignedSigners::LIMIT {
            let detail = format!("the list of signers would have {} bytes; it may have {}", body.len(), SignedSigners::LIMIT);
            return Err(ApiError::new(Code::FieldInvalid, detail));
        }
        match bucket.update(SIGNERS_KEY, body.clone().into(), revision).await {
            Ok(_) => {
                // Its own change counts at once here, without the way over the bucket.
                if let Err(error) = signing.take(&body) {
                    tracing::debug!(%error, "a newer list is known already");
                }
                return Ok(next);
            }
            Err(error) if error.kind() == kv::UpdateErrorKind::WrongLastRevision => {}
            Err(error) => return Err(ApiError::broker("store the list of signers", error)),
        }
    }
    Err(ApiError::broker("store the list of signers", "others kept changing it"))
}

/// Makes the list have exactly those keys of gateways and dispatchers that were written down for this one, and knows it from then on.
///
/// A gateway that cannot do so serves all the same, and says on `/readyz` what is missing.
///
/// # Errors
/// When the broker does not answer.
pub(crate) async fn reconcile(bucket: &kv::Store, signing: &Signing) -> anyhow::Result<()> {
    let entry = bucket.entry(SIGNERS_KEY).await.context("cannot read the list of signers")?;
    if let Some(entry) = entry.filter(|entry| entry.operation == kv::Operation::Put)
        && let Err(error) = signing.take(&entry.value)
    {
        tracing::error!(%error, "the list of signers in the bucket is not taken over");
    }
    if signing.control_plane().is_empty() || signing.check().is_err() {
        return Ok(());
    }
    let before = signing.present().map(|present| present.list.serial);
    match change(bucket, signing, |list| Ok(roll(list, signing, Timestamp::now()))).await {
        Ok(list) if before != Some(list.serial) => {
            tracing::info!(serial = list.serial, "the list of signers follows the control plane's keys")
        }
        Ok(_) => {}
        Err(error) => tracing::error!(%error, "the list of signers does not follow the control plane's keys"),
    }
    Ok(())
}

/// Whether anything had to be changed.
fn roll(list: &mut Signers, signing: &Signing, now: Timestamp) -> bool {
    let wanted = signing.control_plane();
    let before = list.signers.clone();
    list.signers.retain(|signer| signer.scope != Scope::ControlPlane || wanted.contains_key(&signer.key));
    for (key, name) in wanted {
        if !list.is_control_plane(key) {
            // One that was a service's before is that no longer.
            list.signers.retain(|signer| signer.key != *key);
            list.signers.push(TrustedSigner { key: key.clone(), name: name.clone(), scope: Scope::ControlPlane, added_at: now });
        }
    }
    list.signers != before
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use muster_schemas::{signature::Signer, wire::V};

    use super::*;

    #[test]
    fn a_roll_over_adds_and_removes_keys_of_the_control_plane_and_leaves_those_of_services() {
        let now = Timestamp::from_secs(1_800_000_000);
        let trusted = |key: &str, scope| TrustedSigner { key: key.into(), name: "n".into(), scope, added_at: now };
        let keys: Vec<String> = (0..3).map(|_| Signer::generate().public_key().to_owned()).collect();
        let [old, new, service] = keys.as_slice() else { return };
        let mut list =
            Signers { v: V, serial: 1, signers: vec![trusted(old, Scope::ControlPlane), trusted(service, Scope::Pools([].into()))] };
        let both = Signing::new(Vec::new(), BTreeMap::from([(old.clone(), "gateway".into()), (new.clone(), "gateway".into())]).into());
        assert!(roll(&mut list, &both, now));
        assert!(!roll(&mut list, &both, now));
        assert!(list.is_control_plane(old) && list.is_control_plane(new) && !list.is_control_plane(service));
        let one = Signing::new(Vec::new(), BTreeMap::from([(new.clone(), "gateway".into())]).into());
        assert!(roll(&mut list, &one, now));
        assert!(!list.is_control_plane(old) && list.is_control_plane(new));
        assert_eq!(list.signers.len(), 2);
    }
}
