//! Lanes: one priority × one executor of a pool. A lane is one subject filter and one durable consumer.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::names::{ExecutorName, NameError};

/// How urgent a job is. A lane of a higher priority is served first whenever more than one has a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Priority {
    /// Served before all others.
    High,
    /// The default.
    #[default]
    Normal,
    /// Served when nothing else waits.
    Low,
}

impl Priority {
    /// All priorities, the most urgent first.
    pub const ALL: [Self; 3] = [Self::High, Self::Normal, Self::Low];

    /// The token in a subject.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::High => "high",
            Self::Normal => "normal",
            Self::Low => "low",
        }
    }
}

impl fmt::Display for Priority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Priority {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        Self::ALL.into_iter().find(|p| p.as_str() == text).ok_or_else(|| NameError::new("a priority", "high, normal or low", text))
    }
}

/// One priority × one executor of a pool.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lane {
    /// The lane's priority.
    pub priority: Priority,
    /// The executor that its jobs need.
    pub executor: ExecutorName,
}

impl Lane {
    /// The lanes of one executor, the most urgent first.
    pub fn of(executor: &ExecutorName) -> [Self; 3] {
        Priority::ALL.map(|priority| Self { priority, executor: executor.clone() })
    }

    /// The name of the lane's durable consumer, `<priority>_<executor>`.
    pub fn consumer(&self) -> String {
        format!("{}_{}", self.priority, self.executor)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;

    #[test]
    fn priorities_order_by_urgency_and_round_trip() {
        assert!(Priority::High < Priority::Normal && Priority::Normal < Priority::Low);
        for p in Priority::ALL {
            assert_eq!(p.as_str().parse::<Priority>().unwrap(), p);
        }
        assert!("urgent".parse::<Priority>().is_err());
    }
}
