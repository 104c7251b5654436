//! The gateway's door: who gets in, how often, for how long, and what cannot be brought along.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail by panicking")]

#[path = "../stack/stack.rs"]
mod stack;

mod ends;
mod guesses;
mod limits;
mod raw;
mod roles;
mod smuggling;
mod support;
mod uses;
