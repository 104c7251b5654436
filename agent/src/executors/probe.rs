//! `probe.ping`, `probe.sleep`, `probe.fail`, `probe.echo`: always on and harmless, for health checks, tests and benches.

use std::time::Duration;

use muster_schemas::code::Code;
use serde_json::{Value, json};

use super::fields::Fields;
use super::finish::{Finish, Rejection};
use super::runner::Scope;

/// How often a sleeping probe says how far it is.
const PROGRESS_EVERY: Duration = Duration::from_secs(1);

/// The longest sleep, in seconds: as long as the longest time-out of a job.
const SLEEP_MAX_S: i64 = muster_schemas::job::TIMEOUT_MAX_S;

#[derive(Debug)]
pub(super) enum Params {
    Ping,
    Sleep(Duration),
    Fail { message: String, exit_code: Option<i32> },
    Echo(Value),
}

impl Params {
    /// `None` when there is no such probe.
    pub(super) fn parse(verb: &str, params: &Value) -> Result<Option<Self>, Rejection> {
        let mut fields = Fields::of(params)?;
        let parsed = match verb {
            "ping" => Self::Ping,
            "sleep" => Self::Sleep(sleep(&mut fields)?),
            "fail" => Self::Fail {
                message: fields.text("message")?.unwrap_or("the probe was told to fail").to_owned(),
                exit_code: exit_code(&mut fields)?,
            },
            "echo" => return Ok(Some(Self::Echo(params.clone()))),
            _ => return Ok(None),
        };
        fields.end()?;
        Ok(Some(parsed))
    }
}

fn sleep(fields: &mut Fields<'_>) -> Result<Duration, Rejection> {
    let (seconds, ms) = (fields.number("seconds")?, fields.integer("ms")?);
    let range = || format!("must lie between 0 and {SLEEP_MAX_S} seconds");
    match (seconds, ms) {
        (Some(seconds), None) if (0.0..=SLEEP_MAX_S as f64).contains(&seconds) => Ok(Duration::from_secs_f64(seconds)),
        (None, Some(ms)) if (0..=SLEEP_MAX_S * 1000).contains(&ms) => Ok(Duration::from_millis(ms.unsigned_abs())),
        (Some(_), None) => Err(Rejection::field("seconds", range())),
        (None, Some(_)) => Err(Rejection::field("ms", range())),
        _ => Err(Rejection::field("seconds", "give exactly one of `seconds` and `ms`")),
    }
}

fn exit_code(fields: &mut Fields<'_>) -> Result<Option<i32>, Rejection> {
    let Some(code) = fields.integer("exit_code")? else { return Ok(None) };
    match u8::try_from(code) {
        Ok(code) if code > 0 => Ok(Some(code.into())),
        _ => Err(Rejection::field("exit_code", "must lie between 1 and 255")),
    }
}

pub(super) async fn run(params: Params, scope: &Scope) -> Finish {
    match params {
        Params::Ping => Finish::succeeded(Some(json!({"pong": true}))),
        Params::Echo(params) => Finish::succeeded(Some(params)),
        Params::Fail { message, exit_code } => Finish { exit_code, ..Finish::failed(Code::ProbeFailed, message) },
        Params::Sleep(total) => {
            nap(total, scope).await;
            Finish::succeeded(Some(json!({"slept_ms": u64::try_from(total.as_millis()).unwrap_or(u64::MAX)})))
        }
    }
}

async fn nap(total: Duration, scope: &Scope) {
    let start = tokio::time::Instant::now();
    while let Some(left) = total.checked_sub(start.elapsed()).filter(|left| !left.is_zero()) {
        tokio::time::sleep(left.min(PROGRESS_EVERY)).await;
        let slept = start.elapsed().min(total);
        let percent = (slept.as_secs_f64() / total.as_secs_f64() * 100.0) as u8;
        scope.recorder.progress(percent, &format!("slept {:.1} of {:.1} s", slept.as_secs_f64(), total.as_secs_f64()));
    }
}
