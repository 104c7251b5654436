//! The life of an agent at the gateway: created, registered, stopped, revoked, given another key, moved, removed. A stand-in answers for the
//! dispatcher.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail by panicking")]

#[path = "../stack/stack.rs"]
mod stack;

mod created;
mod ended;
mod hostile;
mod leaving;
mod moved;
mod registered;
mod stopped;
mod world;
