//! What every Muster process shares: logs and traces, shutdown, named tasks, configuration,
//! health and metrics endpoints, and the connection to the broker.
//!
//! It owns how a process runs, never what it does: no job, agent, pool or subject appears here.
//! It is also the one home of `tokio::spawn` ([`tasks`]) and of the process environment ([`env`]).
//!
//! Start at [`process::run_main`], which the `main_with` of every binary calls.

pub mod config;
pub mod env;
pub mod http;
pub mod logs;
pub mod metrics;
pub mod nats;
pub mod process;
pub mod shutdown;
pub mod tasks;
pub mod trace;

#[doc(hidden)]
pub use tracing as __tracing;
