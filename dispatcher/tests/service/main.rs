//! The dispatcher on a real broker: each test has a broker of its own, with accounts and permissions as `muster init` makes them.

mod faults;
mod leadership;
mod standings;
mod support;
