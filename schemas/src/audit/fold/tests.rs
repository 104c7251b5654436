//! Tests of folding: a flood is a bounded number of entries, and nobody's flood hides who is somebody.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests fail by panicking")]
use super::*;

fn refused(address: &str, target: &str) -> AuditEntry {
    AuditEntry {
        actor: Actor::nobody(),
        address: Some(address.into()),
        target: Some(target.into()),
        code: Some(Code::Unauthenticated),
        ..AuditEntry::new("agents.read", Actor::nobody(), AuditOutcome::Refused, Timestamp::from_secs(0))
    }
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_secs(1_000_000 + seconds)
}

#[test]
fn the_first_is_written_at_once_and_the_rest_once_a_minute_with_their_count() {
    let mut fold = Fold::default();
    assert_eq!(fold.take(refused("10.0.0.1", "a"), at(0)).unwrap().count, None);
    for second in 1..=100 {
        assert!(fold.take(refused("10.0.0.1", "a"), at(second)).is_none());
    }
    assert!(fold.due(at(59)).is_empty());
    let due = fold.due(at(101));
    assert_eq!((due.len(), due[0].count, due[0].target.as_deref()), (1, Some(100), Some("a")));
    assert!(fold.take(refused("10.0.0.1", "a"), at(102)).is_none(), "it goes on: the next entry is that of the next minute");
    assert_eq!(fold.due(at(161))[0].count, Some(1));
    assert!(fold.due(at(221)).is_empty(), "nothing came for a minute");
    assert!(fold.take(refused("10.0.0.1", "a"), at(222)).is_some(), "so the next one is a first one");
}

#[test]
fn others_are_not_folded_with_it_and_of_several_targets_none_is_named() {
    let mut fold = Fold::default();
    assert!(fold.take(refused("10.0.0.1", "a"), at(0)).is_some());
    assert!(fold.take(refused("10.0.0.2", "a"), at(0)).is_some());
    assert!(fold.take(AuditEntry { code: Some(Code::Forbidden), ..refused("10.0.0.1", "a") }, at(0)).is_some());
    for target in ["a", "b", "b"] {
        assert!(fold.take(refused("10.0.0.1", target), at(1)).is_none());
    }
    let ended = fold.end();
    assert_eq!((ended.len(), ended[0].count, &ended[0].target), (1, Some(3), &None));
    assert!(fold.end().is_empty());
}

#[test]
fn a_flood_from_everywhere_is_a_bounded_number_of_entries() {
    let mut fold = Fold::default();
    let first = (0..10_000).filter_map(|n| fold.take(refused(&format!("10.0.{}.{}", n / 250, n % 250), "a"), at(0))).count();
    assert_eq!(first, FOLDS_MAX + 1);
    let due = fold.due(at(60));
    assert_eq!(due.len(), 1);
    assert_eq!((due[0].action.as_str(), &due[0].address, due[0].count), (FOLDED_ACTION, &None, Some(10_000 - FOLDS_MAX as u64 - 1)));
}

fn by_key(id: &str, action: &str, target: &str) -> AuditEntry {
    AuditEntry {
        address: Some("10.0.0.9".into()),
        target: Some(target.into()),
        code: Some(Code::Forbidden),
        ..AuditEntry::new(action, Actor::new(ActorKind::Key, id).named("ops"), AuditOutcome::Refused, Timestamp::from_secs(0))
    }
}

fn flooded() -> Fold {
    let mut fold = Fold::default();
    for n in 0..1_000 {
        fold.take(refused(&format!("10.1.{}.{}", n / 250, n % 250), "a"), at(0));
    }
    fold
}

#[test]
fn a_flood_by_nobody_hides_neither_who_was_refused_what_nor_what_was_done() {
    let mut fold = flooded();
    for target in ["agt_1", "agt_2", "agt_3"] {
        let entry = by_key("key_1", "agents.delete", target);
        assert_eq!(fold.take(entry.clone(), at(1)), Some(entry), "each agent whose removal was tried is an entry");
    }
    assert!(fold.take(by_key("key_1", "agents.delete", "agt_2"), at(2)).is_none());
    assert!(fold.take(by_key("key_1", "agents.read", "agt_1"), at(2)).is_some());
    assert!(fold.take(by_key("key_1", "agents.read", "agt_2"), at(2)).is_none(), "reads are not told apart by what was read");
    let done = AuditEntry { outcome: AuditOutcome::Done, code: None, ..by_key("key_2", "audit.read", "x") };
    assert_eq!(fold.take(done.clone(), at(1)), Some(done));
}

#[test]
fn one_who_is_refused_everywhere_stays_named_and_leaves_room_for_others() {
    let mut fold = flooded();
    let first: Vec<AuditEntry> =
        (0..1_000).filter_map(|n| fold.take(by_key("key_1", "agents.delete", &format!("agt_{n}")), at(1))).collect();
    assert_eq!(first.len(), IDENTITY_MAX + 1);
    let over = first.last().unwrap();
    assert_eq!((over.action.as_str(), over.actor.id.as_deref(), over.address.as_deref()), (FOLDED_ACTION, Some("key_1"), Some("10.0.0.9")));
    assert_eq!((&over.target, over.actor.name.as_deref()), (&None, Some("ops")));
    let other = by_key("key_2", "pools.delete", "default");
    assert_eq!(fold.take(other.clone(), at(1)), Some(other));
    let told = fold.due(at(70));
    let counted = told.iter().find(|entry| entry.actor.id.as_deref() == Some("key_1")).unwrap();
    assert_eq!((counted.count, counted.action.as_str()), (Some(1_000 - IDENTITY_MAX as u64 - 1), FOLDED_ACTION));
}

#[test]
fn what_was_done_is_never_told_as_refused_however_much_comes() {
    let mut fold = flooded();
    for n in 0..10_000 {
        fold.take(by_key(&format!("key_{n}"), "agents.delete", "agt_1"), at(1));
    }
    let done = AuditEntry { outcome: AuditOutcome::Done, code: None, ..by_key("key_x", "audit.read", "x") };
    assert_eq!(fold.take(done.clone(), at(1)).unwrap().action, "audit.read");
    fold.take(done, at(1));
    let ended = fold.end();
    assert!(ended.iter().all(|entry| (entry.action == "audit.read") == (entry.outcome == AuditOutcome::Done)), "{ended:?}");
}

#[test]
fn a_flood_by_many_who_are_somebody_is_a_bounded_number_of_entries() {
    let mut fold = Fold::default();
    let entries = (0..10_000)
        .map(|n| AuditEntry { address: Some(format!("fd00::{n}")), ..by_key(&format!("key_{}", n % 500), "agents.delete", "a") });
    let first = entries.filter_map(|entry| fold.take(entry, at(0))).count();
    assert_eq!(first, PROVEN_MAX + OVER_MAX + 1);
    assert_eq!(fold.due(at(60)).iter().filter_map(|entry| entry.count).sum::<u64>(), 10_000 - first as u64);
}
