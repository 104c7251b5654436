//! Names and ids from outside, parsed once at the edge. What is held by a type here is exactly one subject token.
//!
//! Nothing here lower-cases, trims or repairs: a name is accepted as given or refused with the rule it broke.

use std::{borrow::Cow, fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest, Sha256};

/// Why a text is not a name or id of the wanted kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{given}` is not {what}: it takes {rule}")]
pub struct NameError {
    /// The kind of name, with its article ("a pool name").
    pub what: &'static str,
    /// What is allowed.
    pub rule: &'static str,
    /// The text as given: control characters escaped, cut after 64 characters.
    pub given: String,
}

impl NameError {
    /// The error for a text that is not `what`, because of `rule`. What is shown of the text is escaped and cut.
    pub fn new(what: &'static str, rule: &'static str, given: &str) -> Self {
        let mut shown: String = given.chars().take(64).flat_map(char::escape_debug).collect();
        if given.chars().nth(64).is_some() {
            shown.push('…');
        }
        Self { what, rule, given: shown }
    }
}

/// Defines a name: a string that [`FromStr`] has checked. Every way in (serde included) goes through the check.
macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $what:literal, $rule:literal, $pattern:literal, $check:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $type(Box<str>);

        impl $type {
            /// The text, which is exactly one subject token.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $type {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                let check: fn(&str) -> bool = $check;
                if check(text) { Ok(Self(text.into())) } else { Err(NameError::new($what, $rule, text)) }
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl AsRef<str> for $type {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                Cow::<str>::deserialize(from)?.parse().map_err(serde::de::Error::custom)
            }
        }

        impl schemars::JsonSchema for $type {
            fn schema_name() -> Cow<'static, str> {
                stringify!($type).into()
            }
            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({"type": "string", "pattern": $pattern, "description": $rule})
            }
        }
    };
}

name!(
    /// The name of a pool: a group of agents that share lanes.
    PoolName, "a pool name", "1 to 63 of a-z, 0-9 and -", "^[a-z0-9-]{1,63}$", is_slug
);
name!(
    /// The name that an operator gives an agent; unique while the agent's record exists.
    AgentName, "an agent name", "1 to 63 of a-z, 0-9 and -", "^[a-z0-9-]{1,63}$", is_slug
);
name!(
    /// The first part of a job's type; it names the executor and is a token of the job's subject.
    ExecutorName, "an executor name", "1 to 63 of a-z, 0-9 and -", "^[a-z0-9-]{1,63}$", is_slug
);
name!(
    /// A job's id: made by [`JobId::generate`], or the publisher's own.
    JobId, "a job id", "1 to 64 of A-Z, a-z, 0-9, _ and -", "^[A-Za-z0-9_-]{1,64}$", |text| is_word(text, 64)
);
name!(
    /// An agent's id (`agt_` and a ULID), made by the gateway at registration; an agent keeps it for life.
    AgentId, "an agent id", "agt_ and 26 of 0-9 and A-Z", "^agt_[0-9A-Z]{26}$",
    |text| text.strip_prefix("agt_").is_some_and(is_ulid)
);
name!(
    /// A job's type, `<executor>.<verb>`, such as `shell.run`.
    JobType, "a job type", "an executor and a verb joined by a dot, such as shell.run, each 1 to 63 of a-z, 0-9 and -",
    "^[a-z0-9-]{1,63}\\.[a-z0-9-]{1,63}$",
    |text| text.split_once('.').is_some_and(|(executor, verb)| is_slug(executor) && is_slug(verb))
);

name!(
    /// The name of a schedule. Short enough for a job id to hold it and the time of a firing.
    ScheduleName, "a schedule name", "1 to 40 of a-z, 0-9 and -", "^[a-z0-9-]{1,40}$", |text| text.len() <= 40 && is_slug(text)
);

name!(
    /// The name of a connection, unique in the deployment.
    ConnectionName, "a connection name", "1 to 63 of a-z, 0-9 and -", "^[a-z0-9-]{1,63}$", is_slug
);

name!(
    /// The id of a group of jobs (`grp_` and a ULID), one job for each of many agents.
    GroupId, "a group id", "grp_ and 26 of 0-9 and A-Z", "^grp_[0-9A-Z]{26}$",
    |text| text.strip_prefix("grp_").is_some_and(is_ulid)
);

fn is_slug(text: &str) -> bool {
    (1..=63).contains(&text.len()) && text.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-'))
}

fn is_word(text: &str, most: usize) -> bool {
    (1..=most).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'))
}

fn is_ulid(text: &str) -> bool {
    text.len() == 26 && text.bytes().all(|b| b.is_ascii_digit() || b.is_ascii_uppercase())
}

/// The clock's milliseconds and 80 random bits.
fn fresh_ulid() -> ulid::Ulid {
    let ms = u64::try_from(crate::time::Timestamp::now().micros() / 1000).unwrap_or(0);
    ulid::Ulid::from_parts(ms, rand::random())
}

impl AgentId {
    /// A new id from the clock and 80 random bits.
    pub fn generate() -> Self {
        Self(format!("agt_{}", fresh_ulid()).into())
    }
}

/// How many of the 80 random bits of a generated job id hold the hash of its pool. 20 bits let one forged id in a million pass;
/// the 60 that stay random keep ids unguessable.
const POOL_BITS: u32 = 20;

impl JobId {
    /// A new id for a job of `pool`: `job_` and a ULID whose last 20 bits are a hash of the pool's name.
    ///
    /// The hash lets a stateless reader tell a result stored under another pool for the same id (a forgery by an agent of that
    /// pool) from the real one: see [`JobId::belongs_to`].
    pub fn generate(pool: &PoolName) -> Self {
        let fresh = fresh_ulid().0;
        let mask = (1_u128 << POOL_BITS) - 1;
        Self(format!("job_{}", ulid::Ulid(fresh & !mask | pool_hash(pool))).into())
    }

    /// Whether this id was generated for `pool`. `None` when it does not look generated: then the id says nothing of its pool.
    pub fn belongs_to(&self, pool: &PoolName) -> Option<bool> {
        let text = self.0.strip_prefix("job_").filter(|text| is_ulid(text))?;
        let ulid = ulid::Ulid::from_string(text).ok()?;
        Some(ulid.0 & ((1_u128 << POOL_BITS) - 1) == pool_hash(pool))
    }
}

impl GroupId {
    /// A new id from the clock and 80 random bits.
    pub fn generate() -> Self {
        Self(format!("grp_{}", fresh_ulid()).into())
    }

    /// The id of the job of its member at `place`, counted from 0: `<group>-<place>`.
    pub fn job(&self, place: usize) -> JobId {
        JobId(format!("{self}-{place}").into())
    }

    /// The group that a job is of, and the place of its member, as the job's id says. Whoever makes ids may write such a one.
    pub fn of(job: &JobId) -> Option<(Self, usize)> {
        let (group, place) = job.0.split_once('-')?;
        let at = place.parse().ok()?;
        let group: Self = group.parse().ok()?;
        (group.job(at) == *job).then_some((group, at))
    }
}

fn pool_hash(pool: &PoolName) -> u128 {
    let digest = Sha256::digest(pool.as_str().as_bytes());
    let first = digest.iter().take(4).fold(0_u32, |acc, byte| acc << 8 | u32::from(*byte));
    u128::from(first >> (32 - POOL_BITS))
}

impl JobType {
    /// The executor that runs jobs of this type: the part before the dot.
    pub fn executor(&self) -> ExecutorName {
        ExecutorName(self.0.split_once('.').map_or(&*self.0, |(executor, _)| executor).into())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking")]
    use super::*;
    use proptest::prelude::*;

    const HOSTILE: &[&str] =
        &["", "*", ">", ".", "..", "a.b", "a b", "$JS", "$SYS", "a\0", "a\r\n", "％", "pool:A", "a/b", "e\u{301}", "\u{2028}", "a\t", "é"];

    #[test]
    fn hostile_names_are_refused_and_shown_without_control_characters() {
        for text in HOSTILE.iter().copied().chain([&*"a".repeat(300)]) {
            for error in [text.parse::<PoolName>().err(), text.parse::<AgentName>().err(), text.parse::<JobId>().err()] {
                let error = error.unwrap_or_else(|| panic!("{text:?} was accepted")).to_string();
                assert!(!error.contains(char::is_control), "{error:?}");
                assert!(error.len() < 400, "{error}");
            }
        }
    }

    #[test]
    fn a_pool_name_is_lower_case_and_at_most_63_long() {
        assert!("A".parse::<PoolName>().is_err());
        assert!("_INBOX".parse::<PoolName>().is_err());
        assert!("a".repeat(63).parse::<PoolName>().is_ok());
        assert!("a".repeat(64).parse::<PoolName>().is_err());
    }

    #[test]
    fn a_generated_id_knows_its_pool_and_an_own_id_does_not() {
        let (p, q): (PoolName, PoolName) = ("p".parse().unwrap(), "q".parse().unwrap());
        let id = JobId::generate(&p);
        assert_eq!(id.belongs_to(&p), Some(true));
        assert_eq!(id.belongs_to(&q), Some(false));
        assert_eq!("invoice-7".parse::<JobId>().unwrap().belongs_to(&p), None);
    }

    #[test]
    fn the_id_of_a_groups_job_names_the_group_and_the_place() {
        let group = GroupId::generate();
        assert_eq!(GroupId::of(&group.job(0)), Some((group.clone(), 0)));
        assert_eq!(group.job(9_999).as_str().parse::<JobId>().map(|id| GroupId::of(&id)), Ok(Some((group.clone(), 9_999))));
        for other in ["01", "-1", "", "1-2", "x"] {
            assert_eq!(format!("{group}-{other}").parse::<JobId>().ok().and_then(|id| GroupId::of(&id)), None, "{other}");
        }
    }

    #[test]
    fn a_type_names_its_executor() {
        assert_eq!("shell.run".parse::<JobType>().unwrap().executor().as_str(), "shell");
        for text in ["shell", "shell.", ".run", "shell.run.x", "Shell.run", "shell run"] {
            assert!(text.parse::<JobType>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn an_accepted_name_is_one_subject_token(text in "[ -~\u{80}-\u{2030}\0-\x1f]{0,70}") {
            let accepted = [
                text.parse::<PoolName>().map(|n| n.to_string()),
                text.parse::<AgentName>().map(|n| n.to_string()),
                text.parse::<JobId>().map(|n| n.to_string()),
                text.parse::<ExecutorName>().map(|n| n.to_string()),
                text.parse::<AgentId>().map(|n| n.to_string()),
            ];
            for name in accepted.into_iter().flatten() {
                prop_assert_eq!(&name, &text);
                prop_assert!(!name.is_empty() && name.is_ascii());
                prop_assert!(!name.contains(['.', '*', '>', ' ', '$', '\t', '\r', '\n', '\0']));
            }
        }
    }
}
