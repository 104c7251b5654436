//! The agent's labels as settings: a table, or `key=value` pairs in a list or in one text.
//!
//! Which labels there may be is not checked here but by the rules of job labels, in [`super::Config`].

use std::{collections::BTreeMap, fmt};

use serde::{
    Deserialize, Deserializer, Serialize,
    de::{Error, MapAccess, SeqAccess, Visitor},
};

/// Labels by key.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[serde(transparent)]
pub struct Labels(pub BTreeMap<String, String>);

impl<'de> Deserialize<'de> for Labels {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(Given)
    }
}

struct Given;

impl<'de> Visitor<'de> for Given {
    type Value = Labels;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a table of texts, or key=value pairs: a list of them, or a text that divides them by commas or line breaks")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Labels, E> {
        if text.trim_start().starts_with(['[', '{']) {
            // It is to be read as TOML.
            return Err(E::custom("write key=value pairs, divided by commas"));
        }
        // No label holds a line break, but a value may hold a comma.
        let divider = if text.contains('\n') { '\n' } else { ',' };
        let mut labels = Labels::default();
        text.split(divider).map(str::trim).filter(|pair| !pair.is_empty()).try_for_each(|pair| labels.add_pair(pair))?;
        Ok(labels)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Labels, A::Error> {
        let mut labels = Labels::default();
        while let Some(pair) = list.next_element::<String>()? {
            labels.add_pair(&pair)?;
        }
        Ok(labels)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut table: A) -> Result<Labels, A::Error> {
        let mut labels = Labels::default();
        while let Some((key, value)) = table.next_entry()? {
            labels.add(key, value)?;
        }
        Ok(labels)
    }
}

impl Labels {
    fn add_pair<E: Error>(&mut self, pair: &str) -> Result<(), E> {
        let (key, value) = pair.split_once('=').ok_or_else(|| E::custom(format_args!("{pair:?} is not key=value")))?;
        self.add(key.trim().to_owned(), value.trim().to_owned())
    }

    fn add<E: Error>(&mut self, key: String, value: String) -> Result<(), E> {
        match self.0.get(&key) {
            Some(_) => Err(E::custom(format_args!("{key:?} is named twice"))),
            None => {
                self.0.insert(key, value);
                Ok(())
            }
        }
    }
}
