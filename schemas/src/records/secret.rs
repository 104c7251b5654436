//! The form of keys and tokens: `mst_<prefix>_<secret>` for people and services, `mst_agent_<prefix>_<secret>` for agents,
//! `mst_join_<prefix>_<secret>` for joining a pool. The prefix finds the record, the secret proves the right to it.

use std::fmt;

/// What a key or token is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A person's or service's API key.
    Api,
    /// An agent's API key.
    Agent,
    /// A join token.
    Join,
}

impl Kind {
    fn lead(self) -> &'static str {
        match self {
            Self::Api => "mst_",
            Self::Agent => "mst_agent_",
            Self::Join => "mst_join_",
        }
    }
}

/// Characters of the prefix: 50 bits, so that a chance collision is out of the question.
pub const PREFIX_LEN: usize = 10;
/// Characters of the secret: 160 bits, and below the 72 bytes at which bcrypt stops reading.
pub const SECRET_LEN: usize = 32;
/// The alphabet of both: 5 bits a character, no capitals, nothing that needs quoting.
pub const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

/// A key or token, taken apart. Its `Debug` does not show the secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Parts {
    /// What it is for.
    pub kind: Kind,
    /// What finds its record; not secret.
    pub prefix: String,
    /// What proves the right to it.
    pub secret: String,
}

impl Parts {
    /// Takes a text apart. `None` when it is no key or token of ours: wrong length, wrong lead or a character outside [`ALPHABET`].
    pub fn parse(text: &str) -> Option<Self> {
        // The longer leads first: `mst_` begins them all.
        let (kind, rest) =
            [Kind::Agent, Kind::Join, Kind::Api].into_iter().find_map(|kind| Some((kind, text.strip_prefix(kind.lead())?)))?;
        let (prefix, secret) = rest.split_once('_')?;
        let plain = |part: &str, len: usize| part.len() == len && part.bytes().all(|b| ALPHABET.contains(&b));
        (plain(prefix, PREFIX_LEN) && plain(secret, SECRET_LEN)).then(|| Self { kind, prefix: prefix.into(), secret: secret.into() })
    }

    /// A new key or token from [`PREFIX_LEN`] + [`SECRET_LEN`] uniformly random bytes.
    pub fn from_random(kind: Kind, random: &[u8; PREFIX_LEN + SECRET_LEN]) -> Self {
        let mut letters = random.iter().filter_map(|byte| ALPHABET.get(usize::from(byte & 31))).map(|letter| char::from(*letter));
        Self { kind, prefix: letters.by_ref().take(PREFIX_LEN).collect(), secret: letters.collect() }
    }

    /// The whole text. Shown once, at its making.
    pub fn reveal(&self) -> String {
        format!("{}{}_{}", self.kind.lead(), self.prefix, self.secret)
    }
}

/// The prefix of a key or token as somebody gave it; of a text that is none of ours, nothing.
pub fn prefix(text: &str) -> Option<String> {
    Parts::parse(text.trim()).map(|parts| parts.prefix)
}

impl fmt::Debug for Parts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}_…", self.kind.lead(), self.prefix)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests fail by panicking")]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_no_key_of_ours_is_refused() {
        let good = Parts::from_random(Kind::Api, &[7; PREFIX_LEN + SECRET_LEN]).reveal();
        for text in ["", "mst_", "mst_agent_", &good[1..], &format!("{good}a"), &good.to_uppercase(), &good.replace('h', "*")] {
            assert_eq!(Parts::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_prefix_is_found_in_what_a_file_holds_and_in_nothing_else() {
        let key = Parts::from_random(Kind::Agent, &[7; PREFIX_LEN + SECRET_LEN]);
        assert_eq!(prefix(&format!(" {}\n", key.reveal())), Some(key.prefix.clone()));
        assert_eq!((prefix(""), prefix("hunter2"), prefix(&key.prefix)), (None, None, None));
    }

    proptest! {
        #[test]
        fn every_key_parses_back_and_debug_hides_its_secret(random in any::<[u8; 32]>(), more in any::<[u8; 10]>(), kind in 0usize..3) {
            let kind = [Kind::Api, Kind::Agent, Kind::Join][kind];
            let mut bytes = [0; PREFIX_LEN + SECRET_LEN];
            bytes[..32].copy_from_slice(&random);
            bytes[32..].copy_from_slice(&more);
            let parts = Parts::from_random(kind, &bytes);
            prop_assert_eq!(Parts::parse(&parts.reveal()), Some(parts.clone()));
            let debug = format!("{parts:?}");
            prop_assert!(!debug.contains(&parts.secret));
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in "(mst_)?(agent_|join_)?[a-z2-7_]{0,50}") {
            let _ = Parts::parse(&text);
        }
    }
}
