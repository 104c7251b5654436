//! Tests of the executors against a real Docker Engine and a real registry, both started here, and ended with this process.
//!
//! They need root and Debian's packages `docker.io`, `docker-registry` and `busybox-static`, which they install.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "tests fail by panicking"
)]

mod bench;
mod compose;
mod containers;
mod exec;
mod host;
mod pull;
mod run;
