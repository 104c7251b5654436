//! What `http.request` takes and what it refuses before anything is sent.
#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
use super::*;
use muster_schemas::code::Code;
use serde_json::json;

#[test]
fn params_that_do_not_fit_are_refused_with_the_field() {
    for (params, field) in [
        (json!({}), "params.url: is missing"),
        (json!({"url": 5}), "params.url: expected text"),
        (json!({"url": "example.com"}), "params.url: not an absolute URL"),
        (json!({"url": "file:///etc/passwd"}), "params.url: scheme `file`"),
        (json!({"url": "http://%22/"}), "params.url: its host may only hold"),
        (json!({"url": "http://a%7bb.example/"}), "params.url: its host may only hold"),
        (json!({"url": "http://u:p@example.com/"}), "params.url: holds credentials"),
        (json!({"url": "http://u@example.com/"}), "params.url: holds credentials"),
        (json!({"url": "http://:p@example.com/"}), "params.url: holds credentials"),
        (json!({"url": format!("http://example.com/{}", "x".repeat(9000))}), "params.url: is longer"),
        (json!({"url": "http://a/", "method": "GE T"}), "params.method:"),
        (json!({"url": "http://a/", "method": "GET\r\nX: y"}), "params.method:"),
        (json!({"url": "http://a/", "method": ""}), "params.method:"),
        (json!({"url": "http://a/", "method": "connect"}), "params.method: CONNECT"),
        (json!({"url": "http://a/", "method": "TRACE"}), "params.method: CONNECT and TRACE"),
        (json!({"url": "http://a/", "headers": ["A: b"]}), "params.headers: expected a map"),
        (json!({"url": "http://a/", "headers": {"A": "b\r\nX: y"}}), "params.headers.A: must not contain line breaks"),
        (json!({"url": "http://a/", "headers": {"A": "b\nX: y"}}), "params.headers.A: must not contain line breaks"),
        (json!({"url": "http://a/", "headers": {"A": "b\0"}}), "params.headers.A: must not contain"),
        (json!({"url": "http://a/", "headers": {"A\r\nB": "c"}}), "params.headers.A\\r\\nB: is not a header name"),
        (json!({"url": "http://a/", "headers": {"A:": "c"}}), "params.headers.A:: is not a header name"),
        (json!({"url": "http://a/", "headers": {"": "c"}}), "params.headers.: is not a header name"),
        (json!({"url": "http://a/", "headers": {"A": ["b"]}}), "params.headers.A: expected text"),
        (json!({"url": "http://a/", "headers": {"hOsT": "internal"}}), "params.headers.hOsT: may not be set"),
        (json!({"url": "http://a/", "headers": {"Content-Length": "1"}}), "params.headers.Content-Length: may not be set"),
        (json!({"url": "http://a/", "headers": {"Transfer-Encoding": "chunked"}}), "params.headers.Transfer-Encoding: may not be set"),
        (json!({"url": "http://a/", "headers": {"Connection": "upgrade"}}), "params.headers.Connection: may not be set"),
        (json!({"url": "http://a/", "query": "a=b"}), "params.query: expected a map"),
        (json!({"url": "http://a/", "query": {"a": {"b": 1}}}), "params.query.a: expected text"),
        (json!({"url": "http://a/", "query": {"a": "x".repeat(9000)}}), "params.query: the URL with it is longer"),
        (json!({"url": "http://a/", "body": "a", "json": 1}), "params.json: give at most one"),
        (json!({"url": "http://a/", "body": {"a": 1}}), "params.body: expected text"),
        (json!({"url": "http://a/", "expect_status": []}), "params.expect_status:"),
        (json!({"url": "http://a/", "expect_status": 99}), "params.expect_status:"),
        (json!({"url": "http://a/", "expect_status": 600}), "params.expect_status:"),
        (json!({"url": "http://a/", "expect_status": -200}), "params.expect_status:"),
        (json!({"url": "http://a/", "expect_status": "0xx"}), "params.expect_status:"),
        (json!({"url": "http://a/", "expect_status": [200, "6xx"]}), "params.expect_status:"),
        (json!({"url": "http://a/", "expect_status": true}), "params.expect_status:"),
        (json!({"url": "http://a/", "follow_redirects": 3}), "params.follow_redirects: expected true or false"),
        (json!({"url": "http://a/", "timeout": 3}), "params.timeout: unknown"),
    ] {
        let rejection = Params::parse(&params).unwrap_err();
        assert!(rejection.code == Code::ParamsInvalid && rejection.message.starts_with(field), "{params}: {rejection}");
    }
}

#[test]
fn a_request_is_what_its_params_say() {
    let params = json!({
        "method": "patch", "url": "http://example.com/a?b=1", "query": {"c": ["x y", 2], "d": true},
        "headers": {"X-Number": 5, "X-Text": "grüße"}, "json": {"k": [1]}, "expect_status": [201, "3xx", "404"],
    });
    let request = Params::parse(&params).unwrap();
    assert_eq!(request.method, Method::PATCH);
    assert_eq!(request.url.as_str(), "http://example.com/a?b=1&c=x+y&c=2&d=true");
    assert_eq!(request.headers.get("x-number").unwrap(), "5");
    assert_eq!(request.headers.get("x-text").unwrap().as_bytes(), "grüße".as_bytes());
    assert_eq!(request.headers.get("content-type").unwrap(), "application/json");
    assert_eq!(request.body.unwrap(), br#"{"k":[1]}"#);
    let holds = [200, 201, 299, 300, 399, 403, 404].map(|status| request.expect.holds(status));
    assert_eq!(holds, [false, true, false, true, true, false, true]);
    assert_eq!(request.expect.to_string(), "201 or 3xx or 404");
}
