//! The binaries under test, built once per test process into the folder that the test itself was built into.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

/// The path of one of our binaries.
///
/// # Panics
/// When the build fails.
pub fn path(name: &str) -> PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(build).join(name)
}

/// Builds all binaries with the profile of the running test. Cargo does nothing where they are up to date.
fn build() -> PathBuf {
    // …/target/<profile>/deps/<test>
    let test = std::env::current_exe().unwrap();
    let folder = test.ancestors().nth(2).unwrap().to_path_buf();
    let mut command = Command::new(env!("CARGO"));
    command.args(["build", "--quiet", "--workspace", "--bins"]);
    if folder.file_name().is_some_and(|profile| profile == "release") {
        command.arg("--release");
    }
    command.arg("--target-dir").arg(folder.parent().unwrap()).current_dir(root());
    assert!(command.status().unwrap().success(), "the binaries do not build");
    folder
}

/// The root of the repository.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}
