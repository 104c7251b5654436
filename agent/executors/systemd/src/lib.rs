//! The executors `service` and `os`: units of systemd, and a restart of the machine, over D-Bus. No program is started for it, so nothing of a job
//! ever reaches a shell.
//!
//! What may be asked of units is in [`unit`], their states and systemd's jobs in [`bus`], the restart in [`restart`].

mod bus;
mod change;
mod restart;
mod status;
mod unit;

use std::{sync::Arc, time::Duration};

use muster_executor::{BoxFuture, Executor, Rejection, Work, fields::Fields, schema};
use muster_schemas::describe::TypeInfo;
use serde_json::{Value, json};

use crate::{bus::Address, change::Change, restart::Restart, status::Status, unit::Units};

/// How long the bus may take to answer when the agent starts.
const PATIENCE: Duration = Duration::from_secs(2);

/// The executor `service`.
#[derive(Debug)]
pub struct Service {
    bus: Address,
    units: Arc<Units>,
}

impl Service {
    /// The executor's name.
    pub const NAME: &'static str = "service";

    /// On the machine's system bus, unless `bus` has another address. `units` are those that jobs may name, exactly or by their beginning and
    /// a `*`; none if empty, and all if `None`.
    pub fn new(bus: Option<String>, units: Option<Vec<String>>) -> Self {
        Self { bus: Address(bus), units: Arc::new(Units(units)) }
    }
}

impl Executor for Service {
    fn name(&self) -> &str {
        Self::NAME
    }

    fn about(&self) -> &str {
        "services and other units of systemd"
    }

    fn types(&self) -> Vec<TypeInfo> {
        let params = || schema::object(&["unit"], [("unit", schema::text("The unit; `.service` may be left out."))]);
        let info = |verb, about| schema::type_info(Self::NAME, verb, about, params(), json!({"unit": "nginx"}));
        let mut types: Vec<TypeInfo> = change::Verb::ALL.iter().map(|verb| info(verb.word(), verb.about())).collect();
        types.push(info("status", "Says in which state a unit is."));
        types
    }

    fn works_here(&self) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async { bus::within(PATIENCE, self.bus.systemd()).await.map(drop) })
    }

    fn check(&self, verb: &str, params: &Value) -> Result<Option<Box<dyn Work>>, Rejection> {
        let change = change::Verb::of(verb);
        if change.is_none() && verb != "status" {
            return Ok(None);
        }
        let mut fields = Fields::of(params)?;
        let unit = self.units.read(&mut fields)?;
        fields.end()?;
        let bus = self.bus.clone();
        Ok(Some(match change {
            Some(verb) => Box::new(Change { bus, verb, unit }),
            None => Box::new(Status { bus, unit }),
        }))
    }
}

/// The executor `os`.
#[derive(Debug)]
pub struct Os {
    bus: Address,
    allowed: bool,
}

impl Os {
    /// The executor's name.
    pub const NAME: &'static str = "os";

    /// On the machine's system bus, unless `bus` has another address. `allowed` is the agent's `ALLOW_OS_RESTART`.
    pub fn new(bus: Option<String>, allowed: bool) -> Self {
        Self { bus: Address(bus), allowed }
    }
}

impl Executor for Os {
    fn name(&self) -> &str {
        Self::NAME
    }

    fn about(&self) -> &str {
        "the machine itself"
    }

    fn types(&self) -> Vec<TypeInfo> {
        vec![schema::type_info(
            Self::NAME,
            "restart",
            "Restarts the machine once the job's result is stored.",
            restart::schema(),
            json!({}),
        )]
    }

    fn works_here(&self) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async {
            if !self.allowed {
                return Err("ALLOW_OS_RESTART is off".to_owned());
            }
            bus::within(PATIENCE, self.bus.logind()).await.map(drop)
        })
    }

    fn check(&self, verb: &str, params: &Value) -> Result<Option<Box<dyn Work>>, Rejection> {
        if verb != "restart" {
            return Ok(None);
        }
        Ok(Some(Box::new(Restart::parse(params, self.allowed, self.bus.clone())?)))
    }
}
