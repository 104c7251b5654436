//! Does what was decided. Each step looks again at what it is about, and names the revision that it replaces, so it may be repeated and may
//! come too late.

use std::time::Duration;

use async_nats::{Client, HeaderMap, Request};
use muster_runtime::nats::Broker;
use muster_schemas::{
    code::Code,
    connection::{CONNECTIONS_MAX, ConnectionRecord, Mailbox, SealedEntry, keys},
    control::{RESEAL, ResealAnswer, ResealRequest},
    headers::{CONTENT_TYPE, MSGPACK},
    names::{AgentId, ConnectionName},
    records::{self, AgentRecord},
    subjects,
    topology::{AGENTS, CONNECTIONS, MAILBOXES},
    wire::{self, Body as _, V},
};

use super::plan::{Command, Handing, Outcome};
use crate::{
    broker::{self, BrokerError, PATIENCE, Write},
    held::{self, Record},
    lease::keeper::Leadership,
};

/// How long a holder may take to seal.
const ANSWER: Duration = Duration::from_secs(5);

/// Why something was not done now.
#[derive(Debug, thiserror::Error)]
enum DeskError {
    #[error(transparent)]
    Broker(#[from] BrokerError),
    #[error("agent {0} did not answer")]
    Silent(AgentId, #[source] async_nats::RequestError),
    #[error("agent {0} does not hand them on: {1}")]
    Refused(AgentId, String),
    #[error("agent {0} must not hand them on")]
    Forbidden(AgentId),
    #[error("{0} can't be read")]
    Unreadable(String),
    #[error("the mailbox has no room for them")]
    Full,
    #[error("somebody else has just written it")]
    Restless,
    #[error("this dispatcher is not the active one any longer")]
    NotActive,
}

/// Works on mailboxes; clones share the connection.
#[derive(Debug, Clone)]
pub(super) struct Desk {
    pub(super) broker: Broker,
    pub(super) leadership: Leadership,
}

impl Desk {
    /// Carries out a command, and says what became of it.
    pub(super) async fn perform(&self, command: &Command) -> Outcome {
        let done = match command {
            Command::Hand(handing) => self.hand(handing).await,
            Command::Drop(agent, connection) => self.take_out(agent, connection).await,
            Command::Discard(agent) => self.discard(agent).await,
        };
        match done {
            Ok(()) => Outcome::Done,
            Err(DeskError::Forbidden(from)) => {
                tracing::info!(%from, ?command, "these credentials are not shared; they have to be delivered by whoever has them");
                Outcome::Forbidden
            }
            Err(error) => {
                tracing::warn!(
                    ?command,
                    error = &error as &dyn std::error::Error,
                    "credentials are not where they should be yet; trying again"
                );
                Outcome::Failed
            }
        }
    }

    async fn hand(&self, handing: &Handing) -> Result<(), DeskError> {
        let Handing { pool, connection, revision, to, .. } = handing;
        let entry = self.sealed(handing).await?;
        let (mut mailbox, at) = self.mailbox(to).await?;
        // Looked at behind the mailbox: whoever deletes a connection, or delivers anew, writes the record first and the mailboxes then.
        let key = keys::record(pool, connection);
        match held::record::<ConnectionRecord>(self.client(), CONNECTIONS, &key).await?.0 {
            Record::Value(record) if record.revision == *revision => {}
            Record::Unreadable => return Err(DeskError::Unreadable(key)),
            Record::Value(_) | Record::Absent => return Ok(()),
        }
        mailbox.entries.insert(connection.clone(), entry);
        if mailbox.entries.len() > CONNECTIONS_MAX {
            return Err(DeskError::Full);
        }
        self.write(to, mailbox, at).await?;
        tracing::info!(%connection, revision, from = %handing.from, %to, "credentials were handed on");
        Ok(())
    }

    /// Has the holder seal them.
    async fn sealed(&self, handing: &Handing) -> Result<SealedEntry, DeskError> {
        let Handing { connection, revision, from, to, public_key, sealing, .. } = handing;
        let request = ResealRequest {
            v: V,
            connection: connection.clone(),
            revision: *revision,
            agent_id: to.clone(),
            public_key: public_key.clone(),
            sealing: sealing.clone(),
        };
        self.lead()?;
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, MSGPACK);
        let request = Request::new().headers(headers).payload(wire::encode(&request).into()).timeout(Some(ANSWER));
        let answer = self.client().send_request(subjects::rpc(from, RESEAL), request).await;
        let answer = answer.map_err(|error| DeskError::Silent(from.clone(), error))?;
        let refused = |why: String| DeskError::Refused(from.clone(), why);
        let answer: ResealAnswer = wire::decode(&answer.payload).map_err(|error| refused(error.to_string()))?;
        match answer {
            ResealAnswer { entry: Some(entry), .. } if entry.revision == *revision && entry.key == sealing.key => Ok(entry),
            ResealAnswer { entry: Some(_), .. } => Err(refused("it sealed others, or to another key".to_owned())),
            ResealAnswer { error: Some(error), .. } if error.code == Code::Forbidden => Err(DeskError::Forbidden(from.clone())),
            ResealAnswer { error, .. } => Err(refused(error.map_or_else(|| "it does not say why".to_owned(), |error| error.message))),
        }
    }

    /// Takes out what is of no connection of the agent's pool.
    async fn take_out(&self, agent: &AgentId, connection: &ConnectionName) -> Result<(), DeskError> {
        let (mut mailbox, at) = self.mailbox(agent).await?;
        let Some(entry) = mailbox.entries.remove(connection) else { return Ok(()) };
        let key = records::keys::agent(agent);
        let pool = match held::record::<AgentRecord>(self.client(), AGENTS, &key).await?.0 {
            Record::Value(record) => record.pool,
            Record::Absent => return Ok(()),
            Record::Unreadable => return Err(DeskError::Unreadable(key)),
        };
        let key = keys::record(&pool, connection);
        match held::record::<ConnectionRecord>(self.client(), CONNECTIONS, &key).await?.0 {
            Record::Value(record) if record.revision >= entry.revision => return Ok(()),
            Record::Unreadable => return Err(DeskError::Unreadable(key)),
            Record::Value(_) | Record::Absent => {}
        }
        self.write(agent, mailbox, at).await?;
        tracing::info!(%agent, %connection, "took out of a mailbox what is of no connection any more");
        Ok(())
    }

    /// Deletes the mailbox of an agent that is no more.
    async fn discard(&self, agent: &AgentId) -> Result<(), DeskError> {
        let Some(at) =
            broker::entry(self.client(), MAILBOXES, &keys::mailbox(agent), PATIENCE).await?.filter(|entry| entry.value.is_some())
        else {
            return Ok(());
        };
        match held::record::<AgentRecord>(self.client(), AGENTS, &records::keys::agent(agent)).await?.0 {
            Record::Absent => {}
            Record::Value(_) | Record::Unreadable => return Ok(()),
        }
        self.lead()?;
        match broker::write(self.client(), MAILBOXES, &keys::mailbox(agent), None, at.revision, PATIENCE).await? {
            Write::Stored(_) => tracing::info!(%agent, "deleted the mailbox of an agent that is no more"),
            Write::Refused => return Err(DeskError::Restless),
        }
        Ok(())
    }

    async fn mailbox(&self, agent: &AgentId) -> Result<(Mailbox, u64), DeskError> {
        let key = keys::mailbox(agent);
        match held::record::<Mailbox>(self.client(), MAILBOXES, &key).await? {
            (Record::Value(mailbox), at) => Ok((mailbox, at)),
            (Record::Absent, at) => Ok((Mailbox::default(), at)),
            (Record::Unreadable, _) => Err(DeskError::Unreadable(format!("the mailbox of {agent}"))),
        }
    }

    async fn write(&self, agent: &AgentId, mailbox: Mailbox, at: u64) -> Result<(), DeskError> {
        let body = wire::encode(&mailbox);
        if body.len() > Mailbox::LIMIT {
            return Err(DeskError::Full);
        }
        self.lead()?;
        match broker::write(self.client(), MAILBOXES, &keys::mailbox(agent), Some(body), at, PATIENCE).await? {
            Write::Stored(_) => Ok(()),
            Write::Refused => Err(DeskError::Restless),
        }
    }

    fn lead(&self) -> Result<(), DeskError> {
        if self.leadership.is_mine() { Ok(()) } else { Err(DeskError::NotActive) }
    }

    fn client(&self) -> &Client {
        self.broker.client()
    }
}
