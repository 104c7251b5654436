//! How far an agent's vault is known to have come: an older file of the same vault shows by a lower counter, and the agent closes it.
//!
//! It is kept in the agent's standing, so that it outlives dispatchers. A vault with another id is a new one, and begins anew.

use muster_schemas::heartbeat::VaultMark;

/// The most bytes of an id: agents make them of 32.
const ID_MAX: usize = 64;

/// What is known, once this was heard: of the same vault the higher counter, and otherwise what was heard last.
pub(super) fn raised(known: Option<VaultMark>, heard: Option<VaultMark>) -> Option<VaultMark> {
    let heard = heard.filter(|heard| heard.id.len() <= ID_MAX);
    match (known, heard) {
        (known, None) => known,
        (Some(known), Some(heard)) if known.id == heard.id && known.counter > heard.counter => Some(known),
        (_, heard) => heard,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(id: &str, counter: u64) -> Option<VaultMark> {
        Some(VaultMark { id: id.into(), counter })
    }

    #[test]
    fn it_only_grows_within_one_vault() {
        for (known, heard, then) in [
            (None, None, None),
            (None, mark("a", 3), mark("a", 3)),
            (mark("a", 3), None, mark("a", 3)),
            (mark("a", 3), mark("a", 4), mark("a", 4)),
            (mark("a", 3), mark("a", 2), mark("a", 3)),
            (mark("a", 3), mark("b", 1), mark("b", 1)),
            (mark("a", 3), mark(&"b".repeat(65), 9), mark("a", 3)),
        ] {
            assert_eq!(raised(known.clone(), heard.clone()), then, "{known:?} {heard:?}");
        }
    }
}
