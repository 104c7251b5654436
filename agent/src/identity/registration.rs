//! What a registration says of this agent, with a fresh proof each time it is sent; and that our clock does not fit the gateway's.

use muster_schemas::{
    api::Register,
    signature::{SKEW_MAX, Signer},
    time::Timestamp,
};

/// Our clock and the gateway's are too far apart for anything that has a time in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "this machine's clock says {ours} and the gateway's {theirs}; they may differ by {} minutes, so set the clock",
    SKEW_MAX.as_secs() / 60
)]
pub struct Skew {
    /// What time it is by this machine's clock.
    pub ours: Timestamp,
    /// What time it is by the gateway's.
    pub theirs: Timestamp,
}

/// What this agent says of itself.
#[derive(Debug, Clone)]
pub(crate) struct Registration(Register);

impl Registration {
    /// `facts` are those without a key.
    pub(crate) fn new(facts: Register) -> Self {
        Self(facts)
    }

    /// The body of a registration with this join token or API key, proven by the private key. `None` when the seed is no user's.
    pub(crate) fn prove(&self, seed: &str, credential: &str, now: Timestamp) -> Option<Register> {
        let mut register = self.0.clone();
        register.prove(&Signer::from_seed(seed)?, credential, now);
        Some(register)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use nkeys::KeyPair;

    use super::*;

    const NOW: i64 = 1_800_000_000;

    fn at(secs: i64) -> Timestamp {
        Timestamp::from_secs(NOW + secs)
    }

    #[test]
    fn each_registration_is_proven_anew_for_its_key_and_its_credential() {
        let registration = Registration::new(Register { name: "web-1".into(), ..Register::default() });
        let seed = KeyPair::new_user().seed().unwrap();
        let key = format!("mst_agent_{}_{}", "a".repeat(10), "b".repeat(32));
        let first = registration.prove(&seed, &key, at(0)).unwrap();
        let second = registration.prove(&seed, &key, at(60)).unwrap();
        assert_eq!((first.proven(&key), second.proven(&key)), (Ok(at(0)), Ok(at(60))));
        assert!(second.proven(&key.replace("aaaaaaaaaa", "cccccccccc")).is_err());
        assert_eq!(registration.prove("SU", &key, at(0)), None);
    }
}
