//! Commands through the real launcher, the agent's own binary: limits, users, cgroups; and examples of plugins, as they are in the documentation.
//!
//! Other users can be had where the tests run as root only; what runs otherwise is that they are refused.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail by panicking")]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a test says what of it could not run here")]

mod bench;
mod cgroups;
mod examples;
mod launched;
