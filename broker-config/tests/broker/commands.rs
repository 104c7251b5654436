//! The queue of the commands to one agent: nobody's but that agent's, made when it is needed, and removed when it is not.

use std::time::Duration;

use async_nats::{Message, Subscriber};
use futures_util::StreamExt;
use muster_broker_config::provision::{self, Retired};
use muster_schemas::{
    headers,
    names::AgentId,
    records::keys,
    subjects::{
        self, About,
        broker::{self, ConsumerApi, StreamApi},
        js,
    },
    topology::{self, COMMANDS, LEASES},
};
use serde_json::{Value, json};

use crate::support::{Agent, Peer, SOON, World, eventually, next, next_job, pool};

async fn consumer(gateway: &Peer, agent: &AgentId) -> Value {
    gateway.api(ConsumerApi::Info.subject(COMMANDS, agent.as_str()), json!({})).await
}

/// Sends a command to an agent of the pool `p`.
async fn send(gateway: &Peer, agent: &AgentId, id: &str) {
    let answer = gateway.store(&subjects::command(&pool("p"), agent, &id.parse().unwrap()), id).await;
    assert_eq!(answer["stream"], COMMANDS, "{answer}");
}

/// An agent of a pool, with the consumer of its commands.
async fn enlisted(world: &World, gateway: &Peer, pool: &str) -> Agent {
    let agent = world.agent(pool).await;
    provision::ensure_commands(&gateway.client, &agent.pool, &agent.id).await.unwrap();
    agent
}

/// Asks for one command, to be sent to the returned inbox.
async fn pull(agent: &Agent) -> Subscriber {
    ask(agent, json!({"batch": 1, "expires": 5_000_000_000_u64})).await
}

async fn ask(agent: &Agent, body: Value) -> Subscriber {
    let inbox = agent.inbox("commands");
    let messages = agent.peer.subscribe(&inbox).await;
    let body = body.to_string();
    agent.peer.client.publish_with_reply(js::next(COMMANDS, agent.id.as_str()), inbox, body.into()).await.unwrap();
    messages
}

async fn taken(agent: &Agent) -> Message {
    next_job(&mut pull(agent).await, SOON).await.unwrap()
}

#[tokio::test]
async fn the_queue_of_an_agents_commands_can_be_made_again_and_at_once_and_removed() {
    let (world, gateway) = World::provisioned().await;
    let agent = world.agent("p").await;
    // What was sent before it was made waits for it.
    send(&gateway, &agent.id, "early").await;
    let make = || provision::ensure_commands(&gateway.client, &agent.pool, &agent.id);
    let (one, two, three) = tokio::join!(make(), make(), make());
    one.and(two).and(three).unwrap();
    let made = consumer(&gateway, &agent.id).await;
    assert_eq!((&made["config"]["filter_subject"], &made["num_pending"]), (&json!(format!("commands.p.{}.*", agent.id)), &json!(1)));
    assert_eq!(made["config"].get("priority_groups"), None);
    make().await.unwrap();
    assert_eq!(consumer(&gateway, &agent.id).await["created"], made["created"], "it is the same one");
    // One of another release.
    let mut old = serde_json::to_value(topology::command_consumer(&agent.pool, &agent.id)).unwrap();
    old["max_ack_pending"] = json!(3);
    let body = json!({"stream_name": COMMANDS, "config": old, "action": ""});
    gateway.api(broker::consumer_create(COMMANDS, agent.id.as_str(), old["filter_subject"].as_str().unwrap()), body).await;
    assert_eq!(consumer(&gateway, &agent.id).await["config"]["max_ack_pending"], 3);
    make().await.unwrap();
    assert_eq!(consumer(&gateway, &agent.id).await["config"], made["config"]);

    for _ in 0..2 {
        provision::remove_commands(&gateway.client, &agent.id).await.unwrap();
    }
    assert_eq!(consumer(&gateway, &agent.id).await["error"]["err_code"], 10014);
    assert_eq!(gateway.messages(COMMANDS).await, 1, "the command is somebody's to cancel");
    assert!(!gateway.refused_more_than_round_trips(), "{:?}", gateway.refusals);
}

#[tokio::test]
async fn a_command_reaches_its_agent_which_acks_it_and_shows_in_the_events_of_its_job() {
    let (world, gateway) = World::provisioned().await;
    let agent = enlisted(&world, &gateway, "p").await;
    let mut events = gateway.subscribe(&About::Event.pool(&pool("p"))).await;
    send(&gateway, &agent.id, "j").await;
    let event = next(&mut events).await;
    assert_eq!((event.subject.as_str(), &event.payload[..]), ("events.p.j", &b"j"[..]));
    let command = taken(&agent).await;
    assert_eq!(command.subject.as_str(), subjects::command(&pool("p"), &agent.id, &"j".parse().unwrap()));
    agent.peer.client.publish(command.reply.unwrap(), "+ACK".into()).await.unwrap();
    eventually("it is gone", async || gateway.messages(COMMANDS).await == 0).await;
    assert!(!agent.peer.refused_more_than_round_trips(), "{:?}", agent.peer.refusals);
    // From the dispatcher too, and never from a service.
    send(&world.dispatcher().await, &agent.id, "k").await;
    let service = world.service(&["p"]).await;
    service.cannot_publish(&subjects::command(&pool("p"), &agent.id, &"l".parse().unwrap())).await;
    assert_eq!(gateway.messages(COMMANDS).await, 1);
}

#[tokio::test]
async fn more_agents_have_commands_than_the_broker_gives_a_stream_consumers_by_itself() {
    let (world, gateway) = World::provisioned().await;
    let making = (0..1000).map(|_| async {
        let consumer = topology::command_consumer(&pool("p"), &AgentId::generate());
        let mut config = serde_json::to_value(&consumer).unwrap();
        // Ones that cost no disk flush.
        config["mem_storage"] = json!(true);
        let subject = broker::consumer_create(COMMANDS, &consumer.durable_name, &consumer.filter_subject);
        let made = gateway.api(subject, json!({"stream_name": COMMANDS, "config": config, "action": "create"})).await;
        assert!(made.get("error").is_none(), "{made}");
    });
    futures_util::stream::iter(making).buffer_unordered(32).collect::<Vec<()>>().await;
    let agent = enlisted(&world, &gateway, "p").await;
    send(&gateway, &agent.id, "j").await;
    assert_eq!(&taken(&agent).await.payload[..], b"j");
}

#[tokio::test]
async fn another_agent_can_neither_take_nor_end_a_command() {
    let (world, gateway) = World::provisioned().await;
    let agent = enlisted(&world, &gateway, "p").await;
    for other in ["p", "q"] {
        let other = enlisted(&world, &gateway, other).await;
        let id = format!("for-{}", agent.id);
        send(&gateway, &agent.id, &id).await;
        other.peer.cannot_publish(&js::next(COMMANDS, agent.id.as_str())).await;
        // At once, so that no pull is left which could be given what comes later.
        let answer = next(&mut ask(&other, json!({"batch": 1, "no_wait": true})).await).await;
        assert_eq!(answer.status.map(|status| status.as_u16()), Some(404), "its own queue is empty");
        let command = taken(&agent).await;
        let reply = command.reply.unwrap();
        let fields = reply.strip_prefix(&format!("$JS.ACK.{COMMANDS}.{}.", agent.id)).expect("the short form").to_owned();
        other.peer.cannot_publish(&reply).await;
        other.peer.cannot_publish(&format!("$JS.ACK._.ACCOUNT.{COMMANDS}.{}.{fields}.x", agent.id)).await;
        other.peer.cannot_publish(&format!("$JS.ACK.{COMMANDS}.{}.{}.1.1.1.0", agent.id, other.id)).await;
        // What it may say: that it has ended, in its own queue, a message which is not there.
        for word in ["+ACK", "+TERM", "-NAK"] {
            for subject in
                [format!("$JS.ACK.{COMMANDS}.{}.{fields}", other.id), format!("$JS.ACK._.ACCOUNT.{COMMANDS}.{}.{fields}.x", other.id)]
            {
                other.peer.client.publish(subject, word.into()).await.unwrap();
            }
        }
        other.peer.round_trip().await;
        // Its consumer takes one word after the other: when this one has been ended, it has dealt with all of those.
        let subject = subjects::command(&other.pool, &other.id, &"behind".parse().unwrap());
        gateway.store(&subject, "").await;
        other.peer.client.publish(taken(&other).await.reply.unwrap(), "+ACK".into()).await.unwrap();
        eventually("that one is gone", async || consumer(&gateway, &other.id).await["num_ack_pending"] == 0).await;
        assert_eq!(gateway.messages(COMMANDS).await, 1, "the command is still there");
        assert_eq!(consumer(&gateway, &agent.id).await["num_ack_pending"], 1);
        agent.peer.client.publish(reply, "+ACK".into()).await.unwrap();
        eventually("its own agent can", async || consumer(&gateway, &agent.id).await["num_ack_pending"] == 0).await;
    }
}

#[tokio::test]
async fn the_stream_of_commands_of_an_older_deployment_is_brought_up_to_date() {
    let world = World::start().await;
    let gateway = world.gateway().await;
    let old = json!({
        "name": COMMANDS, "subjects": ["commands.*.*"], "retention": "workqueue", "storage": "file", "discard": "new",
        "discard_new_per_subject": true, "max_msgs": -1, "max_msgs_per_subject": 1, "max_bytes": -1, "max_msg_size": 266_240, "max_age": 0,
        "duplicate_window": 120_000_000_000_i64, "num_replicas": 1, "allow_direct": true,
    });
    let made = gateway.api(StreamApi::Create.subject(COMMANDS), old).await;
    assert!(made.get("error").is_none(), "{made}");
    provision::provision_fixed(&gateway.client).await.unwrap();
    let now = gateway.api(StreamApi::Info.subject(COMMANDS), json!({})).await;
    assert_eq!(now["created"], made["created"], "it was not made anew");
    let config = &now["config"];
    assert_eq!((&config["subjects"], &config["max_msgs"]), (&json!(["commands.*.*.*"]), &json!(topology::COMMANDS_MAX)));
    assert_eq!(config["max_consumers"], topology::COMMANDS_CONSUMERS_MAX);
    assert_eq!(config["republish"]["dest"], "events.{{wildcard(1)}}.{{wildcard(3)}}");
    let agent = enlisted(&world, &gateway, "p").await;
    send(&gateway, &agent.id, "j").await;
    assert_eq!(&taken(&agent).await.payload[..], b"j");
    eventually("the event is stored", async || gateway.messages("EVENTS").await == 1).await;
}

/// How often the broker has given a command out.
fn delivered(command: &Message) -> String {
    command.reply.as_ref().unwrap().rsplit('.').nth(4).unwrap().to_owned()
}

#[tokio::test]
async fn a_consumer_is_retired_once_it_has_nothing_to_give_and_not_while_a_command_is_out_or_put_off() {
    let (world, gateway) = World::provisioned().await;
    let dispatcher = world.dispatcher().await;
    let agent = enlisted(&world, &gateway, "p").await;
    let retire = async |idle: Duration| provision::retire_commands(&dispatcher.client, &agent.id, idle, || true).await.unwrap();
    assert_eq!(retire(Duration::from_secs(3600)).await, Retired::Kept, "it was just made");
    send(&gateway, &agent.id, "j").await;
    assert_eq!(retire(Duration::ZERO).await, Retired::Kept, "a command waits");
    let first = taken(&agent).await;
    assert_eq!(retire(Duration::ZERO).await, Retired::Kept, "the agent has it");
    agent.peer.client.publish(first.reply.clone().unwrap(), r#"-NAK {"delay":1000000000}"#.into()).await.unwrap();
    agent.peer.round_trip().await;
    assert_eq!(retire(Duration::ZERO).await, Retired::Kept, "it is put off");
    let again = taken(&agent).await;
    assert_eq!((delivered(&first), delivered(&again)), ("1".into(), "2".into()), "nothing of it is forgotten");
    agent.peer.client.publish(again.reply.unwrap(), "+ACK".into()).await.unwrap();
    eventually("it is gone", async || gateway.messages(COMMANDS).await == 0).await;
    assert_eq!(retire(Duration::from_secs(3600)).await, Retired::Kept, "it gave something out just now");
    let refused = provision::retire_commands(&dispatcher.client, &agent.id, Duration::ZERO, || false).await.unwrap();
    assert_eq!(refused, Retired::Kept, "another dispatcher leads by now");
    // It goes on: a pull that waits is served.
    let mut waits = pull(&agent).await;
    send(&gateway, &agent.id, "k").await;
    let command = next_job(&mut waits, SOON).await.unwrap();
    agent.peer.client.publish(command.reply.unwrap(), "+ACK".into()).await.unwrap();
    eventually("it is gone", async || gateway.messages(COMMANDS).await == 0).await;
    let mut waits = pull(&agent).await;
    for _ in 0..2 {
        assert_eq!(retire(Duration::ZERO).await, Retired::Gone);
    }
    assert_eq!(next(&mut waits).await.description.as_deref(), Some("Consumer Deleted"));
    assert!(!dispatcher.refused_more_than_round_trips(), "{:?}", dispatcher.refusals);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_that_is_sent_while_its_consumer_is_retired_is_given_out_and_once() {
    let (world, gateway) = World::provisioned().await;
    let dispatcher = world.dispatcher().await;
    let agent = enlisted(&world, &gateway, "p").await;
    for round in 0..200_u32 {
        // Half of the time the agent asks, so that the consumer could give the command out at once.
        let mut asked = if round % 2 == 0 { Some(pull(&agent).await) } else { None };
        let publish = async || {
            send(&gateway, &agent.id, &format!("j{round}")).await;
            provision::ensure_commands(&gateway.client, &agent.pool, &agent.id).await.unwrap();
        };
        // At times just before the consumer goes, when it is too late to keep it and its sender still finds it; else somewhere in the
        // removal, which takes some round trips and two flushes.
        let late = round % 8 < 2;
        let sooner = async {
            for _ in 0..round % 13 {
                gateway.round_trip().await;
            }
            if !late {
                publish().await;
            }
        };
        let may = || {
            if late {
                tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(publish()));
            }
            true
        };
        let retire = async {
            let retired = provision::retire_commands(&dispatcher.client, &agent.id, Duration::ZERO, may).await.unwrap();
            if let Retired::Overtaken(pool) = &retired {
                provision::ensure_commands(&dispatcher.client, pool, &agent.id).await.unwrap();
            }
            retired
        };
        let ((), retired) = tokio::join!(sooner, retire);
        assert!(!late || retired == Retired::Overtaken(pool("p")), "round {round}: {retired:?}");
        // It has its files, which an update needs.
        let own = topology::command_consumer(&agent.pool, &agent.id);
        for consumer in [topology::Consumer { max_ack_pending: 7, ..own.clone() }, own] {
            provision::ensure_consumer(&gateway.client, COMMANDS, &consumer).await.unwrap();
        }
        let given = match &mut asked {
            Some(asked) => Some(next(asked).await).filter(|message| message.status.is_none()),
            None => None,
        };
        let command = match given {
            Some(command) => command,
            None => taken(&agent).await,
        };
        assert_eq!((&command.payload[..], delivered(&command)), (format!("j{round}").as_bytes(), "1".into()));
        let given_out = consumer(&gateway, &agent.id).await["num_ack_pending"].clone();
        assert_eq!(given_out, 1, "round {round}: the consumer that gave it out is the one there is, {retired:?}");
        agent.peer.client.publish(command.reply.unwrap(), "+ACK".into()).await.unwrap();
        eventually("it is gone", async || gateway.messages(COMMANDS).await == 0).await;
    }
}

/// Whether the consumer of an agent is marked as one that is being removed.
async fn is_marked(peer: &Peer, agent: &AgentId) -> bool {
    let subject = js::direct_get(&topology::bucket_stream(LEASES), &js::key(LEASES, &keys::retiring(agent)));
    let message = peer.client.request(subject, "".into()).await.unwrap();
    message.status.is_none() && message.headers.is_none_or(|headers| headers.get(headers::KV_OPERATION).is_none())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removal_that_finds_the_consumer_gone_half_way_leaves_no_mark_that_others_wait_for() {
    let (world, gateway) = World::provisioned().await;
    let dispatcher = world.dispatcher().await;
    let agent = world.agent("p").await;
    for round in 0..60 {
        provision::ensure_commands(&gateway.client, &agent.pool, &agent.id).await.unwrap();
        let removed = async {
            for _ in 0..round % 6 {
                gateway.round_trip().await;
            }
            provision::remove_commands(&gateway.client, &agent.id).await.unwrap();
        };
        let retired = provision::retire_commands(&dispatcher.client, &agent.id, Duration::ZERO, || true);
        // At any moment of it: what it finds then may also be an error, of a pause that ends for nothing.
        if let ((), Ok(_)) = tokio::join!(removed, retired) {
            assert!(!is_marked(&dispatcher, &agent.id).await, "round {round}");
        }
    }
}

#[tokio::test]
async fn an_agent_that_moved_leaves_its_consumer_behind_and_what_was_sent_in_its_old_pool() {
    let (world, gateway) = World::provisioned().await;
    let dispatcher = world.dispatcher().await;
    let agent = enlisted(&world, &gateway, "p").await;
    let leave = async |to: &str, may: bool| provision::leave_behind(&dispatcher.client, &pool(to), &agent.id, || may).await;
    send(&gateway, &agent.id, "left").await;
    assert_eq!(&taken(&agent).await.payload[..], b"left");
    assert!(!leave("p", true).await.unwrap(), "it is there where it was");
    assert!(leave("q", false).await.unwrap_err().is_transient(), "another dispatcher leads by now");
    dispatcher.store(&js::key(LEASES, &keys::retiring(&agent.id)), "").await;
    assert!(leave("q", true).await.unwrap_err().is_transient(), "it is just being removed by somebody else");
    assert_eq!(provision::retire_commands(&dispatcher.client, &agent.id, Duration::ZERO, || true).await.unwrap(), Retired::Kept);
    assert_eq!(consumer(&gateway, &agent.id).await["num_ack_pending"], 1);
    eventually("that ends by itself", async || !is_marked(&dispatcher, &agent.id).await).await;
    assert!(leave("q", true).await.unwrap());
    assert!(consumer(&gateway, &agent.id).await.get("error").is_some() && !is_marked(&dispatcher, &agent.id).await);
    assert!(!leave("q", true).await.unwrap(), "there is none");
    assert_eq!(gateway.messages(COMMANDS).await, 1, "the command is left to its expiry");
    provision::ensure_commands(&gateway.client, &pool("q"), &agent.id).await.unwrap();
    let answer = next(&mut ask(&agent, json!({"batch": 1, "no_wait": true})).await).await;
    assert_eq!(answer.status.map(|status| status.as_u16()), Some(404), "not given out again");
    assert!(!dispatcher.refused_more_than_round_trips(), "{:?}", dispatcher.refusals);
}

#[tokio::test]
async fn a_command_that_is_sent_in_the_new_pool_while_the_agent_leaves_is_given_out() {
    let (world, gateway) = World::provisioned().await;
    let dispatcher = world.dispatcher().await;
    let (agent, to) = (world.agent("p").await, pool("q"));
    for round in 0..40_u32 {
        provision::remove_commands(&gateway.client, &agent.id).await.unwrap();
        provision::ensure_commands(&gateway.client, &agent.pool, &agent.id).await.unwrap();
        let made = consumer(&gateway, &agent.id).await["created"].clone();
        let id = format!("j{round}");
        let store = async || gateway.store(&subjects::command(&to, &agent.id, &id.parse().unwrap()), &id).await;
        // Its sender may be about to change the consumer.
        let early = round % 2 == 0;
        if early {
            store().await;
        }
        let sent = async {
            for _ in 0..round % 8 {
                gateway.round_trip().await;
            }
            if !early {
                store().await;
            }
            provision::ensure_commands(&gateway.client, &to, &agent.id).await.unwrap();
        };
        let left = provision::leave_behind(&dispatcher.client, &to, &agent.id, || true);
        let ((), left) = tokio::join!(sent, left);
        left.unwrap();
        assert!(!early || consumer(&gateway, &agent.id).await["created"] == made, "round {round}: changed, not removed");
        let command = taken(&agent).await;
        assert_eq!(command.payload, id, "round {round}");
        agent.peer.client.publish(command.reply.unwrap(), "+ACK".into()).await.unwrap();
        eventually("it is gone", async || gateway.messages(COMMANDS).await == 0).await;
    }
}
