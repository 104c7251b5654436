//! What names of agents that join with a token may look like: a name in which `*` stands for any characters, or none. Pure.

use std::str::FromStr;

use muster_schemas::names::{AgentName, NameError};

/// A pattern. It has to fit the whole name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pattern(String);

impl FromStr for Pattern {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        let plain = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'*');
        let fits = (1..=63).contains(&text.len()) && text.bytes().all(plain);
        fits.then(|| Self(text.into())).ok_or_else(|| NameError::new("a pattern of agents' names", "1 to 63 of a-z, 0-9, - and *", text))
    }
}

impl Pattern {
    /// The text.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the whole name is of this form. Takes a time that grows with both lengths, whatever the stars.
    pub(crate) fn fits(&self, name: &AgentName) -> bool {
        fits(self.0.as_bytes(), name.as_str().as_bytes())
    }
}

/// Goes along both. Only the last star can ever have to take more, so this is where it goes back to.
fn fits(mut pattern: &[u8], mut name: &[u8]) -> bool {
    let mut star: Option<(&[u8], &[u8])> = None;
    loop {
        match (pattern.split_first(), name.split_first()) {
            (Some((b'*', rest)), _) => {
                star = Some((rest, name));
                pattern = rest;
            }
            (Some((wanted, more)), Some((found, rest))) if wanted == found => (pattern, name) = (more, rest),
            (None, None) => return true,
            _ => {
                let Some((after, from)) = star else { return false };
                let Some((_, from)) = from.split_first() else { return false };
                star = Some((after, from));
                (pattern, name) = (after, from);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use proptest::prelude::*;

    use super::*;

    fn fits(pattern: &str, name: &str) -> bool {
        pattern.parse::<Pattern>().unwrap().fits(&name.parse().unwrap())
    }

    #[test]
    fn a_pattern_fits_the_whole_name_or_not_at_all() {
        for (pattern, name) in
            [("web-1", "web-1"), ("*", "a"), ("web-*", "web-"), ("web-*", "web-12"), ("*-db-*", "eu-db-db-1"), ("a*b*c", "abc")]
        {
            assert!(fits(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in
            [("web-1", "web-12"), ("web-*", "my-web-1"), ("*-db", "eu-db-1"), ("a*a", "a"), ("web", "we"), ("a*b*c", "acb"), ("**b", "a")]
        {
            assert!(!fits(pattern, name), "{pattern} {name}");
        }
    }

    #[test]
    fn a_pattern_is_a_name_with_stars_and_nothing_else() {
        for wrong in ["", ">", "a.*", "a b", "A*", "web-?", "[a]", "*\n", "$JS*", &"*".repeat(64)] {
            assert!(wrong.parse::<Pattern>().is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn many_stars_cost_nothing() {
        let began = std::time::Instant::now();
        assert!(!fits(&"*a".repeat(31), &format!("{}b", "a".repeat(62))));
        assert!(began.elapsed() < std::time::Duration::from_secs(1));
    }

    proptest! {
        #[test]
        fn a_name_fits_itself_and_every_pattern_made_of_it(name in "[a-z-]{1,20}", from in 0usize..20, until in 0usize..20) {
            let (from, until) = (from.min(name.len()), until.min(name.len()));
            let (from, until) = (from.min(until), from.max(until));
            let starred: String = [name.get(..from).unwrap(), "*", name.get(until..).unwrap()].concat();
            prop_assert!(fits(&name, &name) && fits(&starred, &name));
        }
    }
}
