//! The table of permissions, tried on a real broker.

use std::{collections::BTreeMap, time::Duration};

use muster_broker_config::{
    accounts,
    creds::{AGENT_JWT_LIFETIME, Creds},
    init::init,
    jwt::{self, Claims},
    layout::Account,
};
use muster_schemas::{
    names::AgentId,
    subjects::{self, About, broker, js},
    time::Timestamp,
};
use serde_json::{Value, json};

use crate::support::{Peer, SOON, World, eventually, next, options, pool};

/// Tries every subject; the server answers in order, so that once the last refusal is here, all are.
async fn matrix(peer: &Peer, publish: &[&str], no_publish: &[&str], subscribe: &[&str], no_subscribe: &[&str]) {
    let mut kept = Vec::new();
    for subject in publish.iter().chain(no_publish) {
        peer.publish(subject).await;
    }
    for subject in subscribe.iter().chain(no_subscribe) {
        kept.push(peer.client.subscribe((*subject).to_owned()).await.unwrap());
    }
    peer.round_trip().await;
    for subject in publish {
        assert!(!peer.refused("publish", subject), "should publish {subject}");
    }
    for subject in no_publish {
        assert!(peer.refused("publish", subject), "must not publish {subject}");
    }
    for subject in subscribe {
        assert!(!peer.refused("subscription", subject), "should subscribe {subject}");
    }
    for subject in no_subscribe {
        assert!(peer.refused("subscription", subject), "must not subscribe {subject}");
    }
}

fn refs(subjects: &[String]) -> Vec<&str> {
    subjects.iter().map(String::as_str).collect()
}

#[tokio::test]
async fn an_agent_may_use_its_own_subjects_and_no_others() {
    let (world, _gateway) = World::provisioned().await;
    let (agent, other) = (world.agent("p").await, AgentId::generate());
    let id = &agent.id;
    let publish = [
        "results.p.j1".to_owned(),
        "events.p.j1".into(),
        "logs.p.j1".into(),
        "dead.p.j1".into(),
        subjects::heartbeat(&pool("p"), id),
        subjects::renew(id),
        js::next("JOBS_p", "normal_shell"),
        js::next("COMMANDS", id.as_str()),
        js::direct_get("RESULTS", "results.p.j1"),
        js::direct_get("EVENTS", "events.p.j1"),
        js::direct_get("KV_standings", &js::key("standings", &format!("p.{id}"))),
        js::direct_get("KV_leases", &js::key("leases", "dispatcher")),
        agent.inbox("barrier"),
        "$JS.ACK.JOBS_p.normal_shell.1.1.1.1.0".into(),
        "$JS.ACK._.ACCOUNT.JOBS_p.normal_shell.1.1.1.1.0".into(),
        format!("$JS.ACK.COMMANDS.{id}.1.1.1.1.0"),
        format!("$JS.ACK._.ACCOUNT.COMMANDS.{id}.1.1.1.1.0"),
    ];
    let no_publish = [
        "results.q.j1".to_owned(),
        "events.q.j1".into(),
        "logs.q.j1".into(),
        "dead.q.j1".into(),
        "done.p.j1".into(),
        "jobs.p.normal.shell.x".into(),
        "jobs.q.normal.shell.x".into(),
        format!("commands.p.{id}.x"),
        format!("commands.p.{other}.x"),
        format!("$JS.ACK.COMMANDS.{other}.1.1.1.1.0"),
        format!("$JS.ACK._.ACCOUNT.COMMANDS.{other}.1.1.1.1.0"),
        format!("$JS.ACK.COMMANDS.{other}.{id}.1.1.1.0"),
        format!("$JS.API.CONSUMER.CREATE.COMMANDS.{id}"),
        format!("$JS.API.CONSUMER.CREATE.COMMANDS.{id}.commands.p.{other}.*"),
        format!("$JS.API.CONSUMER.INFO.COMMANDS.{id}"),
        format!("$JS.API.CONSUMER.DELETE.COMMANDS.{id}"),
        format!("$JS.API.CONSUMER.PAUSE.COMMANDS.{id}"),
        "$JS.API.CONSUMER.NAMES.COMMANDS".into(),
        "$JS.API.STREAM.PURGE.COMMANDS".into(),
        "schedules.x".into(),
        "due.x".into(),
        "audit.x".into(),
        subjects::heartbeat(&pool("p"), &other),
        subjects::heartbeat(&pool("q"), id),
        subjects::renew(&other),
        subjects::control(id),
        subjects::control(&other),
        subjects::rpc(&other, "ping"),
        "query.result.p.j1".into(),
        js::key("standings", &format!("p.{id}")),
        js::key("agents", &format!("id.{id}")),
        js::next("JOBS_q", "normal_shell"),
        js::next("COMMANDS", other.as_str()),
        js::next("RESULTS", "x"),
        js::direct_get("RESULTS", "results.q.j1"),
        js::direct_get_by_request("RESULTS"),
        js::direct_get("KV_standings", &js::key("standings", &format!("p.{other}"))),
        js::direct_get("KV_api_keys", &js::key("api_keys", "x")),
        js::direct_get("KV_leases", &js::key("leases", "other")),
        js::key("leases", "dispatcher"),
        "$JS.ACK.JOBS_q.normal_shell.1.1.1.1.0".into(),
        // Forged: the short form of another pool's, with this pool's name where the long form has the stream.
        "$JS.ACK.JOBS_q.normal_shell.JOBS_p.1.1.1.0".into(),
        "$JS.API.STREAM.DELETE.JOBS_p".into(),
        "$JS.API.STREAM.INFO.JOBS_p".into(),
        "$JS.API.STREAM.NAMES".into(),
        "$JS.API.STREAM.MSG.GET.RESULTS".into(),
        "$JS.API.STREAM.PURGE.JOBS_p".into(),
        "$JS.API.CONSUMER.CREATE.JOBS_p.x".into(),
        "$JS.API.INFO".into(),
        "$SYS.REQ.CLAIMS.UPDATE".into(),
        "_INBOX.x".into(),
        format!("{}.x", subjects::agent_inbox(&other)),
        "_GW.g1.x".into(),
    ];
    let subscribe = [
        agent.inbox("x"),
        format!("{}.>", subjects::agent_inbox(id)),
        subjects::control(id),
        subjects::rpc_of(id),
        js::key("standings", &format!("p.{id}")),
    ];
    let no_subscribe = [
        ">".to_owned(),
        "*".into(),
        "_INBOX.>".into(),
        "_INBOX.*.>".into(),
        "_R_.>".into(),
        format!("{}.>", subjects::agent_inbox(&other)),
        "$KV.standings.>".into(),
        js::key("standings", &format!("p.{other}")),
        "control.*".into(),
        subjects::control(&other),
        subjects::rpc_of(&other),
        "results.p.*".into(),
        "done.p.*".into(),
        "jobs.p.>".into(),
        "commands.p.>".into(),
        format!("commands.p.{id}.*"),
        "heartbeats.*.*".into(),
        "$SYS.>".into(),
        "$JS.EVENT.>".into(),
    ];
    matrix(&agent.peer, &refs(&publish), &refs(&no_publish), &refs(&subscribe), &refs(&no_subscribe)).await;
}

#[tokio::test]
async fn a_service_may_submit_to_its_pools_and_use_no_jetstream() {
    let (world, _gateway) = World::provisioned().await;
    let service = world.service(&["p"]).await;
    matrix(
        &service,
        &["jobs.p.normal.shell.a", "query.result.p.a", "query.cancel.p.a"],
        &[
            "jobs.q.normal.shell.a",
            "commands.p.agt.a",
            "results.p.a",
            "events.p.a",
            "query.result.q.a",
            "history.jobs",
            "control.x",
            "rpc.x.ping",
            "$KV.pools.p",
            "$JS.API.INFO",
            "$JS.API.STREAM.INFO.JOBS_p",
            "$JS.API.STREAM.MSG.GET.RESULTS",
            "$JS.API.DIRECT.GET.RESULTS.results.p.a",
            "$JS.API.CONSUMER.MSG.NEXT.JOBS_p.normal_shell",
            "$JS.ACK.JOBS_p.normal_shell.1.1.1.1.0",
            "_INBOX.x",
            "identity.renew.x",
            "$SYS.REQ.SERVER.PING",
        ],
        &["_INBOX.x.>", "done.p.*", "done.p.a", "events.p.*", "logs.p.*"],
        &["done.*.*", "done.q.*", "results.p.*", "jobs.p.>", "_GW.>", "_DISP.>", "_R_.>", ">", "$KV.>", "heartbeats.*.*"],
    )
    .await;
    let none = world.service(&[]).await;
    matrix(&none, &[], &["jobs.p.normal.shell.a", "query.result.p.a", "jobs.x"], &["_INBOX.x"], &["done.p.*", ">"]).await;
}

#[tokio::test]
async fn a_gateway_may_not_empty_or_remove_what_every_pool_shares() {
    let (world, gateway) = World::provisioned().await;
    matrix(
        &gateway,
        &[
            "results.p.c",
            "events.p.c",
            "control.x",
            "rpc.x.ping",
            "history.jobs",
            "_INBOX.a.b",
            "commands.p.agt.a",
            "$JS.API.STREAM.PURGE.COMMANDS",
            "$JS.API.CONSUMER.CREATE.COMMANDS.agt.commands.p.agt.*",
            "$JS.API.CONSUMER.DELETE.COMMANDS.agt",
            "$KV.groups.group.g",
            "$KV.agents.id.x",
            "$KV.join_tokens.x",
            "$KV.schedules.definition.s",
            "$JS.API.STREAM.PURGE.JOBS_p",
            "$JS.API.STREAM.MSG.DELETE.JOBS_p",
            "$JS.API.STREAM.MSG.DELETE.COMMANDS",
            "$JS.API.STREAM.MSG.DELETE.DEAD",
            "$JS.API.CONSUMER.CREATE.KV_agents",
            "$JS.FC.x.y",
        ],
        &[
            "$JS.API.STREAM.DELETE.RESULTS",
            "$JS.API.STREAM.PURGE.RESULTS",
            "$JS.API.STREAM.MSG.DELETE.RESULTS",
            "$JS.API.STREAM.DELETE.KV_agents",
            "$JS.API.STREAM.PURGE.EVENTS",
            "$JS.API.STREAM.DELETE.COMMANDS",
            "$JS.API.STREAM.PURGE.SCHEDULES",
            "schedules.s",
            "due.s",
            "$JS.API.CONSUMER.MSG.NEXT.JOBS_p.normal_shell",
            "$JS.ACK.JOBS_p.normal_shell.1.1.1.1.0",
            "$JS.API.CONSUMER.MSG.NEXT.COMMANDS.agt",
            "$JS.API.CONSUMER.NAMES.COMMANDS",
            "$JS.ACK.COMMANDS.agt.1.1.1.1.0",
            "$KV.standings.p.x",
            "$KV.leases.dispatcher",
            "heartbeats.p.x",
            "logs.p.x",
            "$SYS.REQ.CLAIMS.UPDATE",
        ],
        &["_GW.>", "identity.renew.*", "query.result.*.*", "query.cancel.*.*", "done.*.*", "events.*.*", "logs.*.*"],
        &["_INBOX.>", "_DISP.>", ">", "$SYS.>"],
    )
    .await;
    let dispatcher = world.dispatcher().await;
    matrix(
        &dispatcher,
        &[
            "results.p.c",
            "events.p.c",
            "dead.p.c",
            "$KV.standings.p.x",
            "$KV.leases.dispatcher",
            "$KV.pools.p",
            "_GW.x.y",
            // A schedule's timer and firings, the jobs made of these, and the order to stop one that is replaced.
            "schedules.s",
            "$JS.API.STREAM.PURGE.SCHEDULES",
            "$JS.API.CONSUMER.MSG.NEXT.SCHEDULES.due",
            "$JS.ACK.SCHEDULES.due.1.1.1.1.0",
            "$KV.schedules.state.s",
            "jobs.p.normal.shell.a",
            "control.x",
            // The commands of groups, and those that are cancelled.
            "commands.p.agt.a",
            "$JS.API.STREAM.PURGE.COMMANDS",
            "$KV.groups.state.g",
            // The consumers of single agents, made where one is missing, and removed where none is needed.
            "$JS.API.CONSUMER.NAMES.COMMANDS",
            "$JS.API.CONSUMER.CREATE.COMMANDS.agt.commands.p.agt.*",
            "$JS.API.CONSUMER.PAUSE.COMMANDS.agt",
            "$JS.API.CONSUMER.DELETE.COMMANDS.agt",
            // What is left of an agent that is removed.
            "$KV.agents.id.x",
            "$KV.api_keys.x",
            "audit.agents.remove",
        ],
        &[
            "due.s",
            "$KV.trust.signers",
            "$KV.key_uses.x",
            "_INBOX.a",
            "$JS.API.STREAM.DELETE.JOBS_p",
            "$JS.API.STREAM.DELETE.SCHEDULES",
            "$JS.API.STREAM.DELETE.COMMANDS",
            "$JS.API.STREAM.PURGE.RESULTS",
            "$JS.API.CONSUMER.MSG.NEXT.COMMANDS.agt",
            "$JS.ACK.COMMANDS.agt.1.1.1.1.0",
        ],
        &["_DISP.>", "heartbeats.*.*", "done.*.*", "events.*.*", "history.*", "$KV.schedules.definition.*", "$KV.groups.>"],
        &["_INBOX.>", "_GW.>", ">", "identity.renew.*"],
    )
    .await;
}

#[tokio::test]
async fn gateway_and_dispatcher_can_watch_buckets_and_read_streams_in_order() {
    let (world, gateway) = World::provisioned().await;
    let dispatcher = world.dispatcher().await;
    gateway.store("results.p.j", "r").await;
    for peer in [&gateway, &dispatcher] {
        use futures_util::StreamExt;
        let js = async_nats::jetstream::new(peer.client.clone());
        let store = js.get_key_value("pools").await.unwrap();
        let mut keys: Vec<_> = store.keys().await.unwrap().map(Result::unwrap).collect().await;
        keys.sort();
        assert_eq!(keys, ["p", "q"]);
        let mut watch = store.watch_with_history(">").await.unwrap();
        assert!(tokio::time::timeout(SOON, watch.next()).await.unwrap().unwrap().is_ok());
        let results = js.get_stream("RESULTS").await.unwrap();
        let push = async_nats::jetstream::consumer::push::OrderedConfig { deliver_subject: peer.client.new_inbox(), ..Default::default() };
        let mut read = results.create_consumer(push).await.unwrap().messages().await.unwrap();
        assert_eq!(&tokio::time::timeout(SOON, read.next()).await.unwrap().unwrap().unwrap().payload[..], b"r");
        let pull = async_nats::jetstream::consumer::pull::OrderedConfig::default();
        let mut read = results.create_consumer(pull).await.unwrap().messages().await.unwrap();
        assert_eq!(&tokio::time::timeout(SOON, read.next()).await.unwrap().unwrap().unwrap().payload[..], b"r");
        assert!(!peer.refused_more_than_round_trips(), "{:?}", peer.refusals);
    }
}

#[tokio::test]
async fn standings_orders_and_requests_reach_the_agent_and_its_answers_come_back() {
    let (world, gateway) = World::provisioned().await;
    let (agent, dispatcher) = (world.agent("p").await, world.dispatcher().await);
    let key = js::key("standings", &format!("p.{}", agent.id));
    let mut standing = agent.peer.subscribe(&key).await;
    let mut control = agent.peer.subscribe(&subjects::control(&agent.id)).await;
    let mut rpc = agent.peer.subscribe(&subjects::rpc_of(&agent.id)).await;
    dispatcher.store(&key, "fit").await;
    assert_eq!(&next(&mut standing).await.payload[..], b"fit");
    let got = agent.peer.client.request(js::direct_get("KV_standings", &key), "".into()).await.unwrap();
    assert_eq!(&got.payload[..], b"fit");
    gateway.publish(&subjects::control(&agent.id)).await;
    next(&mut control).await;
    let serve = async {
        let request = next(&mut rpc).await;
        agent.peer.client.publish(request.reply.unwrap(), "pong".into()).await.unwrap();
    };
    let (answer, ()) = tokio::join!(gateway.client.request(subjects::rpc(&agent.id, "ping"), "".into()), serve);
    assert_eq!(&answer.unwrap().payload[..], b"pong");
    // And the other way: a renewal, answered by any gateway.
    let mut renewals = gateway.client.queue_subscribe(subjects::renewals(), "g".into()).await.unwrap();
    gateway.round_trip().await;
    let serve = async {
        let request = next(&mut renewals).await;
        assert_eq!(subjects::parse_renew(&request.subject), Some(agent.id.clone()));
        gateway.client.publish(request.reply.unwrap(), "jwt".into()).await.unwrap();
    };
    let (answer, ()) = tokio::join!(agent.peer.client.request(subjects::renew(&agent.id), "".into()), serve);
    assert_eq!(&answer.unwrap().payload[..], b"jwt");
    for peer in [&agent.peer, &gateway, &dispatcher] {
        assert!(!peer.refused_more_than_round_trips(), "{:?}", peer.refusals);
    }
}

#[tokio::test]
async fn a_service_gets_answers_results_and_queries() {
    let (world, gateway) = World::provisioned().await;
    let service = world.service(&["p"]).await;
    let ack = service.store("jobs.p.normal.shell.j", "{}").await;
    assert_eq!(ack["stream"], "JOBS_p");
    let mut queries = gateway.client.queue_subscribe(subjects::Query::Result.all(), "g".into()).await.unwrap();
    gateway.round_trip().await;
    let serve = async {
        let request = next(&mut queries).await;
        let reply = request.reply.unwrap();
        assert!(subjects::is_inbox(&reply), "{reply}");
        gateway.client.publish(reply, "none yet".into()).await.unwrap();
    };
    let (answer, ()) = tokio::join!(service.client.request("query.result.p.j", "".into()), serve);
    assert_eq!(&answer.unwrap().payload[..], b"none yet");
}

struct Bare(String);

impl Claims for Bare {
    fn to_value(&self) -> Value {
        json!({"name": "bare", "sub": self.0, "nats": {"type": "user", "version": 2, "subs": -1, "data": -1, "payload": -1}})
    }
}

#[tokio::test]
async fn a_user_whose_jwt_names_no_permissions_may_do_nothing() {
    let (world, _gateway) = World::provisioned().await;
    for account in [Account::Core, Account::Fleet] {
        let seed = std::fs::read_to_string(world.deployment.layout.account_key(account)).unwrap();
        let (signer, user) = (jwt::key_pair(&seed, "account").unwrap(), nkeys::KeyPair::new_user());
        let jwt = jwt::encode(&Bare(user.public_key()), &signer, Timestamp::now()).unwrap();
        let peer = world.peer(&Creds { jwt, seed: user.seed().unwrap().into() }.to_text(), "_INBOX").await;
        matrix(&peer, &[], &["results.p.j", "x"], &[], &["_INBOX.x", "x", ">"]).await;
    }
}

#[tokio::test]
async fn an_agent_whose_jwt_has_expired_is_cut_off_and_refused() {
    let (world, _gateway) = World::provisioned().await;
    let (id, pool) = (AgentId::generate(), pool("p"));
    let creds = world.agent_creds(&pool, &id, Duration::from_secs(2));
    let peer = world.peer(&creds.to_text(), &subjects::agent_inbox(&id)).await;
    eventually("cut off", async || peer.client.connection_state() != async_nats::connection::State::Connected).await;
    // Within the very second of its end the broker still greets it, and cuts it off again.
    eventually("refused", async || {
        let options = async_nats::ConnectOptions::with_credentials(&creds.to_text()).unwrap();
        options.connect(world.server.url()).await.is_err()
    })
    .await;
}

#[tokio::test]
async fn a_revoked_agent_stays_out_also_after_another_init_and_a_restart() {
    let (mut world, _gateway) = World::provisioned().await;
    let (id, pool) = (AgentId::generate(), pool("p"));
    let creds = world.agent_creds(&pool, &id, AGENT_JWT_LIFETIME);
    let peer = world.peer(&creds.to_text(), &subjects::agent_inbox(&id)).await;

    let deployment = &world.deployment;
    let seed = std::fs::read_to_string(deployment.layout.operator_signing_key()).unwrap();
    let (operator, user) = (jwt::key_pair(&seed, "operator").unwrap(), jwt::decode(&creds.jwt).unwrap().subject);
    let revoked = BTreeMap::from([(user, Timestamp::now().secs() + 1)]);
    // The broker keeps the newest JWT by whole seconds of `iat`.
    let claims = accounts::fleet(&deployment.fleet, &deployment.core, revoked);
    let update = jwt::encode(&claims, &operator, Timestamp::now() + Duration::from_secs(1)).unwrap();
    let system = world.system().await;
    let answer = system.client.request(broker::CLAIMS_UPDATE, update.into()).await.unwrap();
    let answer: Value = serde_json::from_slice(&answer.payload).unwrap();
    assert_eq!(answer["data"]["code"], 200, "{answer}");
    eventually("cut off", async || peer.client.connection_state() != async_nats::connection::State::Connected).await;

    let refused = async |url: String| {
        let options = async_nats::ConnectOptions::with_credentials(&creds.to_text()).unwrap();
        options.connect(url).await.is_err()
    };
    assert!(refused(world.server.url()).await);
    init(deployment.layout.root(), &options(&world.dir)).unwrap();
    world.server.restart().await.unwrap();
    assert!(refused(world.server.url()).await);
    let other = world.agent("p").await;
    assert!(other.peer.store(&About::Result.job(&pool, &"j".parse().unwrap()), "r").await.get("error").is_none());
}
