//! A local `nats-server`: finding it, fetching it, starting and stopping it.
//!
//! It never knows what the server is for: the config comes from [`crate::init`], the streams from [`crate::provision`].

mod fetch;
mod find;
mod running;
mod version;

pub use fetch::{FETCHED_VERSION, FetchError};
pub use find::{FindError, Places, find_binary};
pub use running::{Server, ServerError, Start};
pub use version::{MIN_SERVER_VERSION, VersionError, check_version};
