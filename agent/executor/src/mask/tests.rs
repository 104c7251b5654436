//! Tests of [`super`].
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests fail by panicking")]

use base64::{Engine as _, engine::general_purpose::STANDARD};
use proptest::prelude::*;
use serde_json::json;

use super::*;

/// What a stream gives out that comes in these pieces.
fn through<'a>(mask: &Mask, pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut masker = mask.stream();
    let mut out: Vec<u8> = pieces.into_iter().flat_map(|piece| masker.push(piece)).collect();
    out.extend(masker.end());
    out
}

/// The bytes, cut where `cuts` say.
fn cut<'a>(bytes: &'a [u8], cuts: &[usize]) -> Vec<&'a [u8]> {
    let mut at: Vec<usize> = cuts.iter().map(|cut| cut % (bytes.len() + 1)).chain([0, bytes.len()]).collect();
    at.sort_unstable();
    at.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect()
}

/// The plainest way to mask: look for each form at each place.
fn plainly(secrets: &[String], bytes: &[u8]) -> Vec<u8> {
    let mut secret = vec![false; bytes.len()];
    for form in secrets.iter().flat_map(|secret| forms::of(secret)) {
        for at in 0..(bytes.len() + 1).saturating_sub(form.len()) {
            if bytes[at..].starts_with(&form) {
                secret[at..at + form.len()].fill(true);
            }
        }
    }
    let mut out = Vec::new();
    for at in 0..bytes.len() {
        match secret[at] {
            false => out.push(bytes[at]),
            true if at == 0 || !secret[at - 1] => out.extend_from_slice(STARS.as_bytes()),
            true => {}
        }
    }
    out
}

proptest! {
    #[test]
    fn wherever_the_reads_cut_it_a_stream_is_masked_as_a_whole(
        secrets in prop::collection::vec("[ab/\"é]{0,9}", 0..5),
        text in "[ab/\"é%5cC3=+]{0,60}",
        planted in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 0..4),
        cuts in prop::collection::vec(any::<usize>(), 0..12),
    ) {
        let all: Vec<Vec<u8>> = secrets.iter().flat_map(|secret| forms::of(secret)).collect();
        let mut bytes = text.into_bytes();
        for (form, place) in planted {
            if !all.is_empty() {
                let at = place.index(bytes.len() + 1);
                bytes.splice(at..at, form.get(&all).iter().copied());
            }
        }
        let mask = Mask::of(secrets.iter().map(String::as_str));
        prop_assert_eq!(through(&mask, cut(&bytes, &cuts)), plainly(&secrets, &bytes));
    }

    #[test]
    fn no_form_of_a_secret_gets_through(secret in "[!-~ é]{4,40}", before in any::<Vec<u8>>(), after in any::<Vec<u8>>(), cuts in prop::collection::vec(any::<usize>(), 0..8)) {
        let mask = Mask::of([secret.as_str()]);
        let trimmed = secret.trim_end_matches(['\r', '\n']).as_bytes();
        let whole = [before.as_slice(), secret.as_bytes(), &after].concat();
        let out = through(&mask, cut(&whole, &cuts));
        // The stars and what stood around can't make it up again by chance, as it has other letters.
        prop_assert!(secret.contains('*') || !out.windows(trimmed.len()).any(|window| window == trimmed));
        if secret.len() >= 8 {
            let encoded = STANDARD.encode(&whole);
            let out = through(&mask, cut(encoded.as_bytes(), &cuts));
            prop_assert!(String::from_utf8_lossy(&out).contains(STARS), "{} in {}", secret, encoded);
        }
    }
}

#[test]
fn each_form_is_masked() {
    let secret = "s3cr3t/p&ss \"wörd\"";
    let mask = Mask::of([secret]);
    for form in [
        secret.to_owned(),
        STANDARD.encode(secret),
        STANDARD.encode(format!("user:{secret}")),
        "s3cr3t%2Fp%26ss%20%22w%C3%B6rd%22".to_owned(),
        "s3cr3t%2fp%26ss%20%22w%c3%b6rd%22".to_owned(),
        "s3cr3t%2Fp%26ss+%22w%C3%B6rd%22".to_owned(),
        // As Python, browsers and paths of URLs write it.
        "s3cr3t/p%26ss%20%22w%C3%B6rd%22".to_owned(),
        "s3cr3t/p&ss%20%22w%C3%B6rd%22".to_owned(),
        r#"s3cr3t/p&ss \"wörd\""#.to_owned(),
        r#"s3cr3t\/p&ss \"wörd\""#.to_owned(),
        r#"s3cr3t/p\u0026ss \"wörd\""#.to_owned(),
        r#"s3cr3t/p&ss \"w\u00f6rd\""#.to_owned(),
    ] {
        let out = mask.text(&format!("<{form}>"));
        assert!(out.starts_with('<') && out.contains(STARS) && out.len() <= 16, "{form}: {out}");
    }
}

#[test]
fn nothing_of_the_end_is_left_in_base64() {
    for secret in ["t0p-secret", "t0p-secret1", "t0p-secret12", "t0p-secret123"] {
        let mask = Mask::of([secret]);
        assert_eq!(mask.text(&STANDARD.encode(secret)), STARS, "{secret}");
        for before in ["u:", "us:", "usr:"] {
            let out = mask.text(&STANDARD.encode(format!("{before}{secret}")));
            assert!(out.ends_with(STARS) && out.len() <= 9, "{before}{secret}: {out}");
        }
    }
}

#[test]
fn each_line_of_a_key_is_masked_and_short_secrets_are_not() {
    let key = "-----BEGIN X-----\nc2VjcmV0c2VjcmV0\nb3RoZXJvdGhlcg==\n-----END X-----\n";
    let out = Mask::of([key]).text("\tc2VjcmV0c2VjcmV0\r\n\tb3RoZXJvdGhlcg==\r\n");
    assert_eq!(out, "\t***\r\n\t***\r\n");
    assert_eq!(Mask::of(["", "a", "abc"]).text("abcabc a"), "abcabc a");
}

#[test]
fn values_are_masked_with_the_names_of_their_fields() {
    let mut value = json!({"a secret1 b": [{"x": "secret1"}, 77777777, 3, null, true]});
    Mask::of(["secret1", "77777777"]).value(&mut value);
    assert_eq!(value, json!({"a *** b": [{"x": "***"}, "***", 3, null, true]}));
}

#[test]
fn ordinary_output_is_not_held_back_and_memory_is_bounded() {
    let mut masker = Mask::of(["secret-of-some-length"]).stream();
    assert_eq!(masker.push(b"Password: "), b"Password: ");
    assert_eq!(masker.push(b"secret-of"), b"");
    assert_eq!(masker.push(b"!"), b"secret-of!");
    let mut out = 0;
    for _ in 0..1000 {
        out += masker.push(b"secret-of-some-length").len();
        assert!(masker.held.len() <= 64);
    }
    assert!(out + masker.end().len() <= 8, "secrets side by side are one");
}

#[test]
fn what_is_masked_follows_the_secrets_of_the_moment_and_is_shown_nowhere() {
    let masks = Masks::default();
    assert_eq!(masks.now().text("secret1 secret2"), "secret1 secret2");
    masks.replace(["secret1"]);
    let before = masks.now();
    masks.replace(["secret2"]);
    assert_eq!((before.text("secret1 secret2"), masks.now().text("secret1 secret2")), ("*** secret2".into(), "secret1 ***".into()));
    assert!(!format!("{masks:?} {before:?} {:?}", before.stream()).contains("secret1"));
}
