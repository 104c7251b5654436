//! Jobs and pools over REST, against a real nats-server: each test has its own broker, its own gateways and agents in the agents' account.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail by panicking")]

mod agent;
mod batch;
mod cancel;
mod commands;
mod connections;
mod dead;
mod faults;
mod groups;
mod list;
mod logs;
mod lookup;
mod pause;
mod pools;
mod queries;
mod replies;
mod retry;
mod schedules;
mod signatures;
mod submit;
mod types;
mod watch;
mod why;
mod world;
