//! The first start, against a gateway made for the test.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use axum::{Json, Router, extract::State, http::StatusCode, response::IntoResponse, routing::post};
use muster_agent::{
    identity::{EnrolError, Stored},
    start::StartError,
};
use muster_broker_config::{creds, layout::Account};
use muster_schemas::{
    api::{JOIN_TOKEN_HEADER, One, Register, Registered, RegisteredConfig},
    code::Code,
    control::{RenewAnswer, RenewRequest},
    names::AgentId,
    records::secret::Kind,
    result::Outcome,
    subjects,
    time::Timestamp,
    wire::{self, V},
};
use serde_json::json;

use crate::{
    bench::{Bench, SOON, eventually, next_message},
    desk::{Asked, Desk, Office, no, secret},
};

/// What the gateway answers, one after the other; then always the last.
#[derive(Clone)]
struct Gateway {
    answers: Arc<Mutex<Vec<StatusCode>>>,
    registered: Arc<dyn Fn(&Register) -> Registered + Send + Sync>,
    seen: Arc<Mutex<Vec<(Register, String)>>>,
}

async fn register(State(gateway): State<Gateway>, headers: axum::http::HeaderMap, Json(body): Json<Register>) -> axum::response::Response {
    let proof = [JOIN_TOKEN_HEADER, "authorization"].iter().find_map(|name| headers.get(*name));
    gateway.seen.lock().unwrap().push((body.clone(), proof.unwrap().to_str().unwrap().to_owned()));
    let status = {
        let mut answers = gateway.answers.lock().unwrap();
        if answers.len() > 1 { answers.remove(0) } else { answers[0] }
    };
    if status == StatusCode::CREATED {
        return (status, Json(One { data: (gateway.registered)(&body) })).into_response();
    }
    let problem =
        json!({"type": "x", "title": "x", "status": status.as_u16(), "code": "token_invalid", "detail": "used up", "request_id": "r"});
    (status, Json(problem)).into_response()
}

async fn gateway(bench: &Bench, answers: &[StatusCode]) -> (String, Gateway) {
    let seed = std::fs::read_to_string(bench.deployment.layout.signing_key(Account::Fleet)).unwrap();
    let (account, pool, url) = (bench.deployment.fleet.account.clone(), bench.pool.clone(), bench.server.url());
    let registered = move |register: &Register| {
        let agent_id = AgentId::generate();
        let life = Duration::from_secs(3600);
        Registered {
            jwt: creds::mint_agent_jwt(&seed, &account, &pool, &agent_id, &register.public_key, life).unwrap(),
            agent_id,
            pool: pool.clone(),
            api_key: Some("mst_agent_aaaaaaaaaa_bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb".into()),
            nats_urls: vec![url.clone()],
            config: RegisteredConfig { heartbeat_interval_s: 7, log_level: "INFO".into() },
            name: register.name.parse().unwrap(),
            now: Timestamp::now(),
            signers: Some(crate::desk::signers()),
            certificate: None,
            ephemeral: false,
        }
    };
    let gateway = Gateway { answers: Arc::new(Mutex::new(answers.to_vec())), registered: Arc::new(registered), seen: Arc::default() };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let router = Router::new().route("/api/v1/agents/register", post(register)).with_state(gateway.clone());
    drop(muster_runtime::tasks::Group::new("gateway").spawn(async move { axum::serve(listener, router).await }));
    (url, gateway)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_agent_registers_as_soon_as_the_gateway_lets_it_and_needs_it_no_more() {
    let bench = Bench::start().await;
    let (url, gateway) = gateway(&bench, &[StatusCode::SERVICE_UNAVAILABLE, StatusCode::TOO_MANY_REQUESTS, StatusCode::CREATED]).await;
    let state_dir = bench.dir.path().join("new");
    let settings = [("api_url", url.as_str()), ("join_token", "mst_join_x")];
    let agent = bench.agent_in(AgentId::generate(), state_dir.clone(), 1, &settings).await;
    agent.ready().await;
    let stored = Stored::load(&state_dir).unwrap().unwrap();
    let beat = bench.heartbeat_of(&stored.agent_id, |_| true).await;
    assert_eq!(beat.interval_s, 7, "the gateway's word, since the agent's settings say nothing");
    let seen = gateway.seen.lock().unwrap().clone();
    assert_eq!(seen.len(), 3);
    assert!(seen.iter().all(|(register, token)| register.capabilities == ["http", "probe", "shell"] && token == "mst_join_x"));
    assert!(seen.iter().all(|(register, _)| register.labels.is_empty()));
    agent.stop().await.unwrap();

    // The gateway is gone; the stored credential does.
    gateway.answers.lock().unwrap()[0] = StatusCode::UNAUTHORIZED;
    let agent = bench.agent_in(stored.agent_id, state_dir, 1, &[("api_url", "http://127.0.0.1:1")]).await;
    agent.ready().await;
    let job = bench.submit(json!({"type": "probe.ping"})).await;
    assert_eq!(bench.result(&job).await.outcome, Outcome::Succeeded);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_is_put_into_its_file_while_the_gateway_says_later_is_tried_within_a_second() {
    let bench = Bench::start().await;
    let (old, new) = (secret(Kind::Join), secret(Kind::Join));
    let token_file = bench.dir.path().join("token");
    std::fs::write(&token_file, &old).unwrap();
    let (office, pool, wanted, key) = (Office::of(&bench), bench.pool.clone(), new.clone(), secret(Kind::Agent));
    let id = AgentId::generate();
    let desk = Desk::open(move |asked| {
        if asked.credential != wanted {
            return no(503, Code::BrokerUnavailable, "not now");
        }
        Ok(Registered { api_key: Some(key.clone()), ..office.registered(asked, &id, &pool, Duration::from_secs(3600)) })
    })
    .await;
    let settings = [("api_url", desk.url.as_str()), ("join_token_file", token_file.to_str().unwrap())];
    let agent = bench.agent_in(AgentId::generate(), bench.dir.path().join("new"), 1, &settings).await;
    // After these it waits for 4 s and longer.
    eventually("it was told to come later", async || desk.asked().len() >= 3).await;
    let keys = |asked: &[Asked]| asked.iter().map(|asked| asked.register.public_key.clone()).collect::<BTreeSet<_>>().len();
    assert_eq!(keys(&desk.asked()), 1, "the same key each time, since an answer may have been lost");
    let put = Instant::now();
    std::fs::write(&token_file, format!("{new}\n")).unwrap();
    agent.ready().await;
    assert!(put.elapsed() < Duration::from_secs(3), "{:?}", put.elapsed());
    agent.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_whose_credential_has_expired_registers_with_its_key() {
    let bench = Bench::start().await;
    let (url, gateway) = gateway(&bench, &[StatusCode::CREATED]).await;
    let (id, state_dir) = bench.enrolled(Duration::from_secs(1)).await;
    let agent = bench.agent_in(id, state_dir, 1, &[("api_url", &url), ("join_token", "mst_join_x")]).await;
    agent.ready().await;
    let seen = gateway.seen.lock().unwrap().clone();
    assert_eq!(seen.len(), 1);
    assert!(seen[0].1.starts_with("Bearer mst_agent_"), "the key, and not the token of the first start");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_tells_its_labels_when_it_registers_and_again_when_they_have_changed() {
    let bench = Bench::start().await;
    let (url, gateway) = gateway(&bench, &[StatusCode::CREATED]).await;
    let state_dir = bench.dir.path().join("new");
    let told = || gateway.seen.lock().unwrap().iter().map(|(register, _)| register.labels.clone()).collect::<Vec<_>>();
    let zone = |value: &str| [("zone".to_owned(), value.to_owned())].into();
    let start = async |url: &str, labels: &str| {
        let id = Stored::load(&state_dir).unwrap().map_or_else(AgentId::generate, |stored| stored.agent_id);
        let settings = [("api_url", url), ("join_token", "mst_join_x"), ("labels", labels)];
        let agent = bench.agent_in(id, state_dir.clone(), 1, &settings).await;
        agent.ready().await;
        agent.stop().await.unwrap();
    };
    start(&url, "zone=north").await;
    start(&url, "zone=north").await;
    assert_eq!(told(), [zone("north")], "nothing has changed at the second start");
    start("http://127.0.0.1:1", "zone=south").await;
    assert_eq!(told().len(), 1, "without the gateway it starts all the same");
    start(&url, "zone=south").await;
    assert_eq!(told(), [zone("north"), zone("south")]);
    start(&url, "").await;
    assert_eq!(told().last().unwrap().len(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_credential_is_renewed_over_nats_before_it_expires_and_used_from_then_on() {
    let bench = Bench::start().await;
    // The gateway's part of it.
    let mut renewals = bench.gateway.subscribe(subjects::renewals()).await.unwrap();
    let (id, state_dir) = bench.enrolled(Duration::from_secs(12)).await;
    let first = Stored::load(&state_dir).unwrap().unwrap();
    let agent = bench.agent_in(id.clone(), state_dir.clone(), 1, &[]).await;
    agent.ready().await;
    let request = next_message(&mut renewals).await;
    assert_eq!(subjects::parse_renew(request.subject.as_str()), Some(id.clone()));
    let asked: RenewRequest = wire::decode(&request.payload).unwrap();
    let seed = std::fs::read_to_string(bench.deployment.layout.signing_key(Account::Fleet)).unwrap();
    let life = Duration::from_secs(3600);
    let jwt = creds::mint_agent_jwt(&seed, &bench.deployment.fleet.account, &bench.pool, &id, &asked.public_key, life).unwrap();
    let yesterday = Timestamp::now() - Duration::from_secs(24 * 3600);
    let answer = RenewAnswer { v: V, jwt: Some(jwt.clone()), error: None, certificate: None, now: Some(yesterday) };
    bench.gateway.publish(request.reply.unwrap(), wire::encode(&answer).into()).await.unwrap();
    eventually("the new one is kept", async || Stored::load(&state_dir).unwrap().unwrap().jwt == jwt).await;
    eventually("it says that the clocks differ", async || {
        let ready = agent.get("/readyz").await;
        ready.contains(r#""clock":{"ok":false"#) && ready.contains(&yesterday.to_string())
    })
    .await;
    // The broker cuts off the old one when it expires; the agent is back with the new one.
    let expiry = muster_broker_config::jwt::decode(&first.jwt).unwrap().expires_at.unwrap();
    eventually("the first one has expired", async || Timestamp::now() > expiry + Duration::from_secs(1)).await;
    let job = bench.submit(json!({"type": "probe.ping"})).await;
    assert_eq!(bench.result(&job).await.outcome, Outcome::Succeeded);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_is_refused_ends_with_a_line_that_says_why() {
    let bench = Bench::start().await;
    for status in [StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN, StatusCode::CONFLICT] {
        let (url, _gateway) = gateway(&bench, &[status]).await;
        let state_dir = bench.dir.path().join(status.as_str());
        let settings = [("api_url", url.as_str()), ("join_token", "mst_join_x")];
        let agent = bench.agent_in(AgentId::generate(), state_dir.clone(), 1, &settings).await;
        let error = tokio::time::timeout(SOON, agent.ended()).await.unwrap().unwrap_err();
        assert!(matches!(error.downcast_ref(), Some(StartError::Enrol(EnrolError::Refused { .. }))), "{error}");
        assert!(error.to_string().contains("used up"), "{error}");
        assert!(Stored::load(&state_dir).unwrap().is_none());
    }
}

#[tokio::test]
async fn the_process_of_a_refused_agent_exits_with_78_and_a_wrong_setting_with_64() {
    let dir = tempfile::tempdir().unwrap();
    for (args, code, said) in [
        (vec!["--api-url", "http://127.0.0.1:1"], 78, "AGENT_JOIN_TOKEN"),
        (vec!["--max-concurrent-jobs", "51"], 64, "50"),
        (vec!["--label", "zone"], 64, "key=value"),
        (vec!["--no-such-flag"], 64, "no-such-flag"),
    ] {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_muster-agent"));
        command.env_clear().arg("--state-dir").arg(dir.path().join("state")).args(["--admin-port", "0"]).args(&args);
        let output = command.output().await.unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {text}");
        assert!(text.contains(said), "{text}");
    }
}
