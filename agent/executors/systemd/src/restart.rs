//! `os.restart`: announces it, and restarts the machine once the job's result is stored. A machine that restarts before would run the job again.

use std::time::Duration;

use muster_executor::{Afterwards, BoxFuture, Finish, Rejection, Scope, Stream, Work, fields::Fields, schema as json_schema};
use muster_schemas::{code::Code, time::Timestamp};
use serde_json::{Value, json};

use crate::bus::{Address, within};

/// The longest delay, in seconds.
const DELAY_MAX_S: i64 = 3600;

/// The delay unless the job says otherwise: long enough for a goodbye.
const DELAY_S: i64 = 5;

/// Longest message, in bytes.
const MESSAGE_BYTES: usize = 200;

/// How long logind may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// What an `os.restart` takes.
pub(crate) fn schema() -> Value {
    json_schema::object(
        &[],
        [
            ("delay_s", json_schema::integer("Seconds between the announcement and the restart, by default 5.", 0..=DELAY_MAX_S)),
            ("message", json_schema::text("What those who are logged in are told.")),
        ],
    )
}

#[derive(Debug)]
pub(crate) struct Restart {
    bus: Address,
    delay: Duration,
    message: String,
}

impl Restart {
    pub(crate) fn parse(params: &Value, allowed: bool, bus: Address) -> Result<Self, Rejection> {
        let mut fields = Fields::of(params)?;
        let delay = match fields.integer("delay_s")?.unwrap_or(DELAY_S) {
            seconds @ 0..=DELAY_MAX_S => Duration::from_secs(seconds.unsigned_abs()),
            _ => return Err(Rejection::field("delay_s", format!("takes 0 to {DELAY_MAX_S}"))),
        };
        let message = fields.text("message")?.unwrap_or("restarted by a job of Muster");
        if message.len() > MESSAGE_BYTES || message.contains(char::is_control) {
            return Err(Rejection::field("message", format!("takes up to {MESSAGE_BYTES} bytes without control characters")));
        }
        fields.end()?;
        if !allowed {
            let message = "this agent does not let jobs restart its machine (ALLOW_OS_RESTART)";
            return Err(Rejection::new(Code::SettingForbids, message));
        }
        Ok(Self { bus, delay, message: message.to_owned() })
    }

    async fn announce(self, scope: &Scope) -> Finish {
        let can = async {
            let logind = self.bus.logind().await?;
            logind.may_restart().await.map_err(|error| crate::bus::BusError::Away("systemd-logind", error))
        };
        match within(PATIENCE, can).await {
            Ok(word) if word == "yes" => {}
            Ok(word) => {
                let message = format!("logind does not let the agent's user restart the machine (CanReboot says `{word}`)");
                return Finish::failed(Code::UnitFailed, message);
            }
            Err(problem) => return Finish::failed(Code::ExecutorUnavailable, problem),
        }
        let at = Timestamp::now() + self.delay;
        let words = format!("this machine restarts at {at} or shortly after, once this is stored: {}", self.message);
        tracing::warn!(job_id = %scope.attempt.job_id, "{words}");
        scope.recorder.progress(100, &words);
        scope.recorder.write(Stream::Stdout, format!("{words}\n").as_bytes()).await;
        let data = json!({"restarts_at": at, "delay_s": self.delay.as_secs()});
        let Self { bus, delay, message } = self;
        let afterwards = Afterwards::new(move || restart(bus.clone(), delay, message.clone()));
        Finish { afterwards: Some(afterwards), ..Finish::succeeded(Some(data)) }
    }
}

impl Work for Restart {
    fn run<'a>(self: Box<Self>, scope: &'a Scope) -> BoxFuture<'a, Finish> {
        Box::pin(self.announce(scope))
    }
}

async fn restart(bus: Address, delay: Duration, message: String) {
    let at = Timestamp::now() + delay;
    let asked = async {
        let logind = bus.logind().await.map_err(|error| error.to_string())?;
        let micros = u64::try_from(at.micros()).unwrap_or_default();
        match logind.restart_at(micros, &message).await {
            Ok(()) => Ok(()),
            Err(error) => {
                tracing::warn!(%error, "logind takes no time for a restart; restarting without a delay");
                logind.restart_now().await.map_err(|error| error.to_string())
            }
        }
    };
    match tokio::time::timeout(PATIENCE, asked).await {
        Ok(Ok(())) => tracing::warn!("the restart of this machine is scheduled for {at}"),
        Ok(Err(error)) => tracing::error!(error, "this machine was not restarted, although a job's result says that it would be"),
        Err(_) => tracing::error!("this machine was not restarted: logind did not answer within {PATIENCE:?}"),
    }
}
