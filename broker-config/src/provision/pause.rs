//! Pausing a consumer, and letting it go on. The broker changes a pause by a request of its own only, and ignores it in an update.

use std::time::Duration;

use async_nats::Client;
use muster_schemas::{subjects::broker::ConsumerApi, time::Timestamp};
use serde_json::{Value, json};

use super::{Error, api::call};

/// How long a consumer takes to go on: some round trips to the broker, which flushes the request.
const MOMENT: Duration = Duration::from_millis(25);
/// A pause that ends within this is none any more.
pub(super) const SHORT: Duration = Duration::from_secs(5);

/// Lets a consumer go on, by a pause that ends in a moment.
///
/// **[measured on 2.15.1: a pause that is taken back is over, but pulls that wait are not served until the next job or pull comes along;
/// when a pause runs out they are.]** The broker's own clock counts, and a time that is over when the request gets there would do nothing
/// for those pulls either, so then it is tried again with more time.
pub(super) async fn go_on(client: &Client, stream: &str, name: &str) -> Result<(), Error> {
    let mut moment = MOMENT;
    loop {
        let info = call(client, ConsumerApi::Info.subject(stream, name), &Value::Null, || format!("read consumer {name}")).await?;
        let still = until(client, stream, name, clock(&info) + moment).await?;
        if still || moment > SHORT {
            return Ok(());
        }
        moment *= 4;
    }
}

/// Pauses a consumer until then. Says whether it is paused now.
pub(super) async fn until(client: &Client, stream: &str, name: &str, until: Timestamp) -> Result<bool, Error> {
    let operation = || format!("pause consumer {name} of stream {stream}, or let it go on");
    let answer = call(client, ConsumerApi::Pause.subject(stream, name), &json!({"pause_until": until}), operation).await?;
    Ok(answer.get("paused").and_then(Value::as_bool).unwrap_or(false))
}

/// The broker's clock when it gave this answer.
pub(super) fn clock(info: &Value) -> Timestamp {
    info.get("ts").and_then(Value::as_str).and_then(|ts| ts.parse().ok()).unwrap_or_else(Timestamp::now)
}
