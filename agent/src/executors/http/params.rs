//! The params of `http.request`. Parses and checks what needs no network and no policy; sends nothing.

use std::fmt;
use std::str::FromStr;

use muster_executor::{
    Rejection,
    fields::{self, Fields},
    schema as json_schema,
};
use reqwest::Method;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use serde_json::{Value, json};
use url::Url;

use super::{expect::Conditions, retry::Retries};

/// What servers take at most, roughly; it also bounds what a result repeats of it.
pub(super) const URL_BYTES: usize = 8 * 1024;

/// Most bytes read of a body; of these the tail is kept.
pub(super) const BODY_BYTES: usize = 1024 * 1024;

/// Headers that say where a request goes or how it is framed: they belong to the client, not to the job. A `Host` of
/// the job's choice would reach another site than the one that was checked; a length would smuggle a second request.
pub(super) const OWN_HEADERS: &[&str] = &[
    "connection",
    "content-length",
    "expect",
    "host",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// A request, parsed.
#[derive(Debug)]
pub(super) struct Params {
    pub(super) method: Method,
    pub(super) url: Url,
    pub(super) headers: HeaderMap,
    pub(super) body: Option<Vec<u8>>,
    pub(super) expect: Expect,
    pub(super) conditions: Conditions,
    pub(super) body_bytes: usize,
    pub(super) retries: Retries,
    pub(super) follow_redirects: bool,
}

/// What an `http.request` takes.
pub(super) fn schema() -> Value {
    let expect =
        json!({"description": "The statuses that are a success: a number, a class such as \"2xx\", or a list of these. Default 2xx."});
    json_schema::object(
        &["url"],
        [
            ("method", json_schema::text("GET if absent.")),
            ("url", json_schema::text("http or https.")),
            ("headers", json_schema::text_map("Headers of the request.")),
            ("query", json_schema::any("Added to the URL's query, a map.")),
            ("body", json_schema::text("The body, as it is; or `json`.")),
            ("json", json_schema::any("The body, as JSON.")),
            ("expect_status", expect),
            (
                "expect_json",
                json_schema::any("What must be in the JSON body: {path, equals?} with a JSONPath (RFC 9535), or a list of these."),
            ),
            (
                "max_body_bytes",
                json_schema::integer("Bytes of the body that are read; what is beyond is left, and said.", 0..=BODY_BYTES as i64),
            ),
            (
                "retries",
                json_schema::integer(
                    "How often it is sent again after no answer, 429, 502, 503 or 504; for idempotent requests only.",
                    0..=5,
                ),
            ),
            ("follow_redirects", json_schema::flag("Whether redirects are followed, up to a few.")),
        ],
    )
}

impl Params {
    pub(super) fn parse(params: &Value) -> Result<Self, Rejection> {
        let mut fields = Fields::of(params)?;
        let method = method(fields.text("method")?.unwrap_or("GET"))?;
        let text = fields.text("url")?.ok_or_else(|| Rejection::field("url", "is missing"))?;
        let mut url = url(text).map_err(|problem| Rejection::field("url", problem))?;
        query(&mut fields, &mut url)?;
        let mut headers = headers(&mut fields)?;
        let body = body(&mut fields, &mut headers)?;
        let expect = fields.value("expect_status").map_or(Ok(Expect::default()), Expect::parse)?;
        let conditions = fields.value("expect_json").map_or(Ok(Conditions::default()), Conditions::parse)?;
        let body_bytes = match fields.integer("max_body_bytes")? {
            None => BODY_BYTES,
            Some(bytes) => usize::try_from(bytes)
                .ok()
                .filter(|bytes| *bytes <= BODY_BYTES)
                .ok_or_else(|| Rejection::field("max_body_bytes", format!("takes 0 to {BODY_BYTES}")))?,
        };
        let retries = Retries::parse(&mut fields, &method, &headers)?;
        let follow_redirects = fields.flag("follow_redirects")?.unwrap_or(false);
        fields.end()?;
        Ok(Self { method, url, headers, body, expect, conditions, body_bytes, retries, follow_redirects })
    }
}

/// A URL that may be requested as far as its form goes. Whether its address is allowed is for `guard` to say.
pub(super) fn url(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|error| format!("not an absolute URL: {error}"))?;
    acceptable(&url)?;
    Ok(url)
}

/// http or https, with a host that a name server could know, without credentials, not too long.
pub(super) fn acceptable(url: &Url) -> Result<(), String> {
    if !matches!(url.scheme(), "http" | "https") {
        return Err(format!("scheme `{}` is not http or https", fields::shown(url.scheme())));
    }
    if !url.has_host() {
        return Err("has no host".to_owned());
    }
    // The URL parser lets through more (`%22`, `%7b`), which the client then cannot put into a request.
    if url.domain().is_some_and(|name| !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))) {
        return Err("its host may only hold letters, digits, `-`, `_` and `.`".to_owned());
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("holds credentials; send an Authorization header instead".to_owned());
    }
    if url.as_str().len() > URL_BYTES {
        return Err(format!("is longer than {URL_BYTES} bytes"));
    }
    Ok(())
}

fn method(text: &str) -> Result<Method, Rejection> {
    let method = Method::from_str(&text.to_ascii_uppercase()).map_err(|_| Rejection::field("method", "is not an HTTP method"))?;
    if matches!(method, Method::CONNECT | Method::TRACE) {
        return Err(Rejection::field("method", "CONNECT and TRACE are not allowed"));
    }
    Ok(method)
}

fn query(fields: &mut Fields<'_>, url: &mut Url) -> Result<(), Rejection> {
    let Some(map) = fields.map("query")? else { return Ok(()) };
    if map.is_empty() {
        return Ok(());
    }
    let mut pairs = url.query_pairs_mut();
    for (name, value) in map {
        let field = || format!("query.{}", fields::shown(name));
        let values = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
        for value in values {
            let text = scalar(value).ok_or_else(|| fields::wrong(&field(), "text, a number, true, false or a list of these", value))?;
            pairs.append_pair(name, &text);
        }
    }
    drop(pairs);
    acceptable(url).map_err(|problem| Rejection::field("query", format!("the URL with it {problem}")))
}

fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(_) | Value::Bool(_) => Some(value.to_string()),
        _ => None,
    }
}

fn headers(fields: &mut Fields<'_>) -> Result<HeaderMap, Rejection> {
    let mut headers = HeaderMap::new();
    for (name, value) in fields.map("headers")?.into_iter().flatten() {
        let field = format!("headers.{}", fields::shown(name));
        let value = scalar(value).ok_or_else(|| fields::wrong(&field, "text", value))?;
        let name = HeaderName::from_str(name).map_err(|_| Rejection::field(&field, "is not a header name"))?;
        if OWN_HEADERS.contains(&name.as_str()) {
            return Err(Rejection::field(&field, "may not be set: it comes from the URL, the body or the connection"));
        }
        let value = HeaderValue::from_str(&value).or_else(|_| HeaderValue::from_bytes(value.as_bytes()));
        let value = value.map_err(|_| Rejection::field(&field, "must not contain line breaks or control characters"))?;
        headers.append(name, value);
    }
    Ok(headers)
}

fn body(fields: &mut Fields<'_>, headers: &mut HeaderMap) -> Result<Option<Vec<u8>>, Rejection> {
    let text = fields.value("body").map(|value| value.as_str().ok_or_else(|| fields::wrong("body", "text", value))).transpose()?;
    match (text, fields.value("json")) {
        (Some(_), Some(_)) => Err(Rejection::field("json", "give at most one of `body` and `json`")),
        (Some(text), None) => Ok(Some(text.as_bytes().to_vec())),
        (None, Some(value)) => {
            headers.entry(CONTENT_TYPE).or_insert(HeaderValue::from_static("application/json"));
            Ok(Some(value.to_string().into_bytes()))
        }
        (None, None) => Ok(None),
    }
}

/// Which statuses are a success: ranges, both ends included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Expect(Vec<(u16, u16)>);

impl Default for Expect {
    fn default() -> Self {
        Self(vec![(200, 299)])
    }
}

impl Expect {
    fn parse(value: &Value) -> Result<Self, Rejection> {
        let items = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
        let ranges: Option<Vec<_>> = items.iter().map(range).collect();
        match ranges {
            // An empty list would accept nothing; it is more likely a mistake.
            Some(ranges) if !ranges.is_empty() => Ok(Self(ranges)),
            _ => Err(Rejection::field("expect_status", "expected a status from 100 to 599, a class such as \"2xx\", or a list of these")),
        }
    }

    pub(super) fn holds(&self, status: u16) -> bool {
        self.0.iter().any(|(from, to)| (*from..=*to).contains(&status))
    }
}

fn range(value: &Value) -> Option<(u16, u16)> {
    let status = |number: u64| u16::try_from(number).ok().filter(|status| (100..600).contains(status)).map(|status| (status, status));
    match value {
        Value::Number(number) => status(number.as_u64()?),
        Value::String(text) => match text.to_ascii_lowercase().strip_suffix("xx") {
            Some(class) => {
                let class = class.parse::<u16>().ok().filter(|class| (1..6).contains(class))?;
                Some((class * 100, class * 100 + 99))
            }
            None => status(text.parse().ok()?),
        },
        _ => None,
    }
}

impl fmt::Display for Expect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = self.0.iter().map(|(from, to)| if from == to { from.to_string() } else { format!("{}xx", from / 100) });
        f.write_str(&words.collect::<Vec<_>>().join(" or "))
    }
}

#[cfg(test)]
mod tests;
