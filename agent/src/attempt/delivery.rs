//! What the broker says of a delivery in its reply subject, and the words that answer it.
//!
//! Formats: ADR-15 of NATS. Short `$JS.ACK.<stream>.<consumer>.<delivered>.<stream seq>.<consumer seq>.<nanoseconds>.<pending>`; long with
//! domain and account hash before the stream, and a random token at the end.

use muster_schemas::{queue::Place, subjects::broker, time::Timestamp};

/// Done: forget the job.
pub(crate) const ACK: &[u8] = b"+ACK";
/// Still here: the lease starts anew.
pub(crate) const IN_PROGRESS: &[u8] = b"+WPI";
/// Never give it out again, without an end that anybody waits for: only for what is no job at all.
pub(crate) const TERM: &[u8] = b"+TERM";

/// The longest delay that a job is given back with; it comes again after that, and is given back again. The broker reads the delay as a
/// signed number of nanoseconds, and gives a job out at once whose delay does not fit (after 292 years).
const DELAY_MAX: std::time::Duration = std::time::Duration::from_secs(24 * 3600);

/// Not done: give it to another agent, after a while.
pub(crate) fn nak(delay: std::time::Duration) -> Vec<u8> {
    let nanos = delay.min(DELAY_MAX).as_nanos();
    if nanos == 0 { b"-NAK".to_vec() } else { format!("-NAK {{\"delay\":{nanos}}}").into_bytes() }
}

/// What is known of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Delivery {
    /// How often the job has been given out, this time included: from 1.
    pub(crate) delivered: u64,
    /// The job's place in its stream.
    pub(crate) sequence: u64,
    /// When the broker stored the job.
    pub(crate) stored_at: Timestamp,
}

impl Delivery {
    /// Where the job is in its queue.
    pub(crate) fn place(&self) -> Place {
        Place { sequence: self.sequence, stored_at: self.stored_at }
    }

    /// Parses a reply subject. `None` when it is no delivery of JetStream.
    pub(crate) fn parse(reply: &str) -> Option<Self> {
        let rest = reply.strip_prefix(broker::ACKS.trim_end_matches('>'))?;
        // Behind the prefix: 7 tokens in the short form, 9 or more in the long one.
        let count = rest.split('.').count();
        let skip = match count {
            7 => 2,
            9.. => 4,
            _ => return None,
        };
        let mut tokens = rest.split('.').skip(skip);
        let delivered = tokens.next()?.parse().ok().filter(|count| *count > 0)?;
        let sequence = tokens.next()?.parse().ok()?;
        let _consumer_sequence: u64 = tokens.next()?.parse().ok()?;
        let stored_at = Timestamp::from_nanos(tokens.next()?.parse().ok()?);
        let _pending: u64 = tokens.next()?.parse().ok()?;
        Some(Self { delivered, sequence, stored_at })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn both_forms_of_the_reply_subject_are_read() {
        let expected = Delivery { delivered: 3, sequence: 17, stored_at: Timestamp::from_micros(1_795_337_336_201_717) };
        for reply in [
            "$JS.ACK.JOBS_p.normal_probe.3.17.20.1795337336201717038.0",
            "$JS.ACK.hub.ABCDEF.JOBS_p.normal_probe.3.17.20.1795337336201717038.0",
            "$JS.ACK._.ABCDEF.JOBS_p.normal_probe.3.17.20.1795337336201717038.0.x7y8",
        ] {
            assert_eq!(Delivery::parse(reply), Some(expected), "{reply}");
        }
    }

    #[test]
    fn what_is_no_delivery_is_not_read() {
        for reply in [
            "",
            "_INBOX.a.b",
            "$JS.ACK.JOBS_p.c.3.17.20.1795337336201717038",
            "$JS.ACK.JOBS_p.c.0.17.20.1795337336201717038.0",
            "$JS.ACK.JOBS_p.c.x.17.20.1795337336201717038.0",
            "$JS.ACK.d.JOBS_p.c.1.17.20.1795337336201717038.0",
            "$JS.ACK.JOBS_p.c.-1.17.20.1.0",
        ] {
            assert_eq!(Delivery::parse(reply), None, "{reply}");
        }
    }

    #[test]
    fn a_refusal_carries_its_delay_in_nanoseconds() {
        assert_eq!(nak(Duration::ZERO), b"-NAK");
        assert_eq!(nak(Duration::from_millis(1500)), b"-NAK {\"delay\":1500000000}");
        assert_eq!(nak(Duration::MAX), b"-NAK {\"delay\":86400000000000}");
    }

    proptest! {
        #[test]
        fn no_reply_makes_the_parser_panic(reply in "(\\$JS\\.ACK\\.)?[a-z0-9.*> -]{0,80}") {
            let _ = Delivery::parse(&reply);
        }

        #[test]
        fn every_delivery_is_read_back(delivered in 1..u64::MAX, sequence: u64, micros in 0..4_000_000_000_000_000_i64) {
            let reply = format!("$JS.ACK.S.c.{delivered}.{sequence}.1.{}.5", micros * 1000);
            prop_assert_eq!(Delivery::parse(&reply), Some(Delivery { delivered, sequence, stored_at: Timestamp::from_micros(micros) }));
        }
    }
}
