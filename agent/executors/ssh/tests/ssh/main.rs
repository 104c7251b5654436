//! The executor against a real sshd (OpenSSH), and against machines that lie.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail by panicking")]

mod bench;
mod commands;
mod hostile;
mod logins;
mod sshd;
mod transfers;
