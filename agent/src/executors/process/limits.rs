//! Limits on what a command may use: a job's own, within those of the agent's settings.
//!
//! Which are kept by the command's cgroup and which by resource limits of the kernel is decided here; putting them on is `cgroup`'s and
//! the launcher's.

use muster_executor::{Rejection, fields::Fields, schema};
use muster_runtime::config::{ByteSize, Problem};
use muster_schemas::code::Code;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What a command may use; what is not given is not limited.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Seconds of processor time of each process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_s: Option<u64>,
    /// Processors, such as 0.5: only in a cgroup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpus: Option<f64>,
    /// Memory: of the whole tree in a cgroup, otherwise the address space of each process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<ByteSize>,
    /// Processes and threads: of the whole tree in a cgroup, otherwise all of the user's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub processes: Option<u64>,
    /// Open files of each process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub open_files: Option<u64>,
    /// The largest file that it may write.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file_bytes: Option<ByteSize>,
}

const CPU_S: (i64, i64) = (1, 31_536_000);
const CPUS: (f64, f64) = (0.01, 1024.0);
/// Less than this, and no program starts.
const MEMORY: (i64, i64) = (1 << 20, 1 << 50);
const PROCESSES: (i64, i64) = (1, 1 << 22);
/// Fewer, and a shell can't even load its library.
const FILES: (i64, i64) = (8, 1 << 20);
const FILE: (i64, i64) = (0, 1 << 50);

impl Limits {
    /// The schema of the param.
    pub(crate) fn schema() -> Value {
        let whole = |about: &str, (least, most): (i64, i64)| schema::integer(about, least..=most);
        let mut cpus = schema::number("Processors that the whole tree may use, such as 0.5; needs an agent with cgroups.", CPUS.1);
        if let Some(cpus) = cpus.as_object_mut() {
            cpus.insert("minimum".to_owned(), CPUS.0.into());
        }
        let mut limits = schema::object(
            &[],
            [
                ("cpu_s", whole("Seconds of processor time of each process.", CPU_S)),
                ("cpus", cpus),
                ("memory_bytes", whole("Memory of the whole tree; without cgroups, address space of each process.", MEMORY)),
                ("processes", whole("Processes and threads of the whole tree; without cgroups, of the user.", PROCESSES)),
                ("open_files", whole("Open files of each process.", FILES)),
                ("file_bytes", whole("The largest file that it may write.", FILE)),
            ],
        );
        if let Some(limits) = limits.as_object_mut() {
            limits.insert("description".to_owned(), "What it may use, within what the agent allows.".into());
        }
        limits
    }

    /// Reads a job's.
    pub(crate) fn parse(value: &Value) -> Result<Self, Rejection> {
        let read = || {
            let mut fields = Fields::of(value)?;
            let cpus = fields.number("cpus")?;
            if cpus.is_some_and(|cpus| !(CPUS.0..=CPUS.1).contains(&cpus)) {
                return Err(Rejection::field("cpus", format!("takes {} to {}", CPUS.0, CPUS.1)));
            }
            let limits = Self {
                cpu_s: whole(&mut fields, "cpu_s", CPU_S)?,
                cpus,
                memory_bytes: whole(&mut fields, "memory_bytes", MEMORY)?.map(ByteSize::new),
                processes: whole(&mut fields, "processes", PROCESSES)?,
                open_files: whole(&mut fields, "open_files", FILES)?,
                file_bytes: whole(&mut fields, "file_bytes", FILE)?.map(ByteSize::new),
            };
            fields.end()?;
            Ok(limits)
        };
        read().map_err(|rejection: Rejection| Rejection { message: rejection.message.replacen("params", "params.limits", 1), ..rejection })
    }

    /// A job's limits on an agent that has these: what it does not say it gets from the agent, and it may not ask for more.
    pub(crate) fn within(&self, asked: &Self) -> Result<Self, Rejection> {
        Ok(Self {
            cpu_s: least("cpu_s", self.cpu_s, asked.cpu_s)?,
            cpus: least("cpus", self.cpus, asked.cpus)?,
            memory_bytes: least("memory_bytes", self.memory_bytes, asked.memory_bytes)?,
            processes: least("processes", self.processes, asked.processes)?,
            open_files: least("open_files", self.open_files, asked.open_files)?,
            file_bytes: least("file_bytes", self.file_bytes, asked.file_bytes)?,
        })
    }

    /// Whether the agent's settings make sense.
    ///
    /// # Errors
    /// Names the one that does not.
    pub fn check(&self) -> Result<(), Problem> {
        let whole = [
            ("cpu_s", self.cpu_s, CPU_S),
            ("memory_bytes", self.memory_bytes.map(ByteSize::get), MEMORY),
            ("processes", self.processes, PROCESSES),
            ("open_files", self.open_files, FILES),
            ("file_bytes", self.file_bytes.map(ByteSize::get), FILE),
        ];
        for (name, value, (least, most)) in whole {
            let fits = |value: u64| i64::try_from(value).is_ok_and(|value| (least..=most).contains(&value));
            if value.is_some_and(|value| !fits(value)) {
                return Err(Problem::new("shell_limits", format!("{name} takes {least} to {most}")));
            }
        }
        if self.cpus.is_some_and(|cpus| !(CPUS.0..=CPUS.1).contains(&cpus)) {
            return Err(Problem::new("shell_limits", format!("cpus takes {} to {}", CPUS.0, CPUS.1)));
        }
        Ok(())
    }

    /// Those that are given, by name, as numbers.
    pub(super) fn values(&self) -> Vec<(&'static str, Value)> {
        let values = [
            ("cpu_s", self.cpu_s.map(Value::from)),
            ("cpus", self.cpus.map(Value::from)),
            ("memory_bytes", self.memory_bytes.map(|bytes| bytes.get().into())),
            ("processes", self.processes.map(Value::from)),
            ("open_files", self.open_files.map(Value::from)),
            ("file_bytes", self.file_bytes.map(|bytes| bytes.get().into())),
        ];
        values.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
    }

    pub(super) fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

fn whole(fields: &mut Fields<'_>, field: &'static str, (least, most): (i64, i64)) -> Result<Option<u64>, Rejection> {
    let Some(value) = fields.integer(field)? else { return Ok(None) };
    if !(least..=most).contains(&value) {
        return Err(Rejection::field(field, format!("takes {least} to {most}")));
    }
    Ok(u64::try_from(value).ok())
}

fn least<T: PartialOrd + Copy + std::fmt::Display>(field: &str, agents: Option<T>, jobs: Option<T>) -> Result<Option<T>, Rejection> {
    match (agents, jobs) {
        (Some(most), Some(asked)) if asked > most => {
            Err(Rejection::new(Code::SettingForbids, format!("params.limits.{field}: shell_limits of this agent allows {most} at most")))
        }
        (agents, jobs) => Ok(jobs.or(agents)),
    }
}
