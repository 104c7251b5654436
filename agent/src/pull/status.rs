//! What the broker sends to an inbox instead of a job.
//!
//! Codes and texts: ADR-37 of NATS and `server/consumer.go`. A text that is not known here counts as "busy", which is tried again.

use async_nats::{Message, StatusCode};

use crate::intake::Refusal;

/// A message of an inbox.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Status {
    /// A job.
    Job,
    /// A pull ended at its expiry; so many of its jobs were not given.
    Expired { pending: u32 },
    /// A pull was refused or cut short.
    Refused(Refusal, String),
    /// Nothing that matters, such as an idle heartbeat.
    Nothing,
}

/// On the end of a pull: how many of its jobs were not given.
const PENDING: &str = "Nats-Pending-Messages";

impl Status {
    pub(super) fn of(message: &Message) -> Self {
        let Some(status) = message.status else { return Self::Job };
        let text = message.description.as_deref().unwrap_or_default();
        match status {
            StatusCode::TIMEOUT | StatusCode::NOT_FOUND => {
                let pending =
                    message.headers.as_ref().and_then(|headers| headers.get(PENDING)).and_then(|value| value.as_str().parse().ok());
                // Without the header all of it: at worst a lane is asked once more than it has to.
                Self::Expired { pending: pending.unwrap_or(u32::MAX) }
            }
            StatusCode::NO_RESPONDERS => Self::Refused(Refusal::Missing, "no such consumer".to_owned()),
            StatusCode::REQUEST_TERMINATED if text.eq_ignore_ascii_case("Batch Completed") => Self::Nothing,
            StatusCode::REQUEST_TERMINATED if text.eq_ignore_ascii_case("Consumer Deleted") => {
                Self::Refused(Refusal::Missing, text.to_owned())
            }
            StatusCode::REQUEST_TERMINATED if text.starts_with("Exceeded MaxRequest") => Self::Refused(Refusal::Invalid, text.to_owned()),
            status if (100..200).contains(&status.as_u16()) => Self::Nothing,
            status if status.as_u16() == 400 => Self::Refused(Refusal::Invalid, text.to_owned()),
            _ => Self::Refused(Refusal::Busy, format!("{status} {text}")),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use async_nats::HeaderMap;

    use super::*;

    fn status(code: u16, text: &str, pending: Option<&str>) -> Status {
        let headers = pending.map(|pending| {
            let mut headers = HeaderMap::new();
            headers.insert(PENDING, pending);
            headers
        });
        Status::of(&Message {
            subject: "_INBOX.a".into(),
            reply: None,
            payload: bytes::Bytes::new(),
            headers,
            status: Some(StatusCode::try_from(code).unwrap()),
            description: Some(text.to_owned()),
            length: 0,
        })
    }

    #[test]
    fn what_the_broker_says_is_told_apart() {
        assert_eq!(status(408, "Request Timeout", Some("3")), Status::Expired { pending: 3 });
        assert_eq!(status(408, "Request Timeout", None), Status::Expired { pending: u32::MAX });
        assert_eq!(status(100, "Idle Heartbeat", None), Status::Nothing);
        assert_eq!(status(409, "Batch Completed", None), Status::Nothing);
        for (code, text, why) in [
            (503, "", Refusal::Missing),
            (409, "Consumer Deleted", Refusal::Missing),
            (409, "Exceeded MaxRequestBatch of 64", Refusal::Invalid),
            (400, "Bad Request - Priority Group missing", Refusal::Invalid),
            (409, "Exceeded MaxWaiting", Refusal::Busy),
            (409, "Server Shutdown", Refusal::Busy),
            (409, "Leadership Change", Refusal::Busy),
        ] {
            assert!(matches!(status(code, text, None), Status::Refused(refusal, _) if refusal == why), "{code} {text}");
        }
    }
}
