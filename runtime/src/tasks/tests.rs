//! What a process may rely on when its tasks fail, panic, or don't end.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking")]

use std::sync::atomic::AtomicU32;

use tokio::sync::Notify;

use super::*;

const GRACE: Duration = Duration::from_secs(10);

fn tasks() -> Tasks {
    Tasks::new(Shutdown::new())
}

#[tokio::test]
async fn a_task_that_ends_well_is_done_and_shuts_nothing_down() {
    let tasks = tasks();
    tasks.essential("one", async { Ok(()) });
    tasks.background("two", async { Ok(()) });
    assert!(tasks.join(GRACE).await.is_empty());
    assert!(tasks.alive().is_empty());
    assert!(!tasks.shutdown().is_requested());
}

#[tokio::test]
async fn a_failure_or_panic_of_a_background_task_is_only_logged() {
    let tasks = tasks();
    tasks.background("fails", async { anyhow::bail!("broken") });
    tasks.background("panics", async { panic!("oh") });
    assert!(tasks.join(GRACE).await.is_empty());
    assert!(!tasks.shutdown().is_requested());
}

#[tokio::test]
async fn a_failure_of_an_essential_task_shuts_down_and_names_it() {
    let tasks = tasks();
    tasks.essential("lease", async { Err(anyhow::anyhow!("inner").context("outer")) });
    tasks.shutdown().requested().await;
    assert_eq!(tasks.shutdown().reason(), Some("task lease failed: outer: inner"));
}

#[tokio::test]
async fn a_panic_of_an_essential_task_shuts_down_and_says_so() {
    let tasks = tasks();
    tasks.essential("scores", async { panic!("no {}", "luck") });
    tasks.shutdown().requested().await;
    assert_eq!(tasks.shutdown().reason(), Some("task scores failed: panicked: no luck"));
}

#[tokio::test(start_paused = true)]
async fn a_restarted_task_runs_again_after_each_failure_and_panic() {
    let tasks = tasks();
    let runs = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&runs);
    let delay = Duration::from_secs(5);
    let start = tokio::time::Instant::now();
    tasks.start("watch", OnFailure::Restart { delay }, move || {
        let run = counted.fetch_add(1, Ordering::SeqCst);
        async move {
            match run {
                0 => anyhow::bail!("first"),
                1 => panic!("second"),
                _ => Ok(()),
            }
        }
    });
    assert!(tasks.join(Duration::from_secs(60)).await.is_empty());
    assert_eq!(runs.load(Ordering::SeqCst), 3);
    assert_eq!(start.elapsed(), delay * 2);
}

#[tokio::test(start_paused = true)]
async fn a_task_that_waits_for_its_restart_ends_with_the_shutdown() {
    let tasks = tasks();
    let delay = Duration::from_secs(3_600);
    tasks.start("watch", OnFailure::Restart { delay }, || async { anyhow::bail!("always") });
    tasks.shutdown().trigger("test");
    assert!(tasks.join(Duration::from_secs(1)).await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn tasks_that_do_not_end_in_time_are_aborted_and_named() {
    let tasks = tasks();
    tasks.background("quick", async { Ok(()) });
    tasks.background("stuck", std::future::pending());
    assert_eq!(tasks.join(Duration::from_secs(1)).await, ["stuck"]);
    assert!(tasks.join(GRACE).await.is_empty(), "aborted tasks are gone");
    assert!(tasks.alive().is_empty());
}

#[tokio::test]
async fn a_group_counts_its_tasks_and_hands_out_their_outcomes() {
    let group = tasks().group("jobs");
    let gate = Arc::new(Notify::new());
    let waiting = Arc::clone(&gate);
    let running = group.spawn(async move {
        waiting.notified().await;
        7
    });
    assert_eq!(group.count(), 1);
    assert!(!running.is_finished());
    gate.notify_one();
    assert_eq!(running.await, Ok(7));
    group.idle().await;
    assert_eq!(group.count(), 0);
}

#[tokio::test]
async fn a_panic_in_a_group_is_an_outcome_and_the_others_go_on() {
    let group = Group::new("jobs");
    let bad = group.spawn(async { panic!("bad") });
    let good = group.spawn(async { 1 });
    let outcome: Result<(), TaskError> = bad.await;
    assert_eq!(outcome, Err(TaskError::Panicked("bad".to_owned())));
    assert_eq!(good.await, Ok(1));
}

#[tokio::test]
async fn aborted_tasks_are_dropped_and_say_so() {
    let group = Group::new("jobs");
    let one = group.spawn(std::future::pending::<()>());
    one.abort();
    assert_eq!(one.await, Err(TaskError::Aborted));

    let two = group.spawn(std::future::pending::<()>());
    group.abort_all();
    assert_eq!(two.await, Err(TaskError::Aborted));
    let late = group.spawn(async {});
    assert_eq!(late.await, Err(TaskError::Aborted));
    group.idle().await;
}

#[tokio::test]
async fn a_dropped_handle_leaves_its_task_running() {
    let group = Group::new("jobs");
    let done = Arc::new(Notify::new());
    let signal = Arc::clone(&done);
    drop(group.spawn(async move { signal.notify_one() }));
    done.notified().await;
}
