//! Watching jobs: order, resuming anywhere and on any gateway, many watchers, slow ones.

use std::time::Duration;

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use muster_schemas::{
    event::EventKind,
    log::{LogChunk, OutputStream, Progress},
    names::JobId,
    subjects::{About, broker},
    time::Timestamp,
    wire::{self, V},
};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::{
    agent::{Agent, Taken},
    world::{Rest, SOON, World, eventually},
};

/// An event of a stream.
#[derive(Debug, Clone, PartialEq)]
struct Told {
    id: String,
    name: String,
    data: Value,
}

impl Told {
    /// What it says, in a word.
    fn word(&self) -> String {
        let text = |field: &str| self.data[field].as_str().unwrap_or_default().to_owned();
        match self.name.as_str() {
            "state" => format!("{} {}", text("change"), text("state")),
            "log" => text("data"),
            "progress" => format!("{} % {}", self.data["percent"], text("message")),
            "end" => format!("end {}", text("state")),
            other => panic!("an event {other}"),
        }
    }
}

fn words(told: &[Told]) -> Vec<String> {
    told.iter().map(Told::word).collect()
}

/// A reader of Server-Sent Events.
struct Watch {
    response: reqwest::Response,
    text: Vec<u8>,
    comments: Vec<String>,
}

impl Watch {
    async fn open(rest: &Rest, id: &str, last: Option<&str>) -> Self {
        let mut request = rest.http.get(format!("{}/api/v1/jobs/{id}/events", rest.url)).bearer_auth(&rest.key);
        if let Some(last) = last {
            request = request.header("last-event-id", last);
        }
        let response = tokio::time::timeout(SOON, request.send()).await.unwrap().unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self { response, text: Vec::new(), comments: Vec::new() }
    }

    /// The next event; `None` at the end of the stream.
    async fn next(&mut self) -> Option<Told> {
        loop {
            while let Some(end) = self.text.windows(2).position(|pair| pair == b"\n\n") {
                let block = String::from_utf8(self.text.drain(..end + 2).collect()).unwrap();
                let field = |name: &str| block.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned);
                if let Some(data) = field("data: ") {
                    let data = serde_json::from_str(&data).unwrap();
                    return Some(Told { id: field("id: ").unwrap(), name: field("event: ").unwrap(), data });
                }
                self.comments.extend(field(": "));
            }
            let part = tokio::time::timeout(SOON, self.response.chunk()).await.expect("something in time").unwrap()?;
            self.text.extend_from_slice(&part);
        }
    }

    async fn rest(&mut self) -> Vec<Told> {
        let mut told = Vec::new();
        while let Some(event) = self.next().await {
            told.push(event);
        }
        told
    }

    /// The next events, so many.
    async fn take(&mut self, count: usize) -> Vec<Told> {
        let mut told = Vec::new();
        while told.len() < count {
            told.push(self.next().await.expect("an event before the end"));
        }
        told
    }
}

async fn all(rest: &Rest, id: &str, last: Option<&str>) -> Vec<Told> {
    Watch::open(rest, id, last).await.rest().await
}

impl Agent {
    async fn progress(&self, id: &JobId, seq: u64, percent: u8, message: &str) {
        let data = Progress { percent, message: message.into() }.to_data();
        let chunk = LogChunk { v: V, attempt: 1, seq, stream: OutputStream::Progress, at: Timestamp::now(), data };
        self.client.request(About::Log.job(&self.pool, id), wire::encode(&chunk).into()).await.unwrap();
    }
}

/// Ends a job whose last attempt wrote so many chunks.
async fn end(rest: &Rest, agent: &Agent, taken: &Taken, log_chunks: u64) {
    let mut result = agent.result(taken, "done");
    let job = eventually("a look-up", async || Some(rest.get(&format!("/jobs/{}", taken.id)).await).filter(|job| job.status == 200)).await;
    result.queued_at = job.data(200)["queued_at"].as_str().unwrap().parse().unwrap();
    result.log_chunks = log_chunks;
    assert!(agent.store(&agent.pool, &taken.id, wire::encode(&result), async_nats::HeaderMap::new()).await);
    agent.ack(taken).await;
}

async fn submitted(rest: &Rest) -> String {
    rest.submit(json!({"labels": {"team": "ops"}})).await.data(202)["id"].as_str().unwrap().to_owned()
}

/// A job of two attempts, with output and progress, told in 11 events.
async fn play(rest: &Rest, agent: &Agent, taken: &Taken) {
    agent.tell(&taken.id, EventKind::Released, 0).await;
    agent.tell(&taken.id, EventKind::Started, 1).await;
    agent.write(&taken.id, 0, b"one\n").await;
    agent.progress(&taken.id, 1, 50, "half").await;
    agent.tell(&taken.id, EventKind::Retrying, 1).await;
    agent.tell(&taken.id, EventKind::Started, 2).await;
    for (seq, text) in [b"two\n", b"3.1\n", b"3.2\n"].into_iter().enumerate() {
        agent.write(&taken.id, seq as u64, text).await;
    }
    end(rest, agent, taken, 3).await;
}

const PLAYED: [&str; 11] = [
    "queued pending",
    "released pending",
    "started running",
    "one\n",
    "50 % half",
    "retrying retrying",
    "started running",
    "two\n",
    "3.1\n",
    "3.2\n",
    "end succeeded",
];

#[tokio::test(flavor = "multi_thread")]
async fn a_watcher_is_told_a_jobs_life_in_order_and_the_stream_ends_with_it() {
    let world = World::start().await;
    let agent = world.agent("default").await;
    let id = submitted(world.rest()).await;
    let mut watch = Watch::open(world.rest(), &id, None).await;
    // Told while it happens, not at the end.
    let first = watch.take(1).await;
    assert_eq!((first[0].word().as_str(), first[0].data["labels"]["team"].as_str()), ("queued pending", Some("ops")));
    assert_eq!((first[0].data["id"].as_str(), first[0].data["type"].as_str()), (Some(&*id), Some("shell.run")));
    let taken = agent.take().await;
    agent.tell(&taken.id, EventKind::Started, 1).await;
    let started = watch.take(1).await;
    assert_eq!((started[0].data["attempt"].as_u64(), started[0].data["agent_id"].as_str()), (Some(1), Some(agent.id.as_str())));
    agent.write(&taken.id, 0, b"live\n").await;
    assert_eq!(words(&watch.take(1).await), ["live\n"]);
    agent.progress(&taken.id, 1, 7, "").await;
    assert_eq!(words(&watch.take(1).await), ["7 % "]);
    end(world.rest(), &agent, &taken, 2).await;
    let end = watch.rest().await;
    assert_eq!(words(&end), ["end succeeded"]);
    assert_eq!(end[0].data["result"]["stdout"], "done");
    assert_eq!(end[0].data, world.rest().get(&format!("/jobs/{id}")).await.data(200), "the end is what a look-up says");
}

#[tokio::test(flavor = "multi_thread")]
async fn from_every_event_a_watch_goes_on_at_another_gateway_with_nothing_lost_and_nothing_twice() {
    let world = World::with_gateways(2).await;
    let agent = world.agent("default").await;
    let id = submitted(world.rest()).await;
    let taken = agent.take().await;
    // Half of them watch while it happens, each from its own point on, from one gateway to the other.
    let mut live = Watch::open(world.rest(), &id, None).await;
    let mut relay = Vec::new();
    let hand_over = async {
        let mut last: Option<String> = None;
        for number in 0.. {
            let rest = &world.gateways[number % 2].rest;
            let Some(told) = Watch::open(rest, &id, last.as_deref()).await.next().await else { break };
            last = Some(told.id.clone());
            let over = told.name == "end";
            relay.push(told);
            if over {
                break;
            }
        }
    };
    let (live, (), ()) = tokio::join!(live.rest(), hand_over, play(world.rest(), &agent, &taken));
    assert_eq!(words(&live), PLAYED);
    assert_eq!(words(&relay), PLAYED);
    // And when it is over, from every event of either.
    for gateway in &world.gateways {
        assert_eq!(words(&all(&gateway.rest, &id, None).await), PLAYED);
        for told in [&live, &relay] {
            for (number, event) in told.iter().enumerate().take(told.len() - 1) {
                assert_eq!(words(&all(&gateway.rest, &id, Some(&event.id)).await), PLAYED[number + 1..], "behind {event:?}");
            }
        }
        let path = format!("/jobs/{id}/events?after={}", live[8].id);
        let after = gateway.rest.get(&path).await;
        assert!(after.body.as_str().unwrap().contains("3.2") && !after.body.as_str().unwrap().contains("3.1"), "{after:?}");
        let end = &live[10].id;
        let gone = gateway.rest.send(Method::GET, &format!("/jobs/{id}/events"), &[("last-event-id", end)], None).await;
        assert_eq!(gone.status, StatusCode::NO_CONTENT, "a browser does not come back");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_told_of_an_earlier_job_under_the_same_id_is_not_told() {
    let world = World::start().await;
    let agent = world.agent("default").await;
    let id: JobId = "own".parse().unwrap();
    agent.tell(&id, EventKind::Started, 1).await;
    agent.write(&id, 0, b"stale\n").await;
    world.rest().submit(json!({"id": "own"})).await.data(202);
    let mut watch = Watch::open(world.rest(), "own", None).await;
    assert_eq!(words(&watch.take(1).await), ["queued pending"]);
    let taken = agent.take().await;
    agent.write(&id, 0, b"fresh\n").await;
    end(world.rest(), &agent, &taken, 1).await;
    assert_eq!(words(&watch.rest().await), ["fresh\n", "end succeeded"]);
    assert_eq!(words(&all(world.rest(), "own", None).await), ["queued pending", "fresh\n", "end succeeded"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_job_and_a_wrong_id_are_problems() {
    let world = World::start().await;
    assert_eq!(world.rest().get("/jobs/nobody/events").await.code(404), "job_not_found");
    let id = submitted(world.rest()).await;
    let path = format!("/jobs/{id}/events");
    assert_eq!(world.rest().get(&format!("{path}?after=x")).await.code(400), "query_invalid");
    assert_eq!(world.rest().send(Method::GET, &path, &[("last-event-id", "1-x")], None).await.code(400), "header_invalid");
    let stranger = Rest { key: "mst_nobody".into(), ..world.rest().clone() };
    assert_eq!(stranger.get(&path).await.code(401), "unauthenticated");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_never_ran_ends_too_and_output_that_comes_behind_the_result_is_still_told() {
    let world = World::start().await;
    let agent = world.agent("default").await;
    let id = submitted(world.rest()).await;
    let mut watch = Watch::open(world.rest(), &id, None).await;
    watch.take(1).await;
    world.rest().cancel(&id).await.data(200);
    assert_eq!(words(&watch.rest().await), ["end cancelled"]);

    let id = submitted(world.rest()).await;
    let mut watch = Watch::open(world.rest(), &id, None).await;
    let taken = agent.take().await;
    // The result says that there is a chunk, and comes before it.
    end(world.rest(), &agent, &taken, 1).await;
    let (told, ()) = tokio::join!(watch.rest(), agent.write(&taken.id, 0, b"last words\n"));
    assert_eq!(words(&told), ["queued pending", "last words\n", "end succeeded"]);
}

/// Subscriptions to the two subjects of a job, of all connections, as the broker counts them.
async fn subscriptions(system: &async_nats::Client, id: &str) -> usize {
    let question = json!({"subscriptions": true, "limit": 1000, "acc": ""}).to_string();
    let inbox = system.new_inbox();
    let mut answers = system.subscribe(inbox.clone()).await.unwrap();
    system.publish_with_reply(format!("{}SERVER.PING.CONNZ", broker::SYSTEM.trim_end_matches('>')), inbox, question.into()).await.unwrap();
    let answer = tokio::time::timeout(SOON, answers.next()).await.unwrap().unwrap();
    let answer: Value = serde_json::from_slice(&answer.payload).unwrap();
    let connections = answer["data"]["connections"].as_array().unwrap();
    let lists = connections.iter().filter_map(|connection| connection["subscriptions_list"].as_array());
    lists.flatten().filter(|subject| subject.as_str().unwrap().ends_with(id)).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_watchers_of_one_job_cost_the_broker_what_one_does() {
    const WATCHERS: usize = 500;
    let world = World::with_gateways(2).await;
    let agent = world.agent("default").await;
    let id = submitted(world.rest()).await;
    let taken = agent.take().await;
    let system = world.system().await;
    assert_eq!(subscriptions(&system, &id).await, 0);
    let one = Watch::open(world.rest(), &id, None).await;
    eventually("one follower", async || (subscriptions(&system, &id).await == 2).then_some(())).await;
    drop(one);
    eventually("no follower when nobody watches", async || (subscriptions(&system, &id).await == 0).then_some(())).await;

    let opening: FuturesUnordered<_> = (0..2 * WATCHERS).map(|number| Watch::open(&world.gateways[number % 2].rest, &id, None)).collect();
    let mut watchers: Vec<Watch> = opening.collect().await;
    let first: FuturesUnordered<_> = watchers.iter_mut().map(|watch| watch.take(1)).collect();
    assert!(first.all(async |told| words(&told) == ["queued pending"]).await);
    // Its events and its output, on each of the two gateways.
    eventually("two followers", async || (subscriptions(&system, &id).await == 4).then_some(())).await;
    let (told, ()) = tokio::join!(
        watchers.iter_mut().map(Watch::rest).collect::<FuturesUnordered<_>>().collect::<Vec<_>>(),
        play(world.rest(), &agent, &taken)
    );
    assert_eq!(told.len(), 2 * WATCHERS);
    for told in told {
        assert_eq!(words(&told), PLAYED[1..]);
    }
    eventually("no follower of a job that has ended", async || (subscriptions(&system, &id).await == 0).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watcher_that_does_not_read_holds_up_nobody_and_gets_everything_later() {
    const CHUNKS: u64 = 1_500;
    let world = World::start().await;
    let agent = world.agent("default").await;
    let id = submitted(world.rest()).await;
    let taken = agent.take().await;
    let mut slow = Watch::open(world.rest(), &id, None).await;
    let mut fast = Watch::open(world.rest(), &id, None).await;
    slow.take(1).await;
    // 24 MB: more than what the gateway keeps and all buffers on the way hold.
    let writing = async {
        for seq in 0..CHUNKS {
            agent.write(&taken.id, seq, format!("{seq:016}").repeat(1_000).as_bytes()).await;
        }
        end(world.rest(), &agent, &taken, CHUNKS).await;
    };
    let (told, ()) = tokio::join!(fast.rest(), writing);
    let check = |told: &[Told]| {
        let chunks: Vec<&Told> = told.iter().filter(|told| told.name == "log").collect();
        assert_eq!(chunks.len() as u64, CHUNKS);
        for (seq, chunk) in chunks.iter().enumerate() {
            assert!(chunk.data["data"].as_str().unwrap().starts_with(&format!("{seq:016}")), "{seq}");
        }
        assert_eq!(told.last().unwrap().word(), "end succeeded");
    };
    check(&told);
    check(&slow.rest().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_stops_ends_its_streams_and_they_go_on_at_another() {
    let mut world = World::with_gateways(2).await;
    let agent = world.agent("default").await;
    let id = submitted(world.rest()).await;
    let taken = agent.take().await;
    let stopped = world.gateways.pop().unwrap();
    let mut watch = Watch::open(&stopped.rest, &id, None).await;
    let mut told = watch.take(1).await;
    let began = std::time::Instant::now();
    stopped.stop().await;
    assert!(began.elapsed() < Duration::from_secs(5), "it does not wait for the job: {:?}", began.elapsed());
    assert_eq!(watch.rest().await, []);
    assert!(watch.comments.iter().any(|comment| comment.contains("stops")), "{:?}", watch.comments);
    play(world.rest(), &agent, &taken).await;
    told.extend(all(world.rest(), &id, Some(&told[0].id)).await);
    assert_eq!(words(&told), PLAYED);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_outlives_a_restart_of_the_broker() {
    let mut world = World::start().await;
    let agent = world.agent("default").await;
    let id = submitted(world.rest()).await;
    let taken = agent.take().await;
    let mut watch = Watch::open(world.rest(), &id, None).await;
    agent.tell(&taken.id, EventKind::Started, 1).await;
    assert_eq!(words(&watch.take(2).await), ["queued pending", "started running"]);
    let before = connects(&agent);
    world.server.kill().await.unwrap();
    world.server.restart().await.unwrap();
    eventually("the agent is back", async || (connects(&agent) > before).then_some(())).await;
    agent.write(&taken.id, 0, b"after\n").await;
    end(world.rest(), &agent, &taken, 1).await;
    assert_eq!(words(&watch.rest().await), ["after\n", "end succeeded"]);
}

fn connects(agent: &Agent) -> u64 {
    agent.client.statistics().connects.load(std::sync::atomic::Ordering::Relaxed)
}
