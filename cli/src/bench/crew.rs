//! The agents that a bench starts for itself, as options: the same for every bench that lets people choose both.

use clap::Args;

/// Agents of the bench's own.
#[derive(Debug, Clone, Copy, Args)]
pub(super) struct Crew {
    /// Agents, started for the bench in a pool of its own
    #[arg(long, default_value_t = 2)]
    pub(super) agents: usize,
    /// Slots of each agent
    #[arg(long, default_value_t = 10)]
    pub(super) slots: usize,
}
