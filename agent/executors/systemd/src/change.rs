//! `service.start`, `.stop`, `.restart`, `.reload`: asks systemd, waits until its job for that has ended, and shows the unit before and after.

use futures_util::StreamExt as _;
use muster_executor::{BoxFuture, Finish, Scope, Stream, Work};
use muster_schemas::code::Code;
use serde_json::json;

use crate::bus::{Address, BusError, State, Systemd, UnitJob, end_of};

/// What is asked of a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verb {
    Start,
    Stop,
    Restart,
    Reload,
}

impl Verb {
    pub(crate) const ALL: [Self; 4] = [Self::Start, Self::Stop, Self::Restart, Self::Reload];

    pub(crate) fn of(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|verb| verb.word() == word)
    }

    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Restart => "restart",
            Self::Reload => "reload",
        }
    }

    pub(crate) fn about(self) -> &'static str {
        match self {
            Self::Start => "Starts a unit, and waits until it runs.",
            Self::Stop => "Stops a unit, and waits until it has ended.",
            Self::Restart => "Restarts a unit, and waits until it runs again.",
            Self::Reload => "Has a unit read its configuration again.",
        }
    }

    fn doing(self) -> &'static str {
        match self {
            Self::Start => "starting",
            Self::Stop => "stopping",
            Self::Restart => "restarting",
            Self::Reload => "reloading",
        }
    }

    fn method(self) -> &'static str {
        match self {
            Self::Start => "StartUnit",
            Self::Stop => "StopUnit",
            Self::Restart => "RestartUnit",
            Self::Reload => "ReloadUnit",
        }
    }
}

#[derive(Debug)]
pub(crate) struct Change {
    pub(crate) bus: Address,
    pub(crate) verb: Verb,
    pub(crate) unit: String,
}

impl Work for Change {
    fn run<'a>(self: Box<Self>, scope: &'a Scope) -> BoxFuture<'a, Finish> {
        Box::pin(async move {
            let Self { bus, verb, unit } = *self;
            match run(&bus, verb, &unit, scope).await {
                Ok(finish) => finish,
                Err(error) => error.into(),
            }
        })
    }

    /// systemd would go on with its job.
    fn cleans_up(&self) -> bool {
        true
    }
}

async fn run(bus: &Address, verb: Verb, unit: &str, scope: &Scope) -> Result<Finish, BusError> {
    let systemd = bus.systemd().await?;
    let before = systemd.state(unit).await?;
    scope.recorder.write(Stream::Stdout, format!("{unit}: {before}\n").as_bytes()).await;
    // Before the question, so that no answer is missed.
    let mut ends = systemd.ends().await?;
    let job = systemd.ask(verb.method(), unit).await?;
    scope.recorder.progress(0, &format!("{} {unit}", verb.doing()));
    let end = async {
        while let Some(signal) = ends.next().await {
            if let Some(result) = end_of(&job, &signal) {
                return Some(result);
            }
        }
        None
    };
    tokio::select! {
        biased;
        result = end => {
            let after = systemd.state(unit).await?;
            scope.recorder.write(Stream::Stdout, format!("{unit}: {after}\n").as_bytes()).await;
            let result = result.unwrap_or_else(|| "unknown: systemd left the bus".to_owned());
            Ok(finish(verb, unit, &result, &before, &after))
        }
        () = scope.stop.cancelled() => {
            let undo = (verb == Verb::Start && before.is_down()).then_some(unit);
            Ok(give_up(&systemd, &job, undo).await)
        }
    }
}

/// Without its job systemd would let the unit go on starting: one that was down before is stopped again. One that was restarted or stopped is left as
/// it is, since nobody can say that it was better off before.
async fn give_up(systemd: &Systemd, job: &UnitJob, undo: Option<&str>) -> Finish {
    if let Err(error) = systemd.cancel(job).await {
        tracing::warn!(%error, "systemd did not give its job up");
    }
    if let Some(unit) = undo
        && let Err(error) = systemd.ask(Verb::Stop.method(), unit).await
    {
        tracing::warn!(%error, unit, "a unit whose start was given up was not stopped");
    }
    Finish { stopped: true, ..Finish::succeeded(None) }
}

fn finish(verb: Verb, unit: &str, result: &str, before: &State, after: &State) -> Finish {
    let data = json!({"unit": unit, "job_result": result, "before": before.data(), "after": after.data()});
    // A unit may fail the moment after it was started; systemd's job has succeeded then.
    let stands = verb == Verb::Stop || after.active != "failed";
    let finish = if result == "done" && stands {
        Finish::succeeded(None)
    } else {
        let more = match after.exit_status {
            Some(status) if after.result == "exit-code" => format!(", its exit status is {status}"),
            _ if after.result.is_empty() || after.result == "success" => String::new(),
            _ => format!(", its result is `{}`", after.result),
        };
        let word = verb.word();
        Finish::failed(Code::UnitFailed, format!("{unit} did not {word} (systemd says `{result}`): it is {after}{more}; see its journal"))
    };
    finish.with_data(data)
}
