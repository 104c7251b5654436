//! Whether the machine at the other end is the one that it should be: by the keys in the connection's settings, or by the key that it had at the
//! first use.
//!
//! Keys of first uses are kept in one file of the agent's, in the form of OpenSSH's known hosts. No other file is read.

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use muster_schemas::code::Code;
use russh::keys::PublicKey;

use crate::{
    problem::Problem,
    target::{Target, fingerprint},
};

/// The most bytes of the file that are read: some ten thousand machines.
const FILE_BYTES: u64 = 4 << 20;

/// Keeps the keys of first uses.
#[derive(Debug)]
pub(crate) struct HostKeys {
    path: PathBuf,
    /// One at a time looks and writes, so that of two first uses at once one is the first.
    turn: Mutex<()>,
}

impl HostKeys {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path, turn: Mutex::new(()) }
    }

    /// The keys that this machine may have, as far as is known: settings first. Blocks.
    pub(crate) fn known(&self, target: &Target) -> Result<Vec<PublicKey>, Problem> {
        if !target.host_keys.is_empty() || !target.first_use {
            return Ok(target.host_keys.clone());
        }
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let lines = self.read()?;
        lines.iter().filter(|(place, _)| *place == target.place()).map(|(_, key)| self.parse(key)).collect()
    }

    /// Judges the key that the machine has, and keeps it where this is its first use. Blocks.
    pub(crate) fn judge(&self, target: &Target, key: &PublicKey) -> Result<(), Problem> {
        let (place, shown) = (target.place(), fingerprint(key));
        if !target.host_keys.is_empty() {
            if target.host_keys.iter().any(|known| known.key_data() == key.key_data()) {
                return Ok(());
            }
            let known = target.host_keys.iter().map(fingerprint).collect::<Vec<_>>().join(", ");
            return Err(changed(&place, &shown, &known, "the connection's settings (host_keys)"));
        }
        if !target.first_use {
            let message = format!(
                "{place} has the host key {shown}, and nobody has said whether that is right: compare it on the machine \
                 (ssh-keygen -lf on its public host key), then put the key into the connection's settings as host_keys, \
                 or set first_use there to take the key of the first use"
            );
            return Err(Problem::for_good(Code::HostKeyUnknown, message));
        }
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let mut lines = self.read()?;
        let known: Vec<PublicKey> =
            lines.iter().filter(|(name, _)| *name == place).map(|(_, key)| self.parse(key)).collect::<Result<_, _>>()?;
        if known.iter().any(|known| known.key_data() == key.key_data()) {
            return Ok(());
        }
        if !known.is_empty() {
            let known = known.iter().map(fingerprint).collect::<Vec<_>>().join(", ");
            return Err(changed(&place, &shown, &known, &format!("the line of this machine in {} of the agent", self.path.display())));
        }
        let mut bare = key.clone();
        bare.set_comment("");
        let text = bare.to_openssh().map_err(|error| self.failed("write", io::Error::other(error)))?;
        lines.push((place.clone(), text.trim().to_owned()));
        self.write(&lines).map_err(|error| self.failed("write", error))?;
        tracing::info!(host = place, key = shown, "took the host key of the first use");
        Ok(())
    }

    /// The lines: machine, and key.
    fn read(&self) -> Result<Vec<(String, String)>, Problem> {
        let text = match read_bounded(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(self.failed("read", error)),
        };
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        lines
            .map(|line| {
                let (place, key) = line.split_once(' ').ok_or_else(|| self.failed("read", io::Error::other("a line without a key")))?;
                Ok((place.to_owned(), key.to_owned()))
            })
            .collect()
    }

    fn parse(&self, key: &str) -> Result<PublicKey, Problem> {
        PublicKey::from_openssh(key).map_err(|error| self.failed("read", io::Error::other(error)))
    }

    /// All of it at once, and on the disk: a line that is half there would be a machine that is not known.
    fn write(&self, lines: &[(String, String)]) -> io::Result<()> {
        let temporary = self.path.with_extension(format!("{:016x}.new", rand::random::<u64>()));
        let written = (|| {
            let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
            for (place, key) in lines {
                writeln!(file, "{place} {key}")?;
            }
            file.sync_all()?;
            fs::rename(&temporary, &self.path)?;
            fs::File::open(self.path.parent().unwrap_or(Path::new("/")))?.sync_all()
        })();
        if written.is_err() {
            let _gone = fs::remove_file(&temporary);
        }
        written
    }

    /// A file that can't be read may hold another key: nobody is connected to then.
    fn failed(&self, doing: &str, error: io::Error) -> Problem {
        let message = format!("could not {doing} the agent's known hosts, {}: {error}", self.path.display());
        Problem::failed(Code::Internal, message)
    }
}

fn read_bounded(path: &Path) -> io::Result<String> {
    let file = fs::File::open(path)?;
    if file.metadata()?.len() > FILE_BYTES {
        return Err(io::Error::other(format!("it has more than {FILE_BYTES} bytes")));
    }
    io::read_to_string(file)
}

fn changed(place: &str, shown: &str, known: &str, whence: &str) -> Problem {
    let message = format!(
        "{place} has the host key {shown}, and it should have {known}: it is another machine, or somebody is in between; nothing was sent. \
         If the machine was set up anew, compare its key there, and change {whence}"
    );
    Problem::for_good(Code::HostKeyChanged, message)
}

#[cfg(test)]
mod tests;
