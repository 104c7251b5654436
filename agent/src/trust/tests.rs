//! Tests of [`super`].
#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
use std::collections::BTreeSet;

use muster_schemas::{
    signature::{Scope, Signer, TrustedSigner},
    time::Timestamp,
    wire::V,
};

use super::*;

fn list(serial: u64, trusted: &[(&Signer, Scope)], by: &Signer) -> SignedSigners {
    let now = Timestamp::from_secs(1_800_000_000);
    let signers = trusted
        .iter()
        .map(|(signer, scope)| TrustedSigner { key: signer.public_key().into(), name: "n".into(), scope: scope.clone(), added_at: now })
        .collect();
    Signers { v: V, serial, signers }.sign(by, now)
}

fn control(signers: &[&Signer], serial: u64, by: &Signer) -> SignedSigners {
    let trusted: Vec<_> = signers.iter().map(|signer| (*signer, Scope::ControlPlane)).collect();
    list(serial, &trusted, by)
}

fn trust(dir: &Path) -> Trust {
    Trust::new(Policy::default(), dir)
}

fn serial(trust: &Trust) -> Option<u64> {
    trust.list().map(|list| list.serial)
}

#[test]
fn a_list_is_pinned_from_the_gateway_and_then_only_followed() {
    let dir = tempfile::tempdir().unwrap();
    let (gateway, service, agent) = (Signer::generate(), Signer::generate(), AgentId::generate());
    let trust = trust(dir.path());
    let pools = Scope::Pools(BTreeSet::from(["p".parse().unwrap()]));
    let both = |serial, by: &Signer| list(serial, &[(&gateway, Scope::ControlPlane), (&service, pools.clone())], by);
    assert_eq!(trust.hear(&wire::encode(&both(1, &gateway))), Heard::Foreign, "without a list none is believed");
    assert!(trust.is_broken());
    trust.pin(&agent, Some(&both(2, &gateway)));
    assert!(!trust.is_broken());
    assert_eq!(trust.hear(&wire::encode(&both(3, &gateway))), Heard::Taken);
    assert_eq!(trust.hear(&wire::encode(&both(2, &gateway))), Heard::Known, "an older one is not taken over");
    assert_eq!(trust.hear(&wire::encode(&both(9, &service))), Heard::Foreign, "a service may not change the list");
    let mut forged = both(9, &gateway);
    forged.list = forged.list.replace("\"p\"", "\"q\"");
    assert_eq!(trust.hear(&wire::encode(&forged)), Heard::Known);
    assert_eq!(trust.hear(b"nonsense"), Heard::Known);
    assert_eq!(serial(&trust), Some(3));
}

#[test]
fn what_was_heard_last_is_kept_for_this_agent_only() {
    let dir = tempfile::tempdir().unwrap();
    let (gateway, agent) = (Signer::generate(), AgentId::generate());
    let before = trust(dir.path());
    before.pin(&agent, Some(&control(&[&gateway], 1, &gateway)));
    before.hear(&wire::encode(&control(&[&gateway], 2, &gateway)));
    let config = |state_dir: &Path| {
        let flags = muster_runtime::config::Overrides::new().set("--state-dir", "state_dir", Some(state_dir.display().to_string()));
        muster_runtime::config::load::<Config>(&muster_runtime::config::Sources { flags, ..Default::default() }).unwrap().settings
    };
    let after = Trust::open(&config(dir.path())).unwrap();
    after.belongs_to(&agent);
    assert_eq!(serial(&after), Some(2));
    after.belongs_to(&AgentId::generate());
    assert_eq!(serial(&after), None, "another agent begins anew");
    std::fs::write(dir.path().join(FILE), "{}").unwrap();
    assert_eq!(serial(&Trust::open(&config(dir.path())).unwrap()), None, "a damaged file is as good as none");
}

#[test]
fn the_gateway_mends_a_broken_chain_and_is_not_asked_again_about_the_same_forgery() {
    let dir = tempfile::tempdir().unwrap();
    let (old, new, thief, agent) = (Signer::generate(), Signer::generate(), Signer::generate(), AgentId::generate());
    let trust = trust(dir.path());
    trust.pin(&agent, Some(&control(&[&old], 5, &old)));
    // Keys rolled over, and the old one was dropped, while the agent was away.
    let rolled = control(&[&new], 7, &new);
    assert_eq!(trust.hear(&wire::encode(&rolled)), Heard::Foreign);
    trust.pin(&agent, Some(&rolled));
    assert_eq!((serial(&trust), trust.is_broken()), (Some(7), false));
    let forged = control(&[&thief], 8, &thief);
    assert_eq!(trust.hear(&wire::encode(&forged)), Heard::Foreign);
    trust.pin(&agent, Some(&rolled));
    assert_eq!((trust.hear(&wire::encode(&forged)), serial(&trust), trust.is_broken()), (Heard::Known, Some(7), false));
    // A gateway that lags behind takes nothing back; one of a deployment that was made anew is believed.
    trust.pin(&agent, Some(&control(&[&new], 6, &new)));
    assert_eq!(serial(&trust), Some(7));
    trust.pin(&agent, Some(&control(&[&old], 1, &old)));
    assert_eq!(serial(&trust), Some(1));
}

#[test]
fn of_lists_that_come_at_once_the_newest_stays_on_disk_too() {
    let dir = tempfile::tempdir().unwrap();
    let (gateway, agent) = (Signer::generate(), AgentId::generate());
    let trust = trust(dir.path());
    trust.pin(&agent, Some(&control(&[&gateway], 1, &gateway)));
    for round in 0..20 {
        let lists: Vec<_> = (2..=7).map(|step| control(&[&gateway], round * 6 + step, &gateway)).collect();
        let together = std::sync::Barrier::new(lists.len());
        std::thread::scope(|threads| {
            for (place, list) in lists.iter().enumerate() {
                let (trust, agent, together) = (&trust, &agent, &together);
                threads.spawn(move || {
                    together.wait();
                    // Some from a gateway, the others over the broker.
                    if place % 2 == 0 {
                        trust.pin(agent, Some(list));
                    } else {
                        trust.hear(&wire::encode(list));
                    }
                });
            }
        });
        let kept: Kept = serde_json::from_slice(&std::fs::read(dir.path().join(FILE)).unwrap()).unwrap();
        let newest = round * 6 + 7;
        assert_eq!((serial(&trust), Signers::pin(&kept.signed).unwrap().serial), (Some(newest), newest));
    }
}
