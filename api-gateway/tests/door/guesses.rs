//! Wrong keys: what is remembered of keys, how much work wrong ones make, and for whom they are slowed down.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use reqwest::{Method, StatusCode};

use crate::{
    stack::{Answer, Gateway, Http, Stack, eventually, send},
    support::{SOON, figure, member, other_secret},
};

const LIST: &str = "/api/v1/pools";
const HASHES: &str = "muster_gateway_key_hashes_total";
const HASHING: &str = "muster_gateway_key_hashes_running";

/// Shows a key from an address behind the trusted proxy.
async fn show(gateway: &Gateway, key: &str, from: &str) -> Answer {
    show_by(&gateway.anybody(), key, from).await
}

/// The same with a client that is there already: to make one takes longer than a hash.
async fn show_by(client: &Http, key: &str, from: &str) -> Answer {
    send(client.request(Method::GET, LIST).bearer_auth(key).header("x-forwarded-for", from)).await
}

fn address(number: u32) -> String {
    format!("203.0.{}.{}", number / 250, number % 250 + 1)
}

#[tokio::test]
async fn a_key_is_remembered_as_a_whole_and_a_wrong_one_briefly() {
    let stack = Stack::start().await;
    let gateway = stack.gateway(&[]).await;
    let (_, good) = member(&stack, &gateway, "viewer", &gateway).await;
    let key = good.key.clone().unwrap();
    let status = async |key: &str| gateway.with_key(key).get(LIST).await.status;
    let before = figure(&gateway, HASHES).await;
    let hashes = async || figure(&gateway, HASHES).await - before;
    for _ in 0..3 {
        assert_eq!(status(&key).await, StatusCode::OK);
    }
    assert_eq!(hashes().await, 1.0, "it was checked once");
    let wrong = other_secret(&key, 7);
    for _ in 0..3 {
        assert_eq!(status(&wrong).await, StatusCode::UNAUTHORIZED, "what is remembered of a key is no use to one that begins alike");
    }
    assert_eq!(hashes().await, 2.0, "it was checked by its secret, once");
    // A hash takes 72 bytes and no more; what is longer or shorter never gets that far.
    for length in [key.len() - 1, key.len() + 1, key.len() + 40, key.len() + 100] {
        let mut odd = key.clone();
        odd.truncate(length);
        odd.extend(std::iter::repeat_n('a', length.saturating_sub(odd.len())));
        assert_eq!(status(&odd).await, StatusCode::UNAUTHORIZED, "{length}");
    }
    assert_eq!(hashes().await, 2.0);
    eventually("the wrong one is forgotten", SOON, async || {
        status(&wrong).await;
        (hashes().await >= 3.0).then_some(())
    })
    .await;
    assert_eq!(status(&key).await, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_keys_from_many_addresses_take_two_cores_at_most_and_hold_up_nobody_who_was_checked_before() {
    let stack = Stack::start().await;
    let gateway = stack.gateway(&[("trusted_proxies", "127.0.0.1")]).await;
    let admin = stack.admin_key();
    assert_eq!(show(&gateway, &admin, &address(9_999)).await.status, StatusCode::OK);
    let (mut most, mut slowest) = (0.0_f64, Duration::ZERO);
    let (attacker, owner) = (gateway.anybody(), gateway.anybody());
    let mut attack = Box::pin(join_all((0..200).map(|number| {
        let (attacker, key) = (&attacker, other_secret(&admin, number));
        async move { show_by(attacker, &key, &address(number)).await }
    })));
    let answers = loop {
        let looked = async {
            let most = figure(&gateway, HASHING).await;
            let asked = Instant::now();
            assert_eq!(show_by(&owner, &admin, &address(9_999)).await.status, StatusCode::OK);
            (most, asked.elapsed())
        };
        // The attack goes on meanwhile.
        tokio::select! {
            biased;
            answers = &mut attack => break answers,
            (now, took) = looked => (most, slowest) = (most.max(now), slowest.max(took)),
        }
    };
    let refused = answers.iter().filter(|answer| answer.code() == "unauthenticated").count();
    let limited = answers.iter().filter(|answer| answer.code() == "rate_limited" && !answer.header("retry-after").is_empty()).count();
    assert_eq!(refused + limited, 200);
    assert!((1.0..=2.0).contains(&most), "{most}");
    assert!(slowest < Duration::from_secs(2), "{slowest:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn hanging_up_does_not_buy_more_hashes_at_once() {
    let stack = Stack::start().await;
    let gateway = stack.gateway(&[]).await;
    let admin = stack.admin_key();
    let mut most = 0.0_f64;
    let hasty_client = gateway.anybody();
    for round in 0..10 {
        let hasty = (0..10).map(|number| {
            let request = hasty_client.request(Method::GET, LIST).bearer_auth(other_secret(&admin, round * 10 + number));
            request.timeout(Duration::from_millis(30)).send()
        });
        join_all(hasty).await;
        most = most.max(figure(&gateway, HASHING).await);
    }
    assert!((1.0..=2.0).contains(&most), "{most}");
}

#[tokio::test]
async fn guessing_one_key_from_many_addresses_is_slowed_down_and_other_keys_are_not() {
    let stack = Stack::start().await;
    let gateway = stack.gateway(&[("trusted_proxies", "127.0.0.1"), ("refusals_per_minute", "2")]).await;
    let (_, victim) = member(&stack, &gateway, "viewer", &gateway).await;
    let (_, other) = member(&stack, &gateway, "viewer", &gateway).await;
    let (victim, other) = (victim.key.unwrap(), other.key.unwrap());
    let mut refused = 0;
    let mut limited = 0;
    for number in 0..40 {
        let answer = show(&gateway, &other_secret(&victim, number), &address(number)).await;
        match answer.code() {
            "unauthenticated" => refused += 1,
            "rate_limited" => limited += 1,
            other => panic!("{other}"),
        }
    }
    // Ten times as many as one address may, and one more every three seconds.
    assert!((20..=25).contains(&refused) && refused + limited == 40, "{refused} {limited}");
    assert_eq!(show(&gateway, &other, &address(100)).await.status, StatusCode::OK, "another key is checked as ever");
}

#[tokio::test]
async fn wrong_keys_are_counted_by_the_address_that_the_trusted_proxy_saw() {
    let stack = Stack::start().await;
    let behind = stack.gateway(&[("trusted_proxies", "[\"127.0.0.0/8\", \"10.0.0.0/8\"]"), ("refusals_per_minute", "3")]).await;
    let open = stack.gateway(&[("trusted_proxies", "10.0.0.0/8"), ("refusals_per_minute", "3")]).await;
    let garbage = async |gateway: &Gateway, forwarded: &str| show(gateway, "mst_*", forwarded).await.code().to_owned();
    for number in 0..3 {
        // Whatever the caller itself put in front is no help, nor is another port or way of writing.
        let forwarded = [format!("10.1.1.{number}, 203.0.113.9"), "203.0.113.9:80".into(), "::ffff:203.0.113.9, 10.0.0.2".into()];
        assert_eq!(garbage(&behind, &forwarded[number]).await, "unauthenticated");
    }
    assert_eq!(garbage(&behind, "1.1.1.1, 203.0.113.9").await, "rate_limited");
    assert_eq!(garbage(&behind, "203.0.113.10").await, "unauthenticated", "another caller has tries of his own");
    // An IPv6 caller has a whole network.
    for number in 0..4 {
        let code = garbage(&behind, &format!("[2001:db8::{number}]:1{number}")).await;
        assert_eq!(code, if number < 3 { "unauthenticated" } else { "rate_limited" }, "{number}");
    }
    // Two lines are one list, whatever the case of the name.
    let two = behind.with_key("mst_*").request(Method::GET, LIST);
    let two = two.header("X-FORWARDED-FOR", "8.8.8.8").header("x-Forwarded-For", "203.0.113.9");
    assert_eq!(send(two).await.code(), "rate_limited");
    // Other headers say nothing.
    let others = behind.with_key("mst_*").request(Method::GET, LIST).header("x-forwarded-for", "203.0.113.9");
    let others = others.header("forwarded", "for=7.7.7.7").header("x-real-ip", "7.7.7.7").header("x_forwarded_for", "7.7.7.7");
    assert_eq!(send(others).await.code(), "rate_limited");
    // Garbage counts for the proxy.
    for number in 0..4 {
        let code = garbage(&behind, &format!("203.0.113.77, unknown{number}")).await;
        assert_eq!(code, if number < 3 { "unauthenticated" } else { "rate_limited" }, "{number}");
    }
    // Where the other end is no trusted proxy, the header is nothing.
    for number in 0..4 {
        let code = garbage(&open, &format!("198.51.100.{number}")).await;
        assert_eq!(code, if number < 3 { "unauthenticated" } else { "rate_limited" }, "{number}");
    }
}
