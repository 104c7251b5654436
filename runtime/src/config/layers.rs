//! Merging the layers into one struct, and remembering which layer set which key.
//!
//! Values of the environment and of flags are text. Each is tried as text first, then as what TOML
//! would make of it, then as a list divided by commas, and the first that the struct accepts is
//! taken: so `AGENT_NAME=123` stays a name, and `ADMIN_PORT=9191` becomes a number.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use serde::de::DeserializeOwned;
use toml::{Table, Value};

use super::{
    ConfigError, Layer, Settings,
    error::{Problem, one_line},
    print,
};

/// Values from flags: (flag, key, value).
#[derive(Debug, Clone, Default)]
pub struct Overrides(Vec<(String, String, String)>);

impl Overrides {
    /// No overrides.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the value of `flag` for the dotted `key`, if it was given.
    #[must_use]
    pub fn set(mut self, flag: &str, key: &str, value: Option<impl ToString>) -> Self {
        if let Some(value) = value {
            self.0.push((flag.to_owned(), key.to_owned(), value.to_string()));
        }
        self
    }
}

/// What the layers above the defaults are read from.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// The config file, if there is one. It must exist.
    pub file: Option<PathBuf>,
    /// Environment variables by name. Those that the settings don't name are ignored.
    pub environment: BTreeMap<String, String>,
    /// Flags.
    pub flags: Overrides,
}

impl Sources {
    /// The sources of this process: the given file and flags, and its environment.
    ///
    /// # Errors
    /// [`ConfigError::Environment`] when a variable that `T` names is not UTF-8.
    pub fn of_process<T: Settings>(file: Option<PathBuf>, flags: Overrides) -> Result<Self, ConfigError> {
        let mut environment = BTreeMap::new();
        for variable in T::ENV {
            let read = if variable.may_be_empty { crate::env::var_or_empty } else { crate::env::var };
            if let Some(value) = read(variable.name)? {
                environment.insert(variable.name.to_owned(), value);
            }
        }
        Ok(Self { file, environment, flags })
    }
}

/// Settings, and where each of them came from.
#[derive(Debug, Clone)]
pub struct Loaded<T> {
    /// The settings.
    pub settings: T,
    origins: BTreeMap<String, Layer>,
}

impl<T: Settings> Loaded<T> {
    /// The layer that set the dotted `key`.
    #[must_use]
    pub fn origin(&self, key: &str) -> Layer {
        origin(&self.origins, key)
    }

    /// The settings as TOML, secrets hidden, each line with the layer that set it.
    #[must_use]
    pub fn to_toml(&self) -> String {
        match Table::try_from(&self.settings) {
            Ok(table) => print::render(&table, |key| self.origin(key)),
            // Only a struct that TOML can't express gets here; its author sees it at once.
            Err(error) => format!("# can't be shown: {}\n", one_line(&error.to_string())),
        }
    }
}

/// Reads and merges all layers, and checks the result.
///
/// # Errors
/// The first thing that is wrong, with its layer and key.
pub fn load<T: Settings>(sources: &Sources) -> Result<Loaded<T>, ConfigError> {
    let mut origins = BTreeMap::new();
    let mut merged = parse_table(T::DEFAULTS, &Layer::Defaults)?;
    let mut settings: T = accept(&merged, &Layer::Defaults, None)?;

    if let Some(path) = &sources.file {
        let layer = Layer::File(path.clone());
        let file = parse_table(&read(path)?, &layer)?;
        record(&file, "", &layer, &mut origins);
        merge(&mut merged, file);
        settings = accept(&merged, &layer, None)?;
    }

    let environment = T::ENV.iter().filter_map(|variable| {
        let value = sources.environment.get(variable.name)?;
        let layer = Layer::Environment(variable.name.to_owned());
        Some((layer, variable.key, value.as_str()))
    });
    let flags = sources.flags.0.iter().map(|(flag, key, value)| (Layer::Flag(flag.clone()), key.as_str(), value.as_str()));
    for (layer, key, text) in environment.chain(flags) {
        (merged, settings) = set_text(&merged, key, text, &layer)?;
        origins.insert(key.to_owned(), layer);
    }

    settings.check().map_err(|problem: Problem| ConfigError::from_problem(origin(&origins, &problem.key), problem))?;
    Ok(Loaded { settings, origins })
}

/// The nearest layer that set the key or a table around it.
fn origin(origins: &BTreeMap<String, Layer>, key: &str) -> Layer {
    let mut key = key;
    loop {
        if let Some(layer) = origins.get(key) {
            return layer.clone();
        }
        match key.rsplit_once('.') {
            Some((parent, _)) => key = parent,
            None => return Layer::Defaults,
        }
    }
}

fn read(path: &Path) -> Result<String, ConfigError> {
    std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })
}

fn parse_table(text: &str, layer: &Layer) -> Result<Table, ConfigError> {
    text.parse().map_err(|error: toml::de::Error| {
        let at = error.span().map_or(0, |span| span.start);
        let line = text.bytes().take(at).filter(|byte| *byte == b'\n').count();
        ConfigError::Malformed { layer: layer.clone(), problem: format!("line {}: {}", line + 1, one_line(error.message())) }
    })
}

fn accept<T: DeserializeOwned>(table: &Table, layer: &Layer, key: Option<&str>) -> Result<T, ConfigError> {
    Value::Table(table.clone()).try_into().map_err(|error| ConfigError::from_serde(layer.clone(), key, &error))
}

fn merge(into: &mut Table, from: Table) {
    for (key, value) in from {
        match (into.get_mut(&key), value) {
            (Some(Value::Table(into)), Value::Table(from)) => merge(into, from),
            (_, value) => {
                into.insert(key, value);
            }
        }
    }
}

fn record(table: &Table, prefix: &str, layer: &Layer, origins: &mut BTreeMap<String, Layer>) {
    for (name, value) in table {
        let key = print::join(prefix, name);
        match value {
            Value::Table(inner) => record(inner, &key, layer, origins),
            _ => {
                origins.insert(key, layer.clone());
            }
        }
    }
}

fn set_text<T: DeserializeOwned>(base: &Table, key: &str, text: &str, layer: &Layer) -> Result<(Table, T), ConfigError> {
    let mut refusal = None;
    for value in readings(text) {
        // A number that is refused as a number says more than a text that is refused as a text.
        let tells_more = refusal.is_none() || !matches!(value, Value::String(_) | Value::Array(_));
        let mut table = base.clone();
        put(&mut table, key, value).map_err(|problem| ConfigError::from_problem(layer.clone(), Problem::new(key, problem)))?;
        match accept(&table, layer, Some(key)) {
            Ok(settings) => return Ok((table, settings)),
            Err(error) if tells_more => refusal = Some(error),
            Err(_) => {}
        }
    }
    Err(refusal.unwrap_or_else(|| ConfigError::Malformed { layer: layer.clone(), problem: format!("{key} can't be set") }))
}

/// What a text may mean, most literal first.
fn readings(text: &str) -> Vec<Value> {
    let mut readings = vec![Value::String(text.to_owned())];
    let trimmed = text.trim();
    let literal = format!("value = {trimmed}").parse::<Table>().ok().and_then(|mut table| table.remove("value"));
    readings.extend(literal);
    match trimmed.to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "on" => readings.push(Value::Boolean(true)),
        "false" | "0" | "no" | "off" => readings.push(Value::Boolean(false)),
        _ => {}
    }
    let parts = trimmed.split(',').map(str::trim);
    readings.push(Value::Array(parts.filter(|part| !part.is_empty()).map(|part| Value::String(part.to_owned())).collect()));
    readings
}

fn put(table: &mut Table, key: &str, value: Value) -> Result<(), String> {
    match key.split_once('.') {
        None => {
            table.insert(key.to_owned(), value);
            Ok(())
        }
        Some((first, rest)) => {
            let inner = table.entry(first).or_insert_with(|| Value::Table(Table::new()));
            match inner {
                Value::Table(inner) => put(inner, rest, value),
                _ => Err(format!("{first} is not a table")),
            }
        }
    }
}

#[cfg(test)]
mod tests;
