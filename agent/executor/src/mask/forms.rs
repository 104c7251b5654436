//! The forms in which a secret is looked for: as it is, base64 at each of the three offsets and in both alphabets, URL escaped, JSON escaped, and
//! each line of one that has several.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD},
};

use super::SHORTEST;

/// The shortest form that is looked for beside the secret itself: what is left of a short secret in base64 is found everywhere.
const SHORTEST_FORM: usize = 6;

/// The shortest line of a secret of several lines that is one by itself.
const SHORTEST_LINE: usize = 12;

/// What is not escaped in URLs, beside letters and digits (RFC 3986, 2.3).
const UNRESERVED: &[u8] = b"-._~";

/// What else the usual encoders leave as it is: `quote` of Python; `encodeURIComponent`, `encodeURI` and `URLSearchParams` of JavaScript; paths and queries as
/// the URL standard has them.
const LEFT_ALONE: &[&[u8]] = &[b"", b"/", b"!*'()", b"!*'();,/?:@&=+$#", b"*", b"!$&'()*+,;=:@", b"!$&'()*+,;=:@/?", b"/:"];

/// All forms of one secret; none of one that is too short.
pub(super) fn of(secret: &str) -> BTreeSet<Vec<u8>> {
    let mut forms = BTreeSet::new();
    let whole = secret.trim_end_matches(['\r', '\n']);
    for text in std::iter::once(whole).chain(whole.lines().map(str::trim).filter(|line| line.len() >= SHORTEST_LINE)) {
        if text.len() < SHORTEST {
            continue;
        }
        forms.insert(text.as_bytes().to_vec());
        let others = base64(text.as_bytes()).into_iter().chain(escaped(text));
        forms.extend(others.filter(|form| form.len() >= SHORTEST_FORM).map(String::into_bytes));
    }
    forms
}

/// What base64 makes of it wherever it stands in what is encoded: the letters that depend on nothing before it, with those of its end where nothing comes
/// after it, and without.
fn base64(secret: &[u8]) -> Vec<String> {
    let mut forms = Vec::new();
    for offset in 0..3_usize {
        let shifted = [&vec![0; offset], secret].concat();
        let (first, last) = ((offset * 8).div_ceil(6), shifted.len() * 8 / 6);
        for encoded in [STANDARD_NO_PAD.encode(&shifted), URL_SAFE_NO_PAD.encode(&shifted)] {
            forms.extend(encoded.get(first..last).map(str::to_owned));
            forms.extend(encoded.get(first..).map(|end| format!("{end}{}", "=".repeat((4 - encoded.len() % 4) % 4))));
            forms.extend(encoded.get(first..).map(str::to_owned));
        }
    }
    forms
}

fn escaped(secret: &str) -> Vec<String> {
    let mut forms = Vec::new();
    for left in LEFT_ALONE {
        let percent = percent(secret, left);
        forms.extend([lower_escapes(&percent), percent.replace("%20", "+"), percent]);
    }
    let json = serde_json::to_string(secret).unwrap_or_default();
    let json = json.strip_prefix('"').unwrap_or_default().strip_suffix('"').unwrap_or_default().to_owned();
    let mut ascii = String::new();
    for letter in json.chars() {
        if letter.is_ascii() {
            ascii.push(letter);
        } else {
            for unit in letter.encode_utf16(&mut [0; 2]) {
                let _ = write!(ascii, "\\u{unit:04x}");
            }
        }
    }
    forms.extend([json.replace('/', "\\/"), json.replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026"), json, ascii]);
    forms
}

/// Escaped as in URLs, but for these.
fn percent(secret: &str, left: &[u8]) -> String {
    let mut text = String::new();
    for byte in secret.bytes() {
        if byte.is_ascii_alphanumeric() || UNRESERVED.contains(&byte) || left.contains(&byte) {
            text.push(char::from(byte));
        } else {
            let _ = write!(text, "%{byte:02X}");
        }
    }
    text
}

/// `%2F` as `%2f`.
fn lower_escapes(percent: &str) -> String {
    let mut left = 0;
    percent
        .chars()
        .map(|letter| {
            if letter == '%' {
                left = 2;
                return letter;
            }
            let lower = left > 0;
            left -= i32::from(lower);
            if lower { letter.to_ascii_lowercase() } else { letter }
        })
        .collect()
}
