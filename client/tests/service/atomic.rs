//! Many messages in one commit, on a real broker.

use std::collections::BTreeSet;

use async_nats::{Client, HeaderMap};
use muster_client::{
    Update,
    atomic::{Answer, Outgoing, Refusal, Stored, publish_all},
    schemas::{
        headers,
        lane::{Lane, Priority},
        names::{JobId, PoolName},
        subjects::{self, About, broker::StreamApi, js},
        topology,
    },
};
use serde_json::{Value, json};

use crate::stage::{Cut, Stage, eventually};

pub(crate) const JOBS: &str = "JOBS_p";
const JOB: &[u8] = br#"{"type":"probe.ping"}"#;

pub(crate) fn job(id: &str, map: &[(&str, &str)]) -> Outgoing {
    let lane = Lane { priority: Priority::Normal, executor: "probe".parse().unwrap() };
    let subject = subjects::job(&"p".parse().unwrap(), &lane, &id.parse().unwrap());
    let mut headers = HeaderMap::new();
    for (name, value) in map {
        headers.insert(*name, *value);
    }
    Outgoing { subject, headers, payload: JOB.into() }
}

fn jobs(prefix: &str, count: usize) -> Vec<Outgoing> {
    (0..count).map(|number| job(&format!("{prefix}{number}"), &[(headers::FRESH, "1")])).collect()
}

async fn info(nats: &Client, stream: &str) -> Value {
    let answer = nats.request(StreamApi::Info.subject(stream), "".into()).await.unwrap();
    serde_json::from_slice(&answer.payload).unwrap()
}

pub(crate) async fn messages(nats: &Client, stream: &str) -> u64 {
    info(nats, stream).await["state"]["messages"].as_u64().unwrap()
}

/// The last message of a stream on a subject.
pub(crate) async fn last(nats: &Client, stream: &str, subject: &str) -> async_nats::Message {
    nats.request(js::direct_get(stream, subject), "".into()).await.unwrap()
}

pub(crate) fn header(message: &async_nats::Message, name: &str) -> Option<String> {
    message.headers.as_ref().unwrap().get(name).map(|value| value.as_str().to_owned())
}

fn stored(answers: &[Answer]) -> usize {
    answers.iter().filter(|answer| matches!(answer, Ok(Stored { duplicate: false, .. }))).count()
}

#[tokio::test]
async fn many_messages_are_stored_in_their_order_and_the_history_is_told_of_each_once() {
    let stage = Stage::set(5_000).await;
    let nats = stage.gateway().await;
    let mut jobs = jobs("j", 2_100);
    jobs[5].headers.insert(headers::MSG_ID, "j5");
    let answers = publish_all(&nats, JOBS, &jobs).await;
    let wanted: Vec<Answer> = (1..=2_100).map(|sequence| Ok(Stored { sequence, duplicate: false })).collect();
    assert_eq!(answers, wanted);
    for place in [0_usize, 5, 999, 1_000, 2_099] {
        let message = last(&nats, JOBS, &jobs[place].subject).await;
        assert_eq!(header(&message, headers::SEQUENCE).unwrap(), (place + 1).to_string());
        assert!(header(&message, headers::BATCH_ID).is_some(), "it was not stored in a batch");
    }
    eventually("the history is told", async || messages(&nats, topology::EVENTS).await == 2_100).await;
    for place in [0_usize, 5, 2_099] {
        let copy = last(&nats, topology::EVENTS, &About::Event.job(&stage.pool, &format!("j{place}").parse().unwrap())).await;
        assert_eq!((&copy.payload[..], header(&copy, headers::REPUBLISHED_SUBJECT).unwrap()), (JOB, jobs[place].subject.clone()));
        assert_eq!((header(&copy, headers::FRESH).unwrap().as_str(), header(&copy, headers::BATCH_ID)), ("1", None));
        // The broker's clock, from before the job was stored.
        let message = last(&nats, JOBS, &jobs[place].subject).await;
        assert!(header(&copy, headers::STORED_AT).unwrap() <= header(&message, headers::STORED_AT).unwrap());
    }
}

#[tokio::test]
async fn only_the_messages_that_spoil_a_batch_are_refused_and_each_learns_why() {
    let stage = Stage::set(5_000).await;
    let nats = stage.gateway().await;
    let own = |id: &str| job(id, &[(headers::MSG_ID, id)]);
    assert_eq!(stored(&publish_all(&nats, JOBS, &[job("taken", &[]), own("mine")]).await), 2);
    let mut jobs = jobs("j", 1_000);
    jobs[3] = job("taken", &[]);
    jobs[200] = own("twice");
    jobs[700] = job("elsewhere", &[(headers::MSG_ID, "mine")]);
    jobs[800] = own("twice");
    jobs[998].payload = vec![b'x'; 512 * 1024].into();
    jobs[999].subject = "jobs.p.normal.nobody.j".into();
    let answers = publish_all(&nats, JOBS, &jobs).await;
    assert_eq!(answers[3], Err(Refusal::Taken));
    assert!(matches!(answers[200], Ok(Stored { duplicate: false, .. })));
    for place in [700_usize, 800] {
        assert!(matches!(answers[place], Ok(Stored { duplicate: true, .. })), "{:?}", answers[place]);
    }
    assert!(matches!(answers[998], Err(Refusal::Refused { code: 10054, .. })), "{:?}", answers[998]);
    assert_eq!(answers[999], Err(Refusal::Nowhere));
    assert_eq!((stored(&answers), messages(&nats, JOBS).await), (995, 997));
    eventually("the history is told", async || messages(&nats, topology::EVENTS).await == 997).await;
}

#[tokio::test]
async fn a_batch_of_which_every_third_is_taken_stores_the_others() {
    let stage = Stage::set(5_000).await;
    let nats = stage.gateway().await;
    let all = jobs("j", 1_000);
    let third: Vec<Outgoing> = all.iter().step_by(3).cloned().collect();
    assert_eq!(stored(&publish_all(&nats, JOBS, &third).await), 334);
    let answers = publish_all(&nats, JOBS, &all).await;
    for (place, answer) in answers.iter().enumerate() {
        assert_eq!(answer.is_ok(), place % 3 != 0, "{place}: {answer:?}");
    }
    assert_eq!(messages(&nats, JOBS).await, 1_000);
}

#[tokio::test]
async fn as_many_are_accepted_as_there_is_room() {
    let stage = Stage::set(777).await;
    let nats = stage.gateway().await;
    let answers = publish_all(&nats, JOBS, &jobs("j", 1_000)).await;
    let full = answers.iter().filter(|answer| **answer == Err(Refusal::Full)).count();
    assert_eq!((stored(&answers), full, messages(&nats, JOBS).await), (777, 223, 777));
}

#[tokio::test]
async fn a_stream_that_takes_no_batches_gets_the_same_messages_one_by_one() {
    let stage = Stage::set(5_000).await;
    let nats = stage.gateway().await;
    let mut config = info(&nats, JOBS).await["config"].clone();
    config["allow_atomic"] = json!(false);
    nats.request(StreamApi::Update.subject(JOBS), config.to_string().into()).await.unwrap();
    let answers = publish_all(&nats, JOBS, &jobs("j", 300)).await;
    assert_eq!((stored(&answers), messages(&nats, JOBS).await), (300, 300));
    eventually("the history is told", async || messages(&nats, topology::EVENTS).await == 300).await;
    assert!(publish_all(&nats, "JOBS_none", &[]).await.is_empty());
}

#[tokio::test]
async fn the_history_is_not_told_of_a_new_job_behind_what_an_agent_has_told() {
    let stage = Stage::set(5_000).await;
    let nats = stage.gateway().await;
    let (pool, began): (PoolName, JobId) = (stage.pool.clone(), "j7".parse().unwrap());
    let subject = About::Event.job(&pool, &began);
    nats.publish(subject.clone(), "an agent's".into()).await.unwrap();
    publish_all(&nats, JOBS, &jobs("j", 100)).await;
    eventually("the history is told", async || messages(&nats, topology::EVENTS).await == 100).await;
    assert_eq!(&last(&nats, topology::EVENTS, &subject).await.payload[..], b"an agent's");
}

#[tokio::test]
async fn who_watches_a_job_of_a_batch_hears_once_that_it_is_queued() {
    let stage = Stage::set(5_000).await;
    let nats = stage.gateway().await;
    stage.play_gateway().await;
    let client = stage.service().await;
    let mut watch = client.watch(&stage.pool, &"j7".parse().unwrap()).await.unwrap();
    // The watch asks a gateway, after it has subscribed on the same connection.
    let submitted = client.submit(&stage.pool, muster_client::NewJob::new("probe.ping", json!({}))).await;
    submitted.unwrap();
    publish_all(&nats, JOBS, &jobs("j", 100)).await;
    eventually("the history is told", async || messages(&nats, topology::EVENTS).await == 101).await;
    let _agent = stage.play_agent().await;
    let mut queued = 0;
    while let Some(update) = watch.next().await {
        queued += usize::from(matches!(update.unwrap(), Update::Queued));
    }
    assert_eq!(queued, 1);
}

#[tokio::test]
async fn without_an_answer_nothing_is_sent_again_and_what_was_not_sent_is_not_stored() {
    let stage = Stage::set(50_000).await;
    let direct = stage.gateway().await;
    let cut = Cut::before(&stage.broker).await;
    let nats = stage.gateway_by(&cut.url).await;
    let jobs = jobs("j", 20_000);
    let (answers, ()) = tokio::join!(publish_all(&nats, JOBS, &jobs), async {
        eventually("some are stored", async || messages(&direct, JOBS).await >= 2_000).await;
        cut.cut();
    });
    let fate = |wanted: fn(&Answer) -> bool| answers.iter().filter(|answer| wanted(answer)).count();
    let (unknown, not_sent) = (fate(|answer| matches!(answer, Err(Refusal::Unknown(_)))), fate(|answer| *answer == Err(Refusal::NotSent)));
    assert!(stored(&answers) >= 1_000 && not_sent > 0 && unknown <= 1_000, "{unknown} {not_sent}");
    assert_eq!(stored(&answers) + unknown + not_sent, jobs.len());
    cut.mend();
    // The answer to this comes behind whatever the client still had to send.
    eventually("connected again", async || nats.request(StreamApi::Info.subject(JOBS), "".into()).await.is_ok()).await;
    let sure: BTreeSet<&str> =
        jobs.iter().zip(&answers).filter(|(_, answer)| answer.is_ok()).map(|(job, _)| job.subject.as_str()).collect();
    let count = usize::try_from(messages(&direct, JOBS).await).unwrap();
    assert!(count == sure.len() || count == sure.len() + unknown, "{count} are stored, {} of them for sure", sure.len());
}
