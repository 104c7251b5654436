//! What every Muster process shares: logs and traces, shutdown, named tasks, configuration,
//! health and metrics endpoints, the connection to the broker, and the way into the audit trail.
//!
//! It owns how a process runs, never what it does: no job, agent or pool appears here, and of the subjects only the audit trail's.
//! It is also the one home of `tokio::spawn` ([`tasks`]) and of the process environment ([`env`]).
//!
//! Start at [`process::run_main`], which the `main_with` of every binary calls.

pub mod config;
pub mod env;
pub mod http;
pub mod lock;
pub mod logs;
pub mod metrics;
pub mod nats;
pub mod process;
pub mod shutdown;
pub mod tasks;
pub mod tls;
pub mod trace;
pub mod trail;

#[doc(hidden)]
pub use tracing as __tracing;
