//! The endpoints of the list of signers: services' keys added and removed, all of them shown. The list itself is kept in [`crate::signing`].
//!
//! Keys of gateways and dispatchers are shown here and changed nowhere: they roll over with `muster init`.

use std::{collections::BTreeSet, str::FromStr};

use axum::{Json as Answer, extract::State, http::StatusCode};
use muster_broker_config::jwt;
use muster_schemas::{
    api::{AddSigner, Many, One, SignerView},
    code::Code,
    names::{NameError, PoolName},
    records::Role,
    signature::{SIGNERS_MAX, Scope, Signers, TrustedSigner},
    time::Timestamp,
};

use crate::{
    app::App,
    auth::Caller,
    endpoint::{Access, Endpoint},
    extract::{Json, Path, Query},
    identity::check_public_key,
    page::{self, Cursor, ListQuery},
    problem::ApiError,
    signing,
};

const TAG: &str = "signers";
const ADMIN: Access = Access::Role(Role::Admin);
/// The longest name of a signer, in characters.
const NAME_MAX: usize = 100;
/// The most pools of one key.
const POOLS_MAX: usize = 100;

pub(crate) fn endpoints() -> Vec<Endpoint> {
    vec![
        Endpoint::post("/api/v1/signers", ADMIN, add)
            .about(
                TAG,
                "Trust a service's key",
                "Agents of these pools run what it signs, from about a second later on. A key that is there already is given this name and these pools.",
            )
            .body::<AddSigner>()
            .answers::<One<SignerView>>(StatusCode::CREATED, "The key is in the list.")
            .codes(&[Code::FieldInvalid, Code::NameInvalid, Code::PoolNotFound, Code::SigningUnavailable])
            .audited_made("signers.add", "/data/public_key"),
        Endpoint::get("/api/v1/signers", ADMIN, list)
            .about(TAG, "List the keys whose jobs are run", "Those of gateways and dispatchers too.")
            .query::<ListQuery>()
            .answers::<Many<SignerView>>(StatusCode::OK, "A page of keys, in their order.")
            .codes(&[Code::QueryInvalid, Code::SigningUnavailable]),
        Endpoint::delete("/api/v1/signers/{public_key}", ADMIN, remove)
            .about(
                TAG,
                "Trust a service's key no more",
                "Agents refuse what it signed, also what waits in queues. A key of a gateway or dispatcher can't be removed here: they roll over.",
            )
            .answers_other(StatusCode::NO_CONTENT, "It is in the list no more.", "")
            .codes(&[Code::SignerNotFound, Code::FieldInvalid, Code::NameInvalid, Code::SigningUnavailable])
            .audited("signers.remove"),
    ]
}

/// A public key in a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PublicKey(String);

impl FromStr for PublicKey {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        let rule = "an nkey of 56 characters that starts with U";
        let wrong = |_| match is_seed(text) {
            true => NameError::new("a public key but as a seed begins, which is to be kept secret", rule, "S…"),
            false => NameError::new("a public key", rule, text),
        };
        jwt::check_user_key(text).map(|()| Self(text.into())).map_err(wrong)
    }
}

/// Whether a text may be a seed, or a part of one: it must not be repeated then.
fn is_seed(text: &str) -> bool {
    text.trim_start().starts_with(['S', 's'])
}

async fn add(
    State(app): State<App>,
    caller: Caller,
    Json(AddSigner { name, public_key, pools }): Json<AddSigner>,
) -> Result<(StatusCode, Answer<One<SignerView>>), ApiError> {
    let invalid = |detail: String| ApiError::new(Code::FieldInvalid, detail);
    if !(1..=NAME_MAX).contains(&name.chars().count()) || name.contains(char::is_control) {
        return Err(invalid(format!("name takes 1 to {NAME_MAX} characters, none of them a control character")));
    }
    if is_seed(&public_key) {
        return Err(invalid("public_key begins as a seed, which is to be kept secret; give the public key, which starts with U".into()));
    }
    check_public_key(&public_key)?;
    if !(1..=POOLS_MAX).contains(&pools.len()) {
        return Err(invalid(format!("pools takes 1 to {POOLS_MAX} pools")));
    }
    let pools = pools.iter().map(|pool| pool.parse()).collect::<Result<BTreeSet<PoolName>, _>>()?;
    for pool in &pools {
        app.buckets.pool(pool).await?;
    }
    let signer = TrustedSigner { key: public_key, name, scope: Scope::Pools(pools), added_at: Timestamp::now() };
    let put = |list: &mut Signers| put(list, &signer);
    signing::change(&app.buckets.trust, &app.signing, put).await?;
    tracing::info!(key = signer.key, name = signer.name, by = caller.key_id, "a service's key is trusted");
    Ok((StatusCode::CREATED, Answer(One { data: view(&signer) })))
}

/// Puts a service's key into the list.
fn put(list: &mut Signers, signer: &TrustedSigner) -> Result<bool, ApiError> {
    if list.is_control_plane(&signer.key) {
        return Err(ApiError::new(Code::FieldInvalid, "public_key is that of a gateway or dispatcher, which signs for every pool"));
    }
    let count = list.signers.len();
    match list.signers.iter_mut().find(|there| there.key == signer.key) {
        Some(there) if there.name == signer.name && there.scope == signer.scope => return Ok(false),
        Some(there) => *there = TrustedSigner { added_at: there.added_at, ..signer.clone() },
        None if count >= SIGNERS_MAX => {
            let detail = format!("{SIGNERS_MAX} keys are trusted already, which is the most; remove one first");
            return Err(ApiError::new(Code::FieldInvalid, detail));
        }
        None => list.signers.push(signer.clone()),
    }
    Ok(true)
}

async fn list(State(app): State<App>, Query(query): Query<ListQuery>) -> Result<Answer<Many<SignerView>>, ApiError> {
    let limit = page::limit(query.limit)?;
    let after = query.cursor.as_deref().map(Cursor::decode).transpose()?;
    let list = signing::now(&app.buckets.trust, &app.signing).await?;
    let mut views: Vec<SignerView> = list.signers.iter().map(view).collect();
    views.sort_by(|a, b| a.public_key.cmp(&b.public_key));
    let behind = views.into_iter().filter(|view| after.as_ref().is_none_or(|after| view.public_key > *after));
    Ok(Answer(page::cut(behind, limit, |view| view.public_key.clone())))
}

async fn remove(State(app): State<App>, caller: Caller, Path(PublicKey(key)): Path<PublicKey>) -> Result<StatusCode, ApiError> {
    signing::change(&app.buckets.trust, &app.signing, |list| take_out(list, &key)).await?;
    tracing::info!(key, by = caller.key_id, "a service's key is not trusted any more");
    Ok(StatusCode::NO_CONTENT)
}

/// Takes a service's key out of the list.
fn take_out(list: &mut Signers, key: &str) -> Result<bool, ApiError> {
    if list.is_control_plane(key) {
        let detail = "it is the key of a gateway or dispatcher, which rolls over with `muster init --roll-job-keys`";
        return Err(ApiError::new(Code::FieldInvalid, detail));
    }
    let before = list.signers.len();
    list.signers.retain(|signer| signer.key != key);
    if list.signers.len() == before {
        return Err(ApiError::new(Code::SignerNotFound, format!("{key} is not in the list of signers")));
    }
    Ok(true)
}

fn view(signer: &TrustedSigner) -> SignerView {
    let pools = match &signer.scope {
        Scope::ControlPlane => BTreeSet::new(),
        Scope::Pools(pools) => pools.clone(),
    };
    SignerView {
        public_key: signer.key.clone(),
        name: signer.name.clone(),
        control_plane: signer.scope == Scope::ControlPlane,
        pools,
        added_at: signer.added_at,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use muster_schemas::signature::Signer;

    use super::*;

    fn signer(scope: Scope) -> TrustedSigner {
        let key = Signer::generate().public_key().to_owned();
        TrustedSigner { key, name: "n".into(), scope, added_at: Timestamp::from_secs(1_800_000_000) }
    }

    fn pools(names: &[&str]) -> Scope {
        Scope::Pools(names.iter().map(|name| name.parse().unwrap()).collect())
    }

    #[test]
    fn a_key_is_added_once_and_given_other_pools_and_the_control_planes_are_left_alone() {
        let (gateway, service) = (signer(Scope::ControlPlane), signer(pools(&["p"])));
        let mut list = Signers { signers: vec![gateway.clone()], ..Signers::default() };
        assert!(put(&mut list, &service).unwrap());
        assert!(!put(&mut list, &service).unwrap(), "the same once more changes nothing");
        assert!(put(&mut list, &TrustedSigner { scope: pools(&["q"]), ..service.clone() }).unwrap());
        assert_eq!(list.signers.len(), 2);
        assert!(list.may_sign(&service.key, &"q".parse().unwrap()) && !list.may_sign(&service.key, &"p".parse().unwrap()));
        for refused in [put(&mut list, &TrustedSigner { scope: pools(&["q"]), ..gateway.clone() }), take_out(&mut list, &gateway.key)] {
            assert_eq!(refused.unwrap_err().code, Code::FieldInvalid);
        }
        assert!(take_out(&mut list, &service.key).unwrap());
        assert_eq!(take_out(&mut list, &service.key).unwrap_err().code, Code::SignerNotFound);
        assert_eq!(list.signers, [gateway]);
    }

    #[test]
    fn a_seed_in_place_of_a_public_key_is_not_repeated() {
        let seed = nkeys::KeyPair::new_user().seed().unwrap();
        for given in [seed.clone(), format!(" {seed}"), seed.to_lowercase()] {
            let said = given.parse::<PublicKey>().unwrap_err().to_string();
            assert!(said.contains("seed") && !said.contains(&given[2..20]), "{said}");
        }
        assert!("x1".parse::<PublicKey>().unwrap_err().to_string().contains("x1"));
    }

    #[test]
    fn the_list_is_bounded() {
        let mut list = Signers { signers: (0..SIGNERS_MAX).map(|_| signer(pools(&["p"]))).collect(), ..Signers::default() };
        assert_eq!(put(&mut list, &signer(pools(&["p"]))).unwrap_err().code, Code::FieldInvalid);
    }
}
