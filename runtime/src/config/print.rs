//! `--print-config`: settings as TOML, each line with the layer that set it.
//!
//! Secrets are hidden before they get here: [`super::Secret`] never serializes its text.

use std::fmt::Write as _;

use toml::{Table, Value};

use super::Layer;

pub(crate) fn join(prefix: &str, name: &str) -> String {
    if prefix.is_empty() { name.to_owned() } else { format!("{prefix}.{name}") }
}

pub(crate) fn render(table: &Table, origin: impl Fn(&str) -> Layer) -> String {
    let mut out = String::new();
    section(&mut out, table, "", &origin);
    out
}

fn section(out: &mut String, table: &Table, prefix: &str, origin: &impl Fn(&str) -> Layer) {
    // Plain keys come first: what follows a `[header]` belongs to it.
    for (name, value) in table {
        if !matches!(value, Value::Table(_)) {
            let layer = origin(&join(prefix, name));
            let _ = writeln!(out, "{} = {value}  # {layer}", quoted(name));
        }
    }
    for (name, value) in table {
        if let Value::Table(inner) = value {
            let path = join(prefix, name);
            let header = path.split('.').map(quoted).collect::<Vec<_>>().join(".");
            let _ = writeln!(out, "\n[{header}]");
            section(out, inner, &path, origin);
        }
    }
}

fn quoted(name: &str) -> String {
    let bare = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if !name.is_empty() && name.chars().all(bare) { name.to_owned() } else { Value::String(name.to_owned()).to_string() }
}
