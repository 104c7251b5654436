//! Runs one attempt: the time-out, the cancel and the caps on what comes back, alike for every executor.
//!
//! A stopped executor is either dropped (probe, http) or, when it has something to clean up (shell), told to stop and
//! given the grace period. It knows nothing of what an executor does.

use std::pin::pin;
use std::time::Duration;

use muster_schemas::code::Code;
use muster_schemas::result::{ErrorInfo, Outcome, Output};
use tokio_util::sync::CancellationToken;

use super::context::Context;
use super::finish::{Execution, Finish, Verdict};
use super::recorder::Recorder;
use super::{Attempt, Kind, Registry, Settings, http, probe, shell};

/// Largest `data`, as MessagePack: with two tails of 64 KiB a result stays under its 256 KiB.
const DATA_BYTES: usize = 96 * 1024;

/// What an attempt may pass on beyond what its job's log takes: the log, which counts all attempts, says where it was cut. More would only
/// be carried to be thrown away.
const LOG_SURPLUS: u64 = 64 * 1024;

/// What a stopped executor may take beyond the grace period: KILL, a look through the process table, closing pipes.
const KILL_MARGIN: Duration = Duration::from_secs(5);

/// What an executor runs in.
#[derive(Debug)]
pub(super) struct Scope {
    pub(super) attempt: Attempt,
    pub(super) settings: std::sync::Arc<Settings>,
    pub(super) recorder: Recorder,
    /// Set when the attempt has to end. Only executors that clean up after themselves need to look at it.
    pub(super) stop: CancellationToken,
}

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

pub(super) async fn run(registry: &Registry, kind: Kind, attempt: Attempt, context: Context) -> Execution {
    let Context { cancelled, sender } = context;
    let settings = registry.settings.clone();
    let timeout = attempt.timeout;
    let recorder = Recorder::new(sender, settings.tail_bytes, settings.log_bytes.saturating_add(LOG_SURPLUS));
    let scope = Scope { attempt, settings, recorder, stop: CancellationToken::new() };
    let (finish, stopped) = if cancelled.is_cancelled() {
        (None, Some(Stopped::Cancelled))
    } else {
        supervise(registry, kind, &scope, &cancelled, timeout).await
    };
    let [(stdout, cut_out), (stderr, cut_err)] = scope.recorder.close().await;
    let mut execution = judge(finish, stopped, timeout);
    execution.stdout = Output::from(stdout);
    execution.stderr = Output::from(stderr);
    execution.truncated = cut_out || cut_err;
    execution
}

async fn supervise(
    registry: &Registry,
    kind: Kind,
    scope: &Scope,
    cancelled: &CancellationToken,
    timeout: Duration,
) -> (Option<Finish>, Option<Stopped>) {
    let cleans_up = matches!(kind, Kind::Shell(_));
    let mut work = pin!(async {
        match kind {
            Kind::Probe(params) => probe::run(params, scope).await,
            Kind::Shell(params) => shell::run(*params, scope).await,
            Kind::Http(params) => http::run(&registry.http, *params, scope).await,
        }
    });
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
        log_chunks: 0,
    };
    match (finish, stopped) {
        // A command that ended by itself just before it would have been stopped has its own outcome.
        (Some(finish), None) | (Some(finish @ Finish { stopped: false, .. }), Some(_)) => {
            let data = finish.data;
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
                _ => Execution { data, ..ended(outcome, error) },
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

/// Bytes of `data` on the wire.
fn size(data: &serde_json::Value) -> usize {
    rmp_serde::to_vec_named(data).map_or(usize::MAX, |bytes| bytes.len())
}
