//! The dispatcher: scores agents and tells each how soon it may pull. Control plane only: it never stands on a job's path, and nothing
//! waits for it.
//!
//! Several may run; one is active, and the others know as much and write nothing. For scores it keeps nothing on disk: a start reads the last
//! heartbeats and the results of the last hour from the broker, and is then where any other one would be. The history of jobs is kept
//! on disk, by each one for itself, and can be deleted at any time.
//!
//! | to find | look in |
//! |---|---|
//! | the formulas of score and status | [`score`], over the sliding hour of [`window`] |
//! | who is served first | [`ranking`] |
//! | what is known and what follows from it | [`state`]; restarts, replays and shared identities in [`instances`] |
//! | what comes in | `intake`; how it is taken in, `channel` |
//! | what goes out | `core` (standings), `lanes`, `figures` and `sampler` (metrics) |
//! | the list of jobs, and alarms of what the broker lost | `history` |
//! | schedules: timers, firings, missed firings | [`schedules`] |
//! | groups: one job for each of many agents, in waves | `groups` |
//! | ending jobs without their agents: cancelled, expired | `cancel`, `expiry` |
//! | which dispatcher is the active one | [`lease`] |
//! | handing credentials on to agents that join | `credentials` |
//! | jobs that nobody asks for in pools where agents stand by | `lookout` |
//! | consumers of the agents that have commands | `queues` |
//! | limits on running jobs that hold for whole pools | `shares` |
//! | finished jobs out of their queues, many at a time | `sweeper` |
//! | whose results are whose, and which count | `keyring` |
//! | what it signs jobs and results with | `signing` |
//! | having revoked keys refused, removing agents | `warden` |
//! | settings, start and end | [`Config`], [`run`] |

mod broker;
mod cancel;
mod channel;
pub mod clock;
mod config;
mod core;
mod credentials;
mod expiry;
mod figures;
mod fixed;
mod groups;
mod held;
mod history;
pub mod instances;
mod intake;
mod keyring;
mod lanes;
pub mod lease;
mod lookout;
mod queues;
pub mod ranking;
mod sampler;
pub mod schedules;
pub mod score;
mod service;
mod shares;
mod signing;
pub mod state;
mod sweeper;
mod trail;
mod warden;
pub mod window;

pub use config::Config;
pub use service::{Listeners, main_with, run};
