//! How an agent stops being served without losing a job.
//!
//! Measured on 2.15.1 with async-nats 0.51 and 20 ms of round trip: a job stored right after `unsubscribe` and `flush` went to the agent,
//! whose client threw it away, in 40 of 40 runs; after `Subscriber::drain`, which does not wait for the server's answer, in 22 of 40. It is
//! then out until its lease of 30 s ends. After the counted end below: in none. Without a delay none was lost in 100, whichever way.

use std::time::Duration;

use async_nats::Message;
use futures_util::StreamExt;
use muster_schemas::subjects::{agent_inbox, broker::ConsumerApi};
use serde_json::json;

use crate::support::{Agent, Peer, SlowLine, World, eventually, next_job};

const BARRIER: &[u8] = b"barrier";

async fn waiting(gateway: &Peer) -> u64 {
    gateway.api(ConsumerApi::Info.subject("JOBS_p", "normal_shell"), json!({})).await["num_waiting"].as_u64().unwrap()
}

#[tokio::test]
async fn a_pull_whose_inbox_is_gone_is_not_served() {
    let (world, gateway) = World::provisioned().await;
    let (one, two) = (world.agent("p").await, world.agent("p").await);
    let mut second = two.peer.subscribe(&two.inbox("lane")).await;
    for n in 0..20 {
        let inbox = one.inbox(&format!("lane{n}"));
        let mut first = one.peer.subscribe(&inbox).await;
        one.pull(&inbox, 5, Duration::from_secs(30)).await;
        eventually("the pull waits", async || waiting(&gateway).await == 1).await;
        first.unsubscribe().await.unwrap();
        one.peer.round_trip().await;
        // Of equal priority, and later: only because the first is passed over does it get the job.
        two.pull(&two.inbox("lane"), 1, Duration::from_secs(30)).await;
        gateway.store(&format!("jobs.p.normal.shell.j{n}"), "{}").await;
        let job = next_job(&mut second, Duration::from_secs(5)).await.expect("the job");
        two.peer.client.publish(job.reply.unwrap(), "+ACK".into()).await.unwrap();
    }
    eventually("nothing is out", async || gateway.messages("JOBS_p").await == 0).await;
}

/// The end that loses nothing. Ask both ends to stop after `n` messages, more than the pulls on this inbox can ever send (each its batch and
/// one status), then send oneself `n` messages. The server stops at the `n`th, whichever they are, and the client takes each of them.
async fn end(agent: &Agent, inbox: &str, mut subscriber: async_nats::Subscriber, pulled: u64) -> Vec<Message> {
    let n = pulled + 1;
    subscriber.unsubscribe_after(n).await.unwrap();
    for _ in 0..n {
        agent.peer.client.publish(inbox.to_owned(), BARRIER.into()).await.unwrap();
    }
    subscriber.filter(|message| std::future::ready(&message.payload[..] != BARRIER && message.status.is_none())).collect().await
}

#[tokio::test]
async fn the_counted_end_of_an_inbox_loses_no_job_over_a_slow_line() {
    let (world, gateway) = World::provisioned().await;
    let line = SlowLine::start(world.server.port(), Duration::from_millis(10)).await;
    let id = muster_schemas::names::AgentId::generate();
    let creds = world.agent_creds(&"p".parse().unwrap(), &id, Duration::from_secs(600));
    let peer = world.peer_at(&line.url, &creds.to_text(), &agent_inbox(&id)).await;
    let (one, two) = (Agent { peer, id, pool: "p".parse().unwrap() }, world.agent("p").await);
    let mut second = two.peer.subscribe(&two.inbox("lane")).await;
    let mut late = 0;
    for n in 0..20 {
        let inbox = one.inbox(&format!("lane{n}"));
        let first = one.peer.subscribe(&inbox).await;
        one.pull(&inbox, 5, Duration::from_secs(30)).await;
        eventually("the pull waits", async || waiting(&gateway).await == 1).await;
        // The job is stored while the request to stop is on its way.
        let subject = format!("jobs.p.normal.shell.j{n}");
        let (taken, _) = tokio::join!(end(&one, &inbox, first, 5), gateway.store(&subject, "{}"));
        let (agent, job) = match taken.into_iter().next() {
            Some(job) => {
                late += 1;
                (&one, job)
            }
            None => {
                two.pull(&two.inbox("lane"), 1, Duration::from_secs(5)).await;
                (&two, next_job(&mut second, Duration::from_secs(5)).await.expect("the job is lost"))
            }
        };
        assert_eq!(job.subject.as_str(), subject);
        agent.peer.client.publish(job.reply.unwrap(), "+ACK".into()).await.unwrap();
        eventually("nothing is out", async || gateway.messages("JOBS_p").await == 0).await;
    }
    assert!(late > 0, "no job was on its way while the inbox ended: the test shows nothing");
}
