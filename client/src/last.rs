//! The newest message that a stream holds on a subject, by direct get: no consumer, and nothing that the broker has to write.
//!
//! For the control plane and for agents, each as far as its permissions go. Nothing here retries, and nothing looks whether there is a connection:
//! async-nats keeps a request for the next one, so whoever wants an answer of this moment looks before.

use std::time::Duration;

use async_nats::{Client, Message, Request, RequestError, StatusCode};
use bytes::Bytes;
use muster_schemas::subjects::js;
use serde_json::json;

/// How long the broker may take. It answers within a millisecond, so this is a broker that is not there.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Why it is not known what the newest message is, or whether there is one.
#[derive(Debug, thiserror::Error)]
pub enum Unread {
    /// There is no answer. No responders are no such stream, or one without a leader.
    #[error(transparent)]
    Unanswered(#[from] RequestError),
    /// The broker's status and words.
    #[error("the broker answered: {0}")]
    Refused(String),
}

/// The newest message of `stream` on exactly this subject.
///
/// # Errors
/// See [`Unread`]. That there is none is no error.
pub async fn on(client: &Client, stream: &str, subject: &str) -> Result<Option<Message>, Unread> {
    get(client, js::direct_get(stream, subject), Bytes::new()).await
}

/// As [`on`], where the subject may hold wildcards. Agents may not ask so: their permissions go by the subject.
///
/// # Errors
/// See [`Unread`]. That there is none is no error.
pub async fn matching(client: &Client, stream: &str, filter: &str) -> Result<Option<Message>, Unread> {
    let body = json!({"last_by_subj": filter}).to_string();
    get(client, js::direct_get_by_request(stream), body.into()).await
}

async fn get(client: &Client, subject: String, body: Bytes) -> Result<Option<Message>, Unread> {
    let message = client.send_request(subject, Request::new().payload(body).timeout(Some(TIMEOUT))).await?;
    match message.status {
        None => Ok(Some(message)),
        Some(StatusCode::NOT_FOUND) => Ok(None),
        Some(status) => Err(Unread::Refused(format!("{status} {}", message.description.as_deref().unwrap_or_default()))),
    }
}
