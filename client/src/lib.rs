//! The Rust SDK for services that put jobs straight onto NATS: submit, wait, watch, cancel.
//!
//! A service needs two things: the broker's address and a credentials file that says which pools it may use
//! (`muster creds issue --publish <pool>`). Nothing else of Muster has to be up for a job to be accepted.
//!
//! ```no_run
//! use std::time::Duration;
//! use muster_client::{Client, NewJob};
//!
//! # async fn example() -> Result<(), muster_client::Error> {
//! let client = Client::connect("nats://127.0.0.1:4222", "service.creds").await?;
//! let pool = "default".parse()?;
//!
//! // Submit and wait in one go: the result comes as soon as the broker has stored it.
//! let job = NewJob::new("shell.run", serde_json::json!({"command": "date"}));
//! let result = client.run(&pool, job, Duration::from_secs(30)).await?;
//! println!("{}: {}", result.outcome, result.stdout.to_text());
//!
//! // Or submit now and wait later, from anywhere: pool and id are all that it takes.
//! let submitted = client.submit(&pool, NewJob::new("probe.ping", serde_json::json!({}))).await?;
//! let result = client.wait(&submitted.pool, &submitted.id, Duration::from_secs(30)).await?;
//! # Ok(())
//! # }
//! ```
//!
//! It never talks to an agent or a dispatcher, holds no queue of its own, and has no use for JetStream's API: it
//! publishes jobs, listens to stored results, and asks a gateway where listening is not enough.
//!
//! | to find | look in |
//! |---|---|
//! | the connection | `connection` |
//! | a job to be | `job` |
//! | how a job is stored, once | `submit` |
//! | who waits for which result | `waiters` |
//! | `wait`, `run` | `wait` |
//! | what a gateway is asked | `query` |
//! | a job's life as it happens | `watch` |
//! | many messages in one commit, for the control plane and agents | [`atomic`] |
//! | messages that come one by one and share commits, for the same | [`commits`] |
//! | the newest message on a subject, for the control plane and agents | [`last`] |

pub mod atomic;
pub mod commits;
mod connection;
mod error;
mod job;
pub mod last;
mod query;
mod submit;
mod wait;
mod waiters;
mod watch;

pub use connection::{Client, Tls};
pub use error::Error;
pub use job::NewJob;
pub use submit::Submitted;
pub use watch::{Update, Watch};

/// The types that this interface speaks in.
pub use muster_schemas as schemas;
