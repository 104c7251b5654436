//! Making keys and tokens, and the hash that is kept of a token. Of keys see [`super::Auth::hash`].

use muster_schemas::records::secret::{Kind, PREFIX_LEN, Parts, SECRET_LEN};
use sha2::{Digest as _, Sha256};

/// A new key or token, from the operating system's random numbers through the generator of the thread.
pub(crate) fn fresh(kind: Kind) -> Parts {
    Parts::from_random(kind, &rand::random::<[u8; PREFIX_LEN + SECRET_LEN]>())
}

/// The hash that is kept of a join token's secret: SHA-256 in hex. The secret is random, so a slow hash would add nothing.
pub(crate) fn token_hash(secret: &str) -> String {
    Sha256::digest(secret).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tokens_hash_is_sha_256_in_hex() {
        assert_eq!(token_hash("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }
}
