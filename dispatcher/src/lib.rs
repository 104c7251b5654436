//! The dispatcher: scores agents and tells each how soon it may pull. Control plane only: it never stands on a job's path, and nothing
//! waits for it.
//!
//! Several may run; one is active, and the others know as much and write nothing. It keeps nothing on disk: a start reads the last
//! heartbeats and the results of the last hour from the broker, and is then where any other one would be.
//!
//! | to find | look in |
//! |---|---|
//! | the formulas of score and status | [`score`], over the sliding hour of [`window`] |
//! | who is served first | [`ranking`] |
//! | what is known and what follows from it | [`state`]; restarts, replays and shared identities in [`instances`] |
//! | what comes in | `intake` |
//! | what goes out | `core` (standings), `lanes`, `figures` and `sampler` (metrics) |
//! | which dispatcher is the active one | [`lease`] |
//! | settings, start and end | [`Config`], [`run`] |

mod broker;
pub mod clock;
mod config;
mod core;
mod figures;
mod fixed;
pub mod instances;
mod intake;
mod lanes;
pub mod lease;
pub mod ranking;
mod sampler;
pub mod score;
mod service;
pub mod state;
pub mod window;

pub use config::Config;
pub use service::{Listeners, main_with, run};
