//! The REST gateway of Muster: it turns requests into messages and records, and waits for results. It keeps no state of its own.
//!
//! It never runs a job and never scores an agent. Any number of gateways answer alike.
//!
//! | to find | look in |
//! |---|---|
//! | start, background work, shutdown | [`service`] |
//! | settings | [`config`] |
//! | every route, and how one is added | `routes`, `endpoint` |
//! | what happens around every request | `plumbing`, `server` |
//! | bodies, queries, path parameters | `extract`, `page` |
//! | the caller's address, rates, what may be open at once | `door` |
//! | keys, roles, limits of guessing | `auth` |
//! | the audit trail | `audit` |
//! | errors | [`problem`] |
//! | the broker, mirrors of buckets | `app` |
//! | jobs, their results, who waits | `jobs`, `stored`, `waiters`, `queries`, `replies` |
//! | pools | `pools` |
//! | connections, and delivery of their credentials | `connections` |
//! | what agents can do, and params checked before they are queued | `types` |
//! | dead letters | `dead` |
//! | groups: one job for each of many agents | `groups` |
//! | schedules | `schedules` |
//! | agents: registering, lists, health, renewal | `agents`, `identity` |
//! | certificates, its own and agents' | `certificates` |
//! | asking a running gateway whether it is ready | `check` |
//! | whether it is, and whether its clock is the broker's | `health`, `clock` |
//! | API keys, join tokens | `keys`, `tokens` |
//! | what jobs are signed with, and whose signatures count | `signing`, `signers` |
//! | the API's document and its page | `openapi` |

mod agents;
mod app;
mod audit;
mod auth;
mod certificates;
mod check;
mod clock;
pub mod config;
mod connections;
mod dead;
mod door;
mod endpoint;
mod extract;
mod groups;
mod health;
mod identity;
mod jobs;
mod keys;
mod openapi;
mod page;
mod plumbing;
mod pools;
pub mod problem;
mod queries;
mod replies;
mod routes;
mod schedules;
mod server;
pub mod service;
mod signers;
mod signing;
mod stored;
mod tokens;
mod types;
mod waiters;

pub use config::Config;
pub use service::{Listeners, main_with, run};
