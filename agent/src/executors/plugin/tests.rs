//! Plugins as real programs: what is a plugin, what it is told, and everything that it can do wrong. Its tree is killed as a command's is.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail by panicking")]

mod protocol;

use std::{os::unix::fs::PermissionsExt as _, path::Path};

use muster_schemas::{code::Code, result::Outcome};
use serde_json::json;
use tempfile::TempDir;

use super::super::tests::{LONG, attempt, options, refusal, run};
use super::super::{Context, Execution, Options, Plugins, Refused, Registry};

/// What a test's plugin describes unless it says otherwise.
const DESCRIBED: &str = r#"{"about": "a test", "verbs": [{"name": "go", "about": "Goes.", "connections": ["secret"]}]}"#;

/// A folder that is safe to have plugins in.
fn folder() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    dir
}

/// Puts a program there. By another process: a program that this one still has open for writing while a test beside it forks can't be run.
fn put(folder: &Path, name: &str, script: &str) {
    let source = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(source.path(), script).unwrap();
    let installed = std::process::Command::new("install").args(["-m", "755"]).arg(source.path()).arg(folder.join(name)).status();
    assert!(installed.unwrap().success());
}

/// A shell script that describes itself as [`DESCRIBED`], and runs `body`.
fn script(body: &str) -> String {
    format!("#!/bin/sh\nif [ \"$1\" = describe ]; then printf '%s' '{DESCRIBED}'; exit; fi\n{body}\n")
}

async fn with(folder: &Path, enabled: &[&str]) -> Result<Registry, Refused> {
    let options = Options { plugins: Some(Plugins::look(folder, Registry::KNOWN)?), ..options() };
    Registry::new(enabled, &options).unwrap().with_plugins(enabled, &options).await
}

/// A registry with one plugin, `test`, whose runs are `body`.
async fn one(body: &str) -> (TempDir, Registry) {
    let folder = folder();
    put(folder.path(), "test", &script(body));
    let registry = with(folder.path(), &["test"]).await.unwrap();
    (folder, registry)
}

async fn go(body: &str) -> Execution {
    let (_folder, registry) = one(body).await;
    run(&registry, "test.go", json!({"a": 1})).await
}

#[tokio::test]
async fn a_named_plugin_is_an_executor_and_one_that_is_not_named_is_never_started() {
    let folder = folder();
    put(folder.path(), "mine", &script("echo '{\"result\": {\"outcome\": \"succeeded\", \"data\": {\"n\": 7}}}'"));
    let traces = folder.path().join(".started");
    put(folder.path(), "other", &format!("#!/bin/sh\ntouch {}\nprintf '%s' '{DESCRIBED}'", traces.display()));
    let registry = with(folder.path(), &["mine", "shell"]).await.unwrap();
    assert_eq!(registry.executors(), ["mine", "probe", "shell"]);
    assert!(!traces.exists());
    let description = registry.description();
    let mine = description.executors.iter().find(|executor| executor.name.as_str() == "mine").unwrap();
    assert_eq!((mine.about.as_str(), mine.types[0].name.as_str(), mine.types[0].about.as_str()), ("a test", "mine.go", "Goes."));
    let ended = run(&registry, "mine.go", json!({})).await;
    assert_eq!((ended.outcome, ended.data), (Outcome::Succeeded, Some(json!({"n": 7}))));
    assert_eq!(refusal(&registry, "mine.stop", json!({})).0, Code::TypeUnknown);
    assert_eq!(refusal(&registry, "mine.go", json!([])).0, Code::ParamsInvalid);
    assert_eq!(with(folder.path(), &["all"]).await.unwrap().executors(), {
        let mut all: Vec<_> = Registry::KNOWN.iter().copied().chain(["mine", "other"]).collect();
        all.sort_unstable();
        all
    });
    assert!(traces.exists());
    assert_eq!(with(folder.path(), &[]).await.unwrap().executors(), ["probe"], "an empty list turns on nothing");
}

#[tokio::test]
async fn what_others_could_have_changed_is_refused() {
    let folder = folder();
    let good = script("true");
    let path = |name: &str| folder.path().join(name);
    let mode = |name: &str, mode: u32| {
        put(folder.path(), name, &good);
        std::fs::set_permissions(path(name), std::fs::Permissions::from_mode(mode)).unwrap();
    };
    mode("writable", 0o757);
    mode("groups", 0o775);
    mode("still", 0o644);
    put(folder.path(), "http", &good);
    put(folder.path(), "Upper", &good);
    put(folder.path(), "with.dot", &good);
    std::fs::create_dir(path("folder")).unwrap();
    std::os::unix::fs::symlink("/bin/true", path("outside")).unwrap();
    std::os::unix::fs::symlink("nothing", path("dangling")).unwrap();
    put(folder.path(), "good", &good);
    std::os::unix::fs::symlink("good", path("linked")).unwrap();
    let foreign = nix::unistd::geteuid().is_root();
    if foreign {
        put(folder.path(), "foreign", &good);
        std::os::unix::fs::chown(path("foreign"), Some(65534), None).unwrap();
    }
    let problems = [
        ("writable", "may be written by others"),
        ("groups", "may be written by others"),
        ("still", "may not be executed"),
        ("Upper", "its name is not"),
        ("with.dot", "its name is not"),
        ("folder", "not a regular file"),
        ("outside", "outside the folder"),
        ("dangling", "No such file"),
        ("missing", "no such file in the plugin folder"),
        ("foreign", if foreign { "belongs to user 65534" } else { "no such file" }),
    ];
    for (name, problem) in problems {
        let error = with(folder.path(), &[name]).await.unwrap_err().to_string();
        assert!(error.contains(problem) && error.contains(name), "{name}: {error}");
    }
    let all = with(folder.path(), &["all"]).await.unwrap();
    let plugins: Vec<_> = all.executors().into_iter().filter(|name| !Registry::KNOWN.contains(name)).map(str::to_owned).collect();
    assert_eq!(plugins, ["good", "linked"], "and `http` stays the agent's own");
}

#[tokio::test]
async fn a_folder_that_others_may_write_to_is_refused_as_a_whole() {
    let outer = folder();
    let inner = outer.path().join("plugins");
    std::fs::create_dir(&inner).unwrap();
    for (path, mode) in [(inner.as_path(), 0o777), (inner.as_path(), 0o1777), (outer.path(), 0o775)] {
        let before = std::fs::metadata(path).unwrap().permissions();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        let error = with(&inner, &[]).await.unwrap_err().to_string();
        assert!(error.contains("may be written by others") && error.contains(path.to_str().unwrap()), "{error}");
        std::fs::set_permissions(path, before).unwrap();
    }
    assert!(with(&outer.path().join("nowhere"), &[]).await.is_err());
    with(&inner, &[]).await.unwrap();
}

#[tokio::test]
async fn a_plugin_that_does_not_describe_itself_is_off_and_fails_the_start_when_it_is_named() {
    let folder = folder();
    let verb = |verb: &str| format!("#!/bin/sh\nprintf '%s' '{{\"about\": \"x\", \"verbs\": [{verb}]}}'");
    let scripts = [
        ("crash", "#!/bin/sh\nexit 3".to_owned(), "ended badly (exit status: 3)"),
        ("hang", "#!/bin/sh\ntrap '' TERM\nsleep 1000".to_owned(), "did not end within 5 s"),
        ("garbage", "#!/bin/sh\necho hello".to_owned(), "no description: expected value"),
        ("flood", "#!/bin/sh\nexec yes".to_owned(), "more than 262144 bytes"),
        ("nothing", "#!/bin/sh".to_owned(), "no description: EOF"),
        ("noverbs", verb(""), "0 verbs"),
        ("badverb", verb(r#"{"name": "Go"}"#), "verb `Go`"),
        ("twice", verb(r#"{"name": "go"}, {"name": "go"}"#), "described twice"),
        ("schema", verb(r#"{"name": "go", "params": true}"#), "not a JSON Schema in a map"),
        ("kind", verb(r#"{"name": "go", "connections": ["ftp"]}"#), "unknown variant `ftp`"),
        ("needs", verb(r#"{"name": "go", "needs_connection": true}"#), "names no kind"),
        ("binary", "\u{1}\u{2}".to_owned(), "can't be started"),
    ];
    for (name, text, _) in &scripts {
        put(folder.path(), name, text);
    }
    for (name, _, problem) in &scripts {
        let error = with(folder.path(), &[name]).await.unwrap_err().to_string();
        assert!(error.starts_with(&format!("plugin `{name}`: ")) && error.contains(problem), "{name}: {error}");
    }
    put(folder.path(), "good", &script("true"));
    let all = with(folder.path(), &["all"]).await.unwrap().executors().into_iter().filter(|name| !Registry::KNOWN.contains(name)).count();
    assert_eq!(all, 1, "the good one is on all the same");
}
