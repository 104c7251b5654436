//! Pages of lists: how many entries, and where the next page begins.
//!
//! A cursor is the key of the last entry shown, in base64 so that nobody builds on its form. It names a place in the order, not a
//! position: entries that come or go between two pages neither repeat nor hide others.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use muster_schemas::{
    api::{Many, Meta, Page},
    code::Code,
};

use crate::problem::ApiError;

/// A page of a list.
#[derive(Debug, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ListQuery {
    /// Entries on the page, 1 to 500. Default 50.
    pub(crate) limit: Option<u32>,
    /// From the page before.
    pub(crate) cursor: Option<String>,
}

/// Entries on a page, unless asked for otherwise.
pub(crate) const LIMIT_DEFAULT: u32 = 50;
/// The most entries on a page.
pub(crate) const LIMIT_MAX: u32 = 500;

/// Longer cursors are none of ours.
const CURSOR_MAX: usize = 512;

/// The number of entries from `?limit=`.
pub(crate) fn limit(asked: Option<u32>) -> Result<u32, ApiError> {
    match asked.unwrap_or(LIMIT_DEFAULT) {
        limit @ 1..=LIMIT_MAX => Ok(limit),
        other => Err(ApiError::new(Code::QueryInvalid, format!("limit is {other}; it takes 1 to {LIMIT_MAX}"))),
    }
}

/// Where a page begins.
pub(crate) struct Cursor;

impl Cursor {
    /// The cursor behind an entry with this key.
    pub(crate) fn encode(key: &str) -> String {
        URL_SAFE_NO_PAD.encode(key)
    }

    /// The key in a cursor.
    pub(crate) fn decode(cursor: &str) -> Result<String, ApiError> {
        let bytes = Some(cursor).filter(|cursor| cursor.len() <= CURSOR_MAX).and_then(|cursor| URL_SAFE_NO_PAD.decode(cursor).ok());
        let key = bytes.and_then(|bytes| String::from_utf8(bytes).ok()).filter(|key| !key.is_empty());
        key.ok_or_else(Self::foreign)
    }

    /// The number in a cursor, where the list is in the order of numbers.
    pub(crate) fn number<N: std::str::FromStr>(cursor: &str) -> Result<N, ApiError> {
        Self::decode(cursor)?.parse().map_err(|_| Self::foreign())
    }

    fn foreign() -> ApiError {
        ApiError::new(Code::QueryInvalid, "the cursor is none of this list; send the one of the page before as it is")
    }
}

/// One page of entries that are in the order of their keys: those behind the cursor, at most `limit`.
pub(crate) fn cut<T>(entries: impl IntoIterator<Item = T>, limit: u32, key: impl Fn(&T) -> String) -> Many<T> {
    let mut entries = entries.into_iter();
    let data: Vec<T> = entries.by_ref().take(limit as usize).collect();
    let more = entries.next().is_some();
    let cursor = data.last().filter(|_| more).map(|last| Cursor::encode(&key(last)));
    Many { data, meta: Meta { page: Page { limit, cursor } } }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;

    #[test]
    fn a_limit_outside_its_range_is_refused() {
        assert_eq!(limit(None).unwrap(), LIMIT_DEFAULT);
        assert_eq!(limit(Some(1)).unwrap(), 1);
        for wrong in [0, LIMIT_MAX + 1, u32::MAX] {
            assert_eq!(limit(Some(wrong)).unwrap_err().code, Code::QueryInvalid);
        }
    }

    #[test]
    fn a_cursor_that_is_none_is_refused() {
        assert_eq!(Cursor::decode(&Cursor::encode("agt_1")).unwrap(), "agt_1");
        for wrong in ["", "*", "====", "gA", &"a".repeat(600)] {
            assert_eq!(Cursor::decode(wrong).unwrap_err().code, Code::QueryInvalid, "{wrong}");
        }
    }

    #[test]
    fn the_last_page_has_no_cursor() {
        let page = cut(["a", "b", "c"], 2, |key| (*key).to_owned());
        assert_eq!(page.data, ["a", "b"]);
        assert_eq!(Cursor::decode(&page.meta.page.cursor.unwrap()).unwrap(), "b");
        assert_eq!(cut(["c"], 2, |key| (*key).to_owned()).meta.page.cursor, None);
        assert_eq!(cut(["c", "d"], 2, |key| (*key).to_owned()).meta.page.cursor, None);
    }
}
