//! Programs that tests run for real (an sshd, a Docker Engine, systemd): found on this machine, or installed as the Debian package that has them.
//!
//! A test whose program can't be had fails and says what to install: one that is skipped in silence shows nothing.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::Command,
};

use nix::fcntl::{Flock, FlockArg};

/// Where programs are that are not for everybody, beside `PATH`.
const PLACES: &[&str] = &["/usr/sbin", "/sbin", "/usr/local/sbin", "/lib/systemd", "/usr/lib/systemd"];

/// The path of `program`. Where it is missing, `package` is installed, which takes root and apt-get.
///
/// # Panics
/// When it can't be had; the message says what to install.
#[allow(clippy::panic, reason = "tests fail by panicking")]
pub fn program(program: &str, package: &str) -> PathBuf {
    let path = find(program).or_else(|| {
        install(package, || find(program).is_some());
        find(program)
    });
    path.unwrap_or_else(|| panic!("this test needs `{program}`: install the package `{package}` (as root, the test does so itself)"))
}

/// Has a package here whose program another one has as well.
///
/// # Panics
/// When it can't be had; the message says what to install.
pub fn package(package: &str) {
    let is_here = || Path::new("/var/lib/dpkg/info").join(format!("{package}.list")).exists();
    if !is_here() {
        install(package, is_here);
        assert!(is_here(), "this test needs the package `{package}`: install it (as root, the test does so itself)");
    }
}

#[allow(clippy::disallowed_methods, reason = "where programs are is no setting")]
fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).chain(PLACES.iter().map(PathBuf::from)).map(|place| place.join(program)).find(|file| file.is_file())
}

#[allow(clippy::expect_used, reason = "tests fail by panicking")]
fn install(package: &str, is_here: impl Fn() -> bool) {
    // Tests run side by side, and apt-get does not.
    let lock = File::create(std::env::temp_dir().join("muster-test-packages.lock")).expect("a lock in the temporary folder");
    let _locked = Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, error)| error).expect("the lock of apt-get");
    if is_here() {
        return;
    }
    if !nix::unistd::geteuid().is_root() || !Path::new("/usr/bin/apt-get").exists() {
        return;
    }
    let apt = |args: &[&str]| Command::new("apt-get").args(args).env("DEBIAN_FRONTEND", "noninteractive").output();
    let install = ["install", "-y", "-qq", "--no-install-recommends", package];
    // The lists of a fresh image are empty.
    if !apt(&install).is_ok_and(|output| output.status.success()) {
        let _tried = (apt(&["update", "-qq"]), apt(&install));
    }
}
