//! The params that name files: here, beneath the allowed folders, and there, where the connection's user may do as it likes.

use muster_executor::{Rejection, fields::Fields};
use muster_files::{FileError, Roots};

use crate::problem;

/// What servers take at most, roughly.
const PATH_BYTES: usize = 4096;

/// A file or folder of the agent's machine. It is not looked at yet.
pub(crate) fn local(fields: &mut Fields<'_>, field: &'static str, roots: &Roots) -> Result<Option<String>, Rejection> {
    let Some(path) = fields.text(field)? else { return Ok(None) };
    match roots.check(path) {
        Ok(()) => Ok(Some(path.to_owned())),
        Err(error @ FileError::Name { .. }) => Err(Rejection::field(field, error.line())),
        Err(error) => Err(Rejection::new(problem::code(&error), format!("params.{field}: {}", error.line()))),
    }
}

/// A file or folder of the other machine: absolute, or from where its user's sessions start.
pub(crate) fn remote(fields: &mut Fields<'_>, field: &'static str) -> Result<String, Rejection> {
    match fields.text(field)? {
        None => Err(Rejection::field(field, "is missing")),
        Some("") => Err(Rejection::field(field, "must not be empty")),
        Some(path) if path.len() > PATH_BYTES => Err(Rejection::field(field, format!("has more than {PATH_BYTES} bytes"))),
        Some(path) => Ok(path.to_owned()),
    }
}
