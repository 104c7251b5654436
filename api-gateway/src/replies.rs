//! Sends stored results to where their submitters wanted them: the header `reply_to` of a job, which its agent copies to the result.
//!
//! Every gateway listens, and one of them gets each result. Only what is stored is sent, as it is stored, and only to inboxes: a result sent
//! to, say, another pool's queue would be stored there as a job, on our authority. A result under a pool that its job's id cannot belong to
//! is not sent.

use async_nats::{HeaderMap, Message, Subject};
use futures_util::StreamExt as _;
use muster_schemas::{
    headers::{CONTENT_TYPE, JOB_ID, JSON, MSGPACK, REPLY_TO},
    subjects::{self, About},
    wire,
};

use crate::app::App;

/// The gateways among which results are shared out.
const QUEUE: &str = "reply";
/// The longest inbox that is answered. Inboxes of real clients have less than a hundred bytes.
const INBOX_MAX: usize = 255;

/// Forwards stored results. Ends only with an error.
pub(crate) async fn run(app: App) -> anyhow::Result<()> {
    let mut done = app.nats.queue_subscribe(About::Done.all(), QUEUE.into()).await?;
    while let Some(message) = done.next().await {
        let Some((inbox, headers)) = answer(&message) else { continue };
        let sent = app.nats.publish_with_headers(inbox, headers, message.payload).await;
        app.desk.forwarded.with([if sent.is_ok() { "sent" } else { "failed" }]).inc();
        if let Err(error) = sent {
            tracing::warn!(%error, subject = %message.subject, "cannot forward a result");
        }
    }
    anyhow::bail!("the subscription to stored results ended")
}

/// Where a stored result is to be sent, and the headers to send it with. `None` when nowhere.
fn answer(message: &Message) -> Option<(Subject, HeaderMap)> {
    let inbox = message.headers.as_ref()?.get(REPLY_TO)?.as_str();
    let (pool, id) = About::Done.parse(&message.subject)?;
    if !is_plain_inbox(inbox) || id.belongs_to(&pool) == Some(false) {
        return None;
    }
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, if wire::is_json(&message.payload) { JSON } else { MSGPACK });
    headers.insert(JOB_ID, id.as_str());
    Some((Subject::from(inbox), headers))
}

/// Whether a reply subject is an inbox and exactly one subject: no wildcard, no empty token, nothing that ends a protocol line.
pub(crate) fn is_plain_inbox(reply: &str) -> bool {
    let token = |token: &str| !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'*' && byte != b'>');
    reply.len() <= INBOX_MAX && subjects::is_inbox(reply) && reply.split('.').all(token)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use muster_schemas::names::{JobId, PoolName};

    use super::*;

    fn message(subject: &str, reply_to: Option<&str>) -> Message {
        let mut headers = HeaderMap::new();
        if let Some(reply_to) = reply_to {
            headers.insert(REPLY_TO, reply_to);
        }
        headers.insert("Nats-TTL", "60s");
        let payload = "{}".into();
        Message { subject: subject.into(), reply: None, payload, headers: Some(headers), status: None, description: None, length: 0 }
    }

    #[test]
    fn a_result_goes_to_an_inbox_with_our_own_headers_only() {
        let (inbox, headers) = answer(&message("done.p.j", Some("_INBOX.a.b"))).unwrap();
        assert_eq!(inbox.as_str(), "_INBOX.a.b");
        assert_eq!((headers.get(JOB_ID).unwrap().as_str(), headers.get(CONTENT_TYPE).unwrap().as_str()), ("j", JSON));
        assert_eq!(headers.len(), 2);
    }

    #[test]
    fn nothing_goes_anywhere_else() {
        let long = format!("_INBOX.{}", "a".repeat(300));
        for reply_to in
            ["jobs.q.normal.shell.evil", "_INBOX", "_INBOX.>", "_INBOX.*", "_INBOX.a b", "_INBOX..a", "_INBOX.", "$JS.ACK.x", "", &long]
        {
            assert!(answer(&message("done.p.j", Some(reply_to))).is_none(), "{reply_to}");
        }
        assert!(answer(&message("done.p.j", None)).is_none());
        assert!(answer(&message("results.p.j", Some("_INBOX.a"))).is_none());
    }

    #[test]
    fn a_result_forged_under_another_pool_is_not_sent() {
        let (p, q): (PoolName, PoolName) = ("p".parse().unwrap(), "q".parse().unwrap());
        let id = JobId::generate(&p);
        assert!(answer(&message(&About::Done.job(&p, &id), Some("_INBOX.a"))).is_some());
        assert!(answer(&message(&About::Done.job(&q, &id), Some("_INBOX.a"))).is_none());
    }
}
