//! A job from its queue to its stored result.

use async_nats::HeaderMap;
use muster_broker_config::{creds, layout::Account};
use muster_schemas::{
    code::Code,
    event::EventKind,
    headers,
    lane::Priority,
    log::{LogChunk, OutputStream},
    result::Outcome,
    subjects::About,
    time::Timestamp,
    topology, wire,
};
use serde_json::json;

use crate::bench::{Bench, connect, eventually, next_message};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_of_a_bare_client_runs_and_its_result_is_stored() {
    let bench = Bench::start().await;
    let agent = bench.agent(2).await;
    let seed = std::fs::read_to_string(bench.deployment.layout.signing_key(Account::Core)).unwrap();
    let creds = creds::issue_service(&seed, &bench.deployment.core.account, "svc", std::slice::from_ref(&bench.pool)).unwrap();
    let service = connect(&bench.server.url(), &creds.to_text(), "_INBOX").await;
    let mut done = service.subscribe(About::Done.pool(&bench.pool)).await.unwrap();
    let id = bench.id();
    let body = r#"{"type":"probe.echo","params":{"a":[1,"ü"]},"labels":{"k":"v"},"result_ttl_s":60}"#;
    service.publish(bench.subject(Priority::High, "probe", &id), body.into()).await.unwrap();

    let message = next_message(&mut done).await;
    assert_eq!(message.subject.as_str(), About::Done.job(&bench.pool, &id));
    let result: muster_schemas::result::JobResult = wire::decode(&message.payload).unwrap();
    assert_eq!((result.outcome, result.attempt, result.priority), (Outcome::Succeeded, 1, Priority::High));
    assert_eq!(result.data, Some(json!({"a": [1, "ü"]})));
    assert_eq!((result.agent_id.as_ref(), result.labels["k"].as_str()), (Some(&agent.id), "v"));
    assert!(result.queued_at <= result.started_at.unwrap() && result.started_at.unwrap() <= result.finished_at);
    let stored = bench.last(topology::RESULTS, &About::Result.job(&bench.pool, &id)).await.unwrap();
    let header = |name| stored.headers.as_ref().unwrap().get(name).unwrap().as_str().to_owned();
    assert_eq!((header(headers::TTL), header(headers::CONTENT_TYPE)), ("60s".into(), headers::MSGPACK.into()));
    eventually("the job is acked", async || bench.queued().await == 0).await;
    assert!(bench.events(&id).await.is_empty(), "a short job costs no event");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messagepack_and_headers_go_along_to_the_result() {
    let bench = Bench::start().await;
    let _agent = bench.agent(1).await;
    let id = bench.id();
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let mut sent = HeaderMap::new();
    sent.insert(headers::FRESH, "1");
    sent.insert(headers::TRACEPARENT, trace);
    sent.insert(headers::REPLY_TO, "_INBOX.me.1");
    let body = rmp_serde::to_vec_named(&json!({"type": "probe.ping"})).unwrap();
    bench.publish(bench.subject(Priority::Normal, "probe", &id), Some(sent), body).await;
    assert_eq!(bench.result(&id).await.outcome, Outcome::Succeeded);
    let stored = bench.last(topology::RESULTS, &About::Result.job(&bench.pool, &id)).await.unwrap();
    let headers = stored.headers.unwrap();
    assert_eq!(headers.get(headers::REPLY_TO).unwrap().as_str(), "_INBOX.me.1");
    let got = headers.get(headers::TRACEPARENT).unwrap().as_str();
    assert!(got.starts_with("00-4bf92f3577b34da6a3ce929d0e0e4736-") && got != trace, "{got}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_bad_body_is_rejected_with_its_code_and_the_lane_goes_on() {
    let bench = Bench::start().await;
    let _agent = bench.agent(1).await;
    let deep = format!(r#"{{"type":"probe.ping","params":{}{}}}"#, r#"{"a":"#.repeat(40), "}".repeat(40));
    let cases: Vec<(Vec<u8>, Code)> = vec![
        (b"".to_vec(), Code::BodyMalformed),
        (b"hello".to_vec(), Code::BodyMalformed),
        (vec![0xdf, 0xff, 0xff, 0xff, 0xff], Code::BodyMalformed),
        (vec![b' '; 257 * 1024], Code::BodyTooLarge),
        (deep.into_bytes(), Code::BodyTooDeep),
        (br#"{"v":9,"type":"probe.ping"}"#.to_vec(), Code::VersionUnknown),
        (br#"{"type":"probe.nothing"}"#.to_vec(), Code::TypeUnknown),
        (br#"{"type":"shell.run","params":{"command":"true"}}"#.to_vec(), Code::ExecutorMismatch),
        (br#"{"type":"probe.sleep","params":{}}"#.to_vec(), Code::ParamsInvalid),
        (br#"{"type":"probe.ping","timeout_s":99999999}"#.to_vec(), Code::TimeoutInvalid),
        (br#"{"type":"probe.ping","retry":{"max_attempts":1000000000}}"#.to_vec(), Code::RetryInvalid),
    ];
    let mut ids = Vec::new();
    for (body, code) in cases {
        let id = bench.id();
        bench.publish(bench.subject(Priority::Normal, "probe", &id), None, body).await;
        ids.push((id, code));
    }
    let good = bench.submit(json!({"type": "probe.ping"})).await;
    assert_eq!(bench.result(&good).await.outcome, Outcome::Succeeded);
    for (id, code) in ids {
        let result = bench.result(&id).await;
        assert_eq!((result.outcome, result.attempt), (Outcome::Rejected, 0), "{code}");
        assert_eq!(result.error.unwrap().code, code);
    }
    eventually("nothing is left", async || bench.queued().await == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_without_a_valid_id_is_rejected_under_one_made_from_its_sequence() {
    let bench = Bench::start().await;
    let _agent = bench.agent(1).await;
    let sane = bench.subject(Priority::Normal, "probe", &"x".parse().unwrap());
    let mut done = bench.done().await;
    bench.publish(sane.replace(".x", &format!(".{}", "x".repeat(65))), None, br#"{"type":"probe.ping"}"#.to_vec()).await;
    bench.publish(sane.replace(".x", ".ü!"), None, br#"{"type":"probe.ping"}"#.to_vec()).await;
    for _ in 1..=2 {
        let message = next_message(&mut done).await;
        assert!(message.subject.contains(".rejected-"), "{}", message.subject);
        let result: muster_schemas::result::JobResult = wire::decode(&message.payload).unwrap();
        assert_eq!((result.outcome, result.error.unwrap().code), (Outcome::Rejected, Code::NameInvalid));
    }
    eventually("nothing is left", async || bench.queued().await == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn output_is_streamed_to_the_log_while_the_job_runs_and_its_tail_is_in_the_result() {
    let bench = Bench::start().await;
    let _agent = bench.agent(1).await;
    let id = bench.submit(json!({"type": "shell.run", "params": {"command": "printf 'one\\377'; printf two >&2; exit 3"}})).await;
    let result = bench.result(&id).await;
    assert_eq!((result.outcome, result.exit_code), (Outcome::Failed, Some(3)));
    assert_eq!((result.stdout.as_bytes(), result.stderr.as_bytes()), (&b"one\xff"[..], &b"two"[..]));
    assert_eq!(result.error.unwrap().code, Code::ExitNonzero);
    eventually("the log is there", async || bench.last(topology::LOGS, &About::Log.job(&bench.pool, &id)).await.is_some()).await;
    let chunk: LogChunk = wire::decode(&bench.last(topology::LOGS, &About::Log.job(&bench.pool, &id)).await.unwrap().payload).unwrap();
    assert_eq!(chunk.attempt, 1);
    assert!(matches!(chunk.stream, OutputStream::Stdout | OutputStream::Stderr));
    assert!(bench.last(topology::DEAD, &About::Dead.job(&bench.pool, &id)).await.is_none(), "a plain failure is no dead letter");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_runs_for_a_moment_says_so() {
    let bench = Bench::start().await;
    let agent = bench.agent(1).await;
    let id = bench.submit(json!({"type": "probe.sleep", "params": {"ms": 300}})).await;
    assert_eq!(bench.result(&id).await.outcome, Outcome::Succeeded);
    let events = bench.events(&id).await;
    assert_eq!(events.len(), 1);
    assert_eq!((events[0].kind, events[0].attempt, &events[0].agent_id), (EventKind::Started, 1, &agent.id));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_waits_for_its_time_and_ends_when_its_time_is_over() {
    let bench = Bench::start().await;
    let agent = bench.agent(1).await;
    crate::clock::tell_time(&bench, &agent, 0).await;
    let now = Timestamp::now();
    let (soon, past) = (now + std::time::Duration::from_millis(1500), now - std::time::Duration::from_secs(60));
    let later = bench.submit(json!({"type": "probe.ping", "not_before": soon})).await;
    let over = bench.submit(json!({"type": "probe.ping", "expires_at": past})).await;
    let result = bench.result(&over).await;
    assert_eq!((result.outcome, result.error.unwrap().code, result.attempt), (Outcome::Expired, Code::Expired, 0));
    let result = bench.result(&later).await;
    assert_eq!((result.outcome, result.attempt), (Outcome::Succeeded, 1));
    assert!(result.started_at.unwrap() >= soon, "{} is before {soon}", result.started_at.unwrap());
    let release = &bench.events(&later).await[0];
    assert_eq!((release.kind, release.releases, release.next_at), (EventKind::Released, 1, Some(soon)));
}
