//! Tests of [`super`].
#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
use muster_schemas::{code::Code, result::ErrorInfo, result::Outcome, time::Timestamp};

use super::*;

fn ending(reply_to: Option<&str>) -> Ending {
    let at = Timestamp::from_secs(1_800_000_000);
    let result = JobResult::never_ran(Outcome::Rejected, ErrorInfo::new(Code::BodyMalformed, "x"), at, at);
    Ending::new("j".parse().unwrap(), "p".parse().unwrap(), "$JS.ACK.S.c.1.1.1.1.0", &result, 60, "00-a-b-01".into(), reply_to)
}

#[test]
fn only_an_inbox_is_taken_over_as_the_place_of_the_answer() {
    let taken = |reply_to| ending(reply_to).headers.iter().any(|(name, _)| name == headers::REPLY_TO);
    assert!(taken(Some("_INBOX.x.1")));
    for reply_to in [None, Some("jobs.q.normal.shell.evil"), Some("")] {
        assert!(!taken(reply_to), "{reply_to:?}");
    }
}

#[test]
fn an_ending_survives_the_spool_whole() {
    let letter = DeadLetter {
        v: V,
        subject: "jobs.p.normal.probe.j".into(),
        body: vec![0xff, 0],
        queued_at: Timestamp::from_secs(1),
        died_at: Timestamp::from_secs(2),
        error: ErrorInfo::new(Code::AgentLost, "lost"),
        attempts: vec![],
    };
    let agent = muster_schemas::names::AgentId::generate();
    let event = events::event(muster_schemas::event::EventKind::Dead, &agent, None, 1, &crate::attempt::count::Past::default());
    let mut signed = ending(None);
    signed.sign(&Signer::generate(), Timestamp::from_secs(3));
    for ending in [ending(Some("_INBOX.x.1")), signed, ending(None).with_dead_letter(&letter, event.clone()).or_superseded(event)] {
        let bytes = rmp_serde::to_vec_named(&ending).unwrap();
        assert_eq!(rmp_serde::from_slice::<Ending>(&bytes).unwrap(), ending);
    }
}

#[test]
fn a_result_is_signed_for_its_pool_over_the_bytes_that_are_sent() {
    let (signer, pool) = (Signer::generate(), "p".parse().unwrap());
    let mut ending = ending(None);
    ending.sign(&signer, Timestamp::from_secs(3));
    let (_, header) = ending.headers.iter().find(|(name, _)| name == headers::SIGNATURE).unwrap();
    let signature = muster_schemas::signature::Signature::parse(header).unwrap();
    assert_eq!((signature.key.as_str(), signature.at), (signer.public_key(), Timestamp::from_secs(3)));
    signature.verify(Signed::Result, "results.p.j", &ending.result).unwrap();
    assert!(ending.is_of(&pool) && !ending.is_of(&"q".parse().unwrap()));
}
