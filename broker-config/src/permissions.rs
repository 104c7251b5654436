//! Who may publish and subscribe what: one table, by role.
//!
//! Every subject is built in `muster_schemas::subjects`. A role gets what it needs and no more; an empty list is nothing, never
//! everything. What may cross from `FLEET` to `CORE` at all is in [`crate::accounts`].

use muster_schemas::{
    connection,
    names::{AgentId, PoolName},
    records::keys,
    signature::SIGNERS_KEY,
    subjects::{self, About, Query, broker, js},
    topology::{self, bucket_stream, jobs_stream},
};
use serde_json::{Value, json};

mod control_plane;

/// Who connects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// An agent, in `FLEET`.
    Agent {
        /// Its pool.
        pool: PoolName,
        /// Its id.
        id: AgentId,
    },
    /// Any gateway, in `CORE`. It also makes the streams.
    Gateway,
    /// Any dispatcher, in `CORE`.
    Dispatcher,
    /// A service that submits to some pools, in `CORE`.
    Service {
        /// The pools. None means no pool.
        pools: Vec<PoolName>,
    },
    /// Somebody who watches some pools, in `CORE`: their results, events and output, and nothing that changes anything.
    Viewer {
        /// The pools. None means no pool.
        pools: Vec<PoolName>,
    },
    /// Whoever looks after the server, in the system account.
    System,
    /// The dispatcher's second connection, in the system account: it puts revocations into the agents' account.
    Revoker,
}

/// What a user may publish and subscribe. The default is nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Permissions {
    /// Subjects that it may publish to.
    pub publish: Vec<String>,
    /// Exceptions from `publish`.
    pub publish_not: Vec<String>,
    /// Subjects that it may subscribe to.
    pub subscribe: Vec<String>,
}

impl Permissions {
    /// As the claims of a user, or the default permissions of an account.
    pub fn to_claims(&self) -> Value {
        // The broker takes an empty allow list as "everything", so nothing must be said by denying everything.
        let side = |allow: &[String], deny: &[String]| match (allow, deny) {
            ([], _) => json!({"deny": [broker::EVERYTHING]}),
            (allow, []) => json!({"allow": allow}),
            (allow, deny) => json!({"allow": allow, "deny": deny}),
        };
        // Never `resp`: with it the broker lets a user publish wherever a message that it was sent asks for an answer, past every deny. Whoever
        // may publish somewhere where they may also listen would name themselves any subject there **[measured on 2.15.1]**.
        json!({"pub": side(&self.publish, &self.publish_not), "sub": side(&self.subscribe, &[])})
    }
}

/// Subscriptions of one agent: an inbox per lane of up to 32 executors × 3 priorities, its own subjects, and room.
pub const AGENT_SUBSCRIPTIONS_MAX: u32 = 256;

impl Role {
    /// What this role may do.
    pub fn permissions(&self) -> Permissions {
        match self {
            Self::Agent { pool, id } => agent(pool, id),
            Self::Gateway => control_plane::gateway(),
            Self::Dispatcher => control_plane::dispatcher(),
            Self::Service { pools } => service(pools),
            Self::Viewer { pools } => viewer(pools),
            Self::Revoker => Permissions {
                publish: [broker::CLAIMS_UPDATE, broker::ACCOUNTS_IN_FORCE].map(str::to_owned).into(),
                subscribe: vec![broker::SYSTEM_INBOXES.into()],
                ..Permissions::default()
            },
            Self::System => {
                Permissions { publish: vec![broker::SYSTEM.into()], subscribe: vec![broker::INBOXES.into()], ..Permissions::default() }
            }
        }
    }

    /// The most subscriptions of one connection; `None` is no limit.
    pub fn max_subscriptions(&self) -> Option<u32> {
        matches!(self, Self::Agent { .. }).then_some(AGENT_SUBSCRIPTIONS_MAX)
    }
}

fn agent(pool: &PoolName, id: &AgentId) -> Permissions {
    let (jobs, standing) = (jobs_stream(pool), js::key(topology::STANDINGS, &keys::standing(pool, id)));
    // The same for every agent, and public keys only: whose jobs are run.
    let signers = js::key(topology::TRUST, SIGNERS_KEY);
    let mailbox = js::key(topology::MAILBOXES, &connection::keys::mailbox(id));
    let connections = js::key(topology::CONNECTIONS, &connection::keys::records_of(pool));
    // The same for every agent, and it says nothing but who has it: without one, nobody could call an agent up that stands by.
    let lease = js::key(topology::LEASES, topology::DISPATCHER_LEASE);
    let mut publish = vec![
        broker::pulls_of(&jobs),
        js::next(topology::COMMANDS, id.as_str()),
        subjects::heartbeat(pool, id),
        subjects::renew(id),
        subjects::leave(id),
        // A first delivery of an id that its publisher chose, and every later one: is there a result, what happened before?
        broker::direct_gets_about(topology::RESULTS, About::Result, pool),
        broker::direct_gets_about(topology::EVENTS, About::Event, pool),
        js::direct_get(&bucket_stream(topology::STANDINGS), &standing),
        js::direct_get(&bucket_stream(topology::TRUST), &signers),
        // Where jobs that name a connection go, and the credentials that were sealed to this agent.
        js::direct_get(&bucket_stream(topology::CONNECTIONS), &connections),
        js::direct_get(&bucket_stream(topology::MAILBOXES), &mailbox),
        js::direct_get(&bucket_stream(topology::LEASES), &lease),
        // Messages to itself, with which it ends an inbox without losing a job (tests/broker/drain.rs).
        broker::agent_inboxes(id),
        // Answers to what it is asked from the other account.
        broker::MAPPED_REPLIES.to_owned(),
    ];
    publish.extend(broker::acks_of(&jobs));
    publish.extend(broker::acks_of_consumer(topology::COMMANDS, id.as_str()));
    publish.extend([About::Result, About::Event, About::Log, About::Dead].map(|about| about.pool(pool)));
    Permissions {
        publish,
        publish_not: Vec::new(),
        subscribe: vec![broker::agent_inboxes(id), subjects::control(id), subjects::rpc_of(id), standing, signers, mailbox],
    }
}

/// No JetStream interface at all: its answers go to a reply subject of the caller's choice, which could be another pool's queue.
fn service(pools: &[PoolName]) -> Permissions {
    let mut publish: Vec<String> = pools.iter().map(subjects::jobs_of).collect();
    publish.extend(pools.iter().map(Query::any_about));
    Permissions { publish, subscribe: watched(pools), ..Permissions::default() }
}

fn viewer(pools: &[PoolName]) -> Permissions {
    let publish = pools.iter().map(|pool| Query::Result.about(pool)).collect();
    Permissions { publish, subscribe: watched(pools), ..Permissions::default() }
}

/// What is told of the pools' jobs, and the answers to one's own questions.
fn watched(pools: &[PoolName]) -> Vec<String> {
    let told = [About::Done, About::Event, About::Log].into_iter().flat_map(|about| pools.iter().map(move |pool| about.pool(pool)));
    std::iter::once(broker::INBOXES.to_owned()).chain(told).collect()
}

#[cfg(test)]
mod tests;
