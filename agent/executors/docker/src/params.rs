//! Reading of params that several types share, and their schemas.

use std::collections::BTreeMap;

use muster_executor::{
    Rejection,
    fields::{self, Fields, shown},
    schema,
};
use serde_json::Value;

use crate::{
    image::Image,
    labels,
    parts::{self, ITEMS_MAX},
    pull::{POLICIES, Policy},
};

/// A text that a type of its own reads.
pub(crate) fn parsed<T>(
    fields: &mut Fields<'_>,
    field: &'static str,
    read: impl Fn(&str) -> Result<T, String>,
) -> Result<Option<T>, Rejection> {
    fields.text(field)?.map(|text| read(text).map_err(|problem| Rejection::field(field, problem))).transpose()
}

/// A whole number within a range.
pub(crate) fn within(fields: &mut Fields<'_>, field: &'static str, range: std::ops::RangeInclusive<i64>) -> Result<Option<i64>, Rejection> {
    let number = fields.integer(field)?;
    match number {
        Some(number) if !range.contains(&number) => Err(Rejection::field(field, format!("must be {} to {}", range.start(), range.end()))),
        number => Ok(number),
    }
}

/// The same, where it must be there.
pub(crate) fn required<T>(field: &'static str, value: Option<T>) -> Result<T, Rejection> {
    value.ok_or_else(|| Rejection::field(field, "is missing"))
}

/// The container that is meant.
pub(crate) fn container(fields: &mut Fields<'_>) -> Result<String, Rejection> {
    let name = parsed(fields, "container", parts::name)?;
    required("container", name)
}

/// The image that is meant.
pub(crate) fn image(fields: &mut Fields<'_>) -> Result<Image, Rejection> {
    let image = parsed(fields, "image", str::parse)?;
    required("image", image)
}

/// When to pull.
pub(crate) fn pull(fields: &mut Fields<'_>) -> Result<Policy, Rejection> {
    let known = |text: &str| Policy::parse(text).ok_or_else(|| format!("expected {}", POLICIES.join(", ")));
    Ok(parsed(fields, "pull", known)?.unwrap_or_default())
}

/// A list of texts, not too long.
pub(crate) fn texts(fields: &mut Fields<'_>, field: &'static str) -> Result<Option<Vec<String>>, Rejection> {
    let texts = fields.texts(field)?;
    match texts {
        Some(texts) if texts.len() > ITEMS_MAX => Err(Rejection::field(field, format!("has more than {ITEMS_MAX} entries"))),
        texts => Ok(texts),
    }
}

/// A list of texts that a type of its own reads.
pub(crate) fn list<T>(fields: &mut Fields<'_>, field: &'static str, read: impl Fn(&str) -> Result<T, String>) -> Result<Vec<T>, Rejection> {
    let texts = texts(fields, field)?.unwrap_or_default();
    let read = |(at, text): (usize, &String)| read(text).map_err(|problem| Rejection::field(&format!("{field}[{at}]"), problem));
    texts.iter().enumerate().map(read).collect()
}

/// A map of texts.
pub(crate) fn map(
    fields: &mut Fields<'_>,
    field: &'static str,
    check: impl Fn(&str) -> Result<(), String>,
) -> Result<BTreeMap<String, String>, Rejection> {
    let map = fields.map(field)?.into_iter().flatten();
    let mut read = BTreeMap::new();
    for (key, value) in map {
        let place = format!("{field}.{}", shown(key));
        check(key).map_err(|problem| Rejection::field(&place, problem))?;
        read.insert(key.clone(), fields::text(&place, value)?.to_owned());
    }
    if read.len() > ITEMS_MAX {
        return Err(Rejection::field(field, format!("has more than {ITEMS_MAX} entries")));
    }
    Ok(read)
}

/// Variables.
pub(crate) fn env(fields: &mut Fields<'_>) -> Result<BTreeMap<String, String>, Rejection> {
    map(fields, "env", parts::variable)
}

/// Labels.
pub(crate) fn labels(fields: &mut Fields<'_>) -> Result<BTreeMap<String, String>, Rejection> {
    map(fields, "labels", labels::check)
}

/// The schema of [`container`].
pub(crate) fn container_schema() -> (&'static str, Value) {
    ("container", schema::text("Its name or id."))
}

/// The schema of [`image`].
pub(crate) fn image_schema() -> (&'static str, Value) {
    ("image", schema::text("The image: [REGISTRY/]NAME[:TAG][@DIGEST]."))
}

/// The schema of [`pull`].
pub(crate) fn pull_schema() -> (&'static str, Value) {
    ("pull", schema::one_of("When images are pulled; `missing` if absent.", &POLICIES))
}
