//! Every role against every subject and every JetStream interface, on a real broker: what is allowed is exactly what the table says.
//!
//! The table is reviewed as `golden/permissions.json`; here the broker is asked, thousands of times, whether it reads it as we do.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
};

use async_nats::{ConnectOptions, Event};
use muster_broker_config::{
    creds,
    layout::Account,
    permissions::{Permissions, Role},
};
use muster_schemas::{
    names::AgentId,
    subjects::{self, About, Query},
    time::Timestamp,
    topology::{self, BUCKETS, bucket_stream},
};

use crate::support::{World, eventually, pool};

/// Whether a pattern of the table covers a subject, or a whole pattern that somebody wants to subscribe to.
fn covers(pattern: &str, subject: &str) -> bool {
    let (mut pattern, mut subject) = (pattern.split('.'), subject.split('.'));
    loop {
        match (pattern.next(), subject.next()) {
            (Some(">"), Some(_)) | (None, None) => return true,
            (Some("*"), Some(token)) if token != ">" => {}
            (Some(one), Some(other)) if one == other => {}
            _ => return false,
        }
    }
}

fn may_publish(table: &Permissions, subject: &str) -> bool {
    let listed = |list: &[String]| list.iter().any(|pattern| covers(pattern, subject));
    listed(&table.publish) && !listed(&table.publish_not)
}

fn may_subscribe(table: &Permissions, subject: &str) -> bool {
    table.subscribe.iter().any(|pattern| covers(pattern, subject))
}

/// Every subject that a process of ours uses, in two pools and of two agents, and every request of JetStream's on every stream.
fn subjects_to_try(agents: [&AgentId; 2]) -> (Vec<String>, Vec<String>) {
    let mut all: BTreeSet<String> = BTreeSet::new();
    for pool in [pool("p"), pool("q")] {
        let id = "j1".parse().unwrap();
        for about in [About::Result, About::Done, About::Event, About::Log, About::Dead] {
            all.extend([about.job(&pool, &id), about.pool(&pool), about.all()]);
        }
        for query in Query::ALL {
            all.extend([query.subject(&pool, &id), query.about(&pool), query.all()]);
        }
        all.extend(["high", "normal", "low"].map(|priority| format!("jobs.{pool}.{priority}.shell.j1")));
        all.insert(subjects::jobs_of(&pool));
        for agent in agents {
            all.extend([subjects::heartbeat(&pool, agent), subjects::command(&pool, agent, &id), subjects::commands_to(&pool, agent)]);
            all.insert(format!("$KV.standings.{pool}.{agent}"));
        }
    }
    for agent in agents {
        all.extend([subjects::control(agent), subjects::rpc(agent, "ping"), subjects::rpc_of(agent), subjects::renew(agent)]);
        all.extend([subjects::leave(agent), format!("_INBOX.{agent}.x"), format!("_INBOX.{agent}.>"), format!("$KV.agents.id.{agent}")]);
    }
    let streams: Vec<String> = topology::fixed_streams().into_iter().map(|stream| stream.name).collect();
    let buckets = BUCKETS.iter().map(|bucket| bucket_stream(bucket.name));
    for stream in streams.into_iter().chain(buckets).chain(["JOBS_p".into(), "JOBS_q".into(), "OTHER".into()]) {
        for verb in [
            "CREATE",
            "UPDATE",
            "INFO",
            "DELETE",
            "PURGE",
            "MSG.GET",
            "MSG.DELETE",
            "SNAPSHOT",
            "RESTORE",
            "PEER.REMOVE",
            "LEADER.STEPDOWN",
        ] {
            all.insert(format!("$JS.API.STREAM.{verb}.{stream}"));
        }
        for consumer in ["normal_shell", agents[0].as_str(), agents[1].as_str()] {
            for verb in ["CREATE", "DURABLE.CREATE", "INFO", "DELETE", "MSG.NEXT", "PAUSE", "UNPIN", "LEADER.STEPDOWN"] {
                all.insert(format!("$JS.API.CONSUMER.{verb}.{stream}.{consumer}"));
            }
            all.extend([format!("$JS.ACK.{stream}.{consumer}.1.1.1.1.0"), format!("$JS.ACK._.ACCOUNT.{stream}.{consumer}.1.1.1.1.0")]);
        }
        all.extend(["NAMES", "LIST"].map(|verb| format!("$JS.API.CONSUMER.{verb}.{stream}")));
        all.extend([format!("$JS.API.CONSUMER.CREATE.{stream}"), format!("$JS.API.DIRECT.GET.{stream}")]);
        for subject in ["results.p.j1", "results.q.j1", "events.p.j1", "$KV.trust.signers", "$KV.api_keys.x", "$KV.leases.dispatcher"] {
            all.insert(format!("$JS.API.DIRECT.GET.{stream}.{subject}"));
        }
    }
    all.extend(BUCKETS.iter().map(|bucket| format!("$KV.{}.x", bucket.name)));
    for subject in [
        "$JS.API.INFO",
        "$JS.API.STREAM.NAMES",
        "$JS.API.STREAM.LIST",
        "$JS.API.STREAM.TEMPLATE.NAMES",
        "$JS.API.META.LEADER.STEPDOWN",
        "$JS.API.SERVER.REMOVE",
        "$JS.API.ACCOUNT.PURGE.X",
        "$JS.FC.x.y",
        "$JS.EVENT.ADVISORY.API",
        "$SYS.REQ.CLAIMS.UPDATE",
        "$SYS.REQ.CLAIMS.DELETE",
        "$SYS.REQ.CLAIMS.LIST",
        "$SYS.REQ.ACCOUNT.X.CLAIMS.LOOKUP",
        "$SYS.REQ.SERVER.PING",
        "$SYS.REQ.SERVER.X.KICK",
        "$SYS.REQ.USER.INFO",
        "$SYS.ACCOUNT.X.CONNECT",
        "$SRV.PING",
        "_R_.x",
        "_INBOX.x.y",
        "_GW.x.y",
        "_DISP.x.y",
        "_SYS_INBOX.x.y",
        "history.jobs",
        "fleet.settle",
        "schedules.s",
        "due.s",
        "audit.agents.revoke",
        "audit.a",
        "$KV.trust.signers",
        "$KV.leases.dispatcher",
        "jobs",
        "jobs.p",
        "x",
        "x.y.z",
    ] {
        all.insert(subject.into());
    }
    let patterns = [
        ">",
        "*",
        "*.*",
        "*.>",
        "_INBOX.>",
        "_INBOX.*",
        "_GW.>",
        "_DISP.>",
        "_SYS_INBOX.>",
        "$SYS.>",
        "$JS.>",
        "$KV.>",
        "jobs.>",
        "commands.>",
        "heartbeats.>",
        "identity.>",
        "audit.>",
    ];
    let wild = |subject: &String| subject.split('.').any(|token| ["*", ">"].contains(&token));
    let subscribed = all.iter().cloned().chain(patterns.map(String::from)).collect();
    (all.into_iter().filter(|subject| !wild(subject)).collect(), subscribed)
}

/// What the broker has refused, by the subject that it names.
#[derive(Default)]
struct Refused(BTreeSet<(bool, String)>);

impl Refused {
    fn hear(&mut self, text: &str) {
        let Some((before, rest)) = text.split_once('"') else { return };
        let Some((subject, _)) = rest.split_once('"') else { return };
        self.0.insert((before.to_lowercase().contains("publish"), subject.to_owned()));
    }
}

async fn try_all(world: &World, role: &Role, account: Account, inbox: &str, publish: &[String], subscribe: &[String]) {
    let keys = match account {
        Account::Sys => &world.deployment.sys,
        Account::Core => &world.deployment.core,
        Account::Fleet => &world.deployment.fleet,
    };
    let made = creds::issue(&world.signing_seed(account), &keys.account, "tried", role, None, Timestamp::now()).unwrap();
    let refused: Arc<Mutex<Refused>> = Arc::default();
    let heard = refused.clone();
    let options = ConnectOptions::with_credentials(&made.to_text()).unwrap().custom_inbox_prefix(inbox).event_callback(move |event| {
        if let Event::ServerError(error) = event {
            heard.lock().unwrap().hear(&error.to_string());
        }
        std::future::ready(())
    });
    let client = options.connect(world.server.url()).await.unwrap();
    // The client tells of a refusal over a channel that drops what it cannot hold, so they are asked for in small portions, each ended
    // by one that nobody may.
    let table = role.permissions();
    // Where it may both publish and listen.
    let own = publish.iter().find(|subject| may_publish(&table, subject) && may_subscribe(&table, subject)).cloned();
    assert_eq!(own.is_some(), !matches!(role, Role::Service { .. } | Role::Viewer { .. } | Role::Revoker), "{role:?}: {own:?}");
    let _heard = match &own {
        Some(own) => Some(client.subscribe(own.clone()).await.unwrap()),
        None => None,
    };
    for (number, portion) in publish.chunks(50).enumerate() {
        // Asking oneself for an answer there must not open the subject. See `Permissions::to_claims`.
        if let Some(own) = &own {
            // Acknowledgements and mapped replies as a reply subject the broker refuses to everybody.
            let reserved = |subject: &str| ["$JS.ACK.", "_R_."].iter().any(|prefix| subject.starts_with(prefix));
            for subject in portion.iter().filter(|subject| !reserved(subject)) {
                client.publish_with_reply(own.clone(), subject.clone(), "".into()).await.unwrap();
            }
        }
        for subject in portion {
            // Without a body nothing is deleted or made by it; what the broker answers goes to nobody.
            client.publish(subject.clone(), "".into()).await.unwrap();
        }
        let last = format!("tried.to.the.end.{number}");
        client.publish(last.clone(), "".into()).await.unwrap();
        eventually("the portion is refused or taken", async || refused.lock().unwrap().0.contains(&(true, last.clone()))).await;
    }
    for (number, portion) in subscribe.chunks(50).enumerate() {
        let mut kept = Vec::new();
        for subject in portion {
            kept.push(client.subscribe(subject.clone()).await.unwrap());
        }
        let last = format!("tried.to.listen.{number}");
        kept.push(client.subscribe(last.clone()).await.unwrap());
        eventually("the portion is refused or taken", async || refused.lock().unwrap().0.contains(&(false, last.clone()))).await;
    }
    let refused = refused.lock().unwrap();
    let wrong: Vec<String> = publish
        .iter()
        .map(|subject| (true, subject, may_publish(&table, subject)))
        .chain(subscribe.iter().map(|subject| (false, subject, may_subscribe(&table, subject))))
        .filter(|(publishes, subject, may)| *may == refused.0.contains(&(*publishes, (*subject).clone())))
        .map(|(publishes, subject, may)| format!("{} {subject}: the table says {may}", if publishes { "publish" } else { "subscribe" }))
        .collect();
    assert!(wrong.is_empty(), "{role:?}:\n{}", wrong.join("\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_role_may_do_on_the_broker_exactly_what_the_table_says() {
    let (world, _gateway) = World::provisioned().await;
    let (a, b) = (AgentId::generate(), AgentId::generate());
    let (publish, subscribe) = subjects_to_try([&a, &b]);
    assert!(publish.len() > 1000, "{}", publish.len());
    let agent = |name: &str| Role::Agent { pool: pool(name), id: a.clone() };
    let roles = [
        (agent("p"), Account::Fleet, subjects::agent_inbox(&a)),
        (agent("q"), Account::Fleet, subjects::agent_inbox(&a)),
        (Role::Service { pools: vec![pool("p")] }, Account::Core, "_INBOX.s".into()),
        (Role::Service { pools: Vec::new() }, Account::Core, "_INBOX.s".into()),
        (Role::Viewer { pools: vec![pool("p")] }, Account::Core, "_INBOX.s".into()),
        (Role::Revoker, Account::Sys, "_SYS_INBOX.s".into()),
        (Role::Gateway, Account::Core, "_GW.s".into()),
        (Role::Dispatcher, Account::Core, "_DISP.s".into()),
    ];
    for (role, account, inbox) in roles {
        try_all(&world, &role, account, &inbox, &publish, &subscribe).await;
    }
}

#[test]
fn a_pattern_covers_as_the_broker_has_it() {
    for (pattern, subject, covered) in [
        ("a.*", "a.b", true),
        ("a.*", "a.b.c", false),
        ("a.>", "a.b.c", true),
        ("a.>", "a", false),
        ("a.*", "a.>", false),
        ("a.>", "a.>", true),
        ("a.*", "a.*", true),
        ("a.b", "a.*", false),
        (">", "a", true),
    ] {
        assert_eq!(covers(pattern, subject), covered, "{pattern} {subject}");
    }
}
