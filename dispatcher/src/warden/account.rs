//! The agents' account as the broker has it: reading its JWT and replacing it, over a connection of its own in the system account.

use std::{collections::BTreeMap, time::Duration};

use async_nats::Request;
use bytes::Bytes;
use muster_broker_config::jwt;
use muster_runtime::nats::Broker;
use muster_schemas::{subjects::broker, time::Timestamp};
use serde::Deserialize;

use super::{WardenError, means::Means};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// The account, and what it takes to change it.
#[derive(Debug)]
pub(super) struct Account {
    system: Broker,
    means: Means,
}

/// The broker's answer to an update.
#[derive(Debug, Default, Deserialize)]
struct Answer {
    #[serde(default)]
    data: Said,
    #[serde(default)]
    error: Option<Said>,
}

/// What the broker goes by.
#[derive(Debug, Deserialize)]
struct InForce {
    #[serde(default)]
    data: Option<Claims>,
}

#[derive(Debug, Deserialize)]
struct Claims {
    #[serde(default)]
    jwt: String,
}

#[derive(Debug, Default, Deserialize)]
struct Said {
    #[serde(default)]
    code: u16,
    #[serde(default)]
    description: String,
}

impl Account {
    pub(super) fn new(system: Broker, means: Means) -> Self {
        Self { system, means }
    }

    /// Its JWT, as the broker goes by it.
    pub(super) async fn jwt(&self) -> Result<String, WardenError> {
        let answer = self.ask(broker::account_in_force(&self.means.fleet), Bytes::new()).await?;
        let said: InForce = serde_json::from_slice(&answer).map_err(|error| self.failed(error))?;
        let jwt = said.data.map(|data| data.jwt).unwrap_or_default();
        match jwt::decode(&jwt) {
            Ok(read) if read.subject == self.means.fleet => Ok(jwt),
            _ => Err(self.failed("the broker does not know it")),
        }
    }

    /// That JWT with these revocations; `None` when it has them.
    pub(super) fn with(&self, jwt: &str, revoked: &BTreeMap<String, i64>) -> Result<Option<String>, WardenError> {
        jwt::with_revocations(jwt, revoked, &self.means.operator, Timestamp::now()).map_err(|error| self.failed(error))
    }

    /// Replaces its JWT. The broker has cut off who is refused by it, once this is done.
    ///
    /// The broker stores, and says so, also what is signed by a key that it does not trust; it would not go by it, and would have no account at its
    /// next start. So it is asked what it goes by, and what it does not is taken back.
    pub(super) async fn replace(&self, before: String, after: String) -> Result<(), WardenError> {
        self.store(after.clone()).await?;
        if self.jwt().await?.trim() == after {
            return Ok(());
        }
        self.store(before).await?;
        Err(self
            .failed("the broker does not go by what the operator's signing key has signed: is it still the one in the broker's config?"))
    }

    async fn store(&self, jwt: String) -> Result<(), WardenError> {
        let answer = self.ask(broker::CLAIMS_UPDATE.to_owned(), jwt.into()).await?;
        let said: Answer = serde_json::from_slice(&answer).map_err(|error| self.failed(error))?;
        match said {
            Answer { error: Some(error), .. } => Err(self.failed(format!("refused: {} {}", error.code, error.description))),
            Answer { data: Said { code: 200, .. }, .. } => Ok(()),
            Answer { data, .. } => Err(self.failed(format!("an answer with code {}", data.code))),
        }
    }

    async fn ask(&self, subject: String, body: Bytes) -> Result<Bytes, WardenError> {
        if !self.system.status().connected {
            // The client would send it after the reconnect, when it may be out of date.
            return Err(self.failed("not connected to the system account"));
        }
        let request = Request::new().payload(body).timeout(Some(PATIENCE));
        let answer = self.system.client().send_request(subject, request).await;
        Ok(answer.map_err(|error| self.failed(error))?.payload)
    }

    fn failed(&self, why: impl std::fmt::Display) -> WardenError {
        WardenError::Account(format!("{}: {why}", self.means.fleet))
    }
}
