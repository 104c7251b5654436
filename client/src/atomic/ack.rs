//! The broker's acknowledgements and refusals.

use serde_json::Value;

use super::{Refusal, Stored};

/// Error code of the broker for every limit of a stream; only the text tells which. **[measured on 2.15.1: "maximum messages per subject
/// exceeded" and "maximum messages exceeded"; when both hold, the first; a repeated `Nats-Msg-Id` wins over both.]**
const LIMIT_REACHED: u64 = 10077;

/// An acknowledgement.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Ack {
    /// The sequence of the message; of a batch's last one.
    pub(super) sequence: u64,
    duplicate: bool,
    /// How many messages the batch had.
    pub(super) count: Option<u64>,
}

impl Ack {
    pub(super) fn stored(&self) -> Stored {
        Stored { sequence: self.sequence, duplicate: self.duplicate }
    }
}

/// Reads an answer. What is none says nothing about the message.
pub(super) fn read(payload: &[u8]) -> Result<Ack, Refusal> {
    let odd = || Refusal::Unknown("its answer is no acknowledgement".into());
    let answer: Value = serde_json::from_slice(payload).map_err(|_| odd())?;
    let number = |value: &Value, name: &str| value.get(name).and_then(Value::as_u64);
    let Some(error) = answer.get("error") else {
        let duplicate = answer.get("duplicate").and_then(Value::as_bool).unwrap_or(false);
        let sequence = number(&answer, "seq").filter(|sequence| *sequence > 0).ok_or_else(odd)?;
        return Ok(Ack { sequence, duplicate, count: number(&answer, "count") });
    };
    let reason = error.get("description").and_then(Value::as_str).unwrap_or_default().to_owned();
    // An error that is not JetStream's says nothing either.
    match number(error, "err_code").ok_or_else(odd)? {
        LIMIT_REACHED if reason.contains("per subject") => Err(Refusal::Taken),
        LIMIT_REACHED if reason.contains("maximum") => Err(Refusal::Full),
        code => Err(Refusal::Refused { code, reason }),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;

    #[test]
    fn refusals_are_told_apart_by_their_texts() {
        let refused = |text: &str| {
            let answer = format!(r#"{{"error":{{"code":503,"err_code":10077,"description":"{text}"}},"stream":"S","seq":0}}"#);
            read(answer.as_bytes()).unwrap_err()
        };
        assert_eq!(refused("maximum messages per subject exceeded"), Refusal::Taken);
        assert_eq!(refused("maximum messages exceeded"), Refusal::Full);
        assert_eq!(refused("maximum bytes exceeded"), Refusal::Full);
        assert!(matches!(refused("no space left on device"), Refusal::Refused { code: 10077, .. }));
    }

    #[test]
    fn an_acknowledgement_has_a_sequence() {
        let read = |answer: &str| read(answer.as_bytes());
        assert_eq!(read(r#"{"stream":"S","seq":2}"#).unwrap().stored(), Stored { sequence: 2, duplicate: false });
        assert_eq!(read(r#"{"stream":"S","seq":2,"duplicate":true}"#).unwrap().stored(), Stored { sequence: 2, duplicate: true });
        assert_eq!(read(r#"{"stream":"S","seq":9,"batch":"b","count":5}"#).unwrap().count, Some(5));
        for odd in ["", "-ERR", "[]", "{}", r#"{"seq":0}"#, r#"{"seq":"2"}"#, r#"{"error":"no"}"#] {
            assert!(matches!(read(odd), Err(Refusal::Unknown(_))), "{odd}");
        }
    }
}
