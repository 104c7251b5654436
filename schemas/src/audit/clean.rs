//! Cutting out of a text what looks like a secret. People paste keys into the wrong places, and callers choose names, ids and paths.
//!
//! It errs on the side of cutting: a name of 32 letters in a row is cut as well. What may stay in a path at all is the gateway's to say.

use std::borrow::Cow;

use crate::records::secret::{ALPHABET, Parts, SECRET_LEN};

/// The longest text of an entry, in characters.
pub(super) const TEXT_MAX: usize = 256;
/// What every key and token begins with.
const KEY_LEAD: &str = "mst_";
/// What a JWT begins with: `{"` in base64.
const JWT_LEAD: &str = "eyJ";
/// Characters of base64 behind [`JWT_LEAD`] that make it one, and not a part of a name.
const JWT_MIN: usize = 8;
/// What stands for what was cut out.
const CUT: char = '…';
/// How often a text is decoded in search of a secret. Whoever encodes more often has nothing kept.
const DECODE_MAX: usize = 4;

/// The text as it may be kept.
pub(super) fn cleaned(text: &str) -> String {
    let mut plain = without_controls(text);
    if let Some(parts) = Parts::parse(&plain) {
        // As its `Debug` has it: without the secret.
        return format!("{parts:?}");
    }
    let mut decoded = Cow::Borrowed(plain.as_str());
    for turn in 0.. {
        if let Some(cut) = cut(&decoded) {
            return short(&cut);
        }
        let next = without_controls(&percent_decoded(&decoded));
        if next == *decoded {
            break;
        }
        if turn == DECODE_MAX {
            return CUT.to_string();
        }
        decoded = Cow::Owned(next);
    }
    if plain.chars().count() > TEXT_MAX {
        plain = short(&plain);
    }
    plain
}

fn without_controls(text: &str) -> String {
    text.chars().filter(|letter| !letter.is_control()).collect()
}

fn short(text: &str) -> String {
    text.chars().take(TEXT_MAX).collect()
}

/// What stands before the first secret, and the mark. `None` when there is no secret.
fn cut(text: &str) -> Option<String> {
    // Lower case of ASCII alone, so that places are the same in both.
    let lead = text.to_ascii_lowercase().find(KEY_LEAD);
    let (at, kept) =
        [lead.map(|at| (at, KEY_LEAD)), jwt(text).map(|at| (at, "")), run(text).map(|at| (at, ""))].into_iter().flatten().min()?;
    Some(format!("{}{kept}{CUT}", text.get(..at).unwrap_or_default()))
}

fn jwt(text: &str) -> Option<usize> {
    let mut leads = text.match_indices(JWT_LEAD).map(|(at, _)| at);
    leads.find(|at| {
        let behind = text.get(at + JWT_LEAD.len()..).unwrap_or_default();
        behind.bytes().take_while(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'+' | b'/')).count() >= JWT_MIN
    })
}

/// Where as many characters of the alphabet as a secret has stand in a row, in either case: the secret of a key, or a seed of nkeys,
/// which is longer and has the same alphabet.
fn run(text: &str) -> Option<usize> {
    let mut at = 0;
    for part in text.as_bytes().chunk_by(|one, next| in_alphabet(*one) == in_alphabet(*next)) {
        if part.len() >= SECRET_LEN && part.iter().copied().all(in_alphabet) && !is_public_key(part) && !is_hex(part) {
            return Some(at);
        }
        at += part.len();
    }
    None
}

fn in_alphabet(byte: u8) -> bool {
    ALPHABET.contains(&byte.to_ascii_lowercase())
}

/// With its checksum: the end of a seed is none.
fn is_public_key(text: &[u8]) -> bool {
    std::str::from_utf8(text).is_ok_and(|text| nkeys::KeyPair::from_public_key(text).is_ok())
}

/// An id of ours (`req_…`, a trace's) may by chance have no digit that is outside the alphabet; a secret of nothing but these is out of
/// the question.
fn is_hex(text: &[u8]) -> bool {
    text.iter().all(|byte| byte.is_ascii_digit() || matches!(byte, b'a'..=b'f'))
}

fn percent_decoded(text: &str) -> String {
    let digit = |byte: Option<&u8>| byte.and_then(|byte| char::from(*byte).to_digit(16)).and_then(|digit| u8::try_from(digit).ok());
    let (bytes, mut decoded, mut at) = (text.as_bytes(), Vec::with_capacity(text.len()), 0);
    while let Some(byte) = bytes.get(at) {
        let pair = if *byte == b'%' { digit(bytes.get(at + 1)).zip(digit(bytes.get(at + 2))) } else { None };
        decoded.push(pair.map_or(*byte, |(high, low)| high * 16 + low));
        at += if pair.is_some() { 3 } else { 1 };
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests fail by panicking")]
    use proptest::prelude::*;

    use super::*;
    use crate::records::secret::{Kind, PREFIX_LEN};

    fn encoded(text: &str, times: usize) -> String {
        (0..times).fold(text.to_owned(), |text, _| text.bytes().map(|byte| format!("%{byte:02x}")).collect())
    }

    #[test]
    fn what_is_no_secret_stays_as_it_is() {
        let public = nkeys::KeyPair::new_user().public_key();
        for text in [
            "agt_01ARZ3NDEKTSV4RRFFQ69G5FAV",
            "key_01ARZ3NDEKTSV4RRFFQ69G5FAV",
            "job_01ARZ3NDEKTSV4RRFFQ69G5FAV",
            "abcdefghij",
            "req_aabbccddeeff22334455667722334455",
            "web-1",
            "10.0.0.1",
            "fd00::1",
            "role operator; job job_1",
            "0123e456-e89b-12d3-a456-426614174000",
            "100%",
            "50%25",
            "Zoë's key",
            "heyJude",
            &public,
        ] {
            assert_eq!(cleaned(text), text);
        }
    }

    #[test]
    fn no_seed_no_token_and_no_part_of_one_stays_however_it_is_written() {
        let user = nkeys::KeyPair::new_user();
        let seeds = [user.clone(), nkeys::KeyPair::new_account(), nkeys::KeyPair::new_operator()].map(|pair| pair.seed().unwrap());
        let jwt = "eyJ0eXAiOiJKV1QiLCJhbGciOiJlZDI1NTE5LW5rZXkifQ.eyJqdGkiOiJYIn0.c2lnbmF0dXJl".to_owned();
        for secret in seeds.into_iter().chain([jwt]) {
            let inner = &secret[2..];
            for times in 0..=3 {
                for text in [secret.clone(), format!("a {secret} b"), format!("é{secret}"), secret.to_lowercase()] {
                    if text.starts_with("eyj") {
                        continue;
                    }
                    let kept = cleaned(&encoded(&text, times)).to_lowercase();
                    assert!(!kept.contains(&inner[..8].to_lowercase()) && kept.ends_with(CUT) && !kept.contains('%'), "{text}: {kept}");
                }
            }
            assert!(cleaned(&secret[1..]).ends_with(CUT) || secret.starts_with("eyJ"), "without its first letter");
        }
        for (text, kept) in [("%6dst_abc", "mst_…"), ("%256dst_abc", "mst_…"), ("m%00st_abc", "mst_…"), ("a%2525252525252561", "…")]
        {
            assert_eq!(cleaned(text), kept);
        }
    }

    proptest! {
        #[test]
        fn nothing_of_a_secret_stays_wherever_it_stands_and_however_often_it_is_encoded(
            random in any::<[u8; 32]>(), before in "[ -~é\\PC]{0,20}", behind in "[ -~]{0,20}", times in 0usize..3, upper: bool, pad in 0usize..300
        ) {
            let mut bytes = [7; PREFIX_LEN + SECRET_LEN];
            bytes[PREFIX_LEN..].copy_from_slice(&random);
            let key = Parts::from_random(Kind::Join, &bytes);
            let secret = if upper { key.secret.to_uppercase() } else { key.secret.clone() };
            for text in [secret.clone(), key.reveal(), key.reveal()[9..].to_owned()] {
                let kept = cleaned(&encoded(&format!("{}{before}{text}{behind}", " ".repeat(pad)), times)).to_lowercase();
                prop_assert!(!kept.contains(&key.secret[..8]) && !kept.contains(&key.secret[24..]), "{}", kept);
                prop_assert!(kept.chars().count() <= TEXT_MAX);
            }
        }

        #[test]
        fn no_text_makes_it_panic_and_what_was_cleaned_stays(text in "(%[0-9a-fA-F]{0,2}|\\PC|mst_|eyJ){0,60}") {
            let kept = cleaned(&text);
            prop_assert!(kept.chars().count() <= TEXT_MAX + 1);
            let _ = cleaned(&kept);
        }
    }
}
