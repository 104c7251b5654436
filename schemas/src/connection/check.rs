//! Whether settings and credentials fit a connection's kind. Pure; what is wrong is named, never shown.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{CREDENTIALS_LIMIT, ConnectionKind, Form, SETTINGS_LIMIT, Setting, Way};
use crate::code::Code;

/// The most fields of credentials whose fields are free.
pub const FIELDS_MAX: usize = 32;
/// The longest name of such a field.
const FIELD_NAME_MAX: usize = 64;
/// The longest text of one line, in bytes.
const LINE_MAX: usize = 1024;
/// The most public keys of one host.
const HOST_KEYS_MAX: usize = 32;

/// What does not fit. It names settings and fields, and no values of the latter.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Misfit {
    /// A setting.
    #[error("setting `{name}`: {problem}")]
    Setting {
        /// Which.
        name: String,
        /// What is wrong.
        problem: String,
    },
    /// The settings as a whole.
    #[error("settings: {0}")]
    Settings(String),
    /// A field of the credentials.
    #[error("field `{name}`: {problem}")]
    Field {
        /// Which.
        name: String,
        /// What is wrong.
        problem: String,
    },
    /// The credentials as a whole.
    #[error("credentials: {0}")]
    Credentials(String),
}

impl Misfit {
    /// Its stable code.
    pub fn code(&self) -> Code {
        match self {
            Self::Setting { .. } | Self::Settings(_) => Code::SettingsInvalid,
            Self::Field { .. } | Self::Credentials(_) => Code::CredentialsInvalid,
        }
    }
}

fn setting(name: &str, problem: impl Into<String>) -> Misfit {
    Misfit::Setting { name: shown(name), problem: problem.into() }
}

fn field(name: &str, problem: impl Into<String>) -> Misfit {
    Misfit::Field { name: shown(name), problem: problem.into() }
}

/// Checks settings against their kind. `null` counts as absent, of one setting as of all.
///
/// # Errors
/// Names the first setting that does not fit.
pub fn settings(kind: ConnectionKind, given: &Value) -> Result<(), Misfit> {
    let none = serde_json::Map::new();
    let map = match given {
        Value::Null => &none,
        Value::Object(map) => map,
        _ => return Err(Misfit::Settings("they are a map".into())),
    };
    let size = given.to_string().len();
    if size > SETTINGS_LIMIT {
        return Err(Misfit::Settings(format!("{size} bytes; at most {SETTINGS_LIMIT}")));
    }
    let Some(known) = kind.settings() else { return Ok(()) };
    if let Some(other) = map.keys().find(|key| known.iter().all(|setting| setting.name != key.as_str())) {
        let names: Vec<_> = known.iter().map(|setting| setting.name).collect();
        return Err(setting(other, format!("unknown; a connection of the kind {} has {}", kind.as_str(), names.join(", "))));
    }
    for Setting { name, required, form, .. } in known {
        match map.get(*name).filter(|value| !value.is_null()) {
            None if *required => return Err(setting(name, format!("missing; it takes {}", form.describe()))),
            None => {}
            Some(value) if form.fits(value) => {}
            Some(_) => return Err(setting(name, format!("it takes {}", form.describe()))),
        }
    }
    Ok(())
}

/// The ways to prove who connects that these settings leave.
pub fn ways(kind: ConnectionKind, settings: &Value) -> Vec<&'static Way> {
    let is = |name: &str, value: &str| settings.get(name).and_then(Value::as_str) == Some(value);
    let has = |name: &&str| settings.get(*name).is_some_and(|value| !value.is_null());
    let left = kind.ways().iter().filter(|way| way.when.is_none_or(|(name, value)| is(name, value)) && way.settings.iter().all(has));
    left.collect()
}

/// Checks credentials against their kind and its settings.
///
/// # Errors
/// Names the first field that does not fit, never its value.
pub fn credentials(kind: ConnectionKind, settings: &Value, fields: &BTreeMap<String, String>) -> Result<(), Misfit> {
    if fields.is_empty() {
        return Err(Misfit::Credentials("there is none".into()));
    }
    let size: usize = fields.iter().map(|(name, value)| name.len() + value.len()).sum();
    if size > CREDENTIALS_LIMIT {
        return Err(Misfit::Credentials(format!("{size} bytes; at most {CREDENTIALS_LIMIT}")));
    }
    for (name, value) in fields {
        value_fits(name, value)?;
    }
    if kind.ways().is_empty() {
        return free(fields);
    }
    let ways = ways(kind, settings);
    let has = |name: &&str| fields.contains_key(*name);
    if let Some(other) = fields.keys().find(|name| !ways.iter().any(|way| way.takes(name))) {
        return Err(field(other, format!("unknown; {}", listed(kind, &ways))));
    }
    // The way of which most is there, so that the complaint is about what is missing of it.
    let best =
        ways.iter().max_by_key(|way| (way.required.iter().filter(|name| has(name)).count(), fields.keys().all(|name| way.takes(name))));
    let Some(best) = best else { return Err(Misfit::Credentials(listed(kind, &ways))) };
    if let Some(missing) = best.required.iter().find(|name| !has(name)) {
        return Err(field(missing, format!("missing; {}", listed(kind, &ways))));
    }
    match fields.keys().find(|name| !best.takes(name)) {
        Some(other) => {
            Err(field(other, format!("goes with another way than `{}`; {}", best.required.join("` and `"), listed(kind, &ways))))
        }
        None => Ok(()),
    }
}

impl Way {
    /// Whether it has this field.
    pub fn takes(&self, field: &str) -> bool {
        self.required.iter().chain(self.optional).any(|name| *name == field)
    }
}

/// Which fields fit, for a complaint.
fn listed(kind: ConnectionKind, ways: &[&Way]) -> String {
    let each: Vec<_> = ways.iter().map(|way| way.required.join(" and ")).collect();
    match each.is_empty() {
        true => format!("the settings leave no way to prove who connects, of kind {}", kind.as_str()),
        false => format!("it takes {}", each.join(", or ")),
    }
}

/// Fields of a kind that takes any.
fn free(fields: &BTreeMap<String, String>) -> Result<(), Misfit> {
    if fields.len() > FIELDS_MAX {
        return Err(Misfit::Credentials(format!("{} fields; at most {FIELDS_MAX}", fields.len())));
    }
    let plain = |name: &str| {
        (1..=FIELD_NAME_MAX).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
    };
    match fields.keys().find(|name| !plain(name)) {
        Some(other) => Err(field(other, format!("a name takes 1 to {FIELD_NAME_MAX} of A-Z, a-z, 0-9, _, - and ."))),
        None => Ok(()),
    }
}

fn value_fits(name: &str, value: &str) -> Result<(), Misfit> {
    let one_line = ["username", "token", "value"].contains(&name);
    let problem = match () {
        () if value.is_empty() => "it is empty",
        () if value.contains('\0') => "it has a NUL byte",
        () if one_line && value.contains(char::is_control) => "it is text of one line",
        () if name == "certificate" && !value.contains("-----BEGIN CERTIFICATE-----") => "it is no certificate in PEM",
        () if name == "private_key" && !(value.contains("-----BEGIN ") && value.contains("PRIVATE KEY-----")) => {
            "it is no private key in PEM"
        }
        () => return Ok(()),
    };
    Err(field(name, problem))
}

impl Form {
    fn fits(self, value: &Value) -> bool {
        let text = |fits: fn(&str) -> bool| value.as_str().is_some_and(fits);
        match self {
            Self::Line => text(line),
            Self::Certificates => text(|text| text.contains("-----BEGIN CERTIFICATE-----")),
            Self::Url => text(url),
            Self::Host => text(host),
            Self::HostAndPort => text(host_and_port),
            Self::Port => value.as_u64().is_some_and(|port| (1..=65_535).contains(&port)),
            Self::HeaderName => {
                text(|text| line(text) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b)))
            }
            Self::OneOf(words) => value.as_str().is_some_and(|text| words.contains(&text)),
            Self::HostKeys => {
                let keys = value.as_array().filter(|keys| (1..=HOST_KEYS_MAX).contains(&keys.len()));
                keys.is_some_and(|keys| keys.iter().all(|key| key.as_str().is_some_and(host_key)))
            }
            Self::Flag => value.is_boolean(),
        }
    }
}

fn line(text: &str) -> bool {
    (1..=LINE_MAX).contains(&text.len()) && !text.contains(char::is_control)
}

fn url(text: &str) -> bool {
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    let authority = rest.map(|rest| rest.split('/').next().unwrap_or_default());
    line(text) && !text.contains(['?', '#', ' ', '\\']) && authority.is_some_and(host_and_port)
}

/// A name or an IPv4 address, or an IPv6 address without brackets.
fn host(text: &str) -> bool {
    let name = !text.starts_with(['-', '.']) && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'));
    (1..=253).contains(&text.len()) && (name || text.parse::<std::net::Ipv6Addr>().is_ok())
}

fn host_and_port(text: &str) -> bool {
    let bracketed = |host: &str| host.strip_prefix('[')?.strip_suffix(']')?.parse::<std::net::Ipv6Addr>().ok();
    let is_host = |text: &str| bracketed(text).is_some() || host(text) && !text.contains(':');
    let with_port = |(name, port): (&str, &str)| is_host(name) && port.parse::<u16>().is_ok_and(|port| port > 0);
    is_host(text) || text.rsplit_once(':').is_some_and(with_port)
}

fn host_key(text: &str) -> bool {
    let mut words = text.split_ascii_whitespace();
    let (Some(algorithm), Some(key)) = (words.next(), words.next()) else { return false };
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/' | b'=' | b'-' | b'@' | b'.');
    text.len() <= 16 * LINE_MAX
        && !text.contains(char::is_control)
        && algorithm.bytes().all(plain)
        && key.starts_with("AAAA")
        && key.bytes().all(plain)
}

fn shown(name: &str) -> String {
    name.chars().take(64).flat_map(char::escape_debug).collect()
}

#[cfg(test)]
mod tests;
