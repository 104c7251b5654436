//! Every route against every kind of caller, made from the document that is made from the table of routes: a new route is tested without
//! being named here. What is named here is who may use which, so that a change of that is seen.

use std::{collections::BTreeSet, time::Duration};

use muster_schemas::{
    names::AgentId,
    records::{KeyOwner, Role},
    time::Timestamp,
};
use reqwest::{Method, StatusCode};
use serde_json::Value;

use crate::{
    stack::{Gateway, Http, Stack, send},
    support::{other_secret, planted},
};

/// Which role each route takes: `agent` is a join token or an agent's key.
const ACCESS: &str = include_str!("access.txt");

/// A path whose parameters are filled in with names that parse and that nothing has.
fn filled(path: &str) -> String {
    let id = match path {
        path if path.contains("/agents/") => "agt_01ARZ3NDEKTSV4RRFFQ69G5FAV",
        path if path.contains("/api-keys/") => "key_01ARZ3NDEKTSV4RRFFQ69G5FAV",
        _ => "nothing-has-this",
    };
    let filled = path.replace("{id}", id).replace("{name}", "nothing-has-this").replace("{prefix}", "aaaaaaaaaa");
    // Another parameter: whatever it is, its path is tested.
    match (filled.find('{'), filled.find('}')) {
        (Some(from), Some(to)) => format!("{}nothing-has-this{}", &filled[..from], &filled[to + 1..]),
        _ => filled,
    }
}

/// Method, path and access of every route.
async fn routes(gateway: &Gateway) -> Vec<(Method, String, String)> {
    let document = gateway.anybody().get("/openapi.json").await;
    let mut routes = Vec::new();
    for (path, operations) in document.body["paths"].as_object().unwrap() {
        for (method, operation) in operations.as_object().unwrap() {
            routes.push((method.to_uppercase().parse().unwrap(), path.clone(), operation["x-access"].as_str().unwrap().to_owned()));
        }
    }
    routes
}

/// What a caller is to the gate.
#[derive(Clone, Copy, PartialEq)]
enum Is {
    Nobody,
    Person(Role),
    Agent,
}

/// The code that a caller is refused with, if it is refused for who it is.
fn refusal(access: &str, caller: Is) -> Option<&'static str> {
    match (access, caller) {
        ("public", _) | ("agent", Is::Agent) => None,
        (_, Is::Nobody) => Some("unauthenticated"),
        ("agent", Is::Person(_)) | (_, Is::Agent) => Some("forbidden"),
        (role, Is::Person(has)) => {
            let needed: Role = serde_json::from_value(Value::from(role)).unwrap();
            (has < needed).then_some("forbidden")
        }
    }
}

/// Callers of every kind. A join token is good only where an agent may come, and only in its own header.
async fn callers(stack: &Stack, gateway: &Gateway) -> Vec<(&'static str, Is, Http)> {
    let person = async |role| gateway.with_key(&planted(stack, KeyOwner::Role(role), |_| {}).await);
    let past = Timestamp::from_secs(1_000_000_000);
    let expired = planted(stack, KeyOwner::Role(Role::Admin), |record| record.expires_at = Some(past)).await;
    let revoked = planted(stack, KeyOwner::Role(Role::Admin), |record| record.revoked_at = Some(past)).await;
    let of_agent = KeyOwner::Agent(AgentId::generate());
    let agent = planted(stack, of_agent.clone(), |_| {}).await;
    let dead_agent = planted(stack, of_agent, |record| record.revoked_at = Some(past)).await;
    vec![
        ("no key", Is::Nobody, gateway.anybody()),
        ("garbage", Is::Nobody, gateway.with_key("mst_*")),
        ("another secret", Is::Nobody, gateway.with_key(&other_secret(&stack.admin_key(), 1))),
        ("an expired key", Is::Nobody, gateway.with_key(&expired)),
        ("a revoked key", Is::Nobody, gateway.with_key(&revoked)),
        ("a revoked agent's key", Is::Nobody, gateway.with_key(&dead_agent)),
        ("a join token for a key", Is::Nobody, gateway.with_key(&stack.join_token())),
        ("a viewer", Is::Person(Role::Viewer), person(Role::Viewer).await),
        ("an operator", Is::Person(Role::Operator), person(Role::Operator).await),
        ("an admin", Is::Person(Role::Admin), person(Role::Admin).await),
        ("an agent's key", Is::Agent, gateway.with_key(&agent)),
    ]
}

#[tokio::test]
async fn every_route_lets_in_exactly_whom_the_table_says() {
    let stack = Stack::start().await;
    let gateway = stack.gateway(&[]).await;
    let callers = callers(&stack, &gateway).await;
    let routes = routes(&gateway).await;
    let check = |answer: crate::stack::Answer, expected: Option<&str>, place: String| match expected {
        Some(code) => assert_eq!(answer.code(), code, "{place}"),
        None => {
            let code = answer.body["code"].as_str().unwrap_or_default();
            assert!(!["unauthenticated", "forbidden", "token_invalid"].contains(&code), "{place}: {}", answer.text);
            // Something inside that fails for what is no fault of the caller's is a fault all the same.
            assert_ne!(code, "internal", "{place}: {}", answer.text);
        }
    };
    for (method, path, access) in &routes {
        for (who, is, caller) in &callers {
            let answer = send(caller.request(method.clone(), &filled(path))).await;
            check(answer, refusal(access, *is), format!("{method} {path} with {who}"));
        }
        let token = send(gateway.anybody().request(method.clone(), &filled(path)).header("x-agent-token", stack.join_token())).await;
        let is = if access == "agent" { Is::Agent } else { Is::Nobody };
        check(token, refusal(access, is), format!("{method} {path} with a join token"));
        let wrong = send(gateway.anybody().request(method.clone(), &filled(path)).header("x-agent-token", "mst_join_x")).await;
        match access.as_str() {
            "public" => assert!(wrong.status != 401 && wrong.status != 403, "{method} {path}"),
            "agent" => assert_eq!(wrong.code(), "token_invalid", "{method} {path}"),
            _ => assert_eq!(wrong.code(), "unauthenticated", "{method} {path}"),
        }
    }
    assert!(routes.len() > 40, "{}", routes.len());
}

#[tokio::test]
async fn a_path_takes_the_methods_of_the_table_and_names_them_to_whoever_uses_another() {
    let stack = Stack::start().await;
    let gateway = stack.gateway(&[]).await;
    let admin = stack.admin(&gateway);
    let routes = routes(&gateway).await;
    let paths: BTreeSet<&String> = routes.iter().map(|(_, path, _)| path).collect();
    for path in paths {
        let own = routes.iter().filter(|(_, other, _)| other == path);
        let mut takes: BTreeSet<String> = own.map(|(method, ..)| method.to_string()).collect();
        if takes.contains("GET") {
            takes.insert("HEAD".into());
            let head = send(admin.request(Method::HEAD, &filled(path))).await;
            assert!(head.text.is_empty() && head.status != StatusCode::METHOD_NOT_ALLOWED, "HEAD {path}");
            let nobody = send(gateway.anybody().request(Method::HEAD, &filled(path))).await;
            let public = routes.iter().any(|(method, other, access)| method == Method::GET && other == path && access == "public");
            assert_eq!(nobody.status == StatusCode::UNAUTHORIZED, !public, "HEAD {path}");
        }
        for method in ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW"] {
            if takes.contains(method) {
                continue;
            }
            let request = admin.request(method.parse().unwrap(), &filled(path));
            let answer = send(request.header("origin", "https://evil.example").header("access-control-request-method", "GET")).await;
            assert_eq!(answer.status, StatusCode::METHOD_NOT_ALLOWED, "{method} {path}");
            let allow: BTreeSet<String> = answer.header("allow").split(',').map(|method| method.trim().to_owned()).collect();
            assert_eq!(allow, takes, "{method} {path}");
            assert!(!answer.headers.keys().any(|name| name.as_str().starts_with("access-control")), "{method} {path}");
            if method != "HEAD" {
                assert_eq!(answer.code(), "method_not_allowed");
            }
        }
    }
}

#[tokio::test]
async fn who_may_use_which_route_is_written_down() {
    let stack = Stack::start().await;
    let gateway = stack.gateway(&[]).await;
    let mut lines: Vec<String> =
        routes(&gateway).await.into_iter().map(|(method, path, access)| format!("{access:<8} {method:<6} {path}\n")).collect();
    lines.sort();
    let now = lines.concat();
    assert!(now == ACCESS, "the roles of routes have changed; if that is meant, tests/door/access.txt has to become:\n{now}");
    // Waits that are asked for by nobody must not last.
    let asked = std::time::Instant::now();
    assert_eq!(gateway.anybody().get("/api/v1/jobs/x?wait=60").await.code(), "unauthenticated");
    assert!(asked.elapsed() < Duration::from_secs(10));
}
