//! What holds alike for every executor, in one table: a good run, a failure, time-out, cancel, a flood of output, a secret in what comes back.
//!
//! Each runs against the real thing, with what its own tests start: an sshd, a Docker Engine, a systemd, the stand-in of a Kubernetes API. `os.restart`
//! is not here: it is over at once, prints a line, and its own tests say the rest.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail by panicking")]

mod rows;
mod table;
// What the executors' own tests stand on.
#[path = "../../executors/kubernetes/tests/kubernetes/api.rs"]
#[allow(dead_code, reason = "its own tests use the rest")]
mod api;
#[path = "../../executors/kubernetes/tests/kubernetes/cluster.rs"]
#[allow(dead_code, reason = "its own tests use the rest")]
mod cluster;
#[path = "../../executors/docker/tests/engine/bench.rs"]
#[allow(dead_code, reason = "its own tests use the rest")]
mod engine;
#[path = "../../executors/docker/tests/engine/host.rs"]
#[allow(dead_code, reason = "its own tests use the rest")]
mod host;
#[path = "../../executors/ssh/tests/ssh/bench.rs"]
#[allow(dead_code, reason = "its own tests use the rest")]
mod machine;
#[path = "../../executors/systemd/tests/units/manager.rs"]
#[allow(dead_code, reason = "its own tests use the rest")]
mod manager;
#[path = "../../executors/ssh/tests/ssh/sshd.rs"]
#[allow(dead_code, reason = "its own tests use the rest")]
mod sshd;

/// One test per row, so that they run side by side and each has a name.
macro_rules! alike {
    ($($row:ident)*) => {
        $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $row() {
            rows::$row().await;
        })*

        #[test]
        fn every_executor_has_a_row() {
            let rows = [$(stringify!($row)),*];
            for name in muster_agent::executors::Registry::KNOWN.iter().filter(|name| **name != "os") {
                assert!(rows.contains(name), "{name} has no row");
            }
        }
    };
}

alike!(probe shell http plugin ssh service docker compose kubernetes);
