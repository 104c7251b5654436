//! Pools over REST: make, change, list, remove, and how they are doing.
//!
//! | to find | look in |
//! |---|---|
//! | endpoints and their handlers | [`handlers`] |
//! | making and changing | [`put`] |
//! | removing | [`remove`] |
//! | pausing | [`pause`] |
//! | lanes declared by a submit | [`lanes`] |
//! | what is in the queue, and the gauge of it | [`queue`] |
//! | whether jobs of a pool run | [`health`] |
//!
//! A pool is a record in a bucket; its stream and consumers follow the record (`muster_broker_config::provision`).

mod handlers;
mod health;
pub(crate) mod lanes;
mod pause;
mod put;
mod queue;
mod remove;

pub(crate) use handlers::endpoints;
pub(crate) use queue::sample;

/// The most executors of a pool. Each has three lanes, and each lane a consumer, which costs the broker about 4 KiB.
pub(crate) const EXECUTORS_MAX: usize = 64;
