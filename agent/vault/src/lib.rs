//! The agent's vault: one file with named secrets, sealed with a key from the agent's API key. `docs/vault.md` is its format.
//!
//! What is here either opens as a whole or not at all, and says why. A change is on disk, whole, when the call that made it returns. Nothing
//! here knows what the secrets are, and none of it is asynchronous: [`Vault::open`] takes a few tenths of a second, the rest waits for the disk.
//!
//! | to find | look in |
//! |---|---|
//! | what can be wrong with a file, in words | [`VaultError`] |
//! | the layout of the file, byte by byte | `format` |
//! | the key, and sealing with it | `cipher` |
//! | reading, replacing and locking files | `file` |

mod cipher;
mod error;
mod file;
mod format;

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
};

pub use error::VaultError;
pub use zeroize::Zeroizing;

use cipher::Cipher;
use file::{Disk, Lock, Steps};
use format::{Content, Head, Sum};

/// The most bytes of a name.
pub const NAME_MAX: usize = 128;
/// The most bytes of a value.
pub const VALUE_MAX: usize = 64 * 1024;
/// The most entries.
pub const ENTRIES_MAX: usize = 256;

/// Which vault this is, and how often it was written: of two files of the same vault, the one with the higher counter is the newer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark {
    /// Random, made with the vault; 32 hexadecimal digits.
    pub id: String,
    /// Grows by one with every change. 0 is a vault that nothing was put into yet: it has no file.
    pub counter: u64,
}

/// An open vault. As long as it is there, no other process opens the same file.
pub struct Vault {
    path: PathBuf,
    cipher: Cipher,
    content: Content,
    /// How the file on disk ends; `None` where there is none yet.
    written: Option<Sum>,
    steps: Box<dyn Steps>,
    _lock: Lock,
}

impl Vault {
    /// Opens the vault in this file. Where there is none, an empty one begins, whose file comes with the first [`Vault::put`].
    ///
    /// # Errors
    /// What is wrong with the file, or with its name; see [`VaultError`].
    pub fn open(path: impl Into<PathBuf>, api_key: &str) -> Result<Self, VaultError> {
        Self::open_on(path.into(), api_key, Box::new(Disk))
    }

    fn open_on(path: PathBuf, api_key: &str, steps: Box<dyn Steps>) -> Result<Self, VaultError> {
        let lock = Lock::take(&path)?;
        file::remove_left_over(&path)?;
        let (cipher, content, written) = match file::read(&path)? {
            Some(bytes) => {
                // All that needs no key comes first: nobody makes us derive with a salt or a number of rounds that we did not write.
                let head = Head::read(&bytes).map_err(|problem| problem.of(&path))?;
                let cipher = Cipher::derive(api_key, &head.salt);
                let content = Content::open(&bytes, head, &cipher).map_err(|problem| problem.of(&path))?;
                (cipher, content, Some(Sum::at_end(&bytes)))
            }
            None => {
                let head = Head::new();
                (Cipher::derive(api_key, &head.salt), Content::empty(head), None)
            }
        };
        Ok(Self { path, cipher, content, written, steps, _lock: lock })
    }

    /// Keeps a value under a name, instead of what was there.
    ///
    /// # Errors
    /// A name or value that is too long, too many of them, or a file that can't be written: then nothing has changed.
    /// [`VaultError::Unsynced`] alone says that it has.
    pub fn put(&mut self, name: &str, value: &[u8]) -> Result<(), VaultError> {
        if name.is_empty() || name.len() > NAME_MAX {
            return Err(VaultError::Name { length: name.len() });
        }
        if value.len() > VALUE_MAX {
            return Err(VaultError::Value { length: value.len() });
        }
        if self.content.entries.len() >= ENTRIES_MAX && !self.content.entries.contains_key(name) {
            return Err(VaultError::Full);
        }
        let mut plain = self.all()?;
        plain.insert(name.to_owned(), Zeroizing::new(value.to_vec()));
        self.write(&plain)
    }

    /// The value under a name. It is wiped when it is dropped.
    ///
    /// # Errors
    /// Never for a vault that is open, as long as memory keeps what it holds.
    pub fn get(&self, name: &str) -> Result<Option<Zeroizing<Vec<u8>>>, VaultError> {
        let Some(entry) = self.content.entries.get(name) else { return Ok(None) };
        self.content.head.open(&self.cipher, name, entry).map(Some).map_err(|problem| problem.of(&self.path))
    }

    /// Removes what is under a name; says whether something was.
    ///
    /// # Errors
    /// A file that can't be written: then nothing has changed. [`VaultError::Unsynced`] alone says that it has.
    pub fn remove(&mut self, name: &str) -> Result<bool, VaultError> {
        if !self.content.entries.contains_key(name) {
            return Ok(false);
        }
        let mut plain = self.all()?;
        plain.remove(name);
        self.write(&plain)?;
        Ok(true)
    }

    /// The names, in their order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.content.entries.keys().map(String::as_str)
    }

    /// Which vault this is, and how often it was written.
    #[must_use]
    pub fn mark(&self) -> Mark {
        self.content.head.mark()
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn all(&self) -> Result<BTreeMap<String, Zeroizing<Vec<u8>>>, VaultError> {
        let open = |(name, entry): (&String, &_)| Ok((name.clone(), self.content.head.open(&self.cipher, name, entry)?));
        self.content.entries.iter().map(open).collect::<Result<_, _>>().map_err(|problem: format::Problem| problem.of(&self.path))
    }

    /// Seals everything anew, with new nonces, and replaces the file.
    fn write(&mut self, plain: &BTreeMap<String, Zeroizing<Vec<u8>>>) -> Result<(), VaultError> {
        let (content, bytes) = Content::seal(self.content.head.next(), plain, &self.cipher).map_err(|problem| problem.of(&self.path))?;
        if file::sum(&self.path)? != self.written {
            return Err(VaultError::Replaced { path: self.path.clone() });
        }
        let replaced = file::replace(&self.path, &bytes, self.steps.as_ref());
        if matches!(replaced, Ok(()) | Err(VaultError::Unsynced { .. })) {
            self.content = content;
            self.written = Some(Sum::at_end(&bytes));
        }
        replaced
    }
}

impl fmt::Debug for Vault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vault").field("path", &self.path).field("mark", &self.mark()).field("entries", &self.content.entries.len()).finish()
    }
}

/// Moves a vault aside whose key is no more, to `<file>.void`, in place of one that was moved before. Where that is, is answered.
///
/// # Errors
/// When it can't be moved, or is open.
pub fn set_aside(path: &Path) -> Result<PathBuf, VaultError> {
    let _lock = Lock::take(path)?;
    file::set_aside(path)
}

#[cfg(test)]
mod tests;
