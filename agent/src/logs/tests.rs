//! Tests of [`super`].
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests fail by panicking")]
use muster_runtime::metrics::Metrics;

use super::*;
use crate::executors::Stream;

fn logs(room: usize) -> (Logs, mpsc::Receiver<Line>) {
    let (queue, lines) = mpsc::channel(room);
    let dropped = Metrics::new().counter("muster_test_bytes", "Test.").unwrap();
    (Logs { queue, dropped, account: Arc::default(), limit: 100_000 }, lines)
}

fn output(bytes: &'static [u8], skipped: u64) -> Update {
    Update::Output(Chunk { stream: Stream::Stdout, bytes: Bytes::from_static(bytes), skipped })
}

fn drain(lines: &mut mpsc::Receiver<Line>) -> Vec<LogChunk> {
    std::iter::from_fn(|| lines.try_recv().ok()).map(|line| wire::decode(&line.body).unwrap()).collect()
}

#[test]
fn chunks_are_numbered_and_cut_to_their_limit() {
    let (logs, mut lines) = logs(10);
    let mut log = logs.attempt(&"p".parse().unwrap(), &"j".parse().unwrap(), 3);
    log.take(output(b"one", 0));
    log.take(output(&[b'x'; CHUNK_LIMIT + 1], 0));
    log.close();
    let chunks = drain(&mut lines);
    assert_eq!(chunks.iter().map(|chunk| (chunk.attempt, chunk.seq)).collect::<Vec<_>>(), [(3, 0), (3, 1), (3, 2)]);
    assert_eq!(chunks[2].data.as_bytes(), b"x");
}

#[test]
fn what_is_dropped_is_said_before_the_next_chunk() {
    let (logs, mut lines) = logs(1);
    let mut log = logs.attempt(&"p".parse().unwrap(), &"j".parse().unwrap(), 1);
    log.take(output(b"one", 0));
    log.take(output(b"lost", 0));
    log.take(output(b"too", 5));
    assert_eq!(drain(&mut lines).len(), 1);
    log.close();
    let note = &drain(&mut lines)[0];
    assert_eq!(note.stream, OutputStream::Note);
    assert_eq!(note.data.to_text(), "12 bytes of output are missing here");
    assert_eq!(logs.dropped.get(), 7.0);
}

fn attempt(logs: &Logs, number: u32) -> AttemptLog {
    logs.attempt(&"p".parse().unwrap(), &"j".parse().unwrap(), number)
}

#[test]
fn beyond_its_limit_a_jobs_log_says_so_once_and_takes_no_more_output_in_any_attempt() {
    let (logs, mut lines) = logs(100);
    let mut log = attempt(&logs, 1);
    for _ in 0..7 {
        log.take(output(&[b'x'; CHUNK_LIMIT], 0));
    }
    log.take(output(b"more", 3));
    log.take(Update::Progress(Progress { percent: 50, message: "half".into() }));
    log.take(output(b"", 9));
    let written = log.close();
    let mut log = attempt(&logs, 2);
    log.take(output(b"again", 0));
    assert_eq!(log.close(), 0);
    let chunks = drain(&mut lines);
    assert_eq!(written, chunks.len() as u64);
    let bytes: usize = chunks.iter().filter(|chunk| chunk.stream == OutputStream::Stdout).map(|chunk| chunk.data.as_bytes().len()).sum();
    assert_eq!(bytes, 100_000);
    let rest: Vec<_> = chunks[7..].iter().map(|chunk| (chunk.stream, chunk.data.to_text().into_owned())).collect();
    assert_eq!((rest.len(), rest[0].0), (2, OutputStream::Note), "{rest:?}");
    assert!(rest[0].1.contains("100000 bytes"), "{rest:?}");
    assert_eq!(rest[1], (OutputStream::Progress, "50 half".to_owned()));
}

#[test]
fn a_log_of_exactly_its_limit_is_not_called_full_and_the_attempts_share_it() {
    let (logs, mut lines) = logs(100);
    for number in 1..=2 {
        let mut log = attempt(&logs, number);
        for _ in 0..5 {
            log.take(output(&[b'x'; 10_000], 0));
        }
        assert_eq!(log.close(), 5);
    }
    assert!(drain(&mut lines).iter().all(|chunk| chunk.stream == OutputStream::Stdout));
    let mut log = attempt(&logs, 3);
    log.take(output(b"x", 0));
    assert_eq!(log.close(), 1);
    assert_eq!(drain(&mut lines)[0].stream, OutputStream::Note);
}

#[test]
fn the_note_of_a_full_log_is_told_later_if_there_is_no_room_for_it() {
    let (logs, mut lines) = logs(7);
    let mut log = attempt(&logs, 1);
    for _ in 0..8 {
        log.take(output(&[b'x'; CHUNK_LIMIT], 0));
    }
    assert_eq!(drain(&mut lines).len(), 7);
    assert_eq!(log.close(), 8);
    assert_eq!(drain(&mut lines)[0].stream, OutputStream::Note);
}
