//! The JWT of `FLEET`, in which the server keeps revocations that were made while it ran: a new one must not let a revoked agent in again.
//!
//! The newest one counts for the server, its own or the one in its config, by whole seconds of `iat`. So the one on disk stays while the two say
//! the same; one that says something else carries on what the server has refused, and is younger than the server's.

use std::{collections::BTreeMap, path::Path};

use muster_schemas::time::Timestamp;
use nkeys::KeyPair;

use super::{InitError, damaged};
use crate::{
    files,
    jwt::{self, AccountClaims},
    layout::{Account, Layout},
};

/// Who may have signed it.
pub(super) struct SignedBy<'a> {
    /// Signs here.
    pub(super) operator: &'a KeyPair,
    /// Signs revocations while the server runs.
    pub(super) signing: &'a KeyPair,
}

/// A JWT as it is somewhere.
struct There {
    jwt: String,
    revoked: BTreeMap<String, i64>,
    issued_at: Timestamp,
}

impl There {
    fn read(text: &str) -> Result<Self, jwt::JwtError> {
        Ok(Self { jwt: text.trim().to_owned(), revoked: jwt::revocations(text)?, issued_at: jwt::decode(text)?.issued_at })
    }

    fn says(&self, claims: impl Fn(BTreeMap<String, i64>) -> AccountClaims, signer: &KeyPair) -> bool {
        jwt::says_same(&self.jwt, &claims(self.revoked.clone()), signer)
    }
}

/// The JWT for the server's config. `claims` makes the claims with given revocations; `accounts` is the server's directory of accounts.
pub(super) fn signed(
    layout: &Layout,
    accounts: &Path,
    account: &str,
    claims: impl Fn(BTreeMap<String, i64>) -> AccountClaims,
    signers: &SignedBy<'_>,
    now: Timestamp,
) -> Result<String, InitError> {
    let path = layout.account_jwt(Account::Fleet);
    // Losing its revocations would let revoked agents in again, so a damaged file is not simply signed anew.
    let ours = files::read(&path)?.map(|text| There::read(&text).map_err(|error| damaged(&path, error))).transpose()?;
    let theirs = on_server(&accounts.join(format!("{account}.jwt")));
    if let Some(ours) = ours.as_ref().filter(|ours| ours.says(&claims, signers.operator) && stands(ours, theirs.as_ref(), &claims, signers))
    {
        return Ok(ours.jwt.clone());
    }
    let (mut revoked, mut at) = (BTreeMap::new(), now);
    for there in ours.iter().chain(&theirs) {
        at = at.max(there.issued_at + std::time::Duration::from_secs(1));
        for (key, until) in &there.revoked {
            revoked.entry(key.clone()).and_modify(|known: &mut i64| *known = (*known).max(*until)).or_insert(*until);
        }
    }
    let jwt = jwt::encode(&claims(revoked), signers.operator, at)?;
    files::replace(&path, &format!("{jwt}\n"))?;
    Ok(jwt)
}

/// Whether the server will go by what was signed here, revocations that it has itself included.
fn stands(ours: &There, theirs: Option<&There>, claims: impl Fn(BTreeMap<String, i64>) -> AccountClaims, signers: &SignedBy<'_>) -> bool {
    let Some(theirs) = theirs else { return true };
    if theirs.issued_at > ours.issued_at {
        // Its own counts; it may have been made of an older one of ours.
        return theirs.says(&claims, signers.signing) || theirs.says(&claims, signers.operator);
    }
    theirs.revoked.iter().all(|(key, until)| ours.revoked.get(key).is_some_and(|known| known >= until))
}

/// What the server has, where its directory can be read from here. The dispatcher brings the account up to date in any case, a moment after its
/// start.
fn on_server(path: &Path) -> Option<There> {
    let read = files::read(path).map_err(|error| error.to_string()).transpose()?;
    let there = read.and_then(|text| There::read(&text).map_err(|error| error.to_string()));
    there
        .inspect_err(|error| tracing::warn!(path = %path.display(), error, "the server's own copy of the agents' account can't be read"))
        .ok()
}
