//! An agent against a real nats-server: each test starts its own broker, in a deployment of its own.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail by panicking")]

mod acks;
mod admin;
mod bench;
mod clock;
mod commands;
mod connections;
mod credentials;
mod defaults;
mod described;
mod desk;
mod ends;
mod enrolment;
mod faults;
mod hardening;
mod identity;
mod jobs;
mod lanes;
mod logs;
mod masks;
mod processes;
mod repeats;
mod retries;
mod settings;
mod shutdown;
mod signatures;
mod spool;
mod standby;
mod trust;
mod vault;
