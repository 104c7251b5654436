//! What the entries of an agent's vault hold, and how they are named.

use muster_schemas::{
    connection::CREDENTIALS_LIMIT,
    names::ConnectionName,
    sealed::{Credentials, OpeningKey},
};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::VaultError;

/// What the names of credentials begin with; the connection's follows.
const CONNECTION: &str = "connection/";
/// The name of the agent's private sealing key.
const SEALING_KEY: &str = "sealing-key";

/// The credentials of a connection, as they are kept.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Held {
    /// The connection's revision that they are; 0 is what somebody put here by hand.
    pub(crate) revision: u64,
    /// Of what somebody put here by hand: the delivered revision that it replaced. Another one replaces it.
    #[serde(default)]
    pub(crate) over: u64,
    /// The secrets.
    pub(crate) credentials: Credentials,
}

impl Held {
    /// The delivered revision that these are, or that they replaced; 0 if there was none.
    pub(crate) fn delivered(&self) -> u64 {
        if self.revision > 0 { self.revision } else { self.over }
    }

    pub(super) fn get(store: &muster_vault::Vault, name: &ConnectionName) -> Result<Option<Self>, VaultError> {
        let Some(bytes) = store.get(&key(name))? else { return Ok(None) };
        let read = rmp_serde::from_slice(&bytes);
        read.map(Some).map_err(|error| VaultError::Content { name: name.clone(), problem: error.to_string() })
    }

    pub(super) fn put(&self, store: &mut muster_vault::Vault, name: &ConnectionName) -> Result<(), VaultError> {
        let problem = |problem| VaultError::Content { name: name.clone(), problem };
        let fields = &self.credentials.fields;
        let size = fields.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>();
        if size > CREDENTIALS_LIMIT {
            return Err(problem(format!("they have {size} bytes; at most {CREDENTIALS_LIMIT}")));
        }
        // With what MessagePack adds to each field: a buffer that never grows leaves no copies behind.
        let mut bytes = Zeroizing::new(Vec::with_capacity(size + fields.len() * 10 + 128));
        rmp_serde::encode::write_named(&mut *bytes, self).map_err(|error| problem(error.to_string()))?;
        Ok(store.put(&key(name), &bytes)?)
    }

    pub(super) fn remove(store: &mut muster_vault::Vault, name: &ConnectionName) -> Result<bool, VaultError> {
        Ok(store.remove(&key(name))?)
    }

    /// The connections that there are credentials of.
    pub(super) fn names(store: &muster_vault::Vault) -> impl Iterator<Item = ConnectionName> {
        store.names().filter_map(|name| name.strip_prefix(CONNECTION)?.parse().ok())
    }
}

fn key(name: &ConnectionName) -> String {
    format!("{CONNECTION}{name}")
}

/// The agent's private sealing key, made at the first use of the vault.
pub(super) fn opening_key(store: &mut muster_vault::Vault) -> Result<OpeningKey, muster_vault::VaultError> {
    if let Some(bytes) = store.get(SEALING_KEY)? {
        match OpeningKey::from_bytes(&bytes) {
            Ok(key) => return Ok(key),
            Err(error) => tracing::error!(%error, "the sealing key in the vault is none; a new one is made"),
        }
    }
    let key = OpeningKey::generate();
    store.put(SEALING_KEY, key.as_bytes())?;
    Ok(key)
}
