//! Requests to the gateway. What it refuses becomes [`Refused`], what does not reach it a [`Failure`] that says what to do.

mod trouble;

use std::time::Duration;

use anyhow::Context as _;
use muster_schemas::api::{BASE, Many, One, Problem};
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    failure::{Failure, Refused},
    target::Target,
};

/// How long an answer may take beyond what the request itself waits for.
const TIMEOUT: Duration = Duration::from_secs(30);
/// How long a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a stream of events may last. A gateway ends it after an hour.
const STREAM_MAX: Duration = Duration::from_secs(2 * 3600);
/// The most things on a page.
const PAGE_MAX: usize = 500;
/// Pages of a list that are fetched at most: 10 000 pages of 100 things.
const PAGES_MAX: usize = 10_000;

/// A gateway.
#[derive(Debug, Clone)]
pub(crate) struct Api {
    http: reqwest::Client,
    target: Target,
}

impl Api {
    pub(crate) fn new(target: Target) -> anyhow::Result<Self> {
        // Fails only when it was done before.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut builder =
            reqwest::Client::builder().connect_timeout(CONNECT_TIMEOUT).user_agent(concat!("muster/", env!("CARGO_PKG_VERSION")));
        if is_local(&target.url) {
            // A proxy of the environment leads out, not to this machine.
            builder = builder.no_proxy();
        }
        if let Some(path) = &target.ca {
            builder = builder.tls_certs_only(trouble::authorities(path)?);
        }
        Ok(Self { http: builder.build().context("can't set up HTTP")?, target })
    }

    /// Fetches one thing.
    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str, query: &[(&str, String)]) -> anyhow::Result<T> {
        Ok(self.answer::<One<T>>(self.request(Method::GET, path).query(query)).await?.data)
    }

    /// Fetches one thing, where the gateway may wait for up to `wait` before it answers.
    pub(crate) async fn get_waiting<T: DeserializeOwned>(&self, path: &str, query: &[(&str, String)], wait: Duration) -> anyhow::Result<T> {
        let request = self.request(Method::GET, path).query(query).query(&[("wait", seconds(wait))]).timeout(TIMEOUT + wait);
        Ok(self.answer::<One<T>>(request).await?.data)
    }

    /// Fetches a whole list, page by page.
    pub(crate) async fn list<T: DeserializeOwned>(&self, path: &str, query: &[(&str, String)]) -> anyhow::Result<Vec<T>> {
        self.list_most(path, query, None).await
    }

    /// Fetches the first things of a list, as many pages as that takes.
    pub(crate) async fn first<T: DeserializeOwned>(&self, path: &str, query: &[(&str, String)], most: u32) -> anyhow::Result<Vec<T>> {
        self.list_most(path, query, Some(usize::try_from(most)?)).await
    }

    async fn list_most<T: DeserializeOwned>(&self, path: &str, query: &[(&str, String)], most: Option<usize>) -> anyhow::Result<Vec<T>> {
        let mut things = Vec::new();
        let mut cursor: Option<String> = None;
        for _ in 0..PAGES_MAX {
            let mut request = self.request(Method::GET, path).query(query);
            if let Some(most) = most {
                request = request.query(&[("limit", most.saturating_sub(things.len()).min(PAGE_MAX))]);
            }
            if let Some(cursor) = &cursor {
                request = request.query(&[("cursor", cursor)]);
            }
            let page: Many<T> = self.answer(request).await?;
            things.extend(page.data);
            cursor = page.meta.page.cursor;
            if cursor.is_none() || most.is_some_and(|most| things.len() >= most) {
                break;
            }
        }
        Ok(things)
    }

    /// Fetches one page of a list, where the gateway may wait for up to `wait` before it answers.
    pub(crate) async fn page<T: DeserializeOwned>(&self, path: &str, query: &[(&str, String)], wait: Duration) -> anyhow::Result<Vec<T>> {
        let mut request = self.request(Method::GET, path).query(query).timeout(TIMEOUT + wait);
        if !wait.is_zero() {
            request = request.query(&[("wait", seconds(wait))]);
        }
        Ok(self.answer::<Many<T>>(request).await?.data)
    }

    /// Sends a body and gets one thing back; the gateway may wait for up to `wait` before it answers.
    pub(crate) async fn send<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: &impl Serialize,
        wait: Duration,
    ) -> anyhow::Result<T> {
        let mut request = self.request(method, path).json(body).timeout(TIMEOUT + wait);
        if !wait.is_zero() {
            request = request.query(&[("wait", seconds(wait))]);
        }
        Ok(self.answer::<One<T>>(request).await?.data)
    }

    /// Sends a body and gets one thing back, where the work may take the gateway `long` beyond what an answer takes.
    pub(crate) async fn send_long<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize, long: Duration) -> anyhow::Result<T> {
        Ok(self.answer::<One<T>>(self.request(Method::POST, path).json(body).timeout(TIMEOUT + long)).await?.data)
    }

    /// Asks for something to be done that has no body, and gets one thing back.
    pub(crate) async fn act<T: DeserializeOwned>(&self, path: &str, query: &[(&str, String)]) -> anyhow::Result<T> {
        Ok(self.answer::<One<T>>(self.request(Method::POST, path).query(query)).await?.data)
    }

    /// Deletes one thing.
    pub(crate) async fn delete(&self, path: &str) -> anyhow::Result<()> {
        self.delete_with(path, &[]).await
    }

    /// Deletes one thing, where a query says which or how.
    pub(crate) async fn delete_with(&self, path: &str, query: &[(&str, String)]) -> anyhow::Result<()> {
        self.response(self.request(Method::DELETE, path).query(query)).await.map(drop)
    }

    /// Opens a stream of events, from behind the event with this id. What comes is read with [`Response::chunk`], for as long as it lasts.
    pub(crate) async fn events(&self, path: &str, query: &[(&str, String)], after: Option<&str>) -> anyhow::Result<Response> {
        let mut request = self.request(Method::GET, path).query(query).timeout(STREAM_MAX);
        if let Some(after) = after {
            request = request.header("last-event-id", after);
        }
        match tokio::time::timeout(TIMEOUT, self.response(request)).await {
            Ok(response) => response,
            Err(_) => Err(self.late().into()),
        }
    }

    /// Whether the gateway says that it is ready.
    pub(crate) async fn is_ready(&self) -> bool {
        let request = self.http.get(format!("{}/readyz", self.target.url)).timeout(CONNECT_TIMEOUT);
        request.send().await.is_ok_and(|response| response.status().is_success())
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.http.request(method, format!("{}{BASE}{path}", self.target.url)).timeout(TIMEOUT);
        match &self.target.api_key {
            Some(key) => request.bearer_auth(key),
            None => request,
        }
    }

    async fn answer<T: DeserializeOwned>(&self, request: RequestBuilder) -> anyhow::Result<T> {
        let bytes = self.response(request).await?.bytes().await.map_err(|error| self.unreachable(&error))?;
        serde_json::from_slice(&bytes)
            .with_context(|| format!("can't understand the answer of {}; is it a gateway of this version?", self.target.url))
    }

    async fn response(&self, request: RequestBuilder) -> anyhow::Result<Response> {
        let response = request.send().await.map_err(|error| self.unreachable(&error))?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let bytes = response.bytes().await.unwrap_or_default();
        Err(match serde_json::from_slice::<Problem>(&bytes) {
            Ok(problem) => Refused { problem }.into(),
            Err(_) => self.stranger(status).into(),
        })
    }

    fn unreachable(&self, error: &reqwest::Error) -> anyhow::Error {
        if error.is_timeout() { self.late().into() } else { trouble::unreachable(&self.target, error).into() }
    }

    fn late(&self) -> Failure {
        Failure::new(format!("the gateway at {} did not answer in time", self.target.url)).exit(crate::failure::EXIT_TIMED_OUT)
    }

    fn stranger(&self, status: StatusCode) -> Failure {
        Failure::new(format!("{} answered {status}, but not as a gateway does", self.target.url)).hint("is this the address of a gateway?")
    }
}

/// As `?wait=` takes it.
fn seconds(wait: Duration) -> String {
    if wait.subsec_nanos() == 0 { format!("{}s", wait.as_secs()) } else { format!("{}ms", wait.as_millis()) }
}

/// Whether an address is on this machine.
fn is_local(url: &str) -> bool {
    let host = reqwest::Url::parse(url).ok().and_then(|url| url.host_str().map(str::to_owned)).unwrap_or_default();
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;

    #[test]
    fn addresses_on_this_machine_are_known() {
        for url in ["http://127.0.0.1:8080", "http://localhost", "http://[::1]:1", "http://127.9.9.9"] {
            assert!(is_local(url), "{url}");
        }
        for url in ["http://10.0.0.1", "https://localhost.example.com", "nonsense"] {
            assert!(!is_local(url), "{url}");
        }
    }

    #[tokio::test]
    async fn a_gateway_that_is_not_there_is_an_error_that_says_what_to_do() {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", free.local_addr().unwrap());
        drop(free);
        let api = Api::new(Target { url: url.clone(), api_key: None, ca: None }).unwrap();
        let error = api.get::<serde_json::Value>("/pools/x", &[]).await.unwrap_err();
        let failure = error.downcast_ref::<Failure>().unwrap();
        assert!(failure.message.contains(&url), "{failure}");
        assert!(failure.hint.as_ref().unwrap().contains("muster up"));
    }
}
