//! Who may use the admin interface: a process of the agent's own user or of root, on this machine, that says the token.
//!
//! What a web page could make a browser send is refused before anything else: a name that was rebound to 127.0.0.1 shows in `Host`, and a request
//! of another origin in `Origin`. No answer has a CORS header.

use std::{collections::VecDeque, net::SocketAddr, sync::PoisonError, time::Duration};

use axum::{
    extract::{ConnectInfo, Request, State},
    http::{HeaderMap, StatusCode, header, request::Parts},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use muster_schemas::code::Code;
use subtle::ConstantTimeEq as _;
use tokio::time::Instant;

use super::{Admin, peer, problem::Refusal};

/// Requests that are answered within [`PERIOD`].
const REQUESTS: usize = 60;
const PERIOD: Duration = Duration::from_secs(60);

/// Lets a request pass, or answers it.
pub(super) async fn pass(State(admin): State<Admin>, ConnectInfo(from): ConnectInfo<SocketAddr>, request: Request, next: Next) -> Response {
    let (head, body) = request.into_parts();
    match look(&admin, from, &head).await {
        Ok(()) => next.run(Request::from_parts(head, body)).await,
        Err(refusal) => refusal.into_response(),
    }
}

async fn look(admin: &Admin, from: SocketAddr, head: &Parts) -> Result<(), Refusal> {
    let headers = &head.headers;
    for_us(headers, head.uri.authority().map(|authority| authority.as_str()), admin.0.address.port())?;
    if headers.contains_key(header::ORIGIN) {
        let detail = "a request with `Origin` comes from a web page, and none may come here";
        return Err(Refusal::new(Code::HeaderInvalid, detail).with_status(StatusCode::FORBIDDEN));
    }
    by_us(from, admin.0.address).await?;
    // Others on this machine can't use it up.
    let taken = admin.0.limiter.lock().unwrap_or_else(PoisonError::into_inner).take(Instant::now());
    taken.map_err(|wait| Refusal::new(Code::RateLimited, format!("{REQUESTS} requests a minute are answered")).retry_after(wait))?;
    let Some(token) = admin.0.token.get() else {
        return Err(Refusal::new(Code::VaultUnavailable, "this agent is only just starting").retry_after(Duration::from_secs(1)));
    };
    let said = headers.get(header::AUTHORIZATION).and_then(|value| value.as_bytes().strip_prefix(b"Bearer "));
    // In constant time: how long it takes tells nothing but the length.
    if bool::from(said.unwrap_or_default().ct_eq(token.expose().trim().as_bytes())) {
        return Ok(());
    }
    let detail = match said {
        Some(_) => "the token is wrong; it is ADMIN_TOKEN, or in `admin.token` of the agent's state directory",
        None => "say `Authorization: Bearer` and the token: ADMIN_TOKEN, or what is in `admin.token` of the agent's state directory",
    };
    Err(Refusal::new(Code::Unauthenticated, detail))
}

/// Whether the caller meant this server, by name.
fn for_us(headers: &HeaderMap, authority: Option<&str>, port: u16) -> Result<(), Refusal> {
    let ours = |name: &str| {
        let (host, named_port) = name.rsplit_once(':').unwrap_or((name, ""));
        let host = host.to_ascii_lowercase();
        matches!(host.as_str(), "127.0.0.1" | "localhost" | "[::1]") && named_port == port.to_string()
    };
    let mut hosts = headers.get_all(header::HOST).iter();
    let host = hosts.next().and_then(|host| host.to_str().ok());
    if hosts.next().is_none() && host.is_some_and(ours) && authority.is_none_or(ours) {
        return Ok(());
    }
    let detail = format!("`Host` must be 127.0.0.1:{port}, localhost:{port} or [::1]:{port}");
    Err(Refusal::new(Code::HeaderInvalid, detail).with_status(StatusCode::MISDIRECTED_REQUEST))
}

/// Whether the caller is a process of this user, or of root.
async fn by_us(from: SocketAddr, to: SocketAddr) -> Result<(), Refusal> {
    let own = nix::unistd::geteuid().as_raw();
    let owner = tokio::task::spawn_blocking(move || peer::owner(from, to)).await;
    match owner.map_err(std::io::Error::other).and_then(|owner| owner) {
        Ok(Some(uid)) if uid == own || uid == 0 => Ok(()),
        Ok(Some(uid)) => {
            let detail = format!("you are the user with id {uid}; this agent answers its own user, {own}, and root");
            Err(Refusal::new(Code::Forbidden, detail))
        }
        Ok(None) => Err(Refusal::new(Code::Forbidden, "it can't be told whose connection this is; keep it open until the answer is there")),
        Err(error) => Err(Refusal::new(Code::Forbidden, format!("it can't be told whose connection this is: {error}"))),
    }
}

/// Counts the requests of the last minute.
#[derive(Debug, Default)]
pub(super) struct Limiter(VecDeque<Instant>);

impl Limiter {
    /// Takes one, or says how long to wait for it.
    fn take(&mut self, now: Instant) -> Result<(), Duration> {
        while self.0.front().is_some_and(|at| now.duration_since(*at) >= PERIOD) {
            self.0.pop_front();
        }
        match self.0.front() {
            Some(first) if self.0.len() >= REQUESTS => Err(PERIOD.saturating_sub(now.duration_since(*first))),
            _ => {
                self.0.push_back(now);
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn sixty_requests_a_minute_pass_and_then_it_is_said_when_the_next_one_does() {
        let (mut limiter, start) = (Limiter::default(), Instant::now());
        for n in 0..60 {
            limiter.take(start + Duration::from_millis(n * 500)).unwrap();
        }
        assert_eq!(limiter.take(start + Duration::from_secs(40)), Err(Duration::from_secs(20)));
        limiter.take(start + Duration::from_secs(60)).unwrap();
        assert_eq!(limiter.take(start + Duration::from_secs(60)), Err(Duration::from_millis(500)));
        limiter.take(start + Duration::from_millis(60_500)).unwrap();
    }

    #[test]
    fn only_loopback_with_the_right_port_is_a_host_of_ours() {
        let looked = |hosts: &[&str], authority: Option<&str>| {
            let mut headers = HeaderMap::new();
            for host in hosts {
                headers.append(header::HOST, HeaderValue::from_str(host).unwrap());
            }
            for_us(&headers, authority, 9191).is_ok()
        };
        for host in ["127.0.0.1:9191", "localhost:9191", "LocalHost:9191", "[::1]:9191"] {
            assert!(looked(&[host], None) && looked(&[host], Some("localhost:9191")), "{host}");
            assert!(!looked(&[host], Some("evil.example:9191")) && !looked(&[host, host], None), "{host}");
        }
        for host in [
            "evil.example:9191",
            "127.0.0.1",
            "localhost",
            "127.0.0.1:80",
            "127.0.0.1.evil.example:9191",
            "localhost:09191",
            "user@127.0.0.1:9191",
            "127.0.0.2:9191",
            "[::]:9191",
            "0.0.0.0:9191",
            ":9191",
            "",
        ] {
            assert!(!looked(&[host], None), "{host}");
        }
        assert!(!looked(&[], None));
    }
}
