//! `http.request` against a real server on this machine.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail by panicking")]

pub(super) mod site;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use muster_schemas::result::Outcome;

use super::super::tests::{LONG, code, options, refusal, registry, run, run_for};
use super::super::{Execution, Options, Registry};
use super::*;
use params::BODY_BYTES;
use site::{Reply, Seen, Site, text};

/// A registry that may use this machine.
pub(super) fn local() -> Registry {
    registry(&Options { allow_private_network: true, ..options() })
}

/// A registry for which this machine's 127.0.0.1 is a public address, and every name leads there.
fn as_if_public(lookups: Arc<AtomicUsize>) -> Registry {
    let lookup = move |_| -> std::pin::Pin<Box<dyn Future<Output = std::io::Result<Vec<SocketAddr>>> + Send>> {
        lookups.fetch_add(1, Ordering::SeqCst);
        Box::pin(async { Ok(vec![SocketAddr::from(([127, 0, 0, 1], 0))]) })
    };
    let guard = Guard::with_lookup(false, lookup).with_ranges(|address| match address {
        IpAddr::V4(v4) if v4.is_loopback() => None,
        other => ranges::special_use(other),
    });
    with_guard(guard)
}

async fn get(registry: &Registry, site: &Site, params: Value) -> (Execution, Vec<Seen>) {
    site.during(run(registry, "http.request", params)).await
}

#[tokio::test]
async fn a_request_gives_status_headers_and_body() {
    let site = Site::new(|_| text(200, "X-A: 1\r\nX-B: 2\r\nX-B: 3\r\n", "hello")).await;
    let (execution, seen) = get(&local(), &site, json!({"url": site.url("/a?b=c")})).await;
    assert_eq!((execution.outcome, &*execution.stdout.to_text()), (Outcome::Succeeded, "hello"));
    let data = execution.data.unwrap();
    assert_eq!((&data["status"], &data["body_bytes"], &data["body_truncated"]), (&json!(200), &json!(5), &json!(false)));
    assert_eq!((&data["headers"]["x-a"], &data["headers"]["x-b"]), (&json!("1"), &json!(["2", "3"])));
    assert_eq!(data["url"], site.url("/a?b=c"));
    assert_eq!(seen[0].line, "GET /a?b=c HTTP/1.1");
    // Nothing was asked to be compressed, and nothing would be unfolded.
    assert_eq!(seen[0].header("accept-encoding"), None);
}

#[tokio::test]
async fn method_headers_query_and_body_arrive_as_given() {
    let site = Site::new(|_| text(201, "", "")).await;
    let params = json!({"method": "POST", "url": site.url("/"), "query": {"q": "ä b"}, "headers": {"X-Test": "yes"}, "json": {"a": 1}});
    let (execution, seen) = get(&local(), &site, params).await;
    assert_eq!(execution.outcome, Outcome::Succeeded);
    assert_eq!((&*seen[0].line, &*seen[0].body), ("POST /?q=%C3%A4+b HTTP/1.1", r#"{"a":1}"#));
    assert_eq!((seen[0].header("x-test"), seen[0].header("content-type")), (Some("yes"), Some("application/json")));
}

#[tokio::test]
async fn a_status_that_was_not_expected_fails_and_keeps_the_body() {
    let site = Site::new(|_| text(503, "", "down")).await;
    let (execution, _) = get(&local(), &site, json!({"url": site.url("/")})).await;
    assert_eq!((execution.outcome, code(&execution)), (Outcome::Failed, Some(Code::StatusUnexpected)));
    assert_eq!((&*execution.stdout.to_text(), &execution.data.unwrap()["status"]), ("down", &json!(503)));
    assert_eq!(execution.error.unwrap().message, "status 503 Service Unavailable, expected 2xx");
    for expect in [json!(503), json!("5xx"), json!([200, 503])] {
        let (execution, _) = get(&local(), &site, json!({"url": site.url("/"), "expect_status": expect})).await;
        assert_eq!(execution.outcome, Outcome::Succeeded, "{expect}");
    }
}

#[tokio::test]
async fn redirects_are_followed_when_asked_for_and_at_most_five() {
    let answer = |seen: &Seen| match seen.number() {
        0 => text(200, "", "there"),
        n => text(302, &format!("Location: /{}\r\n", n - 1), "moved"),
    };
    let site = Site::new(answer).await;
    let (stays, seen) = get(&local(), &site, json!({"url": site.url("/1")})).await;
    assert_eq!((code(&stays), seen.len()), (Some(Code::StatusUnexpected), 1));
    let (follows, seen) = get(&local(), &site, json!({"url": site.url("/5"), "follow_redirects": true})).await;
    assert_eq!((follows.outcome, &*follows.stdout.to_text(), seen.len()), (Outcome::Succeeded, "there", 6));
    let data = follows.data.unwrap();
    assert_eq!((&data["url"], &data["redirects"]), (&json!(site.url("/0")), &json!(5)));
    let (endless, seen) = get(&local(), &site, json!({"url": site.url("/99"), "follow_redirects": true})).await;
    assert_eq!((endless.outcome, code(&endless), seen.len()), (Outcome::Failed, Some(Code::RedirectRefused), 6));
}

#[tokio::test]
async fn no_secret_goes_along_to_another_origin() {
    let other = Site::new(|_| text(200, "", "elsewhere")).await;
    let location = format!("Location: {}\r\n", other.url("/x"));
    let site = Site::new(move |seen| text(if seen.line.starts_with("POST") { 307 } else { 302 }, &location, "")).await;
    let secrets = json!({"Authorization": "Bearer s", "Cookie": "s", "X-Api-Key": "s"});
    let params = json!({"url": site.url("/"), "headers": secrets, "follow_redirects": true});
    let ((execution, first), second) = other.during(get(&local(), &site, params)).await;
    assert_eq!((execution.outcome, &*execution.stdout.to_text()), (Outcome::Succeeded, "elsewhere"));
    for name in ["authorization", "cookie", "x-api-key"] {
        assert_eq!((first[0].header(name).is_some(), second[0].header(name)), (true, None), "{name}");
    }
    let params = json!({"method": "POST", "url": site.url("/"), "body": "secret", "follow_redirects": true});
    let ((execution, _), second) = other.during(get(&local(), &site, params)).await;
    assert_eq!((code(&execution), second.len()), (Some(Code::RedirectRefused), 0));
}

#[tokio::test]
async fn a_public_site_cannot_redirect_into_the_private_network() {
    for (location, refused) in [
        ("http://169.254.169.254/latest/meta-data/", Code::AddressForbidden),
        ("http://[::1]/", Code::AddressForbidden),
        ("http://0x0a000001/", Code::AddressForbidden),
        ("http://[::ffff:10.0.0.1]/", Code::AddressForbidden),
        ("//192.168.0.1/", Code::AddressForbidden),
        ("http://public.example:22/", Code::AddressForbidden),
        ("file:///etc/passwd", Code::RedirectRefused),
        ("http://u:p@public.example/", Code::RedirectRefused),
    ] {
        let site = Site::new(move |_| text(302, &format!("Location: {location}\r\n"), "")).await;
        let lookups = Arc::default();
        let url = format!("http://public.example:{}/", site.port());
        let (execution, seen) = get(&as_if_public(Arc::clone(&lookups)), &site, json!({"url": url, "follow_redirects": true})).await;
        assert_eq!((execution.outcome, code(&execution), seen.len()), (Outcome::Failed, Some(refused), 1), "{location}");
        assert_eq!(lookups.load(Ordering::SeqCst), 1, "one look-up per hop: what was checked is what is connected to");
    }
}

#[tokio::test]
async fn a_private_address_is_refused_before_any_connection() {
    let strict = registry(&options());
    let site = Site::new(|_| text(200, "", "secret")).await;
    let url = site.url("/");
    let (code_, message) = refusal(&strict, "http.request", json!({"url": url}));
    assert!(code_ == Code::AddressForbidden && message.contains("127.0.0.1 is forbidden (loopback)"), "{message}");
    let localhost = json!({"url": format!("http://localhost:{}/", site.port())});
    assert_eq!(refusal(&strict, "http.request", localhost).0, Code::AddressForbidden);
    // A name whose address only the DNS tells.
    let lookup = |_| -> std::pin::Pin<Box<dyn Future<Output = std::io::Result<Vec<SocketAddr>>> + Send>> {
        Box::pin(async { Ok(vec![([8, 8, 8, 8], 0).into(), ([127, 0, 0, 1], 0).into()]) })
    };
    let strict = with_guard(Guard::with_lookup(false, lookup));
    let url = format!("http://rebind.example:{}/", site.port());
    let (execution, seen) = get(&strict, &site, json!({"url": url})).await;
    assert_eq!((execution.outcome, code(&execution), seen.len()), (Outcome::Rejected, Some(Code::AddressForbidden), 0));
}

#[tokio::test]
async fn a_large_body_is_read_up_to_a_mebibyte_and_its_tail_kept() {
    let body = "0123456789abcdef".repeat(200_000); // 3.2 MB
    let site = Site::new(move |_| text(200, "", &body)).await;
    let (execution, _) = get(&local(), &site, json!({"url": site.url("/")})).await;
    let data = execution.data.unwrap();
    assert_eq!((execution.outcome, &data["body_truncated"], &data["body_bytes"]), (Outcome::Succeeded, &json!(true), &json!(BODY_BYTES)));
    assert_eq!((execution.truncated, execution.stdout.as_bytes().len()), (true, 65536));
}

#[tokio::test]
async fn a_body_that_trickles_ends_with_the_time_out_and_what_came_is_kept() {
    let site = Site::new(|_| Reply::Trickle).await;
    let began = Instant::now();
    let all = local();
    let asking = run_for(&all, "http.request", json!({"url": site.url("/")}), Duration::from_millis(900));
    let (execution, _) = site.during(asking).await;
    assert_eq!(execution.outcome, Outcome::TimedOut);
    assert!(execution.stdout.to_text().starts_with('x'), "{:?}", execution.stdout);
    assert!(began.elapsed() < Duration::from_secs(10));
}

#[tokio::test]
async fn compressed_bodies_stay_as_they_are() {
    let site = Site::new(|_| text(200, "Content-Encoding: gzip\r\n", "\x1f\u{8b} not unpacked")).await;
    let (execution, _) = get(&local(), &site, json!({"url": site.url("/"), "headers": {"Accept-Encoding": "gzip"}})).await;
    assert_eq!(execution.stdout.to_text(), "\x1f\u{8b} not unpacked");
}

#[tokio::test]
async fn an_answer_that_never_comes_or_breaks_off_is_a_failed_request() {
    let unused = Site::new(|_| Reply::Hang).await.url("/");
    let refused = run(&local(), "http.request", json!({"url": unused})).await;
    assert_eq!((refused.outcome, code(&refused)), (Outcome::Failed, Some(Code::RequestFailed)));
    assert!(refused.error.unwrap().message.contains("refused"));
    for (reply, kept) in [("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf", "half"), ("SSH-2.0-OpenSSH\r\n", ""), ("", "")] {
        let site = Site::new(move |_| Reply::Raw(reply.into())).await;
        let (execution, _) = get(&local(), &site, json!({"url": site.url("/")})).await;
        assert_eq!((execution.outcome, code(&execution), &*execution.stdout.to_text()), (Outcome::Failed, Some(Code::RequestFailed), kept));
    }
    // TLS is set up, and does not take plain HTTP for an answer.
    let site = Site::new(|_| text(200, "", "")).await;
    let (execution, _) = get(&local(), &site, json!({"url": site.url("/").replace("http:", "https:")})).await;
    assert_eq!(code(&execution), Some(Code::RequestFailed));
    let nowhere = run(&local(), "http.request", json!({"url": "http://no-such-host.invalid/"})).await;
    assert_eq!((nowhere.outcome, code(&nowhere)), (Outcome::Failed, Some(Code::RequestFailed)));
}

#[tokio::test]
async fn many_headers_do_not_make_a_large_result() {
    let many: String = (0..60).map(|n| format!("X-{n}: {}\r\n", "v".repeat(1000))).collect();
    let site = Site::new(move |_| text(200, &many, "")).await;
    let (execution, _) = get(&local(), &site, json!({"url": site.url("/")})).await;
    let data = execution.data.unwrap();
    assert_eq!(data["headers_truncated"], json!(true));
    assert!(data.to_string().len() < HEADER_BYTES + 2000);
}

#[tokio::test]
async fn a_cancel_ends_a_request_that_hangs() {
    let site = Site::new(|_| Reply::Hang).await;
    let token = tokio_util::sync::CancellationToken::new();
    let (context, _feed) = super::super::Context::new(token.clone());
    let all = local();
    let prepared = all.check("http.request", &json!({"url": site.url("/")}), None).unwrap();
    let running = all.run(prepared, super::super::tests::attempt(LONG), None, context);
    let cancel = site.arrived();
    let both = async {
        tokio::join!(running, async {
            cancel.notified().await;
            token.cancel()
        })
        .0
    };
    let (execution, seen) = site.during(both).await;
    assert_eq!((execution.outcome, seen.len()), (Outcome::Cancelled, 1));
}

#[tokio::test]
async fn a_name_that_changes_between_the_looks_at_it_gains_nothing() {
    // The first look is answered with this machine (which passes for public here), every later one with another machine's address.
    let lookups = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&lookups);
    let lookup = move |_| -> std::pin::Pin<Box<dyn Future<Output = std::io::Result<Vec<SocketAddr>>> + Send>> {
        let first = counted.fetch_add(1, Ordering::SeqCst) == 0;
        Box::pin(async move { Ok(vec![SocketAddr::from((if first { [127, 0, 0, 1] } else { [10, 0, 0, 1] }, 0))]) })
    };
    let guard = Guard::with_lookup(false, lookup).with_ranges(|address| match address {
        IpAddr::V4(v4) if v4.is_loopback() => None,
        other => ranges::special_use(other),
    });
    let all = with_guard(guard);
    let site = Site::new(|_| text(302, "Location: /again\r\n", "")).await;
    let url = format!("http://rebind.example:{}/", site.port());
    let (execution, seen) = get(&all, &site, json!({"url": url, "follow_redirects": true})).await;
    assert_eq!((code(&execution), seen.len(), lookups.load(Ordering::SeqCst)), (Some(Code::AddressForbidden), 1, 2));
    // The same with a request that is sent again.
    lookups.store(0, Ordering::SeqCst);
    let site = Site::new(|_| text(503, "", "")).await;
    let url = format!("http://rebind.example:{}/", site.port());
    let (execution, seen) = get(&all, &site, json!({"url": url, "retries": 3})).await;
    assert_eq!((code(&execution), seen.len(), lookups.load(Ordering::SeqCst)), (Some(Code::AddressForbidden), 1, 2));
}

#[tokio::test]
async fn what_may_be_sent_again_is_until_it_is_answered() {
    let tries = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&tries);
    let site = Site::new(move |_| match counted.fetch_add(1, Ordering::SeqCst) {
        0 => text(503, "Retry-After: 0\r\n", "busy"),
        1 => Reply::Raw(Vec::new()),
        _ => text(200, "", "there"),
    })
    .await;
    let (execution, seen) = get(&local(), &site, json!({"url": site.url("/"), "retries": 2})).await;
    assert_eq!((execution.outcome, &*execution.stdout.to_text(), seen.len()), (Outcome::Succeeded, "there", 3));
    assert_eq!(execution.data.unwrap()["retries"], json!(2));
    tries.store(0, Ordering::SeqCst);
    let (execution, seen) = get(&local(), &site, json!({"url": site.url("/"), "retries": 1})).await;
    assert_eq!((code(&execution), seen.len()), (Some(Code::RequestFailed), 2));
    tries.store(0, Ordering::SeqCst);
    // A status that is expected is an answer.
    let (execution, seen) = get(&local(), &site, json!({"url": site.url("/"), "retries": 2, "expect_status": 503})).await;
    assert_eq!((execution.outcome, seen.len()), (Outcome::Succeeded, 1));
}

#[tokio::test]
async fn a_json_body_makes_or_breaks_the_success() {
    let site = Site::new(|_| text(200, "", r#"{"status": "degraded", "nodes": 3}"#)).await;
    let expect = |condition: Value| json!({"url": site.url("/"), "expect_json": condition});
    let (execution, _) = get(&local(), &site, expect(json!({"path": "$.nodes", "equals": 3}))).await;
    assert_eq!(execution.outcome, Outcome::Succeeded);
    let (execution, _) = get(&local(), &site, expect(json!({"path": "$.status", "equals": "ok"}))).await;
    assert_eq!((execution.outcome, code(&execution)), (Outcome::Failed, Some(Code::AnswerUnexpected)));
    assert!(execution.error.unwrap().message.contains("degraded"));
    let cut = json!({"url": site.url("/"), "expect_json": {"path": "$"}, "max_body_bytes": 10});
    let (execution, _) = get(&local(), &site, cut).await;
    assert_eq!((code(&execution), &*execution.stdout.to_text()), (Some(Code::AnswerUnexpected), r#"{"status":"#));
}

/// A test cannot set its own environment safely, so it runs another one in a process with a proxy that does not exist.
#[test]
fn a_proxy_in_the_environment_is_not_used() {
    let proxied = "executors::http::tests::a_request_gives_status_headers_and_body";
    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    for name in ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "ALL_PROXY", "all_proxy"] {
        command.env(name, "http://127.0.0.1:1");
    }
    command.env_remove("NO_PROXY").env_remove("no_proxy");
    let output = command.args(["--exact", proxied]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

/// A registry whose requests go past this guard.
fn with_guard(guard: Guard) -> Registry {
    let on = std::collections::BTreeMap::from([(NAME.to_owned(), Arc::new(Http::with_guard(guard)) as Arc<dyn Executor>)]);
    Registry::of(on, Arc::new(options().settings), muster_executor::Masks::default())
}
