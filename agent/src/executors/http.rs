//! `http.request`: one HTTP exchange, with every hop's address checked before anything is connected to.
//!
//! Params are in `params`, the address rules in `ranges`, their use on URLs and on DNS answers in `guard`, redirects in
//! `redirect`, what a connection adds in `auth`, sending again in `retry`, looking into a JSON body in `expect`. There is no proxy from the
//! environment, no cookie jar and no kept-alive connection; and no decompression is built in, so that a small answer cannot
//! unfold into a large one.

mod auth;
mod expect;
mod guard;
mod params;
mod ports;
mod ranges;
mod redirect;
mod retry;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use auth::Auth;
use guard::Guard;
use muster_executor::{BoxFuture, Executor, Finish, Rejection, Scope, Stream, Work, finish::chain, schema};
use muster_schemas::{code::Code, connection::ConnectionKind, describe::TypeInfo};
use params::Params;
use reqwest::{Client, Response};
use serde_json::{Map, Value, json};

/// The executor's name.
pub(super) const NAME: &str = "http";

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
        let request = schema::type_info(NAME, "request", "Sends one HTTP request.", params::schema(), example);
        vec![TypeInfo { connections: vec![ConnectionKind::Http], ..request }]
    }

    fn check(&self, verb: &str, params: &Value) -> Result<Option<Box<dyn Work>>, Rejection> {
        if verb != "request" {
            return Ok(None);
        }
        let params = self.0.prepare(params)?;
        Ok(Some(Box::new(Request { requester: Arc::clone(&self.0), params })))
    }

    fn probe(&self, kind: ConnectionKind) -> Option<Box<dyn Work>> {
        (kind == ConnectionKind::Http).then(|| Box::new(Try(Arc::clone(&self.0))) as Box<dyn Work>)
    }
}

#[derive(Debug)]
struct Request {
    requester: Arc<Requester>,
    params: Params,
}

impl Work for Request {
    fn run<'a>(self: Box<Self>, scope: &'a Scope) -> BoxFuture<'a, Finish> {
        Box::pin(async move {
            let exchange = Exchange::new(&self.requester, scope).and_then(|exchange| exchange.admits(&self.params));
            match exchange {
                Ok(exchange) => exchange.run(self.params).await,
                Err(rejection) => rejection.into(),
            }
        })
    }
}

/// A try of a connection: a GET of its `base_url`, which may be answered with anything but a refusal or a server's error.
#[derive(Debug)]
struct Try(Arc<Requester>);

impl Work for Try {
    fn run<'a>(self: Box<Self>, scope: &'a Scope) -> BoxFuture<'a, Finish> {
        Box::pin(async move {
            let exchange = Exchange::new(&self.0, scope).and_then(|exchange| {
                let base = exchange.auth.as_ref().map(|auth| auth.base().to_string());
                let params = Params::parse(&json!({"url": base, "expect_status": ["2xx", "3xx", 400, "404", "405"]}))?;
                Ok((exchange, params))
            });
            match exchange {
                Ok((exchange, params)) => exchange.run(params).await,
                Err(rejection) => rejection.into(),
            }
        })
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

    fn builder(&self) -> reqwest::ClientBuilder {
        // An error means that the process has a provider already, which does as well.
        let _already_set = rustls::crypto::ring::default_provider().install_default();
        Client::builder()
            .user_agent(concat!("muster-agent/", env!("CARGO_PKG_VERSION")))
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            // Every hop is resolved and checked anew.
            .pool_max_idle_per_host(0)
            .connect_timeout(CONNECT_TIMEOUT)
            .dns_resolver(self.guard.clone())
    }

    fn client(&self) -> Result<&Client, reqwest::Error> {
        if let Some(client) = self.client.get() {
            return Ok(client);
        }
        let client = self.builder().build().or_else(|error| {
            tracing::warn!(%error, "no system certificates: plain http works, every https request will fail");
            self.builder().tls_certs_only([]).build()
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

/// All that one job sends and gets.
struct Exchange<'a> {
    requester: &'a Requester,
    auth: Option<Auth>,
    /// The client for URLs of the connection, where it needs one of its own.
    own: Option<Client>,
    scope: &'a Scope,
}

impl<'a> Exchange<'a> {
    fn new(requester: &'a Requester, scope: &'a Scope) -> Result<Self, Rejection> {
        let Some(connection) = &scope.connection else { return Ok(Self { requester, auth: None, own: None, scope }) };
        let auth = Auth::of(connection)?;
        let own = match auth.client(connection.name.as_str())? {
            None => None,
            Some(auth::Own { identity, trusted }) => {
                let builder = requester.builder();
                let builder = if trusted.is_empty() { builder } else { builder.tls_certs_only(trusted) };
                let builder = match identity {
                    Some(identity) => builder.identity(identity),
                    None => builder,
                };
                let wrong = |error: reqwest::Error| {
                    Rejection::new(Code::CredentialsInvalid, format!("connection `{}`: {}", connection.name, chain(&error)))
                };
                Some(builder.build().map_err(wrong)?)
            }
        };
        Ok(Self { requester, auth: Some(auth), own, scope })
    }

    /// Refuses a job that would take the connection elsewhere.
    fn admits(self, params: &Params) -> Result<Self, Rejection> {
        if let Some(auth) = &self.auth {
            auth.admit(&params.url, &params.headers)?;
        }
        Ok(self)
    }

    /// Sends the request, and again where it may; follows redirects; reports the answer.
    async fn run(&self, params: Params) -> Finish {
        let mut retries = params.retries;
        let mut next = redirect::Hop::first(&params);
        loop {
            let answer = match self.send(&next).await {
                Ok(answer) => answer,
                // The job itself asked for it: no other attempt can end otherwise.
                Err(Failure { code: Code::AddressForbidden, message }) if next.is_first() => {
                    return Finish::rejected(Code::AddressForbidden, message);
                }
                Err(Failure { code, message }) => match retries.after_failure().filter(|_| code == Code::RequestFailed) {
                    Some(wait) => {
                        self.wait(wait, &message).await;
                        next = redirect::Hop::first(&params);
                        continue;
                    }
                    None => return Finish::failed(code, message),
                },
            };
            if !params.expect.holds(answer.status().as_u16())
                && let Some(wait) = retries.after_answer(answer.status(), answer.headers())
            {
                self.wait(wait, &format!("status {}", answer.status())).await;
                next = redirect::Hop::first(&params);
                continue;
            }
            match next.after(&answer) {
                Ok(Some(hop)) => next = hop,
                Ok(None) => return self.report(answer, &next, &params, retries.done()).await,
                Err(problem) => return Finish::failed(Code::RedirectRefused, problem),
            }
        }
    }

    async fn wait(&self, wait: Duration, why: &str) {
        self.scope.recorder.progress(0, &format!("{why}; trying again in {:.1} s", wait.as_secs_f64()));
        tokio::time::sleep(wait).await;
    }

    async fn send(&self, hop: &redirect::Hop) -> Result<Response, Failure> {
        let covered = self.auth.as_ref().is_some_and(|auth| auth.covers(&hop.url));
        let usual = || self.requester.client();
        let client = match self.own.as_ref().filter(|_| covered).map_or_else(usual, Ok) {
            Ok(client) => client,
            Err(error) => return Err(Failure { code: Code::Internal, message: format!("cannot set up a client: {}", chain(&error)) }),
        };
        // The client asks its resolver for names only: addresses in the URL are checked here.
        let forbidden = |forbidden: guard::Forbidden| Failure { code: Code::AddressForbidden, message: forbidden.to_string() };
        self.requester.guard.check_url(&hop.url).map_err(forbidden)?;
        let mut request = client.request(hop.method.clone(), hop.url.clone()).headers(hop.headers.clone());
        if let Some((name, value)) = self.auth.as_ref().and_then(|auth| auth.header_for(&hop.url)) {
            request = request.header(name, value);
        }
        if let Some(body) = &hop.body {
            request = request.body(body.clone());
        }
        request.send().await.map_err(|error| match guard::Forbidden::find(&error) {
            Some(found) => forbidden(found),
            None => Failure { code: Code::RequestFailed, message: chain(&error) },
        })
    }

    async fn report(&self, mut answer: Response, hop: &redirect::Hop, params: &Params, retries: u32) -> Finish {
        let (status, expect) = (answer.status(), &params.expect);
        let (headers, headers_truncated) = headers(&answer);
        let (mut read, mut body_truncated, mut broken) = (0, false, None);
        // Kept whole only where it is looked into.
        let mut body = Vec::new();
        while !body_truncated {
            match answer.chunk().await {
                Ok(Some(chunk)) => {
                    let room = params.body_bytes - read;
                    body_truncated = chunk.len() > room;
                    let taken = chunk.get(..room).unwrap_or(&chunk);
                    self.scope.recorder.write(Stream::Stdout, taken).await;
                    read += taken.len();
                    if !params.conditions.is_empty() {
                        body.extend_from_slice(taken);
                    }
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
            "retries": retries,
            "headers": headers,
            "headers_truncated": headers_truncated,
            "body_bytes": read,
            "body_truncated": body_truncated,
        });
        let conditions = || match (params.conditions.is_empty(), body_truncated) {
            (true, _) => Ok(()),
            (false, true) => Err(format!("the body has more than {} bytes, too many to look into", params.body_bytes)),
            (false, false) => params.conditions.hold(&body),
        };
        let finish = match broken {
            _ if !expect.holds(status.as_u16()) => Finish::failed(Code::StatusUnexpected, format!("status {status}, expected {expect}")),
            Some(problem) => Finish::failed(Code::RequestFailed, problem),
            None => match conditions() {
                Ok(()) => Finish::succeeded(None),
                Err(problem) => Finish::failed(Code::AnswerUnexpected, problem),
            },
        };
        finish.with_data(data)
    }
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

#[cfg(test)]
mod tests;
