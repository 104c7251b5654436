//! Jobs over REST: submit, look up, wait, cancel, read the log.
//!
//! | to find | look in |
//! |---|---|
//! | endpoints and their handlers | [`handlers`] |
//! | what a caller wrote, checked | [`order`] |
//! | storing it in the pool's queue, and what answers a repeated submit | [`place`] |
//! | many at once | [`batch`] |
//! | where a job is | [`lookup`], and [`view`] for how that is shown |
//! | cancelling | [`cancel`] |
//! | stored output | [`logs`] |
//! | `?wait=` | [`wait`] and [`crate::waiters`] |
//!
//! Nothing here is remembered between two requests: the broker's streams are the only truth, so any gateway can answer any request.

pub(crate) mod batch;
pub(crate) mod cancel;
mod desk;
mod handlers;
pub(crate) mod logs;
pub(crate) mod lookup;
pub(crate) mod order;
pub(crate) mod outcome;
pub(crate) mod place;
pub(crate) mod view;
pub(crate) mod wait;

pub(crate) use desk::Desk;
pub(crate) use handlers::endpoints;
