//! The executors `docker` and `compose`: containers, and projects of containers, on the Docker Engine of the agent's host.
//!
//! Both talk to the engine's API over its unix socket. A container is never given more than its image and its own namespaces: no privileges, no
//! capabilities beyond the engine's default ones, no devices, no namespaces of the host, and folders of the host only beneath those that the
//! operator named. What ends with a job leaves no container behind; what an agent that was killed left, is removed at the first use after.
//!
//! | to find | look in |
//! |---|---|
//! | the socket, the client, leftovers | [`engine`] |
//! | what went wrong, as codes | [`failure`] |
//! | names of images, pulling, registries | [`image`], [`pull`], [`registry`] |
//! | parts of containers as texts: ports, mounts, sizes | [`parts`] |
//! | what a container is made of, for the engine | [`spec`] |
//! | the types `docker.*` | [`docker`] |
//! | the types `compose.*` | [`compose`] |

mod compose;
mod container;
mod docker;
mod engine;
mod failure;
mod image;
mod labels;
mod params;
mod parts;
mod pull;
mod registry;
mod spec;

use std::path::PathBuf;

pub use compose::Compose;
pub use docker::Docker;

/// What the two executors are made with.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Where the engine listens: `unix:///path` or a path; `/var/run/docker.sock` if absent (the agent's `DOCKER_HOST`).
    pub host: Option<String>,
    /// Folders of the host beneath which containers may be given folders; none if empty (the agent's `DOCKER_BIND_ROOTS`).
    pub bind_roots: Vec<PathBuf>,
}
