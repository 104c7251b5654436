//! Messages that come one by one and share commits, on a real broker that is cut off and killed meanwhile.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use async_nats::{Client, connection::State};
use futures_util::future::join_all;
use muster_client::{
    atomic::{Answer, Outgoing, Refusal, Stored},
    commits::{CALLERS, Commits, WAITING_MAX},
    schemas::{
        headers,
        signature::{Signature, Signed, Signer},
        subjects::About,
        time::Timestamp,
        topology,
    },
};

use crate::{
    atomic::{JOBS, header, job, last, messages},
    stage::{Cut, Stage, eventually},
};

fn begin(nats: &Client, stream: &str) -> Commits {
    let (commits, driver) = Commits::new(nats.clone(), stream, CALLERS);
    tokio::task::spawn(driver.run());
    commits
}

fn fresh(id: &str) -> Outgoing {
    job(id, &[(headers::FRESH, "1")])
}

#[tokio::test]
async fn a_lone_message_goes_alone_and_as_fast_as_ever() {
    let stage = Stage::set(5_000).await;
    let nats = stage.gateway().await;
    let commits = begin(&nats, JOBS);
    for sequence in 1..=20 {
        assert_eq!(commits.store(fresh(&format!("j{sequence}"))).await, Ok(Stored { sequence, duplicate: false }));
    }
    for sequence in 1..=20 {
        assert_eq!(header(&last(&nats, JOBS, &fresh(&format!("j{sequence}")).subject).await, headers::BATCH_ID), None);
    }
}

#[tokio::test]
async fn messages_that_come_together_share_commits_and_each_gets_an_answer_of_its_own() {
    let stage = Stage::set(5_000).await;
    let nats = stage.gateway().await;
    let commits = begin(&nats, JOBS);
    let taken = fresh("taken");
    commits.store(taken.clone()).await.unwrap();
    let mut all: Vec<Outgoing> = (0..600).map(|number| fresh(&format!("j{number}"))).collect();
    all[100] = taken;
    all[200].subject = "jobs.p.normal.nobody.j".into();
    all[300].payload = vec![b'x'; 512 * 1024].into();
    all[400] = job("mine", &[(headers::MSG_ID, "mine")]);
    all[401] = job("mine", &[(headers::MSG_ID, "mine")]);
    let answers = join_all(all.iter().map(|message| commits.store(message.clone()))).await;
    assert_eq!((answers[100].clone(), answers[200].clone()), (Err(Refusal::Taken), Err(Refusal::Nowhere)));
    assert!(matches!(answers[300], Err(Refusal::Refused { code: 10054, .. })), "{:?}", answers[300]);
    let mine = [&answers[400], &answers[401]].map(|answer| matches!(answer, Ok(Stored { duplicate: true, .. })));
    assert_eq!(mine, [false, true]);
    let stored: BTreeSet<u64> = answers.iter().flatten().map(|stored| stored.sequence).collect();
    assert_eq!((stored.len(), messages(&nats, JOBS).await), (596, 597), "each has a place of its own");
    eventually("the history is told of each", async || messages(&nats, topology::EVENTS).await == 597).await;
}

/// The signature of a stored message, if it holds, and the bytes that it may share with others.
async fn signature(nats: &Client, message: &Outgoing) -> (Signature, String) {
    let stored = last(nats, JOBS, &message.subject).await;
    let text = header(&stored, headers::SIGNATURE).unwrap();
    let signature = Signature::parse(&text).unwrap();
    signature.verify(Signed::Job { fresh: true }, &message.subject, &stored.payload).unwrap();
    (signature, text.split('.').nth(2).unwrap().to_owned())
}

#[tokio::test]
async fn what_comes_unsigned_is_signed_as_it_is_sent_and_what_goes_together_shares_signatures() {
    let stage = Stage::set(5_000).await;
    let nats = stage.gateway().await;
    let (commits, driver) = Commits::new(nats.clone(), JOBS, CALLERS);
    let (signer, other) = (Arc::new(Signer::generate()), Signer::generate());
    tokio::task::spawn(driver.signing(Arc::clone(&signer), Signed::Job { fresh: true }).run());
    let lone = fresh("lone");
    commits.store(lone.clone()).await.unwrap();
    assert_eq!(signature(&nats, &lone).await.0.key, signer.public_key());

    let mut all: Vec<Outgoing> = (0..200).map(|number| fresh(&format!("j{number}"))).collect();
    let signed = other.sign(Signed::Job { fresh: true }, &all[100].subject, &all[100].payload, Timestamp::now());
    all[100].headers.insert(headers::SIGNATURE, signed.to_string());
    let answers = join_all(all.iter().map(|message| commits.store(message.clone()))).await;
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    let mut shared = BTreeSet::new();
    for (number, message) in all.iter().enumerate() {
        let (signature, bytes) = signature(&nats, message).await;
        assert_eq!(signature.key == other.public_key(), number == 100, "one that was signed stays as it is");
        shared.insert(bytes);
    }
    assert!((7..20).contains(&shared.len()), "{} signatures", shared.len());
}

#[tokio::test]
async fn one_message_that_is_refused_costs_the_others_their_commit_and_not_more() {
    let stage = Stage::set(5_000).await;
    let nats = stage.gateway().await;
    let commits = begin(&nats, JOBS);
    commits.store(fresh("j77")).await.unwrap();
    let all: Vec<Outgoing> = (0..500).map(|number| fresh(&format!("j{number}"))).collect();
    let answers = join_all(all.iter().map(|message| commits.store(message.clone()))).await;
    let refused: Vec<usize> = answers.iter().enumerate().filter(|(_, answer)| answer.is_err()).map(|(place, _)| place).collect();
    assert_eq!((refused, answers[77].clone()), (vec![77], Err(Refusal::Taken)));
    let mut batches: BTreeMap<Option<String>, usize> = BTreeMap::new();
    for message in &all {
        *batches.entry(header(&last(&nats, JOBS, &message.subject).await, headers::BATCH_ID)).or_default() += 1;
    }
    let alone = batches.remove(&None).unwrap_or(0);
    assert!(alone < 60 && batches.len() < 12, "{alone} were stored alone, the others in {} commits", batches.len());
}

#[tokio::test]
async fn what_is_stored_in_a_commit_is_told_no_later_than_it_was() {
    let stage = Stage::set(5_000).await;
    let nats = stage.gateway().await;
    let commits = begin(&nats, JOBS);
    for round in 0..3 {
        join_all((0..100).map(|number| commits.store(fresh(&format!("r{round}-{number}"))))).await;
    }
    eventually("the history is told", async || messages(&nats, topology::EVENTS).await == 300).await;
    for number in [0, 50, 99] {
        let id = format!("r2-{number}");
        let copy = last(&nats, topology::EVENTS, &About::Event.job(&stage.pool, &id.parse().unwrap())).await;
        let job = last(&nats, JOBS, &fresh(&id).subject).await;
        let [told, stored] = [&copy, &job].map(|message| header(message, headers::STORED_AT).unwrap().parse::<Timestamp>().unwrap());
        assert!(told <= stored && stored.since(told) < Duration::from_secs(5), "{told} {stored}");
    }
}

#[tokio::test]
async fn what_is_for_one_connection_is_not_sent_over_the_next_one() {
    let stage = Stage::set(5_000).await;
    let direct = stage.gateway().await;
    let cut = Cut::before(&stage.broker).await;
    let nats = stage.gateway_by(&cut.url).await;
    let commits = begin(&nats, JOBS);
    let connects = || nats.statistics().connects.load(Ordering::Relaxed);
    let first = connects();
    assert!(commits.store_over(first, fresh("j1")).await.is_ok());
    cut.cut();
    eventually("the connection is lost", async || nats.connection_state() != State::Connected).await;
    let waiting = (commits.store_over(first, fresh("j2")), commits.store(fresh("j3")), async { cut.mend() });
    let (over, any, ()) = tokio::join!(waiting.0, waiting.1, waiting.2);
    assert_eq!((over, any.is_ok()), (Err(Refusal::NotSent), true));
    assert_eq!(commits.store_over(first, fresh("j4")).await, Err(Refusal::NotSent));
    assert!(connects() > first && commits.store_over(connects(), fresh("j5")).await.is_ok());
    assert_eq!(messages(&direct, JOBS).await, 3);
}

#[tokio::test]
async fn too_many_at_once_are_refused_at_once() {
    let stage = Stage::set(20_000).await;
    let nats = stage.gateway().await;
    let commits = begin(&nats, JOBS);
    let many = WAITING_MAX + 500;
    let answers = join_all((0..many).map(|number| commits.store(fresh(&format!("j{number}"))))).await;
    let busy = answers.iter().filter(|answer| **answer == Err(Refusal::Busy)).count();
    assert!(busy >= 400, "{busy}");
    assert_eq!(usize::try_from(messages(&nats, JOBS).await).unwrap(), many - busy);
    // Bytes count too: 300 of 240 KiB are more than may wait.
    let heavy = |number: usize| Outgoing { payload: vec![b' '; 240 * 1024].into(), ..fresh(&format!("heavy{number}")) };
    let answers = join_all((0..300).map(|number| commits.store(heavy(number)))).await;
    let busy = answers.iter().filter(|answer| **answer == Err(Refusal::Busy)).count();
    assert!((1..100).contains(&busy), "{busy}");
}

#[tokio::test]
async fn while_the_broker_is_away_nothing_is_sent_and_who_waits_too_long_is_told() {
    let stage = Stage::set(5_000).await;
    let direct = stage.gateway().await;
    let cut = Cut::before(&stage.broker).await;
    let nats = stage.gateway_by(&cut.url).await;
    let commits = begin(&nats, JOBS);
    commits.store(fresh("before")).await.unwrap();
    cut.cut();
    eventually("the connection is lost", async || nats.connection_state() != State::Connected).await;
    let answers = join_all((0..50).map(|number| commits.store(fresh(&format!("j{number}"))))).await;
    assert!(answers.iter().all(|answer| *answer == Err(Refusal::NotSent)), "{answers:?}");
    cut.mend();
    commits.store(fresh("after")).await.unwrap();
    assert_eq!(messages(&direct, JOBS).await, 2);
}

/// Who submits all the time, and what became of it.
struct Load {
    running: Vec<tokio::task::JoinHandle<Vec<(String, Answer)>>>,
    stored: Arc<AtomicUsize>,
}

impl Load {
    /// So many submitters, each so often.
    fn start(commits: &Commits, submitters: usize, each: usize) -> Self {
        let stored = Arc::new(AtomicUsize::new(0));
        let submitter = |submitter: usize| {
            let (commits, stored) = (commits.clone(), Arc::clone(&stored));
            tokio::task::spawn(async move {
                let mut answers = Vec::new();
                for number in 0..each {
                    let id = format!("s{submitter}-{number}");
                    let answer = commits.store(fresh(&id)).await;
                    stored.fetch_add(usize::from(answer.is_ok()), Ordering::Relaxed);
                    answers.push((id, answer));
                }
                answers
            })
        };
        Self { running: (0..submitters).map(submitter).collect(), stored }
    }

    async fn reached(&self, count: usize) {
        eventually("so many are stored", async || self.stored.load(Ordering::Relaxed) >= count).await;
    }

    async fn answers(self) -> Vec<(String, Answer)> {
        let mut answers = Vec::new();
        for running in self.running {
            answers.extend(running.await.unwrap());
        }
        answers
    }
}

/// What holds of every load, whatever was done to it: each answer is true.
async fn all_true(direct: &Client, answers: &[(String, Answer)]) {
    let mut count = 0;
    for (id, answer) in answers {
        let is_there = last(direct, JOBS, &fresh(id).subject).await.status.is_none();
        count += u64::from(is_there);
        match answer {
            Ok(Stored { duplicate: false, .. }) => assert!(is_there, "{id} was acknowledged and is lost"),
            Err(Refusal::NotSent) => assert!(!is_there, "{id} is stored, and its caller was told that it is not"),
            other => panic!("{id}: {other:?}: it was sent twice, or its fate is unknown"),
        }
    }
    assert_eq!(messages(direct, JOBS).await, count);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn however_often_the_connection_is_lost_every_answer_is_true() {
    let stage = Stage::set(50_000).await;
    let direct = stage.gateway().await;
    let cut = Cut::before(&stage.broker).await;
    let nats = stage.gateway_by(&cut.url).await;
    let load = Load::start(&begin(&nats, JOBS), 64, 60);
    for round in 1..=6 {
        load.reached(round * 400).await;
        cut.cut();
        eventually("the connection is lost", async || nats.connection_state() != State::Connected).await;
        cut.mend();
    }
    let answers = load.answers().await;
    assert!(answers.iter().filter(|(_, answer)| answer.is_ok()).count() > 2_400);
    all_true(&direct, &answers).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whenever_the_broker_is_killed_every_answer_is_true() {
    let mut stage = Stage::set(50_000).await;
    let nats = stage.gateway().await;
    let load = Load::start(&begin(&nats, JOBS), 64, 60);
    for round in 1..=3 {
        load.reached(round * 700).await;
        stage.broker.kill().await.unwrap();
        stage.broker.restart().await.unwrap();
    }
    let answers = load.answers().await;
    let direct = stage.gateway().await;
    all_true(&direct, &answers).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_has_run_while_its_submit_was_in_doubt_is_not_stored_again() {
    let stage = Stage::set(50_000).await;
    let mut agent = stage.play_agent().await;
    let cut = Cut::before(&stage.broker).await;
    let nats = stage.gateway_by(&cut.url).await;
    let load = Load::start(&begin(&nats, JOBS), 40, 10);
    for round in 1..=3 {
        load.reached(round * 90).await;
        cut.cut();
        eventually("the connection is lost", async || nats.connection_state() != State::Connected).await;
        cut.mend();
    }
    let answers = load.answers().await;
    let direct = stage.gateway().await;
    eventually("all have run", async || messages(&direct, JOBS).await == 0).await;
    let mut runs: BTreeMap<String, usize> = BTreeMap::new();
    while let Ok((id, _)) = agent.jobs.try_recv() {
        *runs.entry(id).or_default() += 1;
    }
    for (id, answer) in &answers {
        let times = runs.get(id).copied().unwrap_or(0);
        match answer {
            Ok(_) => assert_eq!(times, 1, "{id}"),
            Err(Refusal::NotSent) => assert_eq!(times, 0, "{id}"),
            other => panic!("{id}: {other:?}"),
        }
    }
}

/// Stores all of it again and again while the connection is cut and comes back; answers what was told of each message.
async fn cut_while_storing(stage: &Stage, round: impl Fn(u64) -> Vec<Outgoing>) -> Vec<(Outgoing, Answer)> {
    let cut = Cut::before(&stage.broker).await;
    let nats = stage.gateway_by(&cut.url).await;
    let commits = begin(&nats, JOBS);
    let mut told = Vec::new();
    for number in 0..6 {
        let connects = nats.statistics().connects.load(Ordering::Relaxed);
        let all = round(number);
        let storing = join_all(all.iter().map(|message| commits.store(message.clone())));
        let cutting = async {
            // At another moment of the commit each time.
            tokio::time::sleep(Duration::from_micros(300 * number)).await; // stuck on purpose
            cut.cut();
            let is_back = async || nats.statistics().connects.load(Ordering::Relaxed) > connects;
            eventually("the connection is lost", async || nats.connection_state() != State::Connected || is_back().await).await;
            cut.mend();
            eventually("it is back", async || nats.connection_state() == State::Connected && is_back().await).await;
        };
        let (answers, ()) = tokio::join!(storing, cutting);
        told.extend(all.into_iter().zip(answers));
    }
    told
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_had_ended_under_an_id_of_its_callers_does_not_speak_for_its_group() {
    let stage = Stage::set(50_000).await;
    let mut agent = stage.play_agent().await;
    let direct = stage.gateway().await;
    let own = || job("mine", &[(headers::MSG_ID, "mine")]);
    begin(&direct, JOBS).store(own()).await.unwrap();
    let has_run = async || messages(&direct, topology::RESULTS).await == 1 && messages(&direct, JOBS).await == 0;
    eventually("it has run", has_run).await;
    let round = |round| (0..200).map(|number| if number == 77 { own() } else { fresh(&format!("r{round}-{number}")) }).collect();
    let told = cut_while_storing(&stage, round).await;
    eventually("all have run", async || messages(&direct, JOBS).await == 0).await;
    let mut ran = BTreeSet::new();
    while let Ok((id, _)) = agent.jobs.try_recv() {
        ran.insert(id);
    }
    assert!(told.iter().any(|(_, answer)| answer == &Err(Refusal::NotSent)), "no cut came before a commit");
    for (message, answer) in told.iter().filter(|(message, _)| message.subject != own().subject) {
        let id = message.subject.rsplit('.').next().unwrap();
        assert_eq!(answer.is_ok(), ran.contains(id), "{id}: {answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_was_stored_before_does_not_speak_for_its_group() {
    let stage = Stage::set(50_000).await;
    let direct = stage.gateway().await;
    let again = || job("again", &[(headers::SIGNATURE, "the same, as it comes from the spool")]);
    begin(&direct, JOBS).store(again()).await.unwrap();
    let round = |round| (0..200).map(|number| if number == 77 { again() } else { fresh(&format!("r{round}-{number}")) }).collect();
    let told = cut_while_storing(&stage, round).await;
    for (message, answer) in told.iter().filter(|(message, _)| message.subject != again().subject) {
        let is_there = last(&direct, JOBS, &message.subject).await.status.is_none();
        assert_eq!(answer.is_ok(), is_there, "{}: {answer:?}", message.subject);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_is_back_at_once_holds_nobody_up() {
    let stage = Stage::set(50_000).await;
    let cut = Cut::before(&stage.broker).await;
    let nats = stage.gateway_by(&cut.url).await;
    let load = Load::start(&begin(&nats, JOBS), 64, 60);
    load.reached(800).await;
    cut.cut();
    eventually("the connection is lost", async || nats.connection_state() != State::Connected).await;
    cut.mend();
    eventually("it is back", async || nats.connection_state() == State::Connected).await;
    let back = Instant::now();
    load.reached(load.stored.load(Ordering::Relaxed) + 200).await;
    // A request waits five seconds for an answer that was lost with its connection.
    assert!(back.elapsed() < Duration::from_secs(3), "{:?}", back.elapsed());
    load.answers().await;
}

#[tokio::test]
async fn a_stream_in_which_too_many_batches_are_open_takes_messages_one_by_one() {
    let stage = Stage::set(50_000).await;
    let nats = stage.gateway().await;
    let open = |number: usize| {
        let mut message = fresh(&format!("open{number}"));
        message.headers.insert(headers::BATCH_ID, format!("open-{number}"));
        message.headers.insert(headers::BATCH_SEQUENCE, "1");
        nats.publish_with_headers(message.subject, message.headers, message.payload)
    };
    for number in 0..50 {
        open(number).await.unwrap();
    }
    let commits = begin(&nats, JOBS);
    let all: Vec<Outgoing> = (0..100).map(|number| fresh(&format!("j{number}"))).collect();
    let answers = join_all(all.iter().map(|message| commits.store(message.clone()))).await;
    assert!(answers.iter().all(Result::is_ok), "{:?}", answers.iter().find(|answer| answer.is_err()));
    assert_eq!(messages(&nats, JOBS).await, 100);
    for message in &all {
        assert_eq!(header(&last(&nats, JOBS, &message.subject).await, headers::BATCH_ID), None, "it went in a batch");
    }
}
