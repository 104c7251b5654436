//! The harness of the end-to-end tests: the real binaries on a real broker, and ways to hurt them.
//!
//! It never mocks anything and never sleeps for luck: [`eventually`] is the only wait. The tests are in `tests/tests/`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "a harness fails by panicking")]

pub mod binaries;
pub mod ledger;
pub mod process;
pub mod proxy;
pub mod rest;
pub mod stack;
mod wait;

pub use stack::{Stack, StackOptions};
pub use wait::{eventually, within};
