//! An agent against a real nats-server: each test starts its own broker, in a deployment of its own.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail by panicking")]

mod bench;
mod clock;
mod commands;
mod defaults;
mod desk;
mod ends;
mod enrolment;
mod faults;
mod identity;
mod jobs;
mod lanes;
mod logs;
mod repeats;
mod retries;
mod settings;
mod shutdown;
mod signatures;
mod spool;
mod trust;
