//! Groups over REST: one job for each of many agents of a pool, with one view of them all.
//!
//! | to find | look in |
//! |---|---|
//! | endpoints, and the submit of a group | [`handlers`] |
//! | what a caller wrote, checked | [`order`] |
//! | which agents, in which order | [`choose`] |
//! | writing the record, and what answers a repeated submit | [`create`] |
//! | how a group and its members are shown | [`view`], [`members`] |
//! | the list of groups | [`list`] |
//! | cancelling, also with the pool | [`cancel`] |
//!
//! A gateway decides who is in a group, and writes that down once. Sending the jobs, wave after wave, is the active dispatcher's part; where
//! they are is in a dispatcher's history.

mod cancel;
mod choose;
mod create;
mod handlers;
mod list;
mod members;
mod order;
mod view;

pub(crate) use cancel::{cancel_with_pool, running_in};
pub(crate) use handlers::{endpoints, submit};
