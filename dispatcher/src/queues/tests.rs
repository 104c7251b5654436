//! On a real broker: which consumers go, which stay, and what a look costs an agent.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail by panicking")]

use async_nats::{Message, Subscriber};
use muster_broker_config::server::{Places, Server, Start, find_binary};
use muster_runtime::{nats::Connect, tasks::Group};
use muster_schemas::{subjects::js, topology::bucket_stream};
use serde_json::{Value, json};

use super::*;
use crate::{fixed::Fixed, lease::keeper::Keeper};

/// For what should take milliseconds, on a busy machine.
const SOON: Duration = Duration::from_secs(10);
/// When a consumer is spare here.
const SPARE_HERE: Duration = Duration::from_millis(300);

/// A broker without accounts, and a dispatcher that leads and does nothing but this.
struct World {
    broker: Broker,
    hint: Hint,
    group: Group,
    shutdown: Shutdown,
    _server: Server,
    _dir: tempfile::TempDir,
}

impl World {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (config, store) = (dir.path().join("server.conf"), dir.path().join("store"));
        std::fs::write(&config, format!("listen: \"127.0.0.1:-1\"\njetstream {{ store_dir: {:?} }}\n", store.display().to_string()))
            .unwrap();
        let server = Server::start(Start::new(find_binary(&Places::from_env()).await.unwrap(), config, dir.path())).await.unwrap();
        let broker = Connect::new(vec![server.url()], "test").connect().await.unwrap();
        provision::provision_fixed(broker.client()).await.unwrap();
        let (keeper, leadership) = Keeper::new(broker.clone(), Arc::new(Fixed::default()), "test".into());
        let (mut queues, hint) = Queues::new(broker.clone(), leadership);
        (queues.every, queues.spare) = (Duration::from_millis(50), SPARE_HERE);
        let (group, shutdown) = (Group::new("test"), Shutdown::new());
        group.spawn(keeper.run(shutdown.clone()));
        group.spawn(queues.run(shutdown.clone()));
        Self { broker, hint, group, shutdown, _server: server, _dir: dir }
    }

    async fn asks(&self, subject: String, body: String) -> Value {
        let answer = self.broker.client().request(subject, body.into()).await.unwrap();
        serde_json::from_slice(&answer.payload).unwrap()
    }

    /// An agent with a record, and what it is told.
    async fn agent(&self, pool: &str) -> (AgentId, Subscriber) {
        let id = AgentId::generate();
        let told = self.broker.client().subscribe(subjects::control(&id)).await.unwrap();
        let record = AgentRecord::new(id.clone(), "agent".parse().unwrap(), pool.parse().unwrap(), muster_schemas::time::Timestamp::now());
        let stored = self.broker.client().request(js::key(AGENTS, &keys::agent(&id)), wire::encode(&record).into()).await.unwrap();
        assert!(String::from_utf8_lossy(&stored.payload).contains(&bucket_stream(AGENTS)), "{stored:?}");
        (id, told)
    }

    /// Stores a command, and leaves it at that.
    async fn command(&self, pool: &str, agent: &AgentId, id: &str) {
        let subject = subjects::command(&pool.parse().unwrap(), agent, &id.parse().unwrap());
        assert!(self.asks(subject, r#"{"type":"probe.ping"}"#.into()).await.get("error").is_none());
    }

    async fn consumer(&self, agent: &AgentId) -> Value {
        self.asks(subjects::broker::ConsumerApi::Info.subject(COMMANDS, agent.as_str()), String::new()).await
    }

    async fn has_consumer(&self, agent: &AgentId) -> bool {
        self.consumer(agent).await.get("error").is_none()
    }

    /// Takes the next command of an agent, as it does.
    async fn takes(&self, agent: &AgentId) -> Message {
        let inbox = self.broker.client().new_inbox();
        let mut given = self.broker.client().subscribe(inbox.clone()).await.unwrap();
        let pull = json!({"batch": 1, "expires": 5_000_000_000_u64}).to_string();
        self.broker.client().publish_with_reply(js::next(COMMANDS, agent.as_str()), inbox, pull.into()).await.unwrap();
        let message = tokio::time::timeout(SOON, given.next()).await.unwrap().unwrap();
        assert!(message.status.is_none(), "{message:?}");
        message
    }

    async fn says(&self, message: &Message, word: &'static str) {
        self.broker.client().publish(message.reply.clone().unwrap(), word.into()).await.unwrap();
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.shutdown.trigger("the test is over");
        self.group.abort_all();
    }
}

async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let end = Instant::now() + SOON;
    while !holds().await {
        assert!(Instant::now() < end, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await; // poll
    }
}

async fn is_told(told: &mut Subscriber) {
    let order = tokio::time::timeout(SOON, told.next()).await.expect("an order in time").unwrap();
    assert_eq!(wire::decode::<Order>(&order.payload).unwrap().what, What::AskQueue);
}

/// How often the broker has given a message out.
fn delivered(message: &Message) -> String {
    message.reply.as_ref().unwrap().rsplit('.').nth(4).unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_goes_when_it_is_spare_and_stays_while_a_command_waits_runs_or_is_put_off() {
    let world = World::start().await;
    let (spare, _) = world.agent("p").await;
    provision::ensure_commands(world.broker.client(), &"p".parse().unwrap(), &spare).await.unwrap();
    let [(waits, _), (runs, _), (put_off, _)] = [world.agent("p").await, world.agent("p").await, world.agent("p").await];
    for (agent, id) in [(&waits, "waits"), (&runs, "runs"), (&put_off, "put-off")] {
        world.command("p", agent, id).await;
        eventually("it gets a consumer", async || world.has_consumer(agent).await).await;
    }
    let running = world.takes(&runs).await;
    let given = world.takes(&put_off).await;
    world.says(&given, r#"-NAK {"delay":3000000000}"#).await;
    let made = [&waits, &runs, &put_off].map(|agent| world.consumer(agent));
    let made: Vec<_> = futures_util::future::join_all(made).await.into_iter().map(|info| info["created"].clone()).collect();
    eventually("the spare one goes", async || !world.has_consumer(&spare).await).await;
    // It comes again after its delay, and its consumer knows that it is the second time.
    let again = world.takes(&put_off).await;
    assert_eq!((delivered(&given), delivered(&again)), ("1".into(), "2".into()));
    for (agent, created) in [&waits, &runs, &put_off].into_iter().zip(&made) {
        let info = world.consumer(agent).await;
        assert_eq!((&info["created"], info["paused"].as_bool().unwrap_or(false)), (created, false), "the same one");
    }
    for message in [&running, &again, &world.takes(&waits).await] {
        world.says(message, "+ACK").await;
    }
    for agent in [&waits, &runs, &put_off] {
        eventually("it goes once they have ended", async || !world.has_consumer(agent).await).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_gave_something_out_between_two_looks_is_not_spare() {
    let world = World::start().await;
    let (agent, _) = world.agent("p").await;
    world.command("p", &agent, "first").await;
    world.hint.look();
    eventually("it gets a consumer", async || world.has_consumer(&agent).await).await;
    let made = world.consumer(&agent).await["created"].clone();
    let begun = Instant::now();
    let mut count = 0;
    world.says(&world.takes(&agent).await, "+ACK").await;
    while begun.elapsed() < 3 * SPARE_HERE {
        world.command("p", &agent, &format!("n-{count}")).await;
        world.says(&world.takes(&agent).await, "+ACK").await;
        count += 1;
        assert_eq!(world.consumer(&agent).await["created"], made, "after {count} in {:?}", begun.elapsed());
    }
    eventually("it goes", async || !world.has_consumer(&agent).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_given_what_was_sent_in_another_pool_or_to_an_agent_that_is_removed() {
    let world = World::start().await;
    let [(moved, mut moved_told), (stranger, _), (there, mut told)] =
        [world.agent("q").await, (AgentId::generate(), world.broker.client().subscribe("none").await.unwrap()), world.agent("p").await];
    world.command("p", &moved, "left-behind").await;
    world.command("p", &stranger, "for-nobody").await;
    world.command("p", &there, "here").await;
    is_told(&mut told).await;
    assert!(!world.has_consumer(&moved).await && !world.has_consumer(&stranger).await);
    world.command("q", &moved, "new").await;
    is_told(&mut moved_told).await;
    assert_eq!(world.consumer(&moved).await["config"]["filter_subject"], subjects::commands_to(&"q".parse().unwrap(), &moved));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_consumer_that_can_not_be_made_keeps_no_other_agent_waiting_and_is_tried_again() {
    let world = World::start().await;
    let [(blocked, mut blocked_told), (other, mut told)] = [world.agent("p").await, world.agent("p").await];
    // Somebody else takes its commands, and the broker gives each to one consumer only.
    let own = muster_schemas::topology::command_consumer(&"p".parse().unwrap(), &blocked);
    let thief = muster_schemas::topology::Consumer { durable_name: "thief".into(), ..own };
    provision::ensure_consumer(world.broker.client(), COMMANDS, &thief).await.unwrap();
    world.command("p", &blocked, "a").await;
    world.command("p", &other, "b").await;
    is_told(&mut told).await;
    assert!(!world.has_consumer(&blocked).await);
    world.asks(subjects::broker::ConsumerApi::Delete.subject(COMMANDS, "thief"), String::new()).await;
    is_told(&mut blocked_told).await;
    assert_eq!(delivered(&world.takes(&blocked).await), "1");
}
