//! What of a path may be told as the target: what its route takes there, and nothing that merely stands there.
//!
//! Whoever is turned away at the gate came to no handler that would have parsed the path, so it is parsed here, by the same types. What
//! else looks like a secret is cut out by `muster_schemas::audit`.

use axum::extract::RawPathParams;
use muster_schemas::names::{AgentId, ConnectionName, GroupId, JobId, PoolName, ScheduleName};

use crate::{keys::KeyId, signers::PublicKey, tokens::Prefix};

/// The path's parameter, if it is of the kind that this route names.
pub(super) fn of(path: &str, params: &RawPathParams) -> Option<String> {
    params.iter().next().and_then(|(_, value)| kind(path)?(value).then(|| value.to_owned()))
}

/// What the parameter of a route has to be; `None` for a route that has none.
fn kind(path: &str) -> Option<fn(&str) -> bool> {
    let mut parts = path.strip_prefix(muster_schemas::api::BASE)?.split('/').skip(1);
    let (area, name) = (parts.next()?, parts.find(|part| part.starts_with('{'))?);
    match (area, name) {
        ("agents", "{id}") => Some(is::<AgentId>),
        ("api-keys", "{id}") => Some(is::<KeyId>),
        ("connections", "{name}") => Some(is::<ConnectionName>),
        ("dead-letters" | "jobs", "{id}") => Some(is::<JobId>),
        ("groups", "{id}") => Some(is::<GroupId>),
        ("join-tokens", "{prefix}") => Some(is::<Prefix>),
        ("pools", "{name}") => Some(is::<PoolName>),
        ("schedules", "{name}") => Some(is::<ScheduleName>),
        ("signers", "{public_key}") => Some(is::<PublicKey>),
        _ => None,
    }
}

fn is<T: std::str::FromStr>(text: &str) -> bool {
    text.parse::<T>().is_ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;

    #[test]
    fn every_parameter_of_a_path_has_a_kind() {
        for endpoint in crate::routes::table() {
            assert_eq!(kind(endpoint.path).is_some(), endpoint.path.contains('{'), "{}: name the kind of its parameter", endpoint.path);
        }
    }

    #[test]
    fn only_what_a_route_takes_is_told_as_its_target() {
        let pair = nkeys::KeyPair::new_user();
        let (public, seed) = (pair.public_key(), pair.seed().unwrap());
        let ulid = "01ARZ3NDEKTSV4RRFFQ69G5FAV";
        let texts = [
            format!("agt_{ulid}"),
            format!("key_{ulid}"),
            format!("grp_{ulid}"),
            "abcdefghij".into(),
            public,
            seed,
            "a.b".into(),
            "%6dst_x".into(),
        ];
        for (path, told) in [
            ("/api/v1/agents/{id}/revoke", vec![0]),
            ("/api/v1/api-keys/{id}", vec![1]),
            ("/api/v1/connections/{name}/credentials", vec![3]),
            ("/api/v1/groups/{id}", vec![2]),
            ("/api/v1/join-tokens/{prefix}", vec![3]),
            ("/api/v1/pools/{name}/pause", vec![3]),
            ("/api/v1/schedules/{name}", vec![3]),
            ("/api/v1/signers/{public_key}", vec![4]),
            // Any word may be a job's own id; of these, what looks like a secret is cut out later.
            ("/api/v1/jobs/{id}/cancel", vec![0, 1, 2, 3, 4, 5]),
        ] {
            let kind = kind(path).unwrap();
            let kept: Vec<usize> = texts.iter().enumerate().filter(|(_, text)| kind(text)).map(|(place, _)| place).collect();
            assert_eq!(kept, told, "{path}");
        }
    }
}
