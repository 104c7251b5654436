//! What a gateway does about connections, and whoever seals credentials.

use std::collections::BTreeMap;

use muster_schemas::{
    connection::{ConnectionKind, ConnectionRecord, Mailbox, SealedEntry, keys},
    names::AgentId,
    sealed::{Credentials, Purpose, SealingKey},
    subjects::js,
    time::Timestamp,
    topology::{CONNECTIONS, MAILBOXES},
    wire::{self, V},
};
use serde_json::Value;

use crate::bench::Bench;

pub(crate) fn credentials(field: &str, secret: &str, shared: bool) -> Credentials {
    Credentials { v: V, fields: [(field.to_owned(), secret.to_owned())].into(), shared, bound: None }
}

impl Bench {
    /// Writes the record of a connection of the pool.
    pub(crate) async fn connection(&self, name: &str, kind: ConnectionKind, settings: Value, revision: u64) {
        let now = Timestamp::now();
        let name = name.parse().unwrap();
        let key = keys::record(&self.pool, &name);
        let record = ConnectionRecord {
            v: V,
            name,
            kind,
            pool: self.pool.clone(),
            settings,
            revision,
            delivery: None,
            created_at: now,
            updated_at: now,
        };
        self.publish(js::key(CONNECTIONS, &key), None, wire::encode(&record)).await;
    }

    /// Where credentials for an agent are sealed to.
    pub(crate) async fn sealing(&self, agent: &AgentId) -> SealingKey {
        self.heartbeat_of(agent, |beat| beat.sealing.is_some()).await.sealing.unwrap()
    }

    /// Seals a secret to an agent.
    pub(crate) async fn sealed(&self, agent: &AgentId, name: &str, revision: u64, credentials: &Credentials) -> SealedEntry {
        let connection = name.parse().unwrap();
        let purpose = Purpose { agent, connection: &connection, revision };
        self.sealing(agent).await.seal(credentials, purpose, Timestamp::now()).unwrap()
    }

    /// Puts these into an agent's mailbox, and nothing else.
    pub(crate) async fn mailbox(&self, agent: &AgentId, entries: &[(&str, SealedEntry)]) {
        let entries: BTreeMap<_, _> = entries.iter().map(|(name, entry)| (name.parse().unwrap(), entry.clone())).collect();
        self.publish(js::key(MAILBOXES, &keys::mailbox(agent)), None, wire::encode(&Mailbox { v: V, entries })).await;
    }

    /// Delivers the credentials of one connection, and waits until the agent says that it has them.
    pub(crate) async fn deliver(&self, agent: &AgentId, name: &str, revision: u64, credentials: &Credentials) {
        let entry = self.sealed(agent, name, revision, credentials).await;
        self.mailbox(agent, &[(name, entry)]).await;
        self.holds(agent, &[(name, revision)]).await;
    }

    /// Waits until an agent says that it has exactly these.
    pub(crate) async fn holds(&self, agent: &AgentId, held: &[(&str, u64)]) {
        let held: BTreeMap<_, _> = held.iter().map(|(name, revision)| (name.parse().unwrap(), *revision)).collect();
        self.heartbeat_of(agent, |beat| beat.credentials == held).await;
    }
}
