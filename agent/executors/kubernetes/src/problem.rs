//! What went wrong with a cluster: no answer, or an answer that says no. It never has a body of a request in it.

use kube::core::Status;
use muster_executor::Finish;
use muster_schemas::code::Code;
use serde_json::{Value, json};

/// The most characters of a message of the cluster's that are passed on.
const MESSAGE_CHARS: usize = 1000;

/// Why something could not be done.
#[derive(Debug)]
pub(crate) struct Problem {
    /// The stable code.
    pub(crate) code: Code,
    /// What, where, and the cluster's own words.
    pub(crate) message: String,
    /// The cluster's answer, if there was one.
    pub(crate) status: Option<Box<Status>>,
}

impl Problem {
    /// The cluster did not answer, or not as one does.
    pub(crate) fn unanswered(message: impl Into<String>) -> Self {
        Self { code: Code::RequestFailed, message: message.into(), status: None }
    }

    /// The cluster lacks what was asked for.
    pub(crate) fn absent(message: impl Into<String>) -> Self {
        Self { code: Code::ClusterRefused, message: message.into(), status: None }
    }

    /// The cluster said no.
    pub(crate) fn refused(what: &str, mut status: Status) -> Self {
        status.message = cut(&status.message, MESSAGE_CHARS);
        let conflict = owners(&status).next().is_some();
        let code = if conflict { Code::ApplyConflict } else { Code::ClusterRefused };
        let hint = match status.code {
            401 => " (the cluster does not accept the credentials)",
            403 => " (its roles don't allow it to this connection's user)",
            _ => "",
        };
        let message = format!("{what}: {} {}: {}{hint}", status.code, status.reason, status.message);
        Self { code, message, status: Some(Box::new(status)) }
    }

    /// The HTTP status of the answer; 0 is none.
    pub(crate) fn status_code(&self) -> u16 {
        self.status.as_ref().map_or(0, |status| status.code)
    }

    /// Whether the cluster may answer otherwise in a moment: it did not, or was too busy, or failed within.
    pub(crate) fn passes(&self) -> bool {
        self.code == Code::RequestFailed || matches!(self.status_code(), 429 | 500 | 502 | 503 | 504)
    }

    /// How long the cluster asked to wait, in seconds.
    pub(crate) fn retry_after(&self) -> Option<u32> {
        let details = self.status.as_ref()?.details.as_ref()?;
        Some(details.retry_after_seconds).filter(|seconds| *seconds > 0)
    }

    /// Without the cluster's own words: where they may quote a secret.
    pub(crate) fn without_words(mut self, what: &str) -> Self {
        if let Some(status) = &mut self.status {
            status.message = "(left out, as it may quote the secret)".to_owned();
            status.details = None;
            self.message = format!("{what}: {} {}: {}", status.code, status.reason, status.message);
        }
        self
    }

    /// The facts, for data.
    pub(crate) fn facts(&self) -> Value {
        match &self.status {
            Some(status) => json!({"code": status.code, "reason": status.reason, "message": status.message}),
            None => Value::Null,
        }
    }

    /// The end of an attempt. Another one may end otherwise: objects and roles come and go.
    pub(crate) fn finish(self) -> Finish {
        let facts = self.facts();
        let finish = Finish::failed(self.code, self.message);
        if facts.is_null() { finish } else { finish.with_data(json!({ "status": facts })) }
    }
}

/// Whose fields stand against those that are applied: the owner's name with the API's version, and the field.
pub(crate) fn owners(status: &Status) -> impl Iterator<Item = (String, &str)> {
    let causes = status.details.as_ref().map_or(&[][..], |details| &details.causes);
    causes.iter().filter(|cause| cause.reason == "FieldManagerConflict").map(|cause| {
        // The API's words are: conflict with "kubectl" using apps/v1
        let owner = cause.message.strip_prefix("conflict with ").unwrap_or(&cause.message);
        (owner.replace('"', ""), cause.field.as_str())
    })
}

/// The first characters of a text that came from outside.
pub(crate) fn cut(text: &str, most: usize) -> String {
    let mut short: String = text.chars().take(most).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}
