//! What a connection of the kind `ssh` says: where to, as whom, and with which secrets.

use std::sync::Arc;

use muster_executor::{Connection, Rejection, fields::Fields};
use muster_schemas::code::Code;
use russh::keys::{self, HashAlg, PrivateKey, PublicKey};

use crate::problem::Problem;

/// Where to.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) user: String,
    /// The keys that the machine may have; none leaves it to `first_use`.
    pub(crate) host_keys: Vec<PublicKey>,
    /// Whether the key that it has when it is connected to for the first time is the one that it has to have from then on.
    pub(crate) first_use: bool,
}

impl Target {
    pub(crate) fn read(connection: &Connection) -> Result<Self, Rejection> {
        connection.read(|fields| {
            let host = name(fields, "host")?;
            let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(&host).to_lowercase();
            let port = match fields.integer("port")? {
                None => 22,
                Some(port) => u16::try_from(port)
                    .ok()
                    .filter(|port| *port > 0)
                    .ok_or_else(|| Rejection::field("port", "must lie between 1 and 65535"))?,
            };
            let user = name(fields, "user")?;
            let host_keys = fields.texts("host_keys")?.unwrap_or_default();
            let host_keys = host_keys.iter().enumerate().map(|(at, text)| public_key(at, text)).collect::<Result<_, _>>()?;
            let first_use = fields.flag("first_use")?.unwrap_or(false);
            fields.end()?;
            Ok(Self { host, port, user, host_keys, first_use })
        })
    }

    /// As messages and files of known hosts name it.
    pub(crate) fn place(&self) -> String {
        if self.port == 22 { self.host.clone() } else { format!("[{}]:{}", self.host, self.port) }
    }
}

fn name(fields: &mut Fields<'_>, field: &'static str) -> Result<String, Rejection> {
    let text = fields.text(field)?.ok_or_else(|| Rejection::field(field, "is missing"))?;
    if text.is_empty() || text.len() > 255 || text.chars().any(|letter| letter.is_whitespace() || letter.is_control()) {
        return Err(Rejection::field(field, "must have 1 to 255 bytes, without spaces and control characters"));
    }
    Ok(text.to_owned())
}

fn public_key(at: usize, text: &str) -> Result<PublicKey, Rejection> {
    PublicKey::from_openssh(text.trim())
        .map_err(|error| Rejection::field(&format!("host_keys[{at}]"), format!("is no public key such as `ssh-ed25519 AAAA…`: {error}")))
}

/// A key's fingerprint, as everybody shows it.
pub(crate) fn fingerprint(key: &PublicKey) -> String {
    format!("{} {}", key.algorithm(), key.fingerprint(HashAlg::Sha256))
}

/// What the user proves itself with.
pub(crate) struct Login {
    pub(crate) key: Option<Arc<PrivateKey>>,
    pub(crate) password: Option<String>,
}

impl Login {
    /// Reads the credentials. Opening an encrypted key takes a while, so that is done off the async threads.
    pub(crate) async fn read(connection: &Connection) -> Result<Self, Problem> {
        let wrong = |problem: String| {
            Problem::for_good(Code::CredentialsInvalid, format!("the credentials of connection `{}`: {problem}", connection.name))
        };
        let password = connection.credentials.get("password").map(str::to_owned);
        if connection.credentials.get("private_key").is_none() && password.is_none() {
            return Err(wrong("neither `private_key` nor `password` is among them".to_owned()));
        }
        let credentials = connection.credentials.clone();
        let decoded = tokio::task::spawn_blocking(move || {
            credentials.get("private_key").map(|key| keys::decode_secret_key(key, credentials.get("passphrase"))).transpose()
        });
        let has_passphrase = connection.credentials.get("passphrase").is_some();
        let key = match decoded.await {
            Ok(Ok(key)) => key.map(Arc::new),
            Ok(Err(keys::Error::KeyIsEncrypted)) => {
                return Err(wrong("`private_key` is encrypted, and there is no `passphrase`".to_owned()));
            }
            Ok(Err(_)) if has_passphrase => {
                return Err(wrong("`private_key` is no private key that can be read, or `passphrase` is not its own".to_owned()));
            }
            // What the parser says may quote the key.
            Ok(Err(_)) => {
                return Err(wrong("`private_key` is no private key that can be read (OpenSSH, PKCS#1, PKCS#8 or PuTTY)".to_owned()));
            }
            Err(_) => return Err(wrong("`private_key` could not be read".to_owned())),
        };
        Ok(Self { key, password })
    }
}
