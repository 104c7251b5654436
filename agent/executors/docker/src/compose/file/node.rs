//! A value in a file, with its place: what is said of it names that.

use std::collections::BTreeMap;

use muster_executor::fields::shown;
use serde_json::{Map, Value};

use crate::parts::ITEMS_MAX;

/// A value, and where it stands, such as `services.web.ports[0]`.
#[derive(Debug, Clone)]
pub(super) struct Node<'a> {
    place: String,
    value: &'a Value,
}

impl<'a> Node<'a> {
    pub(super) fn root(value: &'a Value) -> Self {
        Self { place: String::new(), value }
    }

    /// What is wrong with it.
    pub(super) fn problem(&self, problem: impl std::fmt::Display) -> String {
        if self.place.is_empty() { problem.to_string() } else { format!("{}: {problem}", self.place) }
    }

    pub(super) fn is_null(&self) -> bool {
        self.value.is_null()
    }

    pub(super) fn is_map(&self) -> bool {
        self.value.is_object()
    }

    pub(super) fn is_list(&self) -> bool {
        self.value.is_array()
    }

    /// The fields of a map.
    pub(super) fn keys(&self) -> Result<Keys<'a>, String> {
        let map = self.value.as_object().ok_or_else(|| self.problem("expected a map"))?;
        Ok(Keys { place: self.place.clone(), map, taken: Vec::new() })
    }

    /// All entries of a map, without the file's own extensions.
    pub(super) fn entries(&self) -> Result<Vec<(&'a str, Node<'a>)>, String> {
        let map = self.value.as_object().ok_or_else(|| self.problem("expected a map"))?;
        Ok(map.iter().filter(|(key, _)| !is_extension(key)).map(|(key, value)| (key.as_str(), at(&self.place, key, value))).collect())
    }

    /// The entries of a list.
    pub(super) fn list(&self) -> Result<Vec<Node<'a>>, String> {
        let list = self.value.as_array().ok_or_else(|| self.problem("expected a list"))?;
        if list.len() > ITEMS_MAX {
            return Err(self.problem(format!("has more than {ITEMS_MAX} entries")));
        }
        Ok(list.iter().enumerate().map(|(index, value)| Node { place: format!("{}[{index}]", self.place), value }).collect())
    }

    /// A text, a number, true or false: as text, where `$$` is a `$` and every other one is refused.
    pub(super) fn text(&self) -> Result<String, String> {
        let text = match self.value {
            Value::String(text) => text.clone(),
            Value::Number(_) | Value::Bool(_) => self.value.to_string(),
            _ => return Err(self.problem("expected text")),
        };
        if text.contains('\0') {
            return Err(self.problem("must not contain a NUL byte"));
        }
        let refuse = || self.problem("`$` stands for a variable, and none are put in here; write the value, or `$$` for a `$`");
        let pieces: Vec<_> = text.split("$$").collect();
        if pieces.iter().any(|piece| piece.contains('$')) { Err(refuse()) } else { Ok(pieces.join("$")) }
    }

    /// What a text is read as.
    pub(super) fn read<T>(&self, read: impl Fn(&str) -> Result<T, String>) -> Result<T, String> {
        read(&self.text()?).map_err(|problem| self.problem(problem))
    }

    pub(super) fn flag(&self) -> Result<bool, String> {
        self.value.as_bool().ok_or_else(|| self.problem("expected true or false"))
    }

    /// A number, which may be written as text.
    pub(super) fn number(&self) -> Result<f64, String> {
        self.read(|text| text.parse::<f64>().ok().filter(|number| number.is_finite()).ok_or_else(|| "expected a number".to_owned()))
    }

    /// A whole number, which may be written as text.
    pub(super) fn integer(&self) -> Result<i64, String> {
        self.read(|text| text.parse().map_err(|_| "expected a whole number".to_owned()))
    }

    /// A list of texts.
    pub(super) fn texts(&self) -> Result<Vec<String>, String> {
        self.list()?.iter().map(Node::text).collect()
    }

    /// A map of texts, or a list of `KEY=VALUE`; `bare` is asked for the value of a key without one.
    pub(super) fn pairs(&self, bare: impl Fn(&str) -> Result<String, String>) -> Result<BTreeMap<String, String>, String> {
        let mut pairs = BTreeMap::new();
        let mut add = |node: &Node<'_>, key: &str, value: String| match pairs.insert(key.to_owned(), value) {
            None => Ok(()),
            Some(_) => Err(node.problem(format!("`{}` is there twice", shown(key)))),
        };
        if self.is_list() {
            for node in self.list()? {
                let text = node.text()?;
                match text.split_once('=') {
                    Some((key, value)) => add(&node, key, value.to_owned())?,
                    None => add(&node, &text, bare(&text).map_err(|problem| node.problem(problem))?)?,
                }
            }
            return Ok(pairs);
        }
        let map = self.value.as_object().ok_or_else(|| self.problem("expected a map, or a list of KEY=VALUE"))?;
        if map.len() > ITEMS_MAX {
            return Err(self.problem(format!("has more than {ITEMS_MAX} entries")));
        }
        for (key, value) in map {
            let node = at(&self.place, key, value);
            let value = if node.is_null() { bare(key).map_err(|problem| node.problem(problem))? } else { node.text()? };
            add(&node, key, value)?;
        }
        Ok(pairs)
    }
}

/// The fields of a map; each is taken once, and [`Keys::end`] refuses what is left.
#[derive(Debug)]
pub(super) struct Keys<'a> {
    place: String,
    map: &'a Map<String, Value>,
    taken: Vec<&'static str>,
}

impl<'a> Keys<'a> {
    /// A field, unless it is absent or has no value.
    pub(super) fn take(&mut self, key: &'static str) -> Option<Node<'a>> {
        self.taken.push(key);
        self.map.get(key).filter(|value| !value.is_null()).map(|value| at(&self.place, key, value))
    }

    /// Refuses what nobody took, but the file's own extensions.
    pub(super) fn end(self) -> Result<(), String> {
        match self.map.iter().find(|(key, _)| !self.taken.contains(&key.as_str()) && !is_extension(key)) {
            None => Ok(()),
            Some((key, value)) => {
                let known = self.taken.join(", ");
                Err(at(&self.place, key, value).problem(format!("is not supported here (supported: {known})")))
            }
        }
    }
}

/// What the specification leaves to people, mostly as a place for anchors.
fn is_extension(key: &str) -> bool {
    key.starts_with("x-")
}

fn at<'a>(place: &str, key: &str, value: &'a Value) -> Node<'a> {
    let dot = if place.is_empty() { "" } else { "." };
    Node { place: format!("{place}{dot}{}", shown(key)), value }
}
