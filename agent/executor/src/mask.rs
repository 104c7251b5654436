//! Keeps secrets out of all that leaves the agent: each is replaced by `***`, also base64, URL and JSON escaped, wherever it stands.
//!
//! [`Masks`] holds the secrets of the moment; a [`Mask`] is a fixed view of them, and a [`Masker`] works on one stream of bytes whose reads may cut
//! a secret anywhere. It holds back only what may be the beginning of a secret, so ordinary output is not delayed.
//!
//! What it can't see: a secret that was changed in another way (reversed, compressed, printed letter by letter), or shorter than
//! [`SHORTEST`] bytes, which would turn all output into stars.

mod forms;

use std::{
    collections::{BTreeSet, HashMap},
    fmt,
    sync::{Arc, PoisonError, RwLock},
};

use aho_corasick::{
    Anchored, MatchKind,
    automaton::{Automaton, StateID},
    nfa::contiguous::NFA,
};
use muster_schemas::result::ErrorInfo;
use serde_json::Value;

/// What stands where a secret stood.
pub const STARS: &str = "***";

/// The shortest secret that is masked, in bytes.
pub const SHORTEST: usize = 4;

/// The secrets that the agent has at the moment. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Masks(Arc<RwLock<Mask>>);

impl Masks {
    /// Masks these from now on, and no others.
    pub fn replace<'a>(&self, secrets: impl IntoIterator<Item = &'a str>) {
        let mask = Mask::of(secrets);
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = mask;
    }

    /// What is masked at this moment.
    pub fn now(&self) -> Mask {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A fixed set of secrets. Cheap to clone; it shows nothing of them.
#[derive(Clone, Default)]
pub struct Mask(Option<Arc<Finder>>);

struct Finder {
    automaton: NFA,
    start: StateID,
    /// How many bytes of a secret have been seen in this state: so many may still become a secret.
    depth: HashMap<StateID, usize>,
}

impl fmt::Debug for Mask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Mask" } else { "Mask (nothing)" })
    }
}

impl Mask {
    /// Of these secrets in all their forms.
    pub fn of<'a>(secrets: impl IntoIterator<Item = &'a str>) -> Self {
        let patterns: BTreeSet<Vec<u8>> = secrets.into_iter().flat_map(forms::of).collect();
        if patterns.is_empty() {
            return Self(None);
        }
        Self(Finder::new(&patterns).map(Arc::new))
    }

    /// A masker for one stream.
    pub fn stream(&self) -> Masker {
        let state = self.0.as_ref().map(|finder| finder.start);
        Masker { finder: self.0.clone(), state, held: Vec::new(), secret: Vec::new(), starred: false }
    }

    /// A whole text.
    pub fn text(&self, text: &str) -> String {
        if self.0.is_none() {
            return text.to_owned();
        }
        String::from_utf8_lossy(&self.bytes(text.as_bytes())).into_owned()
    }

    /// Whole bytes.
    pub fn bytes(&self, bytes: &[u8]) -> Vec<u8> {
        let mut masker = self.stream();
        let mut masked = masker.push(bytes);
        masked.extend(masker.end());
        masked
    }

    /// All texts in a value, the names of its fields among them.
    pub fn value(&self, value: &mut Value) {
        if self.0.is_none() {
            return;
        }
        match value {
            Value::String(text) => *text = self.text(text),
            Value::Array(items) => items.iter_mut().for_each(|item| self.value(item)),
            Value::Object(map) => {
                *map = std::mem::take(map)
                    .into_iter()
                    .map(|(name, mut value)| {
                        self.value(&mut value);
                        (self.text(&name), value)
                    })
                    .collect();
            }
            // A secret may be a number, and so may a number be the secret.
            Value::Number(number) => {
                let text = number.to_string();
                let masked = self.text(&text);
                if masked != text {
                    *value = Value::String(masked);
                }
            }
            Value::Null | Value::Bool(_) => {}
        }
    }

    /// The message of an error.
    pub fn error(&self, error: &mut ErrorInfo) {
        if self.0.is_some() {
            error.message = self.text(&error.message);
        }
    }
}

impl Finder {
    /// `None` when the secrets are too many for an automaton, which bounds of the vault rule out.
    fn new(patterns: &BTreeSet<Vec<u8>>) -> Option<Self> {
        let automaton = NFA::builder().match_kind(MatchKind::Standard).build(patterns).ok()?;
        let start = automaton.start_state(Anchored::No).ok()?;
        let mut depth = HashMap::from([(start, 0)]);
        for pattern in patterns {
            let mut state = start;
            for (at, byte) in pattern.iter().enumerate() {
                state = automaton.next_state(Anchored::No, state, *byte);
                depth.insert(state, at + 1);
            }
        }
        Some(Self { automaton, start, depth })
    }

    /// The longest secret that ends in this state.
    fn found(&self, state: StateID) -> Option<usize> {
        if !self.automaton.is_match(state) {
            return None;
        }
        (0..self.automaton.match_len(state)).map(|at| self.automaton.pattern_len(self.automaton.match_pattern(state, at))).max()
    }
}

/// Masks one stream of bytes.
pub struct Masker {
    finder: Option<Arc<Finder>>,
    state: Option<StateID>,
    /// What may still become part of a secret.
    held: Vec<u8>,
    /// Of each byte in `held`, whether it is known to be part of one.
    secret: Vec<bool>,
    /// Whether the last that was given out were stars: secrets side by side are one.
    starred: bool,
}

impl fmt::Debug for Masker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Masker")
    }
}

impl Masker {
    /// Takes the next bytes; gives out what is certain by now.
    pub fn push(&mut self, bytes: &[u8]) -> Vec<u8> {
        let (Some(finder), Some(mut state)) = (self.finder.clone(), self.state) else { return bytes.to_vec() };
        let mut at = self.held.len();
        self.held.extend_from_slice(bytes);
        self.secret.resize(self.held.len(), false);
        for byte in bytes {
            state = finder.automaton.next_state(Anchored::No, state, *byte);
            at += 1;
            if let Some(length) = finder.found(state) {
                self.secret.get_mut(at.saturating_sub(length)..at).unwrap_or_default().fill(true);
            }
        }
        self.state = Some(state);
        let undecided = finder.depth.get(&state).copied().unwrap_or(0);
        self.give(self.held.len().saturating_sub(undecided))
    }

    /// Gives out the rest: nothing comes after it.
    pub fn end(&mut self) -> Vec<u8> {
        self.state = self.finder.as_ref().map(|finder| finder.start);
        let rest = self.give(self.held.len());
        self.starred = false;
        rest
    }

    fn give(&mut self, count: usize) -> Vec<u8> {
        let mut given = Vec::with_capacity(count);
        for (byte, secret) in self.held.drain(..count).zip(self.secret.drain(..count)) {
            if !secret {
                given.push(byte);
            } else if !self.starred {
                given.extend_from_slice(STARS.as_bytes());
            }
            self.starred = secret;
        }
        given
    }
}

#[cfg(test)]
mod tests;
