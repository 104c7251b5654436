//! The D-Bus interfaces of systemd and logind, as far as jobs need them.
//! <https://www.freedesktop.org/software/systemd/man/latest/org.freedesktop.systemd1.html>

use std::{collections::HashMap, time::Duration};

use muster_executor::Finish;
use muster_schemas::code::Code;
use serde_json::{Value, json};
use zbus::{Connection, OwnedObjectPath, OwnedVariant, Proxy, connection, names::InterfaceName, proxy::SignalStream};

const SYSTEMD: (&str, &str, &str) = ("org.freedesktop.systemd1", "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager");
const LOGIND: (&str, &str, &str) = ("org.freedesktop.login1", "/org/freedesktop/login1", "org.freedesktop.login1.Manager");

/// Where the bus is; the machine's system bus if `None`.
#[derive(Debug, Clone)]
pub(crate) struct Address(pub(crate) Option<String>);

/// What went wrong on the bus.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BusError {
    /// There is no bus, or nobody on it.
    #[error("{0} does not answer on D-Bus: {1}")]
    Away(&'static str, zbus::Error),
    /// There is no such unit.
    #[error("there is no unit `{0}` on this machine")]
    NoUnit(String),
    /// It refused.
    #[error("{0}")]
    Refused(String),
}

impl From<BusError> for Finish {
    fn from(error: BusError) -> Self {
        let code = match error {
            BusError::Away(..) => Code::ExecutorUnavailable,
            BusError::NoUnit(_) => Code::UnitNotFound,
            BusError::Refused(_) => Code::UnitFailed,
        };
        Self::failed(code, error.to_string())
    }
}

/// The outcome, or that it took too long.
pub(crate) async fn within<T>(time: Duration, work: impl Future<Output = Result<T, BusError>>) -> Result<T, String> {
    match tokio::time::timeout(time, work).await {
        Ok(outcome) => outcome.map_err(|error| error.to_string()),
        Err(_) => Err(format!("D-Bus does not answer within {time:?}")),
    }
}

impl Address {
    async fn manager(&self, name: &'static str, at: (&'static str, &'static str, &'static str)) -> Result<Proxy<'static>, BusError> {
        let away = |error| BusError::Away(name, error);
        let builder = match &self.0 {
            Some(address) => connection::Builder::address(address.as_str()),
            None => connection::Builder::system(),
        };
        let connection = builder.build().await.map_err(away)?;
        let manager = Proxy::new(&connection, at.0, at.1, at.2).await.map_err(away)?;
        // Whoever is on the bus has properties; asking for one shows that somebody is.
        let read: Result<HashMap<String, OwnedVariant>, _> = properties(&connection, at.0, at.1, at.2).await;
        read.map_err(away)?;
        Ok(manager)
    }

    /// systemd.
    pub(crate) async fn systemd(&self) -> Result<Systemd, BusError> {
        Ok(Systemd(self.manager("systemd", SYSTEMD).await?))
    }

    /// logind.
    pub(crate) async fn logind(&self) -> Result<Logind, BusError> {
        Ok(Logind(self.manager("systemd-logind", LOGIND).await?))
    }
}

async fn properties(connection: &Connection, service: &str, path: &str, interface: &str) -> zbus::Result<HashMap<String, OwnedVariant>> {
    let proxy = Proxy::new(connection, service.to_owned(), path.to_owned(), "org.freedesktop.DBus.Properties").await?;
    proxy.call("GetAll", &InterfaceName::try_from(interface)?).await
}

/// The manager of units.
#[derive(Debug)]
pub(crate) struct Systemd(Proxy<'static>);

/// A job of systemd: what it does for a request.
#[derive(Debug, Clone)]
pub(crate) struct UnitJob(OwnedObjectPath);

impl Systemd {
    /// The ends of jobs, from now on.
    pub(crate) async fn ends(&self) -> Result<SignalStream<'static>, BusError> {
        let away = |error| BusError::Away("systemd", error);
        let ends = self.0.receive_signal("JobRemoved").await.map_err(away)?;
        // Without a subscriber systemd tells nobody.
        let _: () = self.0.call("Subscribe", &()).await.map_err(away)?;
        Ok(ends)
    }

    /// Asks for a change of a unit, with the method of that name.
    pub(crate) async fn ask(&self, method: &'static str, unit: &str) -> Result<UnitJob, BusError> {
        self.0.call(method, &(unit, "replace")).await.map(UnitJob).map_err(|error| refused(unit, error))
    }

    /// Gives a job up.
    pub(crate) async fn cancel(&self, job: &UnitJob) -> Result<(), BusError> {
        let id: u32 = job.0.as_str().rsplit('/').next().and_then(|id| id.parse().ok()).unwrap_or(0);
        self.0.call("CancelJob", &id).await.map_err(|error| refused("", error))
    }

    /// The state of a unit.
    pub(crate) async fn state(&self, unit: &str) -> Result<State, BusError> {
        let path: OwnedObjectPath = self.0.call("LoadUnit", &unit).await.map_err(|error| refused(unit, error))?;
        let read = async |interface: &str| properties(self.0.connection(), SYSTEMD.0, path.as_str(), interface).await;
        let of_unit = read("org.freedesktop.systemd1.Unit").await.map_err(|error| refused(unit, error))?;
        let text = |map: &HashMap<String, OwnedVariant>, name: &str| -> String {
            map.get(name).and_then(|value| <&str>::try_from(value).ok()).unwrap_or_default().to_owned()
        };
        if text(&of_unit, "LoadState") == "not-found" {
            return Err(BusError::NoUnit(unit.to_owned()));
        }
        let of_service = if unit.ends_with(".service") {
            read("org.freedesktop.systemd1.Service").await.map_err(|error| refused(unit, error))?
        } else {
            HashMap::new()
        };
        Ok(State {
            load: text(&of_unit, "LoadState"),
            active: text(&of_unit, "ActiveState"),
            sub: text(&of_unit, "SubState"),
            enabled: text(&of_unit, "UnitFileState"),
            description: text(&of_unit, "Description"),
            result: text(&of_service, "Result"),
            main_pid: of_service.get("MainPID").and_then(|value| u32::try_from(value).ok()).filter(|pid| *pid > 0),
            exit_status: of_service.get("ExecMainStatus").and_then(|value| i32::try_from(value).ok()),
        })
    }
}

/// Whether a signal is the end of this job, and how it ended.
pub(crate) fn end_of(job: &UnitJob, signal: &zbus::Message) -> Option<String> {
    let (_, path, _, result): (u32, OwnedObjectPath, String, String) = signal.body().deserialize().ok()?;
    (path == job.0).then_some(result)
}

fn refused(unit: &str, error: zbus::Error) -> BusError {
    match error {
        zbus::Error::MethodError(name, _, _) if name.as_str() == "org.freedesktop.systemd1.NoSuchUnit" => BusError::NoUnit(unit.to_owned()),
        zbus::Error::MethodError(name, words, _) => {
            let words = words.unwrap_or_default();
            let hint = match name.as_str() {
                "org.freedesktop.DBus.Error.AccessDenied" | "org.freedesktop.DBus.Error.InteractiveAuthorizationRequired" => {
                    "; the agent's user may not do this: run it as root, or allow it with a polkit rule"
                }
                _ => "",
            };
            BusError::Refused(format!("systemd refused ({name}): {words}{hint}"))
        }
        other => BusError::Away("systemd", other),
    }
}

/// The state of a unit at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct State {
    load: String,
    pub(crate) active: String,
    sub: String,
    enabled: String,
    description: String,
    pub(crate) result: String,
    main_pid: Option<u32>,
    pub(crate) exit_status: Option<i32>,
}

impl State {
    /// Whether it does not run.
    pub(crate) fn is_down(&self) -> bool {
        matches!(self.active.as_str(), "inactive" | "failed")
    }

    /// As a job's data has it.
    pub(crate) fn data(&self) -> Value {
        let mut data = json!({
            "load_state": self.load,
            "active_state": self.active,
            "sub_state": self.sub,
            "unit_file_state": self.enabled,
            "description": self.description,
        });
        let more =
            [("result", json!(self.result)), ("main_pid", json!(self.main_pid)), ("exit_status", json!(self.exit_status))].into_iter();
        if let Value::Object(map) = &mut data {
            map.extend(more.filter(|(_, value)| !value.is_null() && value != "").map(|(name, value)| (name.to_owned(), value)));
        }
        data
    }
}

impl std::fmt::Display for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.active, self.sub)
    }
}

/// The manager of the machine's sessions, and of its end.
#[derive(Debug)]
pub(crate) struct Logind(Proxy<'static>);

impl Logind {
    /// Tells everybody who is logged in, and restarts the machine at this time (microseconds since 1970).
    pub(crate) async fn restart_at(&self, micros: u64, message: &str) -> zbus::Result<()> {
        let _: () = self.0.call("SetWallMessage", &(message, true)).await?;
        self.0.call("ScheduleShutdown", &("reboot", micros)).await
    }

    /// Restarts it now.
    pub(crate) async fn restart_now(&self) -> zbus::Result<()> {
        self.0.call("Reboot", &false).await
    }

    /// Whether the agent's user may.
    pub(crate) async fn may_restart(&self) -> zbus::Result<String> {
        self.0.call("CanReboot", &()).await
    }
}
