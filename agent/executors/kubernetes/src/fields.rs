//! Names in params, each fit to stand in a URL's path: what is not could ask for another path than the one that was meant.

use muster_executor::{Rejection, fields::Fields, schema};
use serde_json::Value;

/// The longest name of an object.
const NAME_BYTES: usize = 253;

/// The longest selector.
const SELECTOR_BYTES: usize = 1024;

/// A namespace.
pub(crate) fn namespace(fields: &mut Fields<'_>) -> Result<Option<String>, Rejection> {
    let fits = |text: &str| text.len() <= 63 && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
    read(fields, "namespace", fits, "1 to 63 of a-z, 0-9 and -")
}

/// The name of an object.
pub(crate) fn name(fields: &mut Fields<'_>, field: &'static str) -> Result<Option<String>, Rejection> {
    read(fields, field, is_name, "the name of an object: 1 to 253 letters, digits and .-_:")
}

/// Whether this can be the name of an object of any kind. Those of roles have colons.
pub(crate) fn is_name(text: &str) -> bool {
    let letter = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:".contains(&byte);
    text.len() <= NAME_BYTES && text.bytes().all(letter) && text != "." && text != ".."
}

/// A kind: as in manifests, or as people type it: `Deployment`, `deployments`, `deploy`, `certificates.cert-manager.io`.
pub(crate) fn kind(fields: &mut Fields<'_>) -> Result<Option<String>, Rejection> {
    read(fields, "kind", is_kind, "a kind, such as Deployment")
}

/// Whether this can be a kind.
pub(crate) fn is_kind(text: &str) -> bool {
    text.len() <= NAME_BYTES && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-".contains(&byte)) && !text.starts_with('.')
}

/// The version of an API.
pub(crate) fn api_version(fields: &mut Fields<'_>) -> Result<Option<String>, Rejection> {
    read(fields, "api_version", is_api_version, "a version such as apps/v1")
}

/// Whether this can be the version of an API: `v1`, or a group and a version.
pub(crate) fn is_api_version(text: &str) -> bool {
    let part = |part: &str| !part.is_empty() && is_kind(part);
    text.len() <= NAME_BYTES && text.split('/').count() <= 2 && text.split('/').all(part)
}

/// A label selector. The cluster reads it.
pub(crate) fn selector(fields: &mut Fields<'_>) -> Result<Option<String>, Rejection> {
    read(fields, "selector", |text| text.len() <= SELECTOR_BYTES, "a label selector of at most 1024 bytes")
}

/// A whole number in a range.
pub(crate) fn integer(
    fields: &mut Fields<'_>,
    field: &'static str,
    range: std::ops::RangeInclusive<i64>,
) -> Result<Option<i64>, Rejection> {
    let number = fields.integer(field)?;
    match number {
        Some(number) if !range.contains(&number) => {
            Err(Rejection::field(field, format!("must lie between {} and {}", range.start(), range.end())))
        }
        _ => Ok(number),
    }
}

/// A field that must be there.
pub(crate) fn needed<T>(value: Option<T>, field: &str) -> Result<T, Rejection> {
    value.ok_or_else(|| Rejection::field(field, "is missing"))
}

fn read(fields: &mut Fields<'_>, field: &'static str, fits: impl Fn(&str) -> bool, rule: &str) -> Result<Option<String>, Rejection> {
    match fields.text(field)? {
        Some(text) if text.is_empty() || !fits(text) => Err(Rejection::field(field, format!("is not {rule}"))),
        text => Ok(text.map(str::to_owned)),
    }
}

/// What names one object, in schemas.
pub(crate) fn object_schema() -> [(&'static str, Value); 4] {
    [
        ("kind", schema::text("Its kind, as in a manifest or as people type it: Deployment, deploy, certificates.cert-manager.io.")),
        ("api_version", schema::text("The version of its API, such as apps/v1. Default: the cluster's preferred one.")),
        ("name", schema::text("Its name.")),
        ("namespace", namespace_schema()),
    ]
}

/// The namespace, in schemas.
pub(crate) fn namespace_schema() -> Value {
    schema::text("Its namespace. Default: the connection's.")
}
