//! `http.request`: one HTTP exchange, with every hop's address checked before anything is connected to.
//!
//! Params are in `params`, the address rules in `ranges`, their use on URLs and on DNS answers in `guard`, redirects in
//! `redirect`. There is no proxy from the environment, no cookie jar, no retry and no kept-alive connection; and no
//! decompression is built in, so that a small answer cannot unfold into a large one.

mod guard;
mod params;
mod ports;
mod ranges;
mod redirect;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use guard::Guard;
use muster_executor::{BoxFuture, Executor, Finish, Rejection, Scope, Stream, Work, schema};
use muster_schemas::{code::Code, describe::TypeInfo};
use params::Params;
use reqwest::{Client, Response};
use serde_json::{Map, Value, json};

/// The executor's name.
pub(super) const NAME: &str = "http";

/// Most bytes read of a body; of these the tail is kept.
const BODY_BYTES: usize = 1024 * 1024;

/// Most bytes of names and values of headers that are reported.
const HEADER_BYTES: usize = 16 * 1024;

/// A host that drops packets is reported as such long before the usual time-out of a job.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The executor.
#[derive(Debug)]
pub(super) struct Http(Arc<Requester>);

impl Http {
    pub(super) fn new(allow_private_network: bool) -> Self {
        Self::with_guard(Guard::new(allow_private_network))
    }

    fn with_guard(guard: Guard) -> Self {
        Self(Arc::new(Requester::new(guard)))
    }
}

impl Executor for Http {
    fn name(&self) -> &str {
        NAME
    }

    fn about(&self) -> &str {
        "HTTP requests from the agent's machine"
    }

    fn types(&self) -> Vec<TypeInfo> {
        let example = json!({"method": "GET", "url": "https://example.com/health"});
        vec![schema::type_info(NAME, "request", "Sends one HTTP request.", params::schema(), example)]
    }

    fn check(&self, verb: &str, params: &Value) -> Result<Option<Box<dyn Work>>, Rejection> {
        if verb != "request" {
            return Ok(None);
        }
        let params = self.0.prepare(params)?;
        Ok(Some(Box::new(Request { requester: Arc::clone(&self.0), params })))
    }
}

#[derive(Debug)]
struct Request {
    requester: Arc<Requester>,
    params: Params,
}

impl Work for Request {
    fn run<'a>(self: Box<Self>, scope: &'a Scope) -> BoxFuture<'a, Finish> {
        Box::pin(async move { run(&self.requester, self.params, scope).await })
    }
}

/// Sends requests, guarded. Building the client reads the system's certificates, so that waits for the first request.
#[derive(Debug)]
struct Requester {
    guard: Guard,
    client: OnceLock<Client>,
}

impl Requester {
    fn new(guard: Guard) -> Self {
        Self { guard, client: OnceLock::new() }
    }

    /// Parses params, and refuses a URL that is forbidden as it stands.
    fn prepare(&self, params: &Value) -> Result<Params, Rejection> {
        let params = Params::parse(params)?;
        self.guard.check_url(&params.url).map_err(|forbidden| Rejection::new(Code::AddressForbidden, forbidden.to_string()))?;
        Ok(params)
    }

    fn client(&self) -> Result<&Client, reqwest::Error> {
        if let Some(client) = self.client.get() {
            return Ok(client);
        }
        // An error means that the process has a provider already, which does as well.
        let _already_set = rustls::crypto::ring::default_provider().install_default();
        let builder = || {
            Client::builder()
                .user_agent(concat!("muster-agent/", env!("CARGO_PKG_VERSION")))
                .no_proxy()
                .redirect(reqwest::redirect::Policy::none())
                .retry(reqwest::retry::never())
                // Every hop is resolved and checked anew.
                .pool_max_idle_per_host(0)
                .connect_timeout(CONNECT_TIMEOUT)
                .dns_resolver(self.guard.clone())
        };
        let client = builder().build().or_else(|error| {
            tracing::warn!(%error, "no system certificates: plain http works, every https request will fail");
            builder().tls_certs_only([]).build()
        })?;
        Ok(self.client.get_or_init(|| client))
    }
}

/// What went wrong on the way to an answer.
#[derive(Debug)]
struct Failure {
    code: Code,
    message: String,
}

async fn run(requester: &Requester, params: Params, scope: &Scope) -> Finish {
    let client = match requester.client() {
        Ok(client) => client,
        Err(error) => return Finish::failed(Code::Internal, format!("cannot set up a client: {}", chain(&error))),
    };
    let expect = params.expect.clone();
    let mut next = redirect::Hop::first(params);
    loop {
        let answer = match send(client, &requester.guard, &next).await {
            Ok(answer) => answer,
            // The job itself asked for it: no other attempt can end otherwise.
            Err(Failure { code: Code::AddressForbidden, message }) if next.is_first() => {
                return Finish::rejected(Code::AddressForbidden, message);
            }
            Err(Failure { code, message }) => return Finish::failed(code, message),
        };
        match next.after(&answer) {
            Ok(Some(hop)) => next = hop,
            Ok(None) => return report(answer, &next, &expect, scope).await,
            Err(problem) => return Finish::failed(Code::RedirectRefused, problem),
        }
    }
}

async fn send(client: &Client, guard: &Guard, hop: &redirect::Hop) -> Result<Response, Failure> {
    // The client asks its resolver for names only: addresses in the URL are checked here.
    let forbidden = |forbidden: guard::Forbidden| Failure { code: Code::AddressForbidden, message: forbidden.to_string() };
    guard.check_url(&hop.url).map_err(forbidden)?;
    let mut request = client.request(hop.method.clone(), hop.url.clone()).headers(hop.headers.clone());
    if let Some(body) = &hop.body {
        request = request.body(body.clone());
    }
    request.send().await.map_err(|error| match guard::Forbidden::find(&error) {
        Some(found) => forbidden(found),
        None => Failure { code: Code::RequestFailed, message: chain(&error) },
    })
}

async fn report(mut answer: Response, hop: &redirect::Hop, expect: &params::Expect, scope: &Scope) -> Finish {
    let status = answer.status();
    let (headers, headers_truncated) = headers(&answer);
    let mut read = 0;
    let mut body_truncated = false;
    let mut broken = None;
    while !body_truncated {
        match answer.chunk().await {
            Ok(Some(chunk)) => {
                let room = BODY_BYTES - read;
                body_truncated = chunk.len() > room;
                let taken = chunk.get(..room).unwrap_or(&chunk);
                scope.recorder.write(Stream::Stdout, taken).await;
                read += taken.len();
            }
            Ok(None) => break,
            Err(error) => {
                broken = Some(format!("the answer broke off after {read} bytes: {}", chain(&error)));
                break;
            }
        }
    }
    let data = json!({
        "status": status.as_u16(),
        "url": hop.url.as_str(),
        "redirects": hop.number,
        "headers": headers,
        "headers_truncated": headers_truncated,
        "body_bytes": read,
        "body_truncated": body_truncated,
    });
    let finish = match broken {
        _ if !expect.holds(status.as_u16()) => Finish::failed(Code::StatusUnexpected, format!("status {status}, expected {expect}")),
        Some(problem) => Finish::failed(Code::RequestFailed, problem),
        None => Finish::succeeded(None),
    };
    finish.with_data(data)
}

/// Names and values up to [`HEADER_BYTES`]; a name that comes more than once has a list of values.
fn headers(answer: &Response) -> (Value, bool) {
    let mut map = Map::new();
    let mut left = HEADER_BYTES;
    for (name, value) in answer.headers() {
        let text = String::from_utf8_lossy(value.as_bytes()).into_owned();
        let Some(rest) = left.checked_sub(name.as_str().len() + text.len()) else { return (map.into(), true) };
        left = rest;
        match map.get_mut(name.as_str()) {
            None => drop(map.insert(name.as_str().to_owned(), text.into())),
            Some(Value::Array(values)) => values.push(text.into()),
            Some(one) => *one = json!([one.take(), text]),
        }
    }
    (map.into(), false)
}

/// An error with its causes, without those that only repeat what was said.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let line = error.to_string();
        if !text.contains(&line) {
            text = format!("{text}: {line}");
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests;
