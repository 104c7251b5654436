//! The key, from the agent's API key by PBKDF2-HMAC-SHA256, and AES-256-GCM with it.

use std::fmt;

use aes_gcm::{
    Aes256Gcm, Nonce as GcmNonce,
    aead::{Aead as _, Key, KeyInit as _, Payload},
};
use pbkdf2::{Algorithm, Params};
use zeroize::Zeroizing;

/// OWASP's figure for HMAC-SHA256, 600 000 rounds. What is less is refused, and so is what is more: a file must not tell us how long to compute.
pub(crate) const ROUNDS: u32 = PARAMS.rounds();
const PARAMS: Params = Params::RECOMMENDED;
/// Bytes of the salt.
pub(crate) const SALT: usize = 16;
/// Bytes of a nonce. They are random: 2^32 of them are safe with one key (NIST SP 800-38D, 8.3), and each change takes one for every entry, two
/// for the file.
pub(crate) const NONCE: usize = 12;
/// Bytes by which the sealed is longer than the plain.
pub(crate) const TAG: usize = 16;

/// A salt.
pub(crate) type Salt = [u8; SALT];
/// A nonce.
pub(crate) type Nonce = [u8; NONCE];

/// It was sealed with another key, nonce or context, or was altered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Closed;

/// The key of a vault. It is wiped when it goes.
pub(crate) struct Cipher(Aes256Gcm);

impl Cipher {
    /// Derives the key; a few tenths of a second.
    pub(crate) fn derive(api_key: &str, salt: &Salt) -> Self {
        let mut key = Zeroizing::new([0; 32]);
        pbkdf2::pbkdf2_hmac_with_params(api_key.as_bytes(), salt, Algorithm::Pbkdf2Sha256, PARAMS, key.as_mut());
        Self::from_key(&key)
    }

    pub(crate) fn from_key(key: &[u8; 32]) -> Self {
        let key: &Key<Aes256Gcm> = key.into();
        Self(Aes256Gcm::new(key))
    }

    /// Seals with a new nonce, which is answered too.
    pub(crate) fn seal(&self, context: &[u8], plain: &[u8]) -> Result<(Nonce, Vec<u8>), Closed> {
        let nonce: Nonce = rand::random();
        let sealed = self.0.encrypt(&GcmNonce::from(nonce), Payload { msg: plain, aad: context }).map_err(|_| Closed)?;
        Ok((nonce, sealed))
    }

    /// Opens what was sealed with this nonce in this context.
    pub(crate) fn open(&self, context: &[u8], nonce: &Nonce, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, Closed> {
        let payload = Payload { msg: sealed, aad: context };
        self.0.decrypt(&GcmNonce::from(*nonce), payload).map(Zeroizing::new).map_err(|_| Closed)
    }
}

impl fmt::Debug for Cipher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Cipher")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;

    #[test]
    fn the_key_is_derived_as_the_contract_says() {
        // Python: hashlib.pbkdf2_hmac("sha256", b"key", bytes([7] * 16), 600000, 32)
        let mut key = [0; 32];
        pbkdf2::pbkdf2_hmac_with_params(b"key", &[7; SALT], Algorithm::Pbkdf2Sha256, PARAMS, &mut key);
        assert_eq!(key[..8], [0x14, 0xee, 0x53, 0x55, 0xe6, 0xb6, 0x23, 0x19]);
        assert_eq!(ROUNDS, 600_000);
        let (nonce, sealed) = Cipher::from_key(&key).seal(b"", b"x").unwrap();
        assert_eq!(*Cipher::derive("key", &[7; SALT]).open(b"", &nonce, &sealed).unwrap(), *b"x");
        for (wrong, salt) in [("kez", [7; SALT]), ("key", [8; SALT])] {
            assert_eq!(Cipher::derive(wrong, &salt).open(b"", &nonce, &sealed), Err(Closed));
        }
    }

    #[test]
    fn it_shows_nothing() {
        assert_eq!(format!("{:?}", Cipher::from_key(&[7; 32])), "Cipher");
    }
}
