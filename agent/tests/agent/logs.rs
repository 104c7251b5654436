//! What of a job's output and progress gets into its log.

use muster_schemas::{
    log::{LogChunk, OutputStream},
    names::JobId,
    result::Outcome,
    subjects::{About, js},
    topology, wire,
};
use serde_json::json;

use crate::bench::{Bench, SOON, eventually};

/// The stored log of a job.
async fn log(bench: &Bench, id: &JobId) -> Vec<LogChunk> {
    let subject = About::Log.job(&bench.pool, id);
    let (mut chunks, mut from) = (Vec::new(), 1_u64);
    loop {
        let request = json!({"next_by_subj": subject, "seq": from}).to_string();
        let answer = bench.gateway.request(js::direct_get_by_request(topology::LOGS), request.into()).await.unwrap();
        if answer.status.is_some() {
            return chunks;
        }
        from = answer.headers.as_ref().unwrap().get(muster_schemas::headers::SEQUENCE).unwrap().as_str().parse::<u64>().unwrap() + 1;
        chunks.push(wire::decode(&answer.payload).unwrap());
    }
}

/// The stored log of an attempt, once it has as many chunks as its job's result says.
async fn whole(bench: &Bench, id: &JobId) -> Vec<LogChunk> {
    let result = bench.result_within(id, 3 * SOON).await;
    assert!(result.log_chunks > 0);
    eventually("all of the log", async || {
        log(bench, id).await.iter().filter(|chunk| chunk.attempt == result.attempt).count() as u64 == result.log_chunks
    })
    .await;
    log(bench, id).await
}

fn bytes(log: &[LogChunk]) -> usize {
    log.iter().filter(|chunk| chunk.stream == OutputStream::Stdout).map(|chunk| chunk.data.as_bytes().len()).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn progress_is_stored_with_the_output_once_a_second_and_at_the_end() {
    let bench = Bench::start().await;
    let _agent = bench.agent(1).await;
    let id = bench.submit(json!({"type": "probe.sleep", "params": {"ms": 2500}})).await;
    let log = whole(&bench, &id).await;
    let told: Vec<(OutputStream, u8)> = log.iter().map(|chunk| (chunk.stream, chunk.progress().unwrap().percent)).collect();
    assert!((2..=4).contains(&told.len()), "{told:?}");
    assert!(told.iter().all(|(stream, _)| *stream == OutputStream::Progress) && told.is_sorted_by_key(|(_, percent)| *percent), "{told:?}");
    assert_eq!(log.last().unwrap().progress().unwrap().message, "slept 2.5 of 2.5 s");
    assert!(log.iter().enumerate().all(|(number, chunk)| chunk.seq == number as u64));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_mebibytes_of_a_job_are_stored_then_a_note_and_nothing_more() {
    let bench = Bench::start().await;
    let _agent = bench.agent(1).await;
    // Slowly enough for none of it to be dropped on the way: then the note of that would be among it.
    let command = "for i in $(seq 24); do head -c 262144 /dev/zero | tr '\\0' x; sleep 0.05; done; echo the end";
    let id = bench.submit(json!({"type": "shell.run", "params": {"command": command}})).await;
    let log = whole(&bench, &id).await;
    assert_eq!(bytes(&log), 5 << 20);
    let notes: Vec<usize> = (0..log.len()).filter(|number| log[*number].stream == OutputStream::Note).collect();
    assert_eq!(notes, [log.len() - 1], "one note, at the end");
    assert!(log.last().unwrap().data.to_text().contains("full"), "{:?}", log.last());
    let result = bench.result(&id).await;
    assert!(result.stdout.to_text().ends_with("the end\n") && result.truncated, "the result has the end in any case");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_attempts_of_a_job_share_the_limit_of_its_log() {
    let bench = Bench::start().await;
    let _agent = bench.agent_with(1, &[("job_log_limit", "1000")]).await;
    let job = json!({
        "type": "shell.run",
        "params": {"command": "head -c 600 /dev/zero | tr '\\0' x; exit 1"},
        "retry": {"max_attempts": 3, "initial_ms": 10, "jitter": 0.0},
    });
    let id = bench.submit(job).await;
    let result = bench.result(&id).await;
    assert_eq!((result.outcome, result.attempt, result.log_chunks), (Outcome::Failed, 3, 0));
    let log = log(&bench, &id).await;
    let shape: Vec<(u32, OutputStream, usize)> =
        log.iter().map(|chunk| (chunk.attempt, chunk.stream, bytes(std::slice::from_ref(chunk)))).collect();
    let stdout = OutputStream::Stdout;
    assert_eq!(shape, [(1, stdout, 600), (2, stdout, 400), (2, OutputStream::Note, 0)]);
    assert_eq!(bench.result(&id).await.stdout.as_bytes().len(), 600);
}
