//! What the dispatcher signs with: it follows the list of signers, which says which of its keys agents trust.
//!
//! How keys and list go together is in [`muster_broker_config::signing`]. Gateways change the list; a dispatcher never does.

use async_nats::HeaderMap;
pub(crate) use muster_broker_config::signing::Signing;
use muster_runtime::{http::Readiness, tasks::Tasks};
use muster_schemas::{
    headers,
    signature::{SIGNERS_KEY, Signed},
    subjects::js,
    topology::{TRUST, bucket_stream},
};

use crate::{
    broker::BrokerError,
    intake::follow::{Follower, Heard, Listener, Range, Source},
};

/// The check of `/readyz` that fails while agents trust none of this dispatcher's keys.
pub(crate) const CHECK: &str = "signing";

/// Follows the list from here on.
pub(crate) fn start(tasks: &Tasks, source: &Source, signing: &Signing, readiness: &Readiness) {
    let follower = Follower::new(source.clone(), bucket_stream(TRUST), js::key(TRUST, SIGNERS_KEY), Range::Everything);
    let (list, shutdown) = (List { signing: signing.clone(), readiness: readiness.clone() }, tasks.shutdown().clone());
    tasks.essential("signers", async move {
        tokio::select! {
            () = follower.run(list) => {}
            () = shutdown.requested() => {}
        }
        Ok(())
    });
}

struct List {
    signing: Signing,
    readiness: Readiness,
}

impl Listener for List {
    async fn hear(&mut self, heard: Heard<'_>) {
        match heard {
            Heard::Begin(_) => return,
            Heard::Message(message) if message.payload.is_empty() => {
                tracing::error!("the list of signers was deleted; going on with the last one");
            }
            Heard::Message(message) => {
                if let Err(error) = self.signing.take(&message.payload) {
                    tracing::error!(%error, "the list of signers in the bucket is not taken over");
                }
            }
            Heard::CaughtUp => {}
        }
        self.readiness.set(CHECK, self.signing.check());
    }

    async fn clock(&mut self, _now: muster_schemas::time::Timestamp) {}
}

/// Signs a message into its headers. Without a key that agents trust, nothing is sent: they would not run it, and that is final.
///
/// # Errors
/// Why it can't be signed. It may be later.
pub(crate) fn sign(signing: &Signing, signed: Signed, subject: &str, headers: &mut HeaderMap, body: &[u8]) -> Result<(), BrokerError> {
    let Some(signature) = signing.sign(signed, subject, body) else {
        let why = signing.check().err().unwrap_or_else(|| "agents trust none of this dispatcher's keys".into());
        return Err(BrokerError::Interrupted { what: format!("a message on {subject}"), why });
    };
    headers.insert(headers::SIGNATURE, signature.to_string());
    Ok(())
}
