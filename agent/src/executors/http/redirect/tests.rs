//! What goes along to the next hop, and what ends a chain.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests fail by panicking")]
use super::*;
use serde_json::json;

fn hop(method: &str, url: &str) -> Hop {
    let mut params = json!({
        "method": method, "url": url, "follow_redirects": true,
        "headers": {"Authorization": "secret", "Cookie": "secret", "X-Api-Key": "secret", "Accept": "text/plain"},
    });
    if !matches!(method, "GET" | "HEAD") {
        params["body"] = "secret".into();
        params["headers"]["Content-Type"] = "text/plain".into();
    }
    Hop::first(&Params::parse(&params).unwrap())
}

fn next(hop: &Hop, status: u16, location: &str) -> Result<Option<Hop>, String> {
    let headers = HeaderMap::from_iter([(header::LOCATION, location.parse().unwrap())]);
    hop.next(StatusCode::from_u16(status).unwrap(), &headers)
}

const HERE: &str = "http://a.example/x";

#[test]
fn within_an_origin_everything_goes_along() {
    for location in ["/y", "y", "?z", "http://a.example/y", "//a.example/y", "http://a.example:80/y"] {
        let after = next(&hop("POST", HERE), 307, location).unwrap().unwrap();
        assert_eq!((after.method, after.body.as_deref()), (Method::POST, Some(b"secret".as_slice())));
        assert!(after.headers.contains_key("authorization") && after.headers.contains_key("x-api-key"));
    }
}

#[test]
fn no_secret_leaves_its_origin() {
    for location in ["http://b.example/", "https://a.example/x", "http://a.example:8080/", "http://sub.a.example/", "//b.example"] {
        for status in [301, 302, 303, 307, 308] {
            let after = next(&hop("GET", HERE), status, location).unwrap().unwrap();
            let left: Vec<_> = after.headers.keys().map(HeaderName::as_str).collect();
            assert_eq!((left.as_slice(), after.method), (["accept"].as_slice(), Method::GET), "{status} {location}");
        }
        for method in ["POST", "PUT", "DELETE", "PATCH"] {
            assert!(next(&hop(method, HERE), 307, location).is_err());
            assert!(next(&hop(method, HERE), 308, location).is_err());
        }
    }
}

#[test]
fn a_post_becomes_a_get_without_body_except_at_307_and_308() {
    for (status, method, expected) in
        [(301, "POST", "GET"), (302, "POST", "GET"), (303, "POST", "GET"), (303, "PUT", "GET"), (303, "HEAD", "HEAD"), (302, "PUT", "PUT")]
    {
        let after = next(&hop(method, HERE), status, "/y").unwrap().unwrap();
        assert_eq!(after.method.as_str(), expected, "{status} {method}");
        assert_eq!(after.body.is_some(), expected == "PUT");
        assert_eq!(after.headers.contains_key("content-type"), expected == "PUT");
    }
    assert!(next(&hop("PUT", HERE), 302, "http://b.example/").is_err());
}

#[test]
fn where_an_agent_does_not_go_is_refused() {
    for location in [
        "file:///etc/passwd",
        "ftp://b.example/",
        "gopher://b.example/",
        "javascript:alert(1)",
        "data:,x",
        "http://user:pw@b.example/",
        "http://user@a.example/",
        "http://",
        "http://[::1",
        "ws://b.example/",
    ] {
        assert!(next(&hop("GET", HERE), 302, location).is_err(), "{location}");
    }
    assert!(next(&hop("GET", "https://a.example/"), 302, "http://a.example/").is_err(), "https must not become http");
    let long = format!("/{}", "x".repeat(9000));
    assert!(next(&hop("GET", HERE), 302, &long).is_err());
}

#[test]
fn only_redirects_with_a_location_are_followed_and_only_when_asked_to() {
    assert!(next(&hop("GET", HERE), 304, "/y").unwrap().is_none());
    assert!(next(&hop("GET", HERE), 300, "/y").unwrap().is_none());
    assert!(next(&hop("GET", HERE), 200, "/y").unwrap().is_none());
    assert!(hop("GET", HERE).next(StatusCode::FOUND, &HeaderMap::new()).unwrap().is_none());
    let stay = Hop { follow: false, ..hop("GET", HERE) };
    assert!(next(&stay, 302, "/y").unwrap().is_none());
}

#[test]
fn a_chain_ends_after_five_redirects() {
    let mut at = hop("GET", HERE);
    for number in 1..=5 {
        at = next(&at, 302, "/again").unwrap().unwrap();
        assert_eq!(at.number, number);
    }
    assert_eq!(next(&at, 302, "/again").unwrap_err(), "more than 5 redirects");
}
