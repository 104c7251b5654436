//! Files on disk: read without being led astray, replaced whole or not at all, locked against a second process.

use std::{
    fs::{self, File, OpenOptions, Permissions, TryLockError},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use nix::{errno::Errno, fcntl::OFlag, unistd::geteuid};

use crate::{VaultError, format::Sum};

/// The largest file, in bytes: more than what all entries of the full size take.
pub(crate) const FILE_MAX: u64 = 32 * 1024 * 1024;

/// How long the lock may be held by somebody who is about to let it go: a process that was killed, or a child of ours that was forked while
/// the vault was open and has our descriptors until its `exec`.
const PATIENCE: Duration = Duration::from_secs(1);

/// Time between two looks at it.
const LOOK: Duration = Duration::from_millis(10);

/// The one mode that a vault has.
const MODE: u32 = 0o600;

/// The steps of replacing a file, in their order. Tests have one that fails at each of them.
pub(crate) trait Steps: Send + Sync {
    fn write(&self, file: &mut File, bytes: &[u8]) -> io::Result<()> {
        file.write_all(bytes)
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        file.sync_all()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        File::open(folder)?.sync_all()
    }
}

/// The steps as they are.
pub(crate) struct Disk;

impl Steps for Disk {}

/// Keeps other processes, and other parts of this one, from opening the same vault. The lock is on a file beside it, since the vault's own
/// is replaced with each change.
#[derive(Debug)]
pub(crate) struct Lock(#[expect(dead_code, reason = "the lock goes when the file is closed")] File);

impl Lock {
    pub(crate) fn take(path: &Path) -> Result<Self, VaultError> {
        let failed = |source| VaultError::Write { path: path.to_owned(), source };
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false).mode(MODE).custom_flags(OFlag::O_NOFOLLOW.bits());
        let file = options.open(beside(path, "lock")).map_err(failed)?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Self(file)),
                Err(TryLockError::WouldBlock) if Instant::now() < deadline => thread::sleep(LOOK),
                Err(TryLockError::WouldBlock) => return Err(VaultError::InUse { path: path.to_owned() }),
                Err(TryLockError::Error(source)) => return Err(failed(source)),
            }
        }
    }
}

/// Reads a vault; `None` where there is none.
pub(crate) fn read(path: &Path) -> Result<Option<Vec<u8>>, VaultError> {
    let Some((file, length)) = open(path)? else { return Ok(None) };
    let mut bytes = Vec::with_capacity(usize::try_from(length).unwrap_or_default());
    file.take(FILE_MAX).read_to_end(&mut bytes).map_err(|source| VaultError::Read { path: path.to_owned(), source })?;
    Ok(Some(bytes))
}

/// How the file ends; `None` where there is none.
pub(crate) fn sum(path: &Path) -> Result<Option<Sum>, VaultError> {
    let Some((mut file, length)) = open(path)? else { return Ok(None) };
    let mut sum = Sum([0; 32]);
    let mut read = || {
        file.seek(SeekFrom::Start(length.saturating_sub(sum.0.len() as u64)))?;
        file.read_exact(&mut sum.0)
    };
    match read() {
        // Too short for any vault: it is not what was written.
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(Some(Sum([0; 32]))),
        Err(source) => Err(VaultError::Read { path: path.to_owned(), source }),
        Ok(()) => Ok(Some(sum)),
    }
}

/// Opens a file that is ours alone, and no other.
fn open(path: &Path) -> Result<Option<(File, u64)>, VaultError> {
    let at = || path.to_owned();
    // A pipe would hold us up for ever without O_NONBLOCK.
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let file = match OpenOptions::new().read(true).custom_flags(flags.bits()).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) if error.raw_os_error() == Some(Errno::ELOOP as i32) => return Err(VaultError::Symlink { path: at() }),
        // A socket.
        Err(error) if error.raw_os_error() == Some(Errno::ENXIO as i32) => return Err(VaultError::NotAFile { path: at() }),
        Err(source) => return Err(VaultError::Read { path: at(), source }),
    };
    let about = file.metadata().map_err(|source| VaultError::Read { path: at(), source })?;
    let (own, mode) = (geteuid().as_raw(), about.mode() & 0o7777);
    if !about.is_file() {
        return Err(VaultError::NotAFile { path: at() });
    }
    if about.uid() != own {
        return Err(VaultError::Owner { path: at(), owner: about.uid(), own });
    }
    if mode != MODE {
        return Err(VaultError::Mode { path: at(), mode });
    }
    if about.len() > FILE_MAX {
        return Err(VaultError::TooLarge { path: at(), length: about.len() });
    }
    Ok(Some((file, about.len())))
}

/// Replaces the file: a temporary one beside it, sync, rename, sync of the folder. Until the rename nothing has changed.
pub(crate) fn replace(path: &Path, bytes: &[u8], steps: &dyn Steps) -> Result<(), VaultError> {
    let temporary = beside(path, "new");
    let written = || -> io::Result<()> {
        remove(&temporary)?;
        let mut file = OpenOptions::new().write(true).create_new(true).mode(MODE).open(&temporary)?;
        // Whatever the umask made of it.
        file.set_permissions(Permissions::from_mode(MODE))?;
        steps.write(&mut file, bytes)?;
        steps.sync(&file)?;
        steps.rename(&temporary, path)
    };
    if let Err(source) = written() {
        // What is left of it is ciphertext; the next change or start tries again.
        let _ = remove(&temporary);
        return Err(VaultError::Write { path: path.to_owned(), source });
    }
    steps.sync_folder(folder(path)).map_err(|source| VaultError::Unsynced { path: path.to_owned(), source })
}

/// Removes what a crash has left of a change that never was.
pub(crate) fn remove_left_over(path: &Path) -> Result<(), VaultError> {
    remove(&beside(path, "new")).map_err(|source| VaultError::Write { path: path.to_owned(), source })
}

/// Moves the file aside, in place of one that was moved before.
pub(crate) fn set_aside(path: &Path) -> Result<PathBuf, VaultError> {
    let aside = beside(path, "void");
    let moved = fs::rename(path, &aside).and_then(|()| Disk.sync_folder(folder(path)));
    moved.map_err(|source| VaultError::Write { path: path.to_owned(), source })?;
    Ok(aside)
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// `<file>.<ending>`.
fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(ending);
    name.into()
}

fn folder(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}
