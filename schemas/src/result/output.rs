//! Bytes that a job wrote: text where they are UTF-8, raw bytes where they are not, never repaired.

use std::{borrow::Cow, fmt};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Output of a job. In MessagePack a string when it is UTF-8 and binary otherwise; in JSON a string, or `{"base64": "…"}`.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Output(Vec<u8>);

impl Output {
    /// The bytes as written.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The bytes as text, with U+FFFD for what is not UTF-8.
    pub fn to_text(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.0)
    }

    /// Whether nothing was written.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<Vec<u8>> for Output {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }
}

impl fmt::Debug for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.to_text())
    }
}

#[derive(Serialize, Deserialize)]
struct Encoded {
    base64: String,
}

impl Serialize for Output {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match std::str::from_utf8(&self.0) {
            Ok(text) => to.serialize_str(text),
            Err(_) if to.is_human_readable() => Encoded { base64: STANDARD.encode(&self.0) }.serialize(to),
            Err(_) => to.serialize_bytes(&self.0),
        }
    }
}

impl<'de> Deserialize<'de> for Output {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(Visitor)
    }
}

struct Visitor;

impl<'de> de::Visitor<'de> for Visitor {
    type Value = Output;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("text, bytes or {\"base64\": text}")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Output, E> {
        Ok(Output(text.as_bytes().to_vec()))
    }

    fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<Output, E> {
        Ok(Output(bytes.to_vec()))
    }

    fn visit_unit<E: de::Error>(self) -> Result<Output, E> {
        Ok(Output::default())
    }

    fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<Output, A::Error> {
        let encoded = Encoded::deserialize(de::value::MapAccessDeserializer::new(map))?;
        STANDARD.decode(encoded.base64).map(Output).map_err(de::Error::custom)
    }
}

impl schemars::JsonSchema for Output {
    fn schema_name() -> Cow<'static, str> {
        "Output".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "description": "text, or base64 of bytes that are not UTF-8",
            "oneOf": [{"type": "string"}, {"type": "object", "properties": {"base64": {"type": "string", "contentEncoding": "base64"}}, "required": ["base64"]}]
        })
    }
}
