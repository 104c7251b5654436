//! Follows redirects by hand, so that every hop goes through the guard and nothing secret leaves its origin.
//!
//! Decides only what the next request is; sends nothing.

use reqwest::header::{self, HeaderMap, HeaderName};
use reqwest::{Method, Response, StatusCode};
use url::Url;

use super::params::{self, Params};

/// Hops followed at most: as many as `http.request` promises.
const HOPS: u32 = 5;

/// The headers that go along to another origin. An allow-list: `Authorization` and `Cookie` are not the only headers
/// that hold secrets.
const HARMLESS: &[HeaderName] = &[header::ACCEPT, header::ACCEPT_LANGUAGE, header::USER_AGENT];

/// One request of a chain.
#[derive(Debug)]
pub(super) struct Hop {
    pub(super) method: Method,
    pub(super) url: Url,
    pub(super) headers: HeaderMap,
    pub(super) body: Option<Vec<u8>>,
    /// 0 for the job's own URL.
    pub(super) number: u32,
    follow: bool,
}

impl Hop {
    /// The job's own request.
    pub(super) fn first(params: &Params) -> Self {
        let Params { method, url, headers, body, follow_redirects: follow, .. } = params;
        let (method, url, headers, body) = (method.clone(), url.clone(), headers.clone(), body.clone());
        Self { method, url, headers, body, number: 0, follow: *follow }
    }

    pub(super) fn is_first(&self) -> bool {
        self.number == 0
    }

    /// The next request, or `None` when this answer is the last one.
    pub(super) fn after(&self, answer: &Response) -> Result<Option<Self>, String> {
        self.next(answer.status(), answer.headers())
    }

    fn next(&self, status: StatusCode, answer: &HeaderMap) -> Result<Option<Self>, String> {
        let keeps = match status {
            StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT => true,
            StatusCode::MOVED_PERMANENTLY | StatusCode::FOUND | StatusCode::SEE_OTHER => false,
            _ => return Ok(None),
        };
        let Some(location) = answer.get(header::LOCATION).filter(|_| self.follow) else { return Ok(None) };
        if self.number >= HOPS {
            return Err(format!("more than {HOPS} redirects"));
        }
        let location = location.to_str().map_err(|_| "its Location is not ASCII text".to_owned())?;
        let url = self.url.join(location).map_err(|error| format!("its Location is not a URL: {error}"))?;
        params::acceptable(&url).map_err(|problem| format!("its Location {problem}"))?;
        if self.url.scheme() == "https" && url.scheme() != "https" {
            return Err("it leads from https to http".to_owned());
        }
        let same_origin = url.origin() == self.url.origin();
        let mut headers = self.headers.clone();
        if !same_origin {
            headers = HARMLESS.iter().filter_map(|name| Some((name.clone(), headers.remove(name)?))).collect();
        }
        let safe = matches!(self.method, Method::GET | Method::HEAD);
        if keeps && !same_origin && (self.body.is_some() || !safe) {
            return Err(format!("{} would send {} and its body to another origin", status.as_u16(), self.method));
        }
        // A POST becomes a GET at 301 and 302, as in every client; 303 says so for all methods.
        let becomes_get = !keeps && !safe && (status == StatusCode::SEE_OTHER || self.method == Method::POST);
        if !keeps && !becomes_get && !safe && !same_origin {
            return Err(format!("{} would send {} to another origin", status.as_u16(), self.method));
        }
        let mut body = self.body.clone();
        if becomes_get || (!keeps && safe) {
            body = None;
            for name in [header::CONTENT_TYPE, header::CONTENT_ENCODING, header::CONTENT_LANGUAGE, header::CONTENT_LOCATION] {
                headers.remove(name);
            }
        }
        let method = if becomes_get { Method::GET } else { self.method.clone() };
        Ok(Some(Self { method, url, headers, body, number: self.number + 1, follow: true }))
    }
}

#[cfg(test)]
mod tests;
