//! Parts of containers as people write them: names, ports, sizes, times, restart policies. Complaints name no place: whoever reads them knows it.
//!
//! Mounts are in [`mounts`].

pub(crate) mod mounts;

use std::{net::IpAddr, str::FromStr};

use bollard::models::{RestartPolicy, RestartPolicyNameEnum};
use muster_executor::fields::shown;
use serde::Serialize;

/// Most entries of any list or map.
pub(crate) const ITEMS_MAX: usize = 256;

/// The least memory that engines take.
pub(crate) const MEMORY_MIN: i64 = 6 << 20;
/// More than any machine has.
pub(crate) const MEMORY_MAX: i64 = 1 << 50;
/// More than any machine has.
pub(crate) const CPUS_MAX: f64 = 1024.0;
/// What Linux takes.
pub(crate) const PIDS_MAX: i64 = 4_194_304;
/// The longest time that a container is given to stop, in seconds.
pub(crate) const STOP_MAX_S: i64 = 3600;

/// A container's, network's or volume's name or id: it becomes part of a path of the engine's API.
pub(crate) fn name(text: &str) -> Result<String, String> {
    let mut bytes = text.bytes();
    let starts = bytes.next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    if starts && text.len() <= 255 && bytes.all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte)) {
        return Ok(text.to_owned());
    }
    Err(format!("`{}` is no name here: letters, digits, `_`, `.` and `-`, the first a letter or digit", shown(text)))
}

/// A network to be in. Those that are somebody else's namespace are not for jobs.
pub(crate) fn network(text: &str) -> Result<String, String> {
    if text == "host" || text.starts_with("container:") || text.starts_with("ns:") {
        return Err(format!("`{}` is refused: containers of jobs have a network namespace of their own", shown(text)));
    }
    name(text)
}

/// The name of a variable.
pub(crate) fn variable(name: &str) -> Result<(), String> {
    if name.is_empty() || name.contains(['=', '\0']) {
        return Err(format!("`{}` is no name of a variable", shown(name)));
    }
    Ok(())
}

/// A port of a container that the host passes on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Port {
    pub(crate) host_ip: Option<IpAddr>,
    /// Any free one if absent.
    pub(crate) host: Option<u16>,
    pub(crate) container: u16,
    pub(crate) protocol: &'static str,
}

impl Port {
    /// The engine's word for the container's end.
    pub(crate) fn key(&self) -> String {
        format!("{}/{}", self.container, self.protocol)
    }

    /// `tcp`, `udp` or `sctp`.
    pub(crate) fn protocol(text: &str) -> Result<&'static str, String> {
        let known = ["tcp", "udp", "sctp"];
        known.into_iter().find(|known| *known == text).ok_or_else(|| format!("`{}` is not tcp, udp or sctp", shown(text)))
    }

    /// A port's number.
    pub(crate) fn number(text: &str) -> Result<u16, String> {
        match text.parse::<u16>() {
            Ok(port) if port > 0 => Ok(port),
            _ if text.contains('-') => Err(format!("`{}`: ranges of ports are not supported; name each", shown(text))),
            _ => Err(format!("`{}` is not a port, 1 to 65535", shown(text))),
        }
    }
}

impl FromStr for Port {
    type Err = String;

    /// `[[ip:]host:]container[/protocol]`
    fn from_str(text: &str) -> Result<Self, String> {
        let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
        let protocol = Self::protocol(protocol)?;
        let (host, container) = ports.rsplit_once(':').map_or((None, ports), |(host, container)| (Some(host), container));
        let container = Self::number(container)?;
        let (host_ip, host) = match host {
            None => (None, None),
            Some(host) => match host.rsplit_once(':') {
                Some((ip, port)) => (Some(address(ip)?), Some(port)),
                None => (None, Some(host)),
            },
        };
        let host = host.filter(|port| !port.is_empty()).map(Self::number).transpose()?;
        Ok(Self { host_ip, host, container, protocol })
    }
}

/// An address of the host; one of IPv6 may stand in brackets.
pub(crate) fn address(text: &str) -> Result<IpAddr, String> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    bare.parse().map_err(|_| format!("`{}` is not an IP address", shown(text)))
}

/// What happens when a container ends by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) enum Restart {
    No,
    Always,
    UnlessStopped,
    OnFailure(Option<i64>),
}

impl FromStr for Restart {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{}` is not no, always, unless-stopped, on-failure or on-failure:TIMES", shown(text));
        match text {
            "no" => Ok(Self::No),
            "always" => Ok(Self::Always),
            "unless-stopped" => Ok(Self::UnlessStopped),
            "on-failure" => Ok(Self::OnFailure(None)),
            _ => {
                let times = text.strip_prefix("on-failure:").and_then(|times| times.parse::<u32>().ok()).ok_or_else(wrong)?;
                Ok(Self::OnFailure(Some(times.into())))
            }
        }
    }
}

impl From<&Restart> for RestartPolicy {
    fn from(restart: &Restart) -> Self {
        let (name, maximum_retry_count) = match restart {
            Restart::No => (RestartPolicyNameEnum::NO, None),
            Restart::Always => (RestartPolicyNameEnum::ALWAYS, None),
            Restart::UnlessStopped => (RestartPolicyNameEnum::UNLESS_STOPPED, None),
            Restart::OnFailure(times) => (RestartPolicyNameEnum::ON_FAILURE, *times),
        };
        Self { name: Some(name), maximum_retry_count }
    }
}

/// What a container may use of the host; absent is as much as there is.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(crate) struct Limits {
    pub(crate) memory_bytes: Option<i64>,
    pub(crate) cpus: Option<f64>,
    pub(crate) pids: Option<i64>,
}

impl Limits {
    /// Memory within its range.
    pub(crate) fn memory(bytes: i64) -> Result<i64, String> {
        if (MEMORY_MIN..=MEMORY_MAX).contains(&bytes) {
            return Ok(bytes);
        }
        Err(format!("must be {MEMORY_MIN} to {MEMORY_MAX} bytes"))
    }

    /// Processors within their range, in billionths exactly.
    pub(crate) fn cpus(cpus: f64) -> Result<f64, String> {
        if (0.01..=CPUS_MAX).contains(&cpus) { Ok(cpus) } else { Err(format!("must be 0.01 to {CPUS_MAX}")) }
    }

    /// Processes within their range.
    pub(crate) fn pids(pids: i64) -> Result<i64, String> {
        if (1..=PIDS_MAX).contains(&pids) { Ok(pids) } else { Err(format!("must be 1 to {PIDS_MAX}")) }
    }
}

/// `64m`, `1.5gb`, `1024`: bytes, in powers of 1024.
pub(crate) fn bytes(text: &str) -> Result<i64, String> {
    let wrong = || format!("`{}` is not a size such as 64m", shown(text));
    let lower = text.trim().to_ascii_lowercase();
    let unit = lower.trim_start_matches(|letter: char| letter.is_ascii_digit() || letter == '.');
    let number: f64 = lower.strip_suffix(unit).and_then(|number| number.parse().ok()).ok_or_else(wrong)?;
    let factor = match unit {
        "" | "b" => 1_u64,
        "k" | "kb" => 1 << 10,
        "m" | "mb" => 1 << 20,
        "g" | "gb" => 1 << 30,
        "t" | "tb" => 1 << 40,
        _ => return Err(wrong()),
    };
    let size = number * factor as f64;
    if size.is_finite() && size <= MEMORY_MAX as f64 { Ok(size as i64) } else { Err(wrong()) }
}

/// `1m30s`, `500ms`: nanoseconds, as the engine counts.
pub(crate) fn nanoseconds(text: &str) -> Result<i64, String> {
    let wrong = || format!("`{}` is not a time such as 1m30s", shown(text));
    let mut rest = text.trim();
    let mut sum = 0_i64;
    if rest.is_empty() {
        return Err(wrong());
    }
    while !rest.is_empty() {
        let after = rest.trim_start_matches(|letter: char| letter.is_ascii_digit());
        let number: i64 = rest.strip_suffix(after).and_then(|number| number.parse().ok()).ok_or_else(wrong)?;
        let unit = after.find(|letter: char| letter.is_ascii_digit()).map_or(after, |end| after.get(..end).unwrap_or(after));
        let factor = match unit {
            "us" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return Err(wrong()),
        };
        sum = number.checked_mul(factor).and_then(|part| sum.checked_add(part)).ok_or_else(wrong)?;
        rest = after.strip_prefix(unit).unwrap_or_default();
    }
    Ok(sum)
}

#[cfg(test)]
mod tests;
