//! What a job is given of the connection that it names: settings, and the credentials out of the vault.

use muster_schemas::{code::Code, connection::ConnectionKind, names::ConnectionName, sealed::Credentials};
use serde_json::Value;

use crate::{fields::Fields, finish::Rejection};

/// A connection, opened for one attempt. Its credentials are wiped when the attempt has ended.
#[derive(Debug, Clone)]
pub struct Connection {
    /// Its name.
    pub name: ConnectionName,
    /// What is at the other end. The type of the job allows it: that was checked before the attempt.
    pub kind: ConnectionKind,
    /// Its settings, a map.
    pub settings: Value,
    /// Its secrets.
    pub credentials: Credentials,
}

impl Connection {
    /// Reads the settings field by field.
    ///
    /// # Errors
    /// `settings_invalid`, naming the connection and the field.
    pub fn read<'a, T>(&'a self, read: impl FnOnce(&mut Fields<'a>) -> Result<T, Rejection>) -> Result<T, Rejection> {
        Fields::of(&self.settings).and_then(|mut fields| read(&mut fields)).map_err(|rejection| {
            let problem = rejection.message.replacen("params", "settings", 1);
            Rejection::new(Code::SettingsInvalid, format!("connection `{}`: {problem}", self.name))
        })
    }

    /// A field of the credentials that must be there.
    ///
    /// # Errors
    /// Names the connection and the field.
    pub fn secret(&self, field: &str) -> Result<&str, Rejection> {
        self.credentials.get(field).ok_or_else(|| {
            let message = format!("the credentials of connection `{}` have no `{field}`", self.name);
            Rejection::new(Code::CredentialsInvalid, message)
        })
    }
}
