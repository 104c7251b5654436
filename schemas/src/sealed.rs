//! Sealing of credentials to one agent, so that nobody in between can read them: HPKE (RFC 9180), base mode, DHKEM(X25519, HKDF-SHA256),
//! HKDF-SHA256, AES-256-GCM.
//!
//! What is sealed is bound to the agent, the connection and the revision (HPKE's `info`): a broker or gateway that moves it elsewhere gets
//! a refusal, not a secret in the wrong place. Base mode does not say who sealed it; who may deliver is the gateway's to decide.

use std::{collections::BTreeMap, fmt};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use hpke::{Deserializable as _, Kem as _, OpModeR, OpModeS, Serializable as _, aead::AesGcm256, kdf::HkdfSha256, kem::X25519HkdfSha256};
use nkeys::KeyPair;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use zeroize::{Zeroize as _, Zeroizing};

use crate::{
    connection::{CREDENTIALS_LIMIT, ConnectionKind, SealedEntry},
    names::{AgentId, ConnectionName},
    time::Timestamp,
    wire::{self, Body, V, WireError},
};

/// The secrets of one connection. `Debug` shows names only; the values are wiped when it goes.
#[derive(Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Credentials {
    /// Version of the body.
    #[serde(default)]
    pub v: V,
    /// Name and value; which names there may be is in [`crate::connection::ConnectionKind::credential_fields`].
    pub fields: BTreeMap<String, String>,
    /// Whether an agent that has them may seal them to another agent of its pool that joins later. The word of whoever sealed them first.
    #[serde(default)]
    pub shared: bool,
    /// What the connection was when they were sealed: an agent uses them for nothing else. Absent where somebody put them into a vault by hand.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bound: Option<Binding>,
}

/// A connection's kind and settings, as a digest. Settings are no secrets, but they say where the secret is sent: who can write records must not be able to
/// send it elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Binding([u8; 32]);

impl Binding {
    /// Of this kind and these settings. Absent settings are empty ones.
    pub fn of(kind: ConnectionKind, settings: &Value) -> Self {
        let mut text = format!("muster-binding-1\n{}\n", kind.as_str());
        match settings {
            Value::Null => text.push_str("{}"),
            settings => canonical(settings, &mut text),
        }
        Self(Sha256::digest(text).into())
    }
}

/// JSON with the fields of each map in order, whatever order they came in.
fn canonical(value: &Value, text: &mut String) {
    match value {
        Value::Object(map) => {
            let fields: BTreeMap<&String, &Value> = map.iter().collect();
            text.push('{');
            for (name, value) in fields {
                canonical(&Value::String(name.clone()), text);
                text.push(':');
                canonical(value, text);
                text.push(',');
            }
            text.push('}');
        }
        Value::Array(items) => {
            text.push('[');
            for item in items {
                canonical(item, text);
                text.push(',');
            }
            text.push(']');
        }
        other => text.push_str(&other.to_string()),
    }
}

impl Credentials {
    /// A field.
    pub fn get(&self, field: &str) -> Option<&str> {
        self.fields.get(field).map(String::as_str)
    }

    /// The values that must not leave the agent: all but `username`, which is none of the secrets.
    pub fn secrets(&self) -> impl Iterator<Item = &str> {
        let fields = self.fields.iter().filter(|(name, _)| *name != "username");
        fields
            .flat_map(|(name, value)| std::iter::once(value.as_str()).chain(if name == "kubeconfig" { within(value) } else { Vec::new() }))
    }
}

/// The secrets in a kubeconfig, YAML or JSON: they are used by themselves, so that is how they might get out.
fn within(kubeconfig: &str) -> Vec<&str> {
    let ends = |letter: char| letter.is_whitespace() || "\"',}".contains(letter);
    let value = |rest: &'_ str| -> Option<usize> {
        let start = rest
            .trim_start_matches(['"', '\''])
            .trim_start()
            .strip_prefix(':')?
            .trim_start_matches(|letter: char| letter != '\n' && ends(letter));
        Some(rest.len() - start.len())
    };
    let of = |key: &str| {
        let found = kubeconfig
            .match_indices(key)
            .filter_map(|(at, _)| kubeconfig.get(at + key.len()..))
            .filter_map(|rest| rest.get(value(rest)?..));
        found.map(|rest| rest.split(ends).next().unwrap_or_default()).filter(|secret| !secret.is_empty()).collect::<Vec<_>>()
    };
    ["token", "client-key-data", "password"].map(of).concat()
}

impl Drop for Credentials {
    fn drop(&mut self) {
        self.fields.values_mut().for_each(|value| value.zeroize());
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("fields", &self.fields.keys()).field("shared", &self.shared).finish()
    }
}

impl Body for Credentials {
    const LIMIT: usize = CREDENTIALS_LIMIT;
}

/// A public sealing key with the agent's word that it is its own: signed with the agent's nkey, so that who passes it on can't replace it
/// without replacing the agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct SealingKey {
    /// The X25519 public key, base64.
    pub key: String,
    /// The signature with the agent's nkey, base64.
    pub signature: String,
}

/// Whose credentials these are, and which.
#[derive(Debug, Clone, Copy)]
pub struct Purpose<'a> {
    /// The agent that may open them.
    pub agent: &'a AgentId,
    /// The connection.
    pub connection: &'a ConnectionName,
    /// The connection's revision.
    pub revision: u64,
}

/// Why credentials can't be sealed or opened.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// The public key is none.
    #[error("the sealing key is not an X25519 public key in base64")]
    Key,
    /// The public key is not the agent's own.
    #[error("the sealing key is not signed by the agent that it is said to be of")]
    Signature,
    /// The ciphertext is none, was altered, or is for another agent, connection or revision.
    #[error("the credentials can't be opened: altered, or sealed to another key, agent, connection or revision")]
    Closed,
    /// What was sealed are no credentials.
    #[error("what was sealed are no credentials: {0}")]
    Content(#[from] WireError),
    /// There is more than [`CREDENTIALS_LIMIT`].
    #[error("credentials of {0} bytes; at most {CREDENTIALS_LIMIT}")]
    TooLarge(usize),
}

type Kem = X25519HkdfSha256;

/// An agent's private sealing key. Wiped when it goes.
pub struct OpeningKey(Zeroizing<Vec<u8>>);

impl OpeningKey {
    /// A new one.
    pub fn generate() -> Self {
        let (private, _) = Kem::gen_keypair();
        Self(Zeroizing::new(private.to_bytes().to_vec()))
    }

    /// One that was kept.
    ///
    /// # Errors
    /// When the bytes are no private key.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, SealError> {
        private(bytes)?;
        Ok(Self(Zeroizing::new(bytes.to_vec())))
    }

    /// To keep it: in the vault, and nowhere else.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The public half, signed with the agent's nkey.
    ///
    /// # Errors
    /// When `identity` has no private half.
    pub fn public(&self, agent: &AgentId, identity: &KeyPair) -> Result<SealingKey, SealError> {
        let key = self.public_text()?;
        let signature = identity.sign(&statement(agent, &key)).map_err(|_| SealError::Signature)?;
        Ok(SealingKey { signature: BASE64.encode(signature), key })
    }

    fn public_text(&self) -> Result<String, SealError> {
        Ok(BASE64.encode(Kem::sk_to_pk(&private(&self.0)?).to_bytes()))
    }

    /// Opens what was sealed to this key.
    ///
    /// # Errors
    /// [`SealError::Closed`] unless it is for exactly this purpose.
    pub fn open(&self, entry: &SealedEntry, purpose: Purpose<'_>) -> Result<Credentials, SealError> {
        let bytes = BASE64.decode(&entry.sealed).map_err(|_| SealError::Closed)?;
        let (encapped, ciphertext) = bytes.split_at_checked(ENCAPPED).ok_or(SealError::Closed)?;
        let encapped = <Kem as hpke::Kem>::EncappedKey::from_bytes(encapped).map_err(|_| SealError::Closed)?;
        let opened = hpke::single_shot_open::<AesGcm256, HkdfSha256, Kem>(
            &OpModeR::Base,
            &private(&self.0)?,
            &encapped,
            &info(purpose),
            ciphertext,
            &[],
        );
        let plain = Zeroizing::new(opened.map_err(|_| SealError::Closed)?);
        Ok(wire::decode(&plain)?)
    }
}

impl fmt::Debug for OpeningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OpeningKey")
    }
}

impl SealingKey {
    /// Whether the agent with this public nkey signed it.
    ///
    /// # Errors
    /// [`SealError::Signature`] when not.
    pub fn check(&self, agent: &AgentId, public_key: &str) -> Result<(), SealError> {
        let signature = BASE64.decode(&self.signature).map_err(|_| SealError::Signature)?;
        let identity = KeyPair::from_public_key(public_key).map_err(|_| SealError::Signature)?;
        identity.verify(&statement(agent, &self.key), &signature).map_err(|_| SealError::Signature)
    }

    /// Seals credentials to this key. [`SealingKey::check`] it first.
    ///
    /// # Errors
    /// When the key is none, or the credentials are too large.
    pub fn seal(&self, credentials: &Credentials, purpose: Purpose<'_>, at: Timestamp) -> Result<SealedEntry, SealError> {
        let key = BASE64.decode(&self.key).map_err(|_| SealError::Key)?;
        let key = <Kem as hpke::Kem>::PublicKey::from_bytes(&key).map_err(|_| SealError::Key)?;
        let plain = Zeroizing::new(wire::encode(credentials));
        if plain.len() > CREDENTIALS_LIMIT {
            return Err(SealError::TooLarge(plain.len()));
        }
        let (encapped, ciphertext) =
            hpke::single_shot_seal::<AesGcm256, HkdfSha256, Kem>(&OpModeS::Base, &key, &info(purpose), &plain, &[])
                .map_err(|_| SealError::Key)?;
        let sealed = [encapped.to_bytes().as_slice(), &ciphertext].concat();
        Ok(SealedEntry { revision: purpose.revision, key: self.key.clone(), sealed: BASE64.encode(sealed), at })
    }
}

/// Bytes of an encapsulated X25519 key.
const ENCAPPED: usize = 32;

fn private(bytes: &[u8]) -> Result<<Kem as hpke::Kem>::PrivateKey, SealError> {
    <Kem as hpke::Kem>::PrivateKey::from_bytes(bytes).map_err(|_| SealError::Key)
}

/// What an agent signs. The first word keeps it apart from all else that nkeys sign.
fn statement(agent: &AgentId, key: &str) -> Vec<u8> {
    format!("muster-sealing-key-1\n{agent}\n{key}").into_bytes()
}

fn info(purpose: Purpose<'_>) -> Vec<u8> {
    format!("muster-credentials-1\n{}\n{}\n{}", purpose.agent, purpose.connection, purpose.revision).into_bytes()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;

    #[test]
    fn the_secrets_in_a_kubeconfig_are_secrets_by_themselves() {
        for kubeconfig in [
            "users:\n- name: u\n  user:\n    token: tok3n-0f-u\n    client-key-data: 'S0VZ'\n",
            r#"{"users":[{"user":{"token":"tok3n-0f-u","client-key-data": "S0VZ"}}]}"#,
        ] {
            let credentials = Credentials { fields: [("kubeconfig".into(), kubeconfig.into())].into(), ..Credentials::default() };
            assert_eq!(credentials.secrets().collect::<Vec<_>>(), [kubeconfig, "tok3n-0f-u", "S0VZ"]);
        }
    }

    fn credentials() -> Credentials {
        Credentials {
            v: V,
            fields: [("password".into(), "hunter2hunter2".into()), ("username".into(), "root".into())].into(),
            shared: true,
            bound: None,
        }
    }

    #[test]
    fn only_the_agent_opens_it_and_only_for_its_purpose() {
        let (agent, other) = (AgentId::generate(), AgentId::generate());
        let (name, elsewhere): (ConnectionName, ConnectionName) = ("db".parse().unwrap(), "web".parse().unwrap());
        let (identity, opening) = (KeyPair::new_user(), OpeningKey::generate());
        let public = opening.public(&agent, &identity).unwrap();
        public.check(&agent, &identity.public_key()).unwrap();
        assert!(public.check(&other, &identity.public_key()).is_err());
        assert!(public.check(&agent, &KeyPair::new_user().public_key()).is_err());
        let purpose = Purpose { agent: &agent, connection: &name, revision: 3 };
        let entry = public.seal(&credentials(), purpose, Timestamp::from_secs(1)).unwrap();
        assert_eq!(opening.open(&entry, purpose).unwrap(), credentials());
        let kept = OpeningKey::from_bytes(opening.as_bytes()).unwrap();
        assert_eq!(kept.open(&entry, purpose).unwrap(), credentials());
        for wrong in
            [Purpose { agent: &other, ..purpose }, Purpose { connection: &elsewhere, ..purpose }, Purpose { revision: 2, ..purpose }]
        {
            assert!(matches!(opening.open(&entry, wrong), Err(SealError::Closed)));
        }
        assert!(matches!(OpeningKey::generate().open(&entry, purpose), Err(SealError::Closed)));
        let bytes = BASE64.decode(&entry.sealed).unwrap();
        for at in 0..bytes.len() {
            let mut altered = bytes.clone();
            altered.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 1);
            for bad in [altered, bytes.iter().take(at).copied().collect()] {
                let bad = SealedEntry { sealed: BASE64.encode(bad), ..entry.clone() };
                assert!(matches!(opening.open(&bad, purpose), Err(SealError::Closed)), "byte {at}");
            }
        }
    }

    #[test]
    fn a_binding_is_the_same_however_the_settings_are_written_and_another_for_other_ones() {
        let of = |text: &str| Binding::of(ConnectionKind::Http, &serde_json::from_str(text).unwrap());
        let one = of(r#"{"base_url": "https://a.example/", "auth": "bearer", "x": [1, {"b": 2, "a": null}]}"#);
        assert_eq!(one, of(r#"{"x": [1, {"a": null, "b": 2}], "auth": "bearer", "base_url": "https://a.example/"}"#));
        for other in [
            r#"{"base_url": "https://b.example/", "auth": "bearer", "x": [1, {"b": 2, "a": null}]}"#,
            r#"{"base_url": "https://a.example/", "auth": "bearer", "x": [1, {"b": 2}]}"#,
            r#"{"base_url": "https://a.example/", "auth": "bearer"}"#,
            r#"{"base_url": "https://a.example/\",\"auth\":\"bearer"}"#,
            "{}",
        ] {
            assert_ne!(one, of(other), "{other}");
        }
        assert_eq!(of("{}"), Binding::of(ConnectionKind::Http, &Value::Null));
        assert_ne!(of("{}"), Binding::of(ConnectionKind::Ssh, &Value::Null));
    }

    #[test]
    fn credentials_show_no_value_and_are_bounded() {
        let shown = format!("{:?} {:?}", credentials(), OpeningKey::generate());
        assert!(shown.contains("password") && !shown.contains("hunter2"), "{shown}");
        assert_eq!(credentials().secrets().collect::<Vec<_>>(), ["hunter2hunter2"]);
        let (agent, name) = (AgentId::generate(), "db".parse().unwrap());
        let public = OpeningKey::generate().public(&agent, &KeyPair::new_user()).unwrap();
        let large = Credentials { fields: [("a".into(), "x".repeat(CREDENTIALS_LIMIT))].into(), ..credentials() };
        let purpose = Purpose { agent: &agent, connection: &name, revision: 1 };
        assert!(matches!(public.seal(&large, purpose, Timestamp::from_secs(1)), Err(SealError::TooLarge(_))));
    }
}
