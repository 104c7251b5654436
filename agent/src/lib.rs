//! The agent.
pub mod config;
pub mod executors;
mod intake;
