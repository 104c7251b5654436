//! What somebody inside a pool can do to that pool, and that it stays there.

use std::time::Duration;

use async_nats::{HeaderMap, connection::State};
use muster_schemas::{
    subjects::{self, broker::StreamApi, js},
    topology::MAX_WAITING,
};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
};

use crate::support::{Peer, World, eventually, next, next_job, pull};

/// Another pool and another agent work as if nothing were.
async fn others_work(world: &World, gateway: &Peer) {
    let other = world.agent("q").await;
    let inbox = other.inbox("works");
    let mut jobs = other.peer.subscribe(&inbox).await;
    let id = format!("w{}", gateway.messages("RESULTS").await);
    gateway.store(&format!("jobs.q.normal.shell.{id}"), "{}").await;
    other.pull(&inbox, 1, Duration::from_secs(5)).await;
    let job = next_job(&mut jobs, Duration::from_secs(5)).await.expect("the other pool's job");
    assert!(other.peer.store(&format!("results.q.{id}"), "r").await.get("error").is_none());
    other.peer.client.publish(job.reply.unwrap(), "+ACK".into()).await.unwrap();
    eventually("the other pool's job is done", async || gateway.messages("JOBS_q").await == 0).await;
}

#[tokio::test]
async fn a_forged_acknowledgement_takes_a_job_out_of_its_own_pools_queue_and_spoils_no_result() {
    let (world, gateway) = World::provisioned().await;
    let (worker, forger) = (world.agent("p").await, world.agent("p").await);
    let inbox = worker.inbox("x");
    let mut jobs = worker.peer.subscribe(&inbox).await;
    gateway.store("jobs.p.normal.shell.j", "{}").await;
    worker.pull(&inbox, 1, Duration::from_secs(5)).await;
    let job = next_job(&mut jobs, Duration::from_secs(5)).await.unwrap();
    let reply = job.reply.unwrap().to_string();
    // The broker can't tell whose turn it is: the job leaves the queue.
    forger.peer.client.publish(reply.clone(), "+ACK".into()).await.unwrap();
    eventually("the forged ack took it", async || gateway.messages("JOBS_p").await == 0).await;
    // Whoever runs it stores its result all the same, once; its own ack changes nothing any more.
    assert!(worker.peer.store("results.p.j", "r").await.get("error").is_none());
    worker.peer.client.publish(reply, "+ACK".into()).await.unwrap();
    assert!(forger.peer.store("results.p.j", "forged").await.get("error").is_some(), "the first result stays");
    others_work(&world, &gateway).await;
}

#[tokio::test]
async fn an_agent_that_fills_its_lane_with_pulls_or_hoards_jobs_stops_no_other_pool() {
    let (world, gateway) = World::provisioned().await;
    let hog = world.agent("p").await;
    let inbox = hog.inbox("hog");
    let mut answers = hog.peer.subscribe(&inbox).await;
    let body = pull(64, Duration::from_secs(100));
    for _ in 0..=MAX_WAITING {
        let next = js::next("JOBS_p", "normal_shell");
        hog.peer.client.publish_with_reply(next, inbox.clone(), body.clone().into()).await.unwrap();
    }
    // One too many waits.
    let refused = next(&mut answers).await;
    assert_eq!(refused.status.map(|status| status.as_u16()), Some(409), "{refused:?}");
    others_work(&world, &gateway).await;
    // Another lane of the same pool is another consumer, with pulls of its own.
    let honest = world.agent("p").await;
    let inbox = honest.inbox("x");
    let mut jobs = honest.peer.subscribe(&inbox).await;
    gateway.store("jobs.p.high.shell.urgent", "{}").await;
    honest.peer.client.publish_with_reply(js::next("JOBS_p", "high_shell"), inbox, pull(1, Duration::from_secs(5)).into()).await.unwrap();
    assert!(next_job(&mut jobs, Duration::from_secs(5)).await.is_some());
}

#[tokio::test]
async fn a_trace_header_sends_nothing_where_its_sender_may_not_publish() {
    let (world, gateway) = World::provisioned().await;
    let (agent, service) = (world.agent("p").await, world.service(&["p"]).await);
    let mut headers = HeaderMap::new();
    headers.insert("Nats-Trace-Dest", "jobs.q.normal.shell.traced");
    headers.insert("traceparent", "00-80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1-01");
    headers.insert("Nats-Trace-Only", "false");
    let beat = subjects::heartbeat(&agent.pool, &agent.id);
    for subject in ["results.p.traced".to_owned(), beat, js::next("JOBS_p", "normal_shell")] {
        agent.peer.client.publish_with_headers(subject, headers.clone(), "{}".into()).await.unwrap();
    }
    agent.peer.round_trip().await;
    service.client.publish_with_headers("jobs.p.normal.shell.traced", headers, "{}".into()).await.unwrap();
    service.round_trip().await;
    // What was stored before a message that comes later over the same connection is there by then.
    service.store("jobs.p.normal.shell.after", "{}").await;
    assert_eq!(gateway.messages("JOBS_q").await, 0);
}

#[tokio::test]
async fn a_message_that_is_too_large_costs_its_sender_and_nobody_else() {
    let (world, gateway) = World::provisioned().await;
    let agent = world.agent("p").await;
    // The client library refuses it by itself; a client of somebody's own does not.
    assert!(agent.peer.client.publish("results.p.big", vec![b'x'; 1 << 21].into()).await.is_err());
    for (subject, size) in [("results.p.big", 300 * 1024), ("dead.p.big", 1_048_577 - 200)] {
        let answer = agent.peer.client.request(subject, vec![b'x'; size].into()).await.unwrap();
        let refused = String::from_utf8_lossy(&answer.payload).contains("error");
        assert_eq!(refused, subject.starts_with("results"), "{subject}: {answer:?}");
    }
    assert_eq!(gateway.messages("RESULTS").await, 0);
    others_work(&world, &gateway).await;
}

/// A line to the broker that stops carrying what the broker sends once it is told to.
async fn line(port: u16, stuck: watch::Receiver<bool>) -> (String, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("nats://{}", listener.local_addr().unwrap());
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let (client, _) = listener.accept().await.unwrap();
        let server = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let (mut from_client, mut to_client) = client.into_split();
        let (mut from_server, mut to_server) = server.into_split();
        let forth = tokio::io::copy(&mut from_client, &mut to_server);
        let back = async {
            let mut buffer = vec![0; 16 * 1024];
            let mut stuck = stuck;
            loop {
                if stuck.wait_for(|stuck| !stuck).await.is_err() {
                    return;
                }
                let Ok(size @ 1..) = from_server.read(&mut buffer).await else { return };
                if to_client.write_all(&buffer[..size]).await.is_err() {
                    return;
                }
            }
        };
        tokio::select! { _ = forth => {}, () = back => {} }
    });
    (url, tasks)
}

#[tokio::test]
async fn a_reader_that_stops_reading_is_cut_off_and_holds_up_nobody() {
    let (world, gateway) = World::provisioned().await;
    let (stop, stuck) = watch::channel(false);
    let (url, _line) = line(world.server.port(), stuck).await;
    let creds = world.agent_creds(&"p".parse().unwrap(), &"agt_01ARZ3NDEKTSV4RRFFQ69G5FAV".parse().unwrap(), Duration::from_secs(3600));
    let slow = world.peer_at(&url, &creds.to_text(), "_INBOX.agt_01ARZ3NDEKTSV4RRFFQ69G5FAV").await;
    let _orders = slow.subscribe("control.agt_01ARZ3NDEKTSV4RRFFQ69G5FAV").await;
    stop.send(true).unwrap();
    let system = world.system().await;
    let slow_ones = async || system.api("$SYS.REQ.SERVER.PING.VARZ".into(), json!({})).await["data"]["slow_consumers"].as_u64().unwrap();
    assert_eq!(slow_ones().await, 0);
    // More than what the broker keeps for one connection (64 MiB), so that it need not wait for its deadline.
    for _ in 0..120 {
        gateway.client.publish("control.agt_01ARZ3NDEKTSV4RRFFQ69G5FAV", vec![b'x'; 1_000_000].into()).await.unwrap();
    }
    gateway.client.flush().await.unwrap();
    eventually("the slow one is counted and cut off", async || slow_ones().await > 0).await;
    others_work(&world, &gateway).await;
    assert_eq!(gateway.client.connection_state(), State::Connected);
    assert!(gateway.api(StreamApi::Info.subject("JOBS_p"), json!({})).await.get("error").is_none());
}
