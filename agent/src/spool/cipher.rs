//! Encryption at rest: AES-256-GCM, the key from the agent's API key by PBKDF2-HMAC-SHA256 (contract row S1).
//!
//! An entry is `version (1) | nonce (12) | ciphertext and tag`, bound to its place in the spool, so that entries can't be swapped.

use aes_gcm::{
    Aes256Gcm, Nonce,
    aead::{Aead as _, Key, KeyInit as _, Payload},
};
use pbkdf2::{Algorithm, Params};
use zeroize::Zeroizing;

/// 600 000 rounds: OWASP's figure for HMAC-SHA256. A test holds it to the contract.
const PARAMS: Params = Params::RECOMMENDED;
/// Bytes of the salt.
pub(super) const SALT: usize = 16;
const NONCE: usize = 12;
const VERSION: u8 = 1;
const CONTEXT: &[u8] = b"muster spool 1";

/// An entry does not come from this key and place, or was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum CipherError {
    #[error("it is cut short")]
    Short,
    #[error("it is of version {0}, and this build reads version {VERSION}")]
    Version(u8),
    #[error("it was changed, or was written with another API key")]
    Changed,
}

/// The key of this spool.
pub(super) struct Cipher(Aes256Gcm);

impl Cipher {
    /// Derives the key; a few tenths of a second.
    pub(super) fn derive(api_key: &str, salt: &[u8; SALT]) -> Self {
        let mut key = Zeroizing::new([0; 32]);
        pbkdf2::pbkdf2_hmac_with_params(api_key.as_bytes(), salt, Algorithm::Pbkdf2Sha256, PARAMS, key.as_mut());
        Self::from_key(*key)
    }

    fn from_key(key: [u8; 32]) -> Self {
        Self(Aes256Gcm::new(&Key::<Aes256Gcm>::from(key)))
    }

    /// Encrypts an entry for its place, with a nonce of its own.
    pub(super) fn seal(&self, place: u64, plain: &[u8]) -> Result<Vec<u8>, CipherError> {
        let nonce: [u8; NONCE] = rand::random();
        let payload = Payload { msg: plain, aad: &aad(place) };
        let sealed = self.0.encrypt(&Nonce::from(nonce), payload).map_err(|_| CipherError::Changed)?;
        let mut entry = Vec::with_capacity(1 + NONCE + sealed.len());
        entry.push(VERSION);
        entry.extend_from_slice(&nonce);
        entry.extend_from_slice(&sealed);
        Ok(entry)
    }

    /// Decrypts the entry of a place.
    pub(super) fn open(&self, place: u64, entry: &[u8]) -> Result<Vec<u8>, CipherError> {
        let (version, rest) = entry.split_first().ok_or(CipherError::Short)?;
        if *version != VERSION {
            return Err(CipherError::Version(*version));
        }
        let (nonce, sealed) = rest.split_first_chunk::<NONCE>().ok_or(CipherError::Short)?;
        let payload = Payload { msg: sealed, aad: &aad(place) };
        self.0.decrypt(&Nonce::from(*nonce), payload).map_err(|_| CipherError::Changed)
    }
}

impl std::fmt::Debug for Cipher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Cipher")
    }
}

fn aad(place: u64) -> Vec<u8> {
    [CONTEXT, &place.to_be_bytes()].concat()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests fail by panicking")]
    use super::*;

    fn cipher(key: u8) -> Cipher {
        Cipher::from_key([key; 32])
    }

    #[test]
    fn an_entry_comes_back_from_its_key_and_place_only() {
        let sealed = cipher(1).seal(5, b"result").unwrap();
        assert_eq!(cipher(1).open(5, &sealed).unwrap(), b"result");
        assert_eq!(cipher(1).open(6, &sealed), Err(CipherError::Changed));
        assert_eq!(cipher(2).open(5, &sealed), Err(CipherError::Changed));
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let cipher = cipher(1);
        let sealed = cipher.seal(0, b"a result of some length").unwrap();
        for at in 0..sealed.len() {
            for bit in 0..8 {
                let mut changed = sealed.clone();
                changed[at] ^= 1 << bit;
                assert!(cipher.open(0, &changed).is_err(), "byte {at}, bit {bit}");
            }
            assert!(cipher.open(0, &sealed[..at]).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn no_two_entries_share_a_nonce_or_show_their_text() {
        let cipher = cipher(1);
        let entries: std::collections::HashSet<_> = (0..100).map(|_| cipher.seal(0, b"same").unwrap()[1..=NONCE].to_vec()).collect();
        assert_eq!(entries.len(), 100);
        let sealed = cipher.seal(0, b"hunter2 hunter2").unwrap();
        assert!(!sealed.windows(7).any(|window| window == b"hunter2"));
    }

    #[test]
    fn the_derivation_is_the_one_of_the_contract() {
        // Python: hashlib.pbkdf2_hmac("sha256", b"key", bytes([7] * 16), 600000, 32)
        let mut key = [0; 32];
        pbkdf2::pbkdf2_hmac_with_params(b"key", &[7; SALT], Algorithm::Pbkdf2Sha256, PARAMS, &mut key);
        assert_eq!(key[..8], [0x14, 0xee, 0x53, 0x55, 0xe6, 0xb6, 0x23, 0x19]);
        let sealed = Cipher::from_key(key).seal(0, b"x").unwrap();
        assert!(Cipher::derive("key", &[7; SALT]).open(0, &sealed).is_ok());
        assert!(Cipher::derive("key", &[8; SALT]).open(0, &sealed).is_err());
    }
}
