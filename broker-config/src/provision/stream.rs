//! Brings a stream or consumer to its wanted settings.

use std::{sync::Once, time::Duration};

use async_nats::Client;
use muster_schemas::{
    subjects::broker::{self, ConsumerApi, StreamApi},
    topology::{AUDIT, Consumer, Stream},
};
use serde_json::{Map, Value, json};

use super::{
    Error,
    api::{self, call, unless},
};

/// Settings that JetStream cannot change on a stream: 2.15.1 refuses each of them, which a test checks. What else it refuses depends on
/// the values, and is told in its words.
const FIXED: [&str; 3] = ["retention", "storage", "persist_mode"];
/// Settings that a value leaves out when they are off, so that their absence must be put into an update.
const OPTIONAL: [&str; 4] = ["republish", "persist_mode", "allow_msg_schedules", "allow_atomic"];
/// How often to look again when others change the same stream.
const ROUNDS: usize = 8;
/// How long the maker of a stream may take until others see it.
const STORE_PATIENCE: Duration = Duration::from_millis(200);

/// Makes the stream, or updates the settings in which it differs. Settings that we do not know stay as they are.
///
/// The audit trail that is there stays as it is: nobody of the control plane may change it. Where it differs, that is logged.
///
/// # Errors
/// [`Error::Conflict`] when a differing setting cannot be changed; otherwise see [`Error`].
pub async fn ensure_stream(client: &Client, want: &Stream) -> Result<(), Error> {
    for _ in 0..ROUNDS {
        match read(client, &want.name).await? {
            Some(have) if want.name == AUDIT => return leave(want, &have),
            Some(have) => return update(client, want, &have).await,
            None if create(client, want).await? => return Ok(()),
            // Somebody else was faster, with other settings.
            None => {}
        }
    }
    Err(Error::Contended { what: format!("stream {}", want.name) })
}

/// The stream's settings and state as the broker tells them; `None` when there is no such stream.
pub(super) async fn info(client: &Client, name: &str) -> Result<Option<Value>, Error> {
    let answer = call(client, StreamApi::Info.subject(name), &Value::Null, || format!("read stream {name}")).await;
    unless(answer, &[api::STREAM_NOT_FOUND])
}

async fn read(client: &Client, name: &str) -> Result<Option<Map<String, Value>>, Error> {
    let Some(info) = info(client, name).await? else { return Ok(None) };
    config(&info, name).map(Some)
}

pub(super) fn config(info: &Value, name: &str) -> Result<Map<String, Value>, Error> {
    let config = info.get("config").and_then(Value::as_object).cloned();
    config.ok_or_else(|| Error::Malformed { what: format!("the settings of {name}"), problem: "there are none".into() })
}

/// Returns whether it was made; `false` when one of that name exists.
async fn create(client: &Client, want: &Stream) -> Result<bool, Error> {
    let body = Value::Object(fields(want)?);
    let answer = call(client, StreamApi::Create.subject(&want.name), &body, || format!("make stream {}", want.name)).await;
    match answer {
        // The faster one's stream shows a moment later; if none does, it was the disk.
        Err(Error::Refused { code: api::STORE_FAILED, .. }) => {
            tokio::time::sleep(STORE_PATIENCE).await;
            if info(client, &want.name).await?.is_some() { Ok(false) } else { answer.map(|_| false) }
        }
        answer => Ok(unless(answer, &[api::STREAM_NAME_IN_USE])?.is_some()),
    }
}

/// Says once in the life of a process what differs, and changes nothing.
fn leave(want: &Stream, have: &Map<String, Value>) -> Result<(), Error> {
    static SAID: Once = Once::new();
    if let Some(differing) = told(&differing(&fields(want)?, have)) {
        SAID.call_once(|| {
            tracing::warn!(stream = want.name, differing, "the audit trail has other settings than it is made with, and is left as it is");
        });
    }
    Ok(())
}

async fn update(client: &Client, want: &Stream, have: &Map<String, Value>) -> Result<(), Error> {
    let Some(change) = change(&want.name, &fields(want)?, have)? else { return Ok(()) };
    tracing::info!(stream = want.name, changes = change.said, "updating the stream's settings");
    let operation = || format!("change {} of stream {}", change.said, want.name);
    call(client, StreamApi::Update.subject(&want.name), &Value::Object(change.body), operation).await.map(drop)
}

/// What an update would do.
struct Change {
    /// All settings, as an update must send them.
    body: Map<String, Value>,
    /// The differing ones in words, from what to what.
    said: String,
}

/// The update that a stream needs; `None` when nothing differs.
fn change(name: &str, want: &Map<String, Value>, have: &Map<String, Value>) -> Result<Option<Change>, Error> {
    let (mut body, differing) = (have.clone(), differing(want, have));
    for Differing { field, there, wanted } in &differing {
        if FIXED.contains(field) {
            let (have, want) = (there.to_string(), wanted.to_string());
            return Err(Error::Conflict { stream: name.to_owned(), field: (*field).to_owned(), have, want });
        }
        if wanted.is_null() {
            body.remove(*field);
        } else {
            body.insert((*field).to_owned(), (*wanted).clone());
        }
    }
    Ok((!differing.is_empty()).then(|| Change { body, said: said(&differing, "from", "to") }))
}

/// A setting that is not as wanted.
struct Differing<'a> {
    field: &'a str,
    there: &'a Value,
    wanted: &'a Value,
}

fn differing<'a>(want: &'a Map<String, Value>, have: &'a Map<String, Value>) -> Vec<Differing<'a>> {
    let absent = OPTIONAL.iter().filter(|field| !want.contains_key(**field)).map(|field| (*field, &Value::Null));
    let all = want.iter().map(|(field, value)| (field.as_str(), value)).chain(absent);
    all.map(|(field, wanted)| Differing { field, there: have.get(field).unwrap_or(&Value::Null), wanted })
        .filter(|Differing { field, there, wanted }| !same(field, wanted, there))
        .collect()
}

/// What differs in words, for somebody who is to know of it.
fn told(differing: &[Differing<'_>]) -> Option<String> {
    (!differing.is_empty()).then(|| said(differing, "is", "instead of"))
}

/// Each setting with both values, and these words before them.
fn said(differing: &[Differing<'_>], there_is: &str, wanted_is: &str) -> String {
    let each = differing.iter().map(|Differing { field, there, wanted }| format!("`{field}` {there_is} {there} {wanted_is} {wanted}"));
    each.collect::<Vec<_>>().join(", ")
}

/// Whether two settings mean the same. The broker leaves out what is off, zero or empty; the order of subjects says nothing.
fn same(field: &str, want: &Value, have: &Value) -> bool {
    match (want, have) {
        (Value::Array(want), Value::Array(have)) if field == "subjects" => {
            want.len() == have.len() && want.iter().all(|subject| have.contains(subject))
        }
        (Value::Object(want), Value::Object(have)) => {
            let keys = want.keys().chain(have.keys());
            keys.into_iter().all(|key| same(key, want.get(key).unwrap_or(&Value::Null), have.get(key).unwrap_or(&Value::Null)))
        }
        _ => want == have || (is_off(want) && is_off(have)),
    }
}

fn is_off(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Number(number) => number.as_i64() == Some(0),
        Value::String(text) => text.is_empty() || text == "default",
        Value::Array(items) => items.is_empty(),
        Value::Object(items) => items.is_empty(),
        Value::Bool(true) => false,
    }
}

/// Whether a consumer has other settings than these. Its pause is no setting: the broker ignores it in an update.
pub(super) fn differs(want: &Consumer, have: &Map<String, Value>) -> Result<bool, Error> {
    Ok(!fields(want)?.iter().all(|(field, wanted)| same(field, wanted, have.get(field).unwrap_or(&Value::Null))))
}

fn fields(want: &impl serde::Serialize) -> Result<Map<String, Value>, Error> {
    let malformed = |problem: String| Error::Malformed { what: "our own topology".into(), problem };
    match serde_json::to_value(want) {
        Ok(Value::Object(fields)) => Ok(fields),
        Ok(_) => Err(malformed("not a map".into())),
        Err(error) => Err(malformed(error.to_string())),
    }
}

/// Makes the consumer, or updates it.
///
/// # Errors
/// [`Error::Refused`] by the broker, or [`Error::Unreachable`].
pub async fn ensure_consumer(client: &Client, stream: &str, want: &Consumer) -> Result<(), Error> {
    if is_there(client, stream, want).await? { Ok(()) } else { make_consumer(client, stream, want).await }
}

/// Whether the consumer is there, with these settings.
pub(super) async fn is_there(client: &Client, stream: &str, want: &Consumer) -> Result<bool, Error> {
    let name = &want.durable_name;
    let have = call(client, ConsumerApi::Info.subject(stream, name), &Value::Null, || format!("read consumer {name}")).await;
    match unless(have, &[api::CONSUMER_NOT_FOUND])? {
        Some(info) => Ok(!differs(want, &config(&info, name)?)?),
        None => Ok(false),
    }
}

/// Makes the consumer, or updates it: the broker takes both as one request, and does nothing when nothing differs.
pub(super) async fn make_consumer(client: &Client, stream: &str, want: &Consumer) -> Result<(), Error> {
    let name = &want.durable_name;
    let operation = || format!("make consumer {name} of stream {stream}");
    // An empty action is "make or update".
    let body = json!({"stream_name": stream, "config": want, "action": ""});
    call(client, broker::consumer_create(stream, name, &want.filter_subject), &body, operation).await.map(drop)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking")]
    use super::*;

    fn map(value: Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn settings_that_mean_the_same_are_not_updated() {
        let want = map(json!({"name": "S", "subjects": ["a", "b"], "allow_msg_ttl": false, "max_age": 0, "discard": "new"}));
        let have = map(json!({"name": "S", "subjects": ["b", "a"], "discard": "new", "metadata": {"_nats.ver": "2.15.1"}}));
        assert!(change("S", &want, &have).unwrap().is_none());
    }

    #[test]
    fn an_update_keeps_what_we_do_not_know_and_removes_what_we_do_not_want() {
        let want = map(json!({"name": "S", "max_msgs": 5}));
        let have = map(json!({"name": "S", "max_msgs": 4, "placement": {"tags": ["x"]}, "republish": {"src": "a", "dest": "b"}}));
        let change = change("S", &want, &have).unwrap().unwrap();
        assert!(change.said.contains("`max_msgs` from 4 to 5"), "{}", change.said);
        assert_eq!(Value::Object(change.body), json!({"name": "S", "max_msgs": 5, "placement": {"tags": ["x"]}}));
    }

    #[test]
    fn what_is_left_as_it_is_is_named_with_both_values() {
        let (want, have) = (map(json!({"max_bytes": 5, "retention": "limits"})), map(json!({"max_bytes": 4, "retention": "limits"})));
        assert_eq!(told(&differing(&want, &have)).unwrap(), "`max_bytes` is 4 instead of 5");
        assert_eq!(told(&differing(&want, &want)), None);
    }

    #[test]
    fn a_setting_that_cannot_change_is_named_with_both_values() {
        let (want, have) = (map(json!({"retention": "limits"})), map(json!({"retention": "workqueue"})));
        let Err(error) = change("RESULTS", &want, &have) else { panic!("no conflict") };
        assert!(matches!(&error, Error::Conflict { field, .. } if field == "retention"));
        let text = error.to_string();
        assert!(["RESULTS", "retention", "workqueue", "limits"].iter().all(|part| text.contains(part)), "{text}");
    }
}
