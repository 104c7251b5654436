//! Credentials on their way: out of this agent's mailbox into its vault, and, sealed anew, to another agent of its pool.
//!
//! | to find | look in |
//! |---|---|
//! | following the mailbox | `follow` |
//! | what a mailbox says is to be done about the vault | `mailbox` |
//! | handing credentials on | `reseal` |
//! | where they are kept | [`crate::vault`] |
//! | what a job is given of them | `crate::attempt::access` |
//!
//! Nothing here decides who is to have credentials: whoever seals them does, and the mailbox is the gateway's and the dispatcher's.

mod follow;
mod mailbox;
mod reseal;

use muster_schemas::{
    names::AgentId,
    sealed::{SealError, SealingKey},
};
use nkeys::KeyPair;

pub(crate) use follow::run;
pub(crate) use reseal::{Desk, reseal};

use crate::vault::Vault;

/// Where credentials for this agent are sealed to, in its own word; `None` when its vault can't be used.
pub(crate) fn sealing(vault: &Vault, agent: &AgentId, seed: &str) -> Option<SealingKey> {
    let key = vault.opening_key()?;
    let identity = KeyPair::from_seed(seed).map_err(|_| SealError::Signature);
    let public = identity.and_then(|identity| key.public(agent, &identity));
    public.inspect_err(|error| tracing::error!(%error, "nobody can seal credentials to this agent")).ok()
}
