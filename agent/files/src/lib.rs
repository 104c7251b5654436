//! Files of the agent's machine for jobs: beneath the folders that the operator allows (`FILES_ROOTS`), and nowhere else.
//!
//! The kernel keeps each path beneath its folder (`openat2` with `RESOLVE_BENEATH`, no symbolic links, no mount points), so nothing that is
//! swapped between a check and its use leads out. Only regular files are opened. It knows neither jobs nor the network, and blocks: call it
//! where blocking is allowed.
//!
//! | to find | look in |
//! |---|---|
//! | which folders are allowed | [`Roots`] |
//! | opening and making files in one | [`Folder`], [`NewFile`] |
//! | which names are taken | [`names`] |
//! | reading tar, tar.gz and zip without trusting them | [`archive`] |

pub mod archive;
mod error;
mod folder;
pub mod names;
mod new_file;
mod roots;

pub use error::FileError;
pub use folder::Folder;
pub use new_file::NewFile;
pub use roots::{Roots, RootsError};
