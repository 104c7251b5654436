//! A delivered secret gets out nowhere: not in what a job writes, nor in what becomes of it, nor in what the agent says of itself.

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use muster_schemas::{
    names::JobId,
    result::Outcome,
    subjects::{self, About},
    topology::{DEAD, HEARTBEATS, LOGS, RESULTS},
    wire,
};
use serde_json::json;

use crate::{
    bench::{Bench, eventually},
    connections::credentials,
};

const SECRET: &str = "hunter2-hunter2";

/// What the agent has told of a job: its result, the end of its log, its events and its dead letter.
async fn told(bench: &Bench, id: &JobId) -> Vec<(&'static str, Vec<u8>)> {
    let mut told = Vec::new();
    for (stream, about) in [(RESULTS, About::Result), (LOGS, About::Log)] {
        told.extend(bench.last(stream, &about.job(&bench.pool, id)).await.map(|message| (stream, message.payload.to_vec())));
    }
    told.extend(bench.events(id).await.iter().map(|event| ("event", wire::encode(event))));
    if let Some(letter) = bench.last(DEAD, &About::Dead.job(&bench.pool, id)).await {
        // The letter has the job as it was sent, with whatever its author wrote into it.
        let letter: muster_schemas::event::DeadLetter = wire::decode(&letter.payload).unwrap();
        told.push((DEAD, serde_json::to_vec(&(letter.error, letter.attempts)).unwrap()));
    }
    told
}

fn shows(bytes: &[u8], what: &str) -> bool {
    bytes.windows(what.len()).any(|window| window == what.as_bytes())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secret_is_masked_on_every_way_out() {
    let bench = Bench::start().await;
    let agent = bench.process(1).await;
    let good = bench.sealed(&agent.id, "db", 1, &credentials("password", SECRET, false)).await;
    // One that can't be opened, whose name the heartbeat and the log would show.
    bench.mailbox(&agent.id, &[("db", good.clone()), (SECRET, good)]).await;
    bench.holds(&agent.id, &[("db", 1)]).await;

    let base64 = BASE64.encode(SECRET);
    let command =
        format!("printf '{SECRET} '; printf 'it is {SECRET}' >&2; printf '%s ' '{SECRET}' | base64 -w0; echo ' {base64}'; exit 3");
    let printed = bench.submit(json!({"type": "shell.run", "params": {"command": command}})).await;
    let fail = json!({"type": "probe.fail", "params": {"message": format!("no {SECRET}")}, "retry": {"max_attempts": 2, "backoff_s": 0}});
    let failed = bench.submit(fail).await;
    let echoed = bench.submit(json!({"type": "probe.echo", "params": {"a": [SECRET, base64]}})).await;
    let rejected = bench.submit(json!({"type": "probe.ping", "params": {SECRET: 1}})).await;

    let result = bench.result(&printed).await;
    assert_eq!((&*result.stderr.to_text(), result.exit_code), ("it is ***", Some(3)));
    assert!(result.stdout.to_text().starts_with("*** ***"), "{}", result.stdout.to_text());
    assert_eq!(bench.result(&failed).await.error.unwrap().message, "no ***");
    assert_eq!(bench.result(&echoed).await.data, Some(json!({"a": ["***", "***"]})));
    let result = bench.result(&rejected).await;
    assert!(result.outcome == Outcome::Rejected && result.error.as_ref().unwrap().message.contains("***"), "{result:?}");

    let words = [SECRET, base64.as_str(), base64.trim_end_matches('=')];
    for id in [&printed, &failed, &echoed, &rejected] {
        let told = told(&bench, id).await;
        assert!(!told.is_empty());
        for (what, bytes) in told {
            for word in words {
                assert!(!shows(&bytes, word), "{what} of {id} shows {word}: {}", String::from_utf8_lossy(&bytes));
            }
        }
    }
    let beat = bench.heartbeat_of(&agent.id, |beat| beat.last_error.is_some()).await;
    assert!(beat.last_error.as_ref().unwrap().contains("connection `***`"), "{:?}", beat.last_error);
    let beat = bench.last(HEARTBEATS, &subjects::heartbeat(&bench.pool, &agent.id)).await.unwrap();
    assert!(!shows(&beat.payload, SECRET));

    eventually("the log has the rejection", async || {
        std::fs::read_to_string(agent.state_dir.join("log")).unwrap().contains("a job ended without an attempt")
    })
    .await;
    let log = std::fs::read_to_string(agent.state_dir.join("log")).unwrap();
    assert!(log.contains("connection `***`"), "{log}");
    words.iter().for_each(|word| assert!(!log.contains(word), "{log}"));
}
