//! What this agent tells of its executors: encoded once, named in each heartbeat, given to the gateways that ask.

use bytes::Bytes;
use muster_schemas::{
    describe::{self, Description},
    wire::{self, Body as _},
};

/// The description, ready to be sent.
#[derive(Debug, Clone)]
pub(crate) struct Said {
    digest: Option<String>,
    body: Bytes,
}

impl Said {
    /// A description of more bytes than a gateway reads (with plugins it may grow so large) is not told at all: params are then checked here alone.
    pub(crate) fn of(description: &Description) -> Self {
        let body = wire::encode(description);
        if body.len() > Description::LIMIT {
            let (size, limit) = (body.len(), Description::LIMIT);
            tracing::warn!(size, limit, "what the executors take is too much to tell: gateways check no params for this agent");
            return Self { digest: None, body: Bytes::new() };
        }
        Self { digest: Some(describe::digest(&body)), body: body.into() }
    }

    /// What heartbeats call it by.
    pub(crate) fn digest(&self) -> Option<String> {
        self.digest.clone()
    }

    /// The answer to who asks for it.
    pub(crate) fn body(&self) -> Bytes {
        self.body.clone()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use muster_schemas::{
        describe::{ExecutorInfo, TypeInfo},
        wire::V,
    };
    use serde_json::json;

    use super::*;

    fn description(about: &str) -> Description {
        let info = TypeInfo {
            name: "a.b".into(),
            about: about.into(),
            params: json!({"type": "object"}),
            example: json!({}),
            connections: Vec::new(),
            needs_connection: false,
        };
        Description { v: V, executors: vec![ExecutorInfo { name: "a".parse().unwrap(), about: String::new(), types: vec![info] }] }
    }

    #[test]
    fn what_is_given_is_what_its_digest_names_and_what_nobody_would_read_has_none() {
        let said = Said::of(&description("short"));
        assert_eq!(said.digest(), Some(describe::digest(&said.body())));
        assert_eq!(wire::decode::<Description>(&said.body()).unwrap(), description("short"));
        let long = Said::of(&description(&"x".repeat(Description::LIMIT)));
        assert!(long.digest().is_none() && long.body().is_empty());
    }
}
