//! Bytes from outside, decoded under limits: size first, then shape, then the type.
//!
//! Bodies are MessagePack maps with named fields, or JSON objects: the first byte tells them apart (`{` is a number in
//! MessagePack, which a body never is). Nothing is allocated on the word of a length that the bytes only declare.
//! The scan of the shape lives in [`scan`].

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::code::Code;

pub mod scan;

/// How deep a body may nest. Real bodies stay under 8; decoders recurse once per level.
pub const MAX_DEPTH: usize = 32;
/// The version of every body this build writes, and the only one it reads.
pub const VERSION: u64 = 1;

/// Why bytes are not a body of the wanted type.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// More bytes than the type's cap.
    #[error("the body has {size} bytes; the limit is {limit}")]
    TooLarge {
        /// The size as given, in bytes.
        size: usize,
        /// The cap, in bytes.
        limit: usize,
    },
    /// Nested deeper than [`MAX_DEPTH`].
    #[error("the body nests deeper than {MAX_DEPTH} levels")]
    TooDeep,
    /// Not MessagePack or JSON, cut short, followed by more bytes, or not a map.
    #[error("the body is not a MessagePack map or a JSON object: {0}")]
    Malformed(String),
    /// Of a version this build does not read.
    #[error("the body is of version {0}; this build reads version {VERSION}")]
    Version(u64),
    /// A map, but a field is missing, of the wrong type or out of its range.
    #[error("a field of the body does not fit: {0}")]
    Field(String),
}

impl WireError {
    /// The stable code under which this reaches the sender.
    pub fn code(&self) -> Code {
        match self {
            Self::TooLarge { .. } => Code::BodyTooLarge,
            Self::TooDeep => Code::BodyTooDeep,
            Self::Malformed(_) => Code::BodyMalformed,
            Self::Version(_) => Code::VersionUnknown,
            Self::Field(_) => Code::FieldInvalid,
        }
    }
}

/// A type that travels as a body of its own.
pub trait Body: Serialize + DeserializeOwned {
    /// The most bytes that are looked at.
    const LIMIT: usize;
}

/// Decodes a body.
///
/// # Errors
/// See [`WireError`]. No input makes it panic, recurse deeper than [`MAX_DEPTH`] or allocate more than a small multiple of `LIMIT`.
pub fn decode<T: Body>(bytes: &[u8]) -> Result<T, WireError> {
    decode_within(bytes, T::LIMIT)
}

/// Decodes a body of any type, capped at `limit` bytes. Prefer [`decode`], which knows the cap.
///
/// # Errors
/// As [`decode`].
pub fn decode_within<T: DeserializeOwned>(bytes: &[u8], limit: usize) -> Result<T, WireError> {
    if bytes.len() > limit {
        return Err(WireError::TooLarge { size: bytes.len(), limit });
    }
    if is_json(bytes) {
        scan::json(bytes)?;
        serde_json::from_slice(bytes).map_err(|error| why(error.is_data(), &error, || serde_json::from_slice(bytes).ok()))
    } else {
        scan::msgpack(bytes)?;
        rmp_serde::from_slice(bytes).map_err(|error| {
            let data = !matches!(error, rmp_serde::decode::Error::InvalidMarkerRead(_) | rmp_serde::decode::Error::InvalidDataRead(_));
            why(data, &error, || rmp_serde::from_slice(bytes).ok())
        })
    }
}

/// Whether a body is JSON: its first byte that is not white space is `{`.
pub fn is_json(bytes: &[u8]) -> bool {
    bytes.iter().find(|b| !b.is_ascii_whitespace()) == Some(&b'{')
}

/// Encodes a body as a MessagePack map with named fields.
pub fn encode<T: Serialize>(body: &T) -> Vec<u8> {
    // Fails only for a type whose own `Serialize` fails, and none of ours does: every body's round trip is a test.
    rmp_serde::to_vec_named(body).unwrap_or_default()
}

#[derive(Deserialize)]
struct Probe {
    #[serde(default)]
    v: Option<u64>,
}

/// An unknown version explains every other misfit, so it is what the sender is told.
fn why(data: bool, error: &dyn std::fmt::Display, probe: impl FnOnce() -> Option<Probe>) -> WireError {
    match probe().and_then(|p| p.v) {
        Some(v) if v != VERSION => WireError::Version(v),
        _ if data => WireError::Field(error.to_string()),
        _ => WireError::Malformed(error.to_string()),
    }
}

/// The field `v` of every body: written as [`VERSION`], absent means [`VERSION`], anything else is refused by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct V;

impl Serialize for V {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u64(VERSION)
    }
}

impl<'de> Deserialize<'de> for V {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        match u64::deserialize(from)? {
            VERSION => Ok(Self),
            other => Err(serde::de::Error::custom(WireError::Version(other))),
        }
    }
}

impl schemars::JsonSchema for V {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Version".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({"const": VERSION, "description": "version of the body"})
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;
    use proptest::prelude::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Sample {
        #[serde(default)]
        v: V,
        name: String,
        #[serde(default)]
        rest: serde_json::Value,
    }

    impl Body for Sample {
        const LIMIT: usize = 4096;
    }

    fn code(bytes: &[u8]) -> Code {
        decode::<Sample>(bytes).unwrap_err().code()
    }

    #[test]
    fn json_and_messagepack_give_the_same_value() {
        let sample = Sample { v: V, name: "x".into(), rest: serde_json::json!([1, {"a": null}]) };
        assert_eq!(decode::<Sample>(&encode(&sample)).unwrap(), sample);
        assert_eq!(decode::<Sample>(b" \n{\"name\":\"x\",\"rest\":[1,{\"a\":null}],\"unknown\":1}").unwrap(), sample);
    }

    #[test]
    fn each_kind_of_bad_body_has_its_own_code() {
        assert_eq!(code(&[0; 5000]), Code::BodyTooLarge);
        assert_eq!(code(b""), Code::BodyMalformed);
        assert_eq!(code(b"hello"), Code::BodyMalformed);
        assert_eq!(code(b"{\"name\":"), Code::BodyMalformed);
        assert_eq!(code(b"{\"name\":\"x\"} trailing"), Code::BodyMalformed);
        assert_eq!(code(b"{\"name\":7}"), Code::FieldInvalid);
        assert_eq!(code(b"{\"v\":1}"), Code::FieldInvalid);
        assert_eq!(code(b"{\"v\":2,\"name\":\"x\"}"), Code::VersionUnknown);
        assert_eq!(code(b"{\"v\":2}"), Code::VersionUnknown);
        let deep = format!("{{\"name\":\"x\",\"rest\":{}{}}}", "[".repeat(40), "]".repeat(40));
        assert_eq!(code(deep.as_bytes()), Code::BodyTooDeep);
        // An array decodes into a struct by position, trailing bytes are ignored by the decoder: the scan refuses both.
        assert_eq!(code(&rmp_serde::to_vec(&(1, "x")).unwrap()), Code::BodyMalformed);
        let mut trailing = encode(&Sample { v: V, name: "x".into(), rest: serde_json::Value::Null });
        trailing.push(0xc0);
        assert_eq!(code(&trailing), Code::BodyMalformed);
    }

    #[test]
    fn a_declared_length_that_is_not_there_is_malformed_and_allocates_nothing() {
        for head in
            [&[0xdf, 0xff, 0xff, 0xff, 0xff][..], &[0x81, 0xdb, 0xff, 0xff, 0xff, 0xff], &[0x81, 0xa1, b'a', 0xdd, 0xff, 0xff, 0xff, 0xff]]
        {
            assert_eq!(code(head), Code::BodyMalformed);
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_decoder_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = decode::<Sample>(&bytes);
        }

        #[test]
        fn a_body_cut_anywhere_is_refused(cut in 0usize..1000) {
            let whole = encode(&Sample { v: V, name: "name".into(), rest: serde_json::json!({"a": [1.5, "b", null], "c": {"d": 7_000_000_000_u64}}) });
            let cut = cut % whole.len();
            prop_assert!(decode::<Sample>(whole.get(..cut).unwrap()).is_err());
        }
    }
}
