//! One request to JetStream's interface and its answer.

use async_nats::Client;
use serde_json::Value;

use super::Error;

/// There is no such stream.
pub(super) const STREAM_NOT_FOUND: u64 = 10059;
/// A stream of that name exists with other settings.
pub(super) const STREAM_NAME_IN_USE: u64 = 10058;
/// The store of a stream could not be made: what the slower of two gets that make the same one at once, or a failing disk.
pub(super) const STORE_FAILED: u64 = 10049;
/// There is no such consumer.
pub(super) const CONSUMER_NOT_FOUND: u64 = 10014;
/// A consumer of that name exists with other settings.
pub(super) const CONSUMER_EXISTS: u64 = 10148;
/// The subject's last sequence is not the expected one.
pub(super) const WRONG_LAST_SEQUENCE: u64 = 10071;

/// Sends a request. An answer that is an error of JetStream's is [`Error::Refused`].
pub(super) async fn call(client: &Client, subject: String, body: &Value, operation: impl Fn() -> String) -> Result<Value, Error> {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let answer = client.request(subject, body.into()).await.map_err(|source| Error::Unreachable { operation: operation(), source })?;
    let value: Value = serde_json::from_slice(&answer.payload)
        .map_err(|error| Error::Malformed { what: format!("the broker's answer to: {}", operation()), problem: error.to_string() })?;
    refusal(value, operation)
}

/// Makes an error of an answer that is one.
pub(super) fn refusal(answer: Value, operation: impl Fn() -> String) -> Result<Value, Error> {
    match answer.get("error") {
        None => Ok(answer),
        Some(error) => Err(Error::Refused {
            operation: operation(),
            code: error.get("err_code").and_then(Value::as_u64).unwrap_or(0),
            description: error.get("description").and_then(Value::as_str).unwrap_or("no reason given").to_owned(),
        }),
    }
}

/// `Ok(None)` for the error codes in `absent`.
pub(super) fn unless(result: Result<Value, Error>, absent: &[u64]) -> Result<Option<Value>, Error> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(Error::Refused { code, .. }) if absent.contains(&code) => Ok(None),
        Err(error) => Err(error),
    }
}
