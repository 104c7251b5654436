//! What Muster relies on a real nats-server for: each test starts its own, with a deployment of its own.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail by panicking")]

mod attacks;
mod audit;
mod commands;
mod contained;
mod drain;
mod init;
mod matrix;
mod pause;
mod permissions;
mod provision;
mod server;
mod shares;
mod support;
mod tls;
mod topology;
mod upgrade;
