//! Jobs over REST: submit, look up, wait, cancel, read the log.
//!
//! | to find | look in |
//! |---|---|
//! | endpoints and their handlers | [`handlers`] |
//! | what a caller wrote, checked | [`order`] |
//! | storing it in the pool's queue, and what answers a repeated submit | [`place`] |
//! | the list of jobs, from a dispatcher | [`list`] |
//! | many at once | [`batch`] |
//! | where a job is | [`lookup`], and [`view`] for how that is shown |
//! | cancelling | [`cancel`] |
//! | running again what has ended | [`retry`], with [`again`] |
//! | why a job waits | [`why`] |
//! | stored output | [`logs`] |
//! | watching: events as they come | [`watch`] |
//! | `?wait=` | [`wait`] and [`crate::waiters`] |
//!
//! Nothing here is remembered between two requests: the broker's streams are the only truth, so any gateway can answer any request.

pub(crate) mod again;
pub(crate) mod batch;
pub(crate) mod cancel;
mod desk;
mod handlers;
pub(crate) mod list;
pub(crate) mod logs;
pub(crate) mod lookup;
pub(crate) mod order;
pub(crate) mod outcome;
pub(crate) mod place;
pub(crate) mod retry;
pub(crate) mod view;
pub(crate) mod wait;
pub(crate) mod watch;
pub(crate) mod why;

pub(crate) use desk::Desk;
pub(crate) use handlers::{JOB_CODES, endpoints, location};
