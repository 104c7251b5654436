//! The executor against a Kubernetes API: a stand-in (`api`), or a real kube-apiserver where there is one (`cluster`). What only the stand-in can
//! show (failures on demand, logs, which need a kubelet) returns at once on a real one.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::type_complexity,
    reason = "tests fail by panicking"
)]

mod api;
mod apply;
mod cluster;
mod connections;
mod logs;
mod objects;
mod rollouts;
mod trouble;
