//! What can be wrong with a vault, in words that tell what to do. `docs/vault.md` has more to each.

use std::{io, path::PathBuf};

use crate::{ENTRIES_MAX, NAME_MAX, VALUE_MAX, cipher::ROUNDS, file::FILE_MAX, format::VERSION};

/// Why a vault can't be opened or changed.
#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    /// The system does not let us read it.
    #[error("can't read the vault {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It can't be written; what was there before still is.
    #[error("can't write the vault {path}; it is as it was before")]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It was written, but the folder could not be synced.
    #[error("the vault {path} is written, but may be the one before it after a power failure")]
    Unsynced {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Its name leads elsewhere.
    #[error("the vault {path} is a symbolic link; put the file itself there, or set VAULT_PATH to where it is")]
    Symlink {
        /// The link.
        path: PathBuf,
    },
    /// It is a folder, a pipe or the like.
    #[error("the vault {path} is not a regular file")]
    NotAFile {
        /// What has its name.
        path: PathBuf,
    },
    /// It is not for its owner alone.
    #[error(
        "the vault {path} has mode {mode:04o} instead of 0600, so others may have read or changed it; if that is all right, `chmod 600 {path}`"
    )]
    Mode {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// It is somebody else's.
    #[error("the vault {path} belongs to the user with id {owner}, and this process runs as {own}")]
    Owner {
        /// The file.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
        /// Who we are.
        own: u32,
    },
    /// Larger than any vault that was written here.
    #[error("the vault {path} has {length} bytes, and none has more than {FILE_MAX}")]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size in bytes.
        length: u64,
    },
    /// It does not begin as a vault does.
    #[error("{path} is no vault: it does not begin as one")]
    NoVault {
        /// The file.
        path: PathBuf,
    },
    /// Its checksum is wrong.
    #[error(
        "the vault {path} is damaged: {what}; restore it from a backup made since its last change, or move it away and deliver the credentials again"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// In which way.
        what: &'static str,
    },
    /// Another build's.
    #[error("the vault {path} is of version {found}, and this build reads version {VERSION}")]
    Version {
        /// The file.
        path: PathBuf,
        /// The version it says.
        found: u32,
    },
    /// Not what we derive keys with.
    #[error("the vault {path} asks for {found} rounds of key derivation instead of {ROUNDS}; no vault that was written here does")]
    Rounds {
        /// The file.
        path: PathBuf,
        /// The rounds it says.
        found: u32,
    },
    /// The key does not fit.
    #[error("the vault {path} was sealed with another API key")]
    Key {
        /// The file.
        path: PathBuf,
    },
    /// The key fits, what it sealed does not.
    #[error("the vault {path} was altered by somebody who does not have its key: {what}")]
    Altered {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        what: &'static str,
    },
    /// Somebody else has it open.
    #[error("the vault {path} is open in another process; give each agent its own VAULT_PATH")]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// The file is not the one that was written last.
    #[error("the vault {path} was replaced or removed while it was open here; nothing was written")]
    Replaced {
        /// The file.
        path: PathBuf,
    },
    /// There is no room.
    #[error("the vault has {ENTRIES_MAX} entries, which is all it takes")]
    Full,
    /// A name that is none.
    #[error("a name of {length} bytes; it has 1 to {NAME_MAX}")]
    Name {
        /// Its length in bytes.
        length: usize,
    },
    /// A value that is too long.
    #[error("a value of {length} bytes; it has at most {VALUE_MAX}")]
    Value {
        /// Its length in bytes.
        length: usize,
    },
}
