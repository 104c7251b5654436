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
//! | keys, roles, limits of guessing | `auth` |
//! | errors | [`problem`] |
//! | connections, mirrors of buckets | `app` |
//! | jobs, their results, who waits | `jobs`, `stored`, `waiters`, `queries`, `replies` |
//! | pools | `pools` |
//! | dead letters | `dead` |
//! | groups: one job for each of many agents | `groups` |
//! | schedules | `schedules` |
//! | agents: registering, lists, health, renewal | `agents`, `identity` |
//! | API keys, join tokens | `keys`, `tokens` |
//! | the API's document and its page | `openapi` |

mod agents;
mod app;
mod auth;
pub mod config;
mod dead;
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
mod stored;
mod tokens;
mod waiters;

pub use config::Config;
pub use service::{Listeners, main_with, run};
