//! `probe.ping`, `probe.sleep`, `probe.fail`, `probe.echo`: always on and harmless, for health checks, tests and benches; and
//! `probe.connection`, which has the executor of a connection's kind try it.

use std::sync::Arc;
use std::time::Duration;

use muster_executor::{BoxFuture, Executor, Finish, Rejection, Scope, Work, fields::Fields, schema};
use muster_schemas::{code::Code, connection::ConnectionKind, describe::TypeInfo};
use serde_json::{Value, json};

/// The executor's name.
pub(super) const NAME: &str = "probe";

/// How often a sleeping probe says how far it is.
const PROGRESS_EVERY: Duration = Duration::from_secs(1);

/// The longest sleep, in seconds: as long as the longest time-out of a job.
const SLEEP_MAX_S: i64 = muster_schemas::job::TIMEOUT_MAX_S;

/// The executor.
#[derive(Debug)]
pub(super) struct Probe {
    others: Arc<[Arc<dyn Executor>]>,
}

impl Probe {
    /// `others` are those that try connections.
    pub(super) fn new(others: Vec<Arc<dyn Executor>>) -> Self {
        Self { others: others.into() }
    }
}

impl Executor for Probe {
    fn name(&self) -> &str {
        NAME
    }

    fn about(&self) -> &str {
        "harmless jobs for health checks and tests, and tries of connections"
    }

    fn types(&self) -> Vec<TypeInfo> {
        let sleep = schema::object(
            &[],
            [
                ("seconds", schema::number("How long, in seconds.", SLEEP_MAX_S as f64)),
                ("ms", schema::integer("How long, in milliseconds, instead.", 0..=SLEEP_MAX_S * 1000)),
            ],
        );
        let fail = schema::object(
            &[],
            [("message", schema::text("What the failure says.")), ("exit_code", schema::integer("The exit status that it has.", 1..=255))],
        );
        let info = |verb: &str, about: &str, params: Value, example: Value| schema::type_info(NAME, verb, about, params, example);
        let mut types: Vec<TypeInfo> = vec![
            info("ping", "Answers.", schema::object(&[], []), json!({})),
            info("sleep", "Does nothing for a while, and says how far it is.", sleep, json!({"seconds": 5})),
            info("fail", "Fails.", fail, json!({"message": "as told"})),
            info("echo", "Gives its params back.", json!({"type": "object"}), json!({"hello": "world"})),
        ];
        types.push(TypeInfo {
            connections: ConnectionKind::ALL.to_vec(),
            needs_connection: true,
            ..info("connection", "Tries whether its connection can be used.", schema::object(&[], []), json!({}))
        });
        types
    }

    fn check(&self, verb: &str, params: &Value) -> Result<Option<Box<dyn Work>>, Rejection> {
        if verb == "connection" {
            Fields::of(params)?.end()?;
            return Ok(Some(Box::new(Try(Arc::clone(&self.others)))));
        }
        Ok(Params::parse(verb, params)?.map(|params| Box::new(params) as Box<dyn Work>))
    }
}

/// A try of a connection.
#[derive(Debug)]
struct Try(Arc<[Arc<dyn Executor>]>);

impl Work for Try {
    fn run<'a>(self: Box<Self>, scope: &'a Scope) -> BoxFuture<'a, Finish> {
        let Some(connection) = &scope.connection else {
            return Box::pin(async { Finish::rejected(Code::ConnectionMismatch, "there is no connection to try") });
        };
        // Nobody knows how to try a secret that only a plugin understands: that it is here is all there is to say.
        if connection.kind == ConnectionKind::Secret {
            return Box::pin(async { Finish::succeeded(None) });
        }
        match self.0.iter().find_map(|executor| executor.probe(connection.kind)) {
            Some(work) => work.run(scope),
            None => {
                let message = format!("no executor that is on here uses connections of the kind {}", connection.kind.as_str());
                Box::pin(async { Finish::rejected(Code::ConnectionMismatch, message) })
            }
        }
    }
}

#[derive(Debug)]
enum Params {
    Ping,
    Sleep(Duration),
    Fail { message: String, exit_code: Option<i32> },
    Echo(Value),
}

impl Params {
    /// `None` when there is no such probe.
    fn parse(verb: &str, params: &Value) -> Result<Option<Self>, Rejection> {
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

impl Work for Params {
    fn run<'a>(self: Box<Self>, scope: &'a Scope) -> BoxFuture<'a, Finish> {
        Box::pin(run(*self, scope))
    }
}

async fn run(params: Params, scope: &Scope) -> Finish {
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
