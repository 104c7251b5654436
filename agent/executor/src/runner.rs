//! Runs one attempt: the time-out, the cancel and the caps on what comes back, alike for every executor.
//!
//! Stopped work is either dropped or, when it has something to clean up, told to stop and given the grace period. It knows nothing of what the
//! work does.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use muster_schemas::code::Code;
use muster_schemas::result::{ErrorInfo, Outcome, Output};
use tokio_util::sync::CancellationToken;

use crate::{
    Attempt, Connection, Scope, Settings, Work,
    context::Context,
    finish::{Execution, Finish, Verdict},
    mask::Mask,
    recorder::Recorder,
};

/// Largest `data`, as MessagePack: with two tails of 64 KiB a result stays under its 256 KiB.
const DATA_BYTES: usize = 96 * 1024;

/// What an attempt may pass on beyond what its job's log takes: the log, which counts all attempts, says where it was cut. More would only
/// be carried to be thrown away.
const LOG_SURPLUS: u64 = 64 * 1024;

/// What a stopped executor may take beyond the grace period: KILL, a look through the process table, closing pipes.
const KILL_MARGIN: Duration = Duration::from_secs(5);

/// Why an attempt was stopped.
#[derive(Debug, Clone, Copy)]
enum Stopped {
    TimedOut,
    Cancelled,
}

enum Next {
    Finished(Finish),
    Stopped(Stopped),
}

/// What an attempt is run with.
#[derive(Debug)]
pub struct Start {
    /// Which attempt it is.
    pub attempt: Attempt,
    /// What holds for all.
    pub settings: Arc<Settings>,
    /// What its connection gives.
    pub connection: Option<Connection>,
    /// The secrets that must not leave.
    pub mask: Mask,
}

/// Runs one attempt to its end. Never fails: whatever happens is an [`Execution`], without any secret in it.
///
/// Dropping the future ends the work as a time-out would, but at once.
pub async fn run(work: Box<dyn Work>, start: Start, context: Context) -> Execution {
    let Context { cancelled, sender } = context;
    let Start { attempt, settings, connection, mask } = start;
    let timeout = attempt.timeout;
    let recorder = Recorder::new(sender, settings.tail_bytes, settings.log_bytes.saturating_add(LOG_SURPLUS), mask.clone());
    let scope = Scope { attempt, settings, recorder, connection, stop: CancellationToken::new() };
    let (finish, stopped) =
        if cancelled.is_cancelled() { (None, Some(Stopped::Cancelled)) } else { supervise(work, &scope, &cancelled, timeout).await };
    let [(stdout, cut_out), (stderr, cut_err)] = scope.recorder.close().await;
    let mut execution = judge(finish.map(|finish| masked(finish, &mask)), stopped, timeout);
    execution.stdout = Output::from(stdout);
    execution.stderr = Output::from(stderr);
    execution.truncated = cut_out || cut_err;
    execution
}

async fn supervise(
    work: Box<dyn Work>,
    scope: &Scope,
    cancelled: &CancellationToken,
    timeout: Duration,
) -> (Option<Finish>, Option<Stopped>) {
    let cleans_up = work.cleans_up();
    let mut work = work.run(scope);
    let mut flush = pin!(scope.recorder.flush_for_ever());
    let next = tokio::select! {
        biased;
        finish = &mut work => Next::Finished(finish),
        () = cancelled.cancelled() => Next::Stopped(Stopped::Cancelled),
        () = tokio::time::sleep(timeout) => Next::Stopped(Stopped::TimedOut),
        () = &mut flush => Next::Stopped(Stopped::Cancelled), // it never ends
    };
    let why = match next {
        Next::Finished(finish) => return (Some(finish), None),
        Next::Stopped(why) => why,
    };
    scope.stop.cancel();
    if !cleans_up {
        return (None, Some(why));
    }
    let patience = scope.settings.kill_grace + scope.settings.drain + KILL_MARGIN;
    let finish = tokio::select! {
        biased;
        finish = &mut work => Some(finish),
        () = tokio::time::sleep(patience) => None,
        () = &mut flush => None,
    };
    (finish, Some(why))
}

fn judge(finish: Option<Finish>, stopped: Option<Stopped>, timeout: Duration) -> Execution {
    let exit_code = finish.as_ref().and_then(|finish| finish.exit_code);
    let ended = |outcome, error| Execution {
        outcome,
        exit_code,
        stdout: Output::default(),
        stderr: Output::default(),
        truncated: false,
        data: None,
        error,
        afterwards: None,
        log_chunks: 0,
    };
    match (finish, stopped) {
        // A command that ended by itself just before it would have been stopped has its own outcome.
        (Some(finish), None) | (Some(finish @ Finish { stopped: false, .. }), Some(_)) => {
            let (data, afterwards) = (finish.data, finish.afterwards);
            let (outcome, error) = match finish.verdict {
                Verdict::Succeeded => (Outcome::Succeeded, None),
                Verdict::Failed(error) => (Outcome::Failed, Some(error)),
                Verdict::Rejected(error) => (Outcome::Rejected, Some(error)),
            };
            match data.as_ref().map(size) {
                Some(size) if size > DATA_BYTES => {
                    let message = format!("the data has {size} bytes, more than {DATA_BYTES}");
                    ended(Outcome::Failed, Some(ErrorInfo::new(Code::ResultTooLarge, message)))
                }
                _ => Execution { data, afterwards, ..ended(outcome, error) },
            }
        }
        (_, Some(Stopped::TimedOut)) => {
            let message = format!("stopped after its time-out of {timeout:?}");
            ended(Outcome::TimedOut, Some(ErrorInfo::new(Code::TimedOut, message)))
        }
        (_, Some(Stopped::Cancelled)) => ended(Outcome::Cancelled, Some(ErrorInfo::new(Code::Cancelled, "cancelled while it ran"))),
        (None, None) => ended(Outcome::Failed, Some(ErrorInfo::new(Code::Internal, "the executor ended without a word"))),
    }
}

/// Without secrets.
fn masked(mut finish: Finish, mask: &Mask) -> Finish {
    if let Verdict::Failed(error) | Verdict::Rejected(error) = &mut finish.verdict {
        mask.error(error);
    }
    if let Some(data) = &mut finish.data {
        mask.value(data);
    }
    finish
}

/// Bytes of `data` on the wire.
fn size(data: &serde_json::Value) -> usize {
    rmp_serde::to_vec_named(data).map_or(usize::MAX, |bytes| bytes.len())
}
