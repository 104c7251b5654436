//! Tests of [`super`].
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests fail by panicking")]
use super::*;
use proptest::prelude::*;

/// Whether the only wildcard is the last token.
fn tail_only(subject: &str) -> bool {
    // In the long form of acknowledgements an account, which differs per deployment, stands before the stream; the token before it is fixed.
    let subject = subject.strip_prefix("$JS.ACK._.*.").unwrap_or(subject);
    let tokens: Vec<_> = subject.split('.').collect();
    let (_, before) = tokens.split_last().unwrap();
    !before.iter().any(|token| ["*", ">"].contains(token))
}

#[test]
fn no_pools_means_no_pool() {
    let permissions = Role::Service { pools: Vec::new() }.permissions();
    assert!(permissions.publish.is_empty());
    assert_eq!(permissions.to_claims()["pub"], json!({"deny": [">"]}));
    assert_eq!(permissions.to_claims()["sub"], json!({"allow": ["_INBOX.>"]}));
    assert_eq!(Permissions::default().to_claims(), json!({"pub": {"deny": [">"]}, "sub": {"deny": [">"]}}));
}

#[test]
fn the_whole_table_is_as_reviewed() {
    let (pool, id): (PoolName, AgentId) = ("p".parse().unwrap(), format!("agt_{}", "0".repeat(26)).parse().unwrap());
    let table = json!({
        "agent": Role::Agent { pool: pool.clone(), id }.permissions().to_claims(),
        "service": Role::Service { pools: vec![pool.clone()] }.permissions().to_claims(),
        "viewer": Role::Viewer { pools: vec![pool] }.permissions().to_claims(),
        "gateway": Role::Gateway.permissions().to_claims(),
        "dispatcher": Role::Dispatcher.permissions().to_claims(),
        "revoker": Role::Revoker.permissions().to_claims(),
        "system": Role::System.permissions().to_claims(),
    });
    let text = serde_json::to_string_pretty(&table).unwrap() + "\n";
    // To accept a change, write the printed text there and review the difference.
    assert_eq!(text, include_str!("../../golden/permissions.json"), "\n{text}");
}

proptest! {
    #[test]
    fn no_name_that_is_accepted_widens_a_permission(pool in "[ -~]{1,63}", agent in "(agt_)?[ -~]{26}") {
        if let (Ok(pool), Ok(id)) = (pool.parse::<PoolName>(), agent.parse::<AgentId>()) {
            check(&pool, &id)?;
        }
    }

    #[test]
    fn a_permission_of_agent_or_service_has_no_wildcard_before_its_tail(pool in "[a-z0-9-]{1,63}", agent in "agt_[0-9A-Z]{26}") {
        check(&pool.parse().unwrap(), &agent.parse().unwrap())?;
    }
}

fn check(pool: &PoolName, id: &AgentId) -> Result<(), TestCaseError> {
    let agent = Role::Agent { pool: pool.clone(), id: id.clone() }.permissions();
    let own = [pool.to_string(), id.to_string(), jobs_stream(pool)];
    // Whose jobs are run, and whether there is a dispatcher.
    let of_all = [js::key(topology::TRUST, SIGNERS_KEY), js::key(topology::LEASES, topology::DISPATCHER_LEASE)];
    for subject in agent.publish.iter().chain(&agent.subscribe) {
        prop_assert!(tail_only(subject), "{}", subject);
        if subject == broker::MAPPED_REPLIES || of_all.iter().any(|key| subject.ends_with(key)) {
            continue;
        }
        prop_assert!(subject.split('.').any(|token| own.iter().any(|o| o == token)), "{} names neither agent nor pool", subject);
    }
    let service = Role::Service { pools: vec![pool.clone()] }.permissions();
    for subject in service.publish.iter().chain(&service.subscribe).filter(|s| *s != broker::INBOXES) {
        prop_assert!(subject.split('.').any(|token| token == pool.as_str()), "{} does not name the pool", subject);
    }
    Ok(())
}
