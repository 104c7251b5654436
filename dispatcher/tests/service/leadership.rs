//! Several dispatchers: one is active, another one takes over.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail by panicking")]

use std::time::{Duration, Instant};

use muster_schemas::standing::Status;

use crate::support::{Agent, Dispatcher, POOL, Proxy, SOON, Stack, eventually};

/// The promise.
const TAKE_OVER: Duration = Duration::from_secs(5);

/// Waits until the second one is active, and checks all the time that never both are. Returns how long it took.
async fn taken_over(first: Option<&Dispatcher>, second: &Dispatcher) -> Duration {
    let started = Instant::now();
    eventually("the other one is active", SOON, async || {
        // The first one is asked last: one that has stepped down does not come back meanwhile.
        let second = second.is_active().await;
        let both = second
            && match first {
                Some(first) => first.is_active().await,
                None => false,
            };
        assert!(!both, "both are active");
        second.then_some(())
    })
    .await;
    started.elapsed()
}

async fn online(stack: &Stack) -> Agent {
    let mut agent = stack.agent(POOL).await;
    agent.beats(|_| {}).await;
    stack.standing(&agent, "online", |standing| standing.status == Status::Online).await;
    agent
}

async fn says_goodbye(stack: &Stack, agent: &mut Agent) {
    agent.beats(|beat| beat.goodbye = true).await;
    stack.standing(agent, "offline", |standing| standing.status == Status::Offline).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_active_one_is_killed_another_one_writes_within_five_seconds() {
    let stack = Stack::start().await;
    let first = stack.dispatcher().await;
    first.becomes_active().await;
    let second = stack.dispatcher().await;
    let mut agent = online(&stack).await;
    assert!(!second.is_active().await);
    assert_eq!(second.figure("muster_standings_written_total").await, 0.0);

    first.kill();
    let killed = Instant::now();
    says_goodbye(&stack, &mut agent).await;
    assert!(killed.elapsed() <= TAKE_OVER, "{:?}", killed.elapsed());
    // It counts a write once the broker has answered, which others may see before.
    let written = eventually("it counts", SOON, async || {
        let written = second.figure("muster_standings_written_total").await;
        (written > 0.0).then_some(written)
    });
    assert_eq!(written.await, 1.0, "only what differs was written");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_active_one_that_stops_in_good_order_is_followed_at_once() {
    let stack = Stack::start().await;
    let first = stack.dispatcher().await;
    first.becomes_active().await;
    let second = stack.dispatcher().await;
    first.stop().await;
    let took = taken_over(None, &second).await;
    assert!(took < Duration::from_secs(2), "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_active_one_that_is_cut_off_steps_down_before_another_one_takes_over() {
    let stack = Stack::start().await;
    let proxy = Proxy::to(stack.server.port()).await;
    let first = stack.dispatcher_at(&proxy.url).await;
    first.becomes_active().await;
    let second = stack.dispatcher().await;
    let mut agent = online(&stack).await;

    proxy.cut(true);
    let took = taken_over(Some(&first), &second).await;
    assert!(took <= TAKE_OVER, "{took:?}");
    says_goodbye(&stack, &mut agent).await;

    // Back again it finds that it is not the active one any longer, and undoes nothing.
    let written = first.figure("muster_standings_written_total").await;
    proxy.cut(false);
    agent.beats(|_| {}).await;
    stack.standing(&agent, "online", |standing| standing.status == Status::Online).await;
    assert!(!first.is_active().await && second.is_active().await);
    assert_eq!(first.figure("muster_standings_written_total").await, written);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_three_that_start_together_exactly_one_is_active() {
    let stack = Stack::start().await;
    let all = [stack.dispatcher().await, stack.dispatcher().await, stack.dispatcher().await];
    let active = async || {
        let mut active = 0;
        for dispatcher in &all {
            active += usize::from(dispatcher.is_active().await);
        }
        active
    };
    eventually("one is active", SOON, async || (active().await == 1).then_some(())).await;
    for _ in 0..100 {
        assert_eq!(active().await, 1);
    }
}
