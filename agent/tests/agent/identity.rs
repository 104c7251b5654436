//! Identities that come from the gateway, or are of no use any more when an agent starts.

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use muster_agent::{identity::Stored, start::StartError};
use muster_broker_config::{creds, layout::Account};
use muster_schemas::{
    api::Registered,
    code::Code,
    control::LeaveAnswer,
    names::AgentId,
    records::{keys, secret::Kind},
    result::{ErrorInfo, Outcome},
    standing::Standing,
    subjects::{self, broker, js},
    time::Timestamp,
    topology,
    wire::{self, V},
};
use nkeys::KeyPair;
use serde_json::{Value, json};

use crate::{
    bench::{Bench, SOON, connect, eventually, next_message},
    desk::{Desk, Office, no, secret},
};

/// A user's JWT of an hour, of this account, good from `from` on.
fn jwt(seed: &str, account: &str, stored: &Stored, from: Timestamp) -> String {
    let key = KeyPair::from_seed(&stored.seed).unwrap().public_key();
    let jwt = creds::mint_agent_jwt(seed, account, &stored.pool, &stored.agent_id, &key, Duration::from_secs(3600)).unwrap();
    let (header, rest) = jwt.split_once('.').unwrap();
    let mut claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(rest.split_once('.').unwrap().0).unwrap()).unwrap();
    (claims["nbf"], claims["exp"]) = (json!(from.secs()), json!(from.secs() + 3600));
    let text = format!("{header}.{}", URL_SAFE_NO_PAD.encode(claims.to_string()));
    let signature = KeyPair::from_seed(seed).unwrap().sign(text.as_bytes()).unwrap();
    format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_with_a_jwt_that_is_of_no_use_comes_back_with_its_api_key() {
    const WEEK: Duration = Duration::from_secs(7 * 86_400);
    let bench = Bench::start().await;
    let read = |account| std::fs::read_to_string(bench.deployment.layout.signing_key(account)).unwrap().trim().to_owned();
    let (fleet, now) = (bench.deployment.fleet.account.clone(), Timestamp::now());
    let stranger = KeyPair::new_account();
    for what in ["a week old", "not yet valid", "of another operator", "garbage", "cut short"] {
        let (id, state_dir) = bench.enrolled(Duration::from_secs(3600)).await;
        let mut stored = Stored::load(&state_dir).unwrap().unwrap();
        let good = stored.jwt.clone();
        stored.jwt = match what {
            "a week old" => jwt(&read(Account::Fleet), &fleet, &stored, Timestamp::from_secs(now.secs() - 604_800)),
            "not yet valid" => jwt(&read(Account::Fleet), &fleet, &stored, now + WEEK),
            "of another operator" => jwt(&stranger.seed().unwrap(), &stranger.public_key(), &stored, now),
            "cut short" => good[..good.len() - 20].to_owned(),
            _ => "no JWT at all".to_owned(),
        };
        stored.save(&state_dir).unwrap();
        let desk = Desk::open(Office::of(&bench).lets_in(&id, &bench.pool)).await;
        let agent = bench.agent_in(id.clone(), state_dir.clone(), 1, &[("api_url", &desk.url)]).await;
        eventually(what, async || agent.get("/readyz").await.starts_with("HTTP/1.1 200") && !desk.asked().is_empty()).await;
        let job = bench.submit(json!({"type": "probe.ping"})).await;
        assert_eq!(bench.result(&job).await.outcome, Outcome::Succeeded, "{what}");
        let kept = Stored::load(&state_dir).unwrap().unwrap();
        assert_eq!((kept.agent_id, kept.api_key), (id, stored.api_key), "{what}");
        agent.stop().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_private_key_that_was_revoked_is_replaced_and_each_registration_is_proven_anew() {
    let bench = Bench::start().await;
    let (id, state_dir) = bench.enrolled(Duration::from_secs(1)).await;
    let before = Stored::load(&state_dir).unwrap().unwrap();
    let old = KeyPair::from_seed(&before.seed).unwrap().public_key();
    let (mut tries, mut lets_in) = (0, Office::of(&bench).lets_in(&id, &bench.pool));
    let refused = old.clone();
    let desk = Desk::open(move |asked| {
        tries += 1;
        match tries {
            1 => no(503, Code::BrokerUnavailable, "not now"),
            _ if asked.register.public_key == refused => no(403, Code::KeyRevoked, "it was revoked"),
            _ => lets_in(asked),
        }
    })
    .await;
    let agent = bench.agent_in(id, state_dir.clone(), 1, &[("api_url", &desk.url), ("name", "web-7")]).await;
    agent.ready().await;
    let asked = desk.asked();
    let keys: Vec<_> = asked.iter().map(|asked| asked.register.public_key == old).collect();
    assert_eq!(keys[..3], [true, true, false]);
    let proven: Vec<_> = asked.iter().map(|asked| asked.register.proven(&asked.credential).unwrap()).collect();
    assert!(proven.is_sorted_by(|one, next| one < next), "{proven:?}");
    let after = Stored::load(&state_dir).unwrap().unwrap();
    assert_eq!(KeyPair::from_seed(&after.seed).unwrap().public_key(), asked[2].register.public_key);
    assert_eq!(after.name, Some("web-7".parse().unwrap()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clocks_that_are_a_day_apart_are_one_clear_error_and_five_minutes_are_none() {
    const DAY: i64 = 86_400;
    let bench = Bench::start().await;
    for (offset, fits) in [(-300, true), (300, true), (-DAY, false), (DAY, false)] {
        let (id, state_dir) = bench.enrolled(Duration::from_secs(1)).await;
        let (office, as_id, pool) = (Office::of(&bench), id.clone(), bench.pool.clone());
        let desk = Desk::open(move |asked| {
            let now = Timestamp::from_secs(Timestamp::now().secs() + offset);
            Ok(Registered { now, ..office.registered(asked, &as_id, &pool, Duration::from_secs(3600)) })
        })
        .await;
        let agent = bench.agent_in(id, state_dir, 1, &[("api_url", &desk.url)]).await;
        if fits {
            agent.ready().await;
            agent.stop().await.unwrap();
        } else {
            let error = tokio::time::timeout(SOON, agent.ended()).await.unwrap().unwrap_err();
            assert!(matches!(error.downcast_ref(), Some(StartError::Clock(_))), "{error}");
            let (today, text) = (Timestamp::now().to_string(), error.to_string());
            assert!(text.contains(&today[..10]) && text.matches("T").count() >= 2 && text.contains("set the clock"), "{text}");
        }
    }
    // The gateway notices first, by the proof.
    let (id, state_dir) = bench.enrolled(Duration::from_secs(1)).await;
    let desk = Desk::open(|_| no(400, Code::ClockSkewed, "2026-01-01T00:00:00Z here, 2026-01-02T00:00:00Z there")).await;
    let token = secret(Kind::Join);
    let agent = bench.agent_in(id, state_dir, 1, &[("api_url", &desk.url), ("join_token", &token)]).await;
    let error = tokio::time::timeout(SOON, agent.ended()).await.unwrap().unwrap_err().to_string();
    assert!(error.contains("clock_skewed") && error.contains("2026-01-01T") && error.contains("2026-01-02T"), "{error}");
    assert_eq!(desk.asked().len(), 1, "the token is not wasted on it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_identity_file_that_is_damaged_ends_the_start_in_words_and_stays_as_it_is() {
    let bench = Bench::start().await;
    let (id, state_dir) = bench.enrolled(Duration::from_secs(3600)).await;
    let file = state_dir.join("identity.json");
    let whole = std::fs::read(&file).unwrap();
    std::fs::write(&file, &whole[..whole.len() / 2]).unwrap();
    let desk = Desk::open(Office::of(&bench).lets_in(&id, &bench.pool)).await;
    let settings = [("api_url", desk.url.as_str()), ("join_token", &secret(Kind::Join))];
    let agent = bench.agent_in(id, state_dir, 1, &settings).await;
    let error = tokio::time::timeout(SOON, agent.ended()).await.unwrap().unwrap_err();
    assert!(matches!(error.downcast_ref(), Some(StartError::Identity(_))), "{error}");
    assert!(error.to_string().contains("identity.json"), "{error}");
    assert!(desk.asked().is_empty(), "no second identity beside a damaged one");
    assert_eq!(std::fs::read(&file).unwrap(), whole[..whole.len() / 2]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ephemeral_agent_asks_to_be_removed_and_forgets_who_it_was() {
    let bench = Bench::start().await;
    let mut leavings = bench.gateway.subscribe(subjects::leavings()).await.unwrap();
    bench.gateway.flush().await.unwrap();
    // By its own settings, or because the token that it joined with makes it so.
    for (refused, own) in [(false, true), (true, true), (false, false)] {
        let (id, state_dir) = (AgentId::generate(), bench.dir.path().join(format!("ephemeral-{refused}-{own}")));
        let (office, as_id, pool) = (Office::of(&bench), id.clone(), bench.pool.clone());
        let desk = Desk::open(move |asked| {
            let registered = office.registered(asked, &as_id, &pool, Duration::from_secs(3600));
            Ok(Registered { api_key: Some(secret(Kind::Agent)), ephemeral: true, ..registered })
        })
        .await;
        let settings =
            [("api_url", desk.url.as_str()), ("join_token", &secret(Kind::Join)), ("ephemeral", if own { "true" } else { "false" })];
        let agent = bench.agent_in(id.clone(), state_dir.clone(), 1, &settings).await;
        agent.ready().await;
        assert_eq!(desk.asked()[0].register.ephemeral, own);
        let (stopped, ()) = tokio::join!(agent.stop(), async {
            let request = next_message(&mut leavings).await;
            assert_eq!(subjects::parse_leave(request.subject.as_str()), Some(id.clone()));
            // It has said goodbye before; the two go separate ways through the broker.
            bench.heartbeat_of(&id, |beat| beat.goodbye).await;
            let error = refused.then(|| ErrorInfo::new(Code::Forbidden, "this agent is not ephemeral"));
            let answer = wire::encode(&LeaveAnswer { v: V, error });
            bench.gateway.publish(request.reply.unwrap(), answer.into()).await.unwrap();
        });
        stopped.unwrap();
        assert_eq!(state_dir.join("identity.json").exists(), refused, "what was refused is kept");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_takes_only_jobs_of_the_executors_it_is_allowed_and_says_that_it_has_a_twin() {
    let bench = Bench::start().await;
    let text = std::fs::read_to_string(bench.deployment.layout.dispatcher_creds()).unwrap();
    let dispatcher = connect(&bench.server.url(), &text, &broker::dispatcher_inbox("d1")).await;
    let agent = bench.agent(2).await;
    let tell = async |executors: Option<&[&str]>, twin: bool| {
        let executors = executors.map(|names| names.iter().map(|name| name.parse().unwrap()).collect());
        let standing = Standing { executors, twin, ..Standing::first(Timestamp::now()) };
        let subject = js::key(topology::STANDINGS, &keys::standing(&bench.pool, &agent.id));
        dispatcher.request(subject, wire::encode(&standing).into()).await.unwrap();
        // What is asked behind it is answered by the task that reads it.
        eventually("it has heard", async || agent.get("/readyz").await.contains("another process") == twin).await;
    };
    tell(Some(&["probe"]), true).await;
    let command = muster_schemas::subjects::command(&bench.pool, &agent.id, &bench.id());
    let (_, id) = command.rsplit_once('.').unwrap();
    bench.publish(command.clone(), None, json!({"type": "shell.run", "params": {"command": "true"}}).to_string().into_bytes()).await;
    bench.reach(&agent.id).await;
    let result = bench.result(&id.parse().unwrap()).await;
    assert_eq!((result.outcome, result.error.as_ref().unwrap().code), (Outcome::Rejected, Code::TypeUnknown));
    assert!(result.error.unwrap().message.contains("forbidden"));
    let ping = bench.submit(json!({"type": "probe.ping"})).await;
    assert_eq!(bench.result(&ping).await.outcome, Outcome::Succeeded);
    // One that comes for what was asked before is given back; it waits until it may.
    let shell = bench.submit(json!({"type": "shell.run", "params": {"command": "true"}})).await;
    let ping = bench.submit(json!({"type": "probe.ping"})).await;
    assert_eq!(bench.result(&ping).await.outcome, Outcome::Succeeded);
    assert_eq!(bench.queued().await, 1);
    tell(None, false).await;
    assert_eq!(bench.result(&shell).await.outcome, Outcome::Succeeded);
}
