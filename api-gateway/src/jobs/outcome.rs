//! Stored results as values, whatever an agent has stored.

use muster_schemas::{
    code::Code,
    result::{ErrorInfo, JobResult, Outcome},
    time::Timestamp,
    wire,
};

/// Reads a stored result. What is no result still ends its job, since the first one stored counts: it is shown as a failure that says so.
pub(crate) fn read(body: &[u8], stored_at: Timestamp) -> JobResult {
    wire::decode(body).unwrap_or_else(|error| {
        let error = ErrorInfo::new(Code::BodyMalformed, format!("what is stored as the result can't be read: {error}"));
        JobResult::never_ran(Outcome::Failed, error, stored_at, stored_at)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_result_is_a_failure_that_says_so() {
        let at = Timestamp::from_secs(7);
        for body in [&b""[..], b"hello", b"{}", b"\xc1", b"{\"v\":2}"] {
            let result = read(body, at);
            assert_eq!((result.outcome, result.finished_at), (Outcome::Failed, at));
            assert_eq!(result.error.map(|error| error.code), Some(Code::BodyMalformed));
        }
    }
}
