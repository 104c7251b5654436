//! The accounts: what `CORE` and `FLEET` offer each other.
//!
//! Streams, gateway, dispatcher and services live in `CORE`; agents live in `FLEET`. Within one account an agent would choose the reply
//! subject of its pull, which the broker does not check against the agent's permissions, and could so write into any stream. Across
//! accounts the reply is mapped. What a single agent may use of all this is in [`crate::permissions`].

use std::collections::BTreeMap;

use muster_schemas::{
    subjects::{self, About, broker, js},
    topology::{self, bucket_stream},
};

use crate::jwt::{
    AccountClaims,
    claims::{Export, Response},
};

/// The public keys of an account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccountKeys {
    /// The account itself.
    pub account: String,
    /// What signs its users.
    pub signing: String,
}

/// What `CORE` offers to `FLEET`.
pub fn core_exports() -> Vec<Export> {
    let single = |subject: String| Export::Service(subject, Response::Singleton);
    let mut exports = vec![
        // One pull request is answered by up to its batch of jobs.
        Export::Service(broker::PULLS.into(), Response::Stream),
        single(broker::ACKS.into()),
        single(subjects::heartbeats()),
        single(broker::IDENTITIES.into()),
        single(broker::direct_gets(topology::RESULTS)),
        single(broker::direct_gets(topology::EVENTS)),
        single(broker::direct_gets(&bucket_stream(topology::STANDINGS))),
        single(broker::direct_gets(&bucket_stream(topology::TRUST))),
        single(broker::direct_gets(&bucket_stream(topology::CONNECTIONS))),
        single(broker::direct_gets(&bucket_stream(topology::MAILBOXES))),
        // Nothing but whether there is a dispatcher.
        single(js::direct_get(&bucket_stream(topology::LEASES), &js::key(topology::LEASES, topology::DISPATCHER_LEASE))),
    ];
    exports.extend([About::Result, About::Event, About::Log, About::Dead].map(|about| single(about.all())));
    exports.extend([
        Export::Stream(broker::keys_of(topology::STANDINGS)),
        Export::Stream(broker::keys_of(topology::TRUST)),
        Export::Stream(broker::keys_of(topology::MAILBOXES)),
        Export::Stream(broker::CONTROLS.into()),
    ]);
    exports
}

/// What `FLEET` offers to `CORE`.
pub fn fleet_exports() -> Vec<Export> {
    vec![Export::Service(broker::RPCS.into(), Response::Stream)]
}

fn from(account: &str, exports: Vec<Export>) -> Vec<(String, Export)> {
    exports.into_iter().map(|export| (account.to_owned(), export)).collect()
}

/// The account of streams, gateway, dispatcher and services.
pub fn core(keys: &AccountKeys, fleet: &AccountKeys) -> AccountClaims {
    AccountClaims {
        name: "CORE".into(),
        public_key: keys.account.clone(),
        signing_keys: vec![keys.signing.clone()],
        exports: core_exports(),
        imports: from(&fleet.account, fleet_exports()),
        revocations: BTreeMap::new(),
        jetstream: true,
    }
}

/// The account of agents, with the revocations so far (public key of the agent, last refused second of `iat`).
pub fn fleet(keys: &AccountKeys, core: &AccountKeys, revocations: BTreeMap<String, i64>) -> AccountClaims {
    AccountClaims {
        name: "FLEET".into(),
        public_key: keys.account.clone(),
        signing_keys: vec![keys.signing.clone()],
        exports: fleet_exports(),
        imports: from(&core.account, core_exports()),
        revocations,
        jetstream: false,
    }
}

/// The broker's own account.
pub fn sys(keys: &AccountKeys) -> AccountClaims {
    AccountClaims {
        name: "SYS".into(),
        public_key: keys.account.clone(),
        signing_keys: vec![keys.signing.clone()],
        exports: Vec::new(),
        imports: Vec::new(),
        revocations: BTreeMap::new(),
        jetstream: false,
    }
}
