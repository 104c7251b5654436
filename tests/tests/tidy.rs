//! The rules of the house that a machine can keep.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail by panicking")]

use std::path::{Path, PathBuf};

use muster_tests::binaries::root;

/// Files that git tracks or would track, with the given ending.
fn files(ending: &str) -> Vec<PathBuf> {
    let listed = std::process::Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .current_dir(root())
        .output()
        .expect("git lists the files");
    let names = String::from_utf8(listed.stdout).unwrap();
    let all: Vec<PathBuf> =
        names.lines().filter(|name| name.ends_with(ending)).map(|name| root().join(name)).filter(|path| path.exists()).collect();
    assert!(!all.is_empty(), "no file ends with {ending}");
    all
}

fn text(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Whether a file is test code as a whole.
fn is_test(path: &Path) -> bool {
    let name = path.file_name().unwrap().to_string_lossy();
    name == "tests.rs"
        || name.ends_with("_tests.rs")
        || path.components().any(|part| part.as_os_str() == "tests" || part.as_os_str() == "examples")
}

/// The part of a source file before its test module.
fn code(source: &str) -> &str {
    source.split_once("\n#[cfg(test)]\nmod ").map_or(source, |(code, _)| code)
}

fn refuse(rule: &str, broken: Vec<String>) {
    assert!(broken.is_empty(), "{rule}:\n{}", broken.join("\n"));
}

#[test]
fn every_source_file_says_what_it_owns_and_stays_small() {
    let broken = files(".rs").into_iter().filter_map(|path| {
        let source = text(&path);
        let lines = code(&source).lines().count();
        let most = match path.file_name().unwrap().to_str().unwrap() {
            "main.rs" => 60,
            _ if is_test(&path) => usize::MAX,
            _ => 400,
        };
        let wrong = if !source.starts_with("//!") {
            "does not open with //!".into()
        } else if lines > most {
            format!("has {lines} lines without its tests; {most} are allowed")
        } else if path.ends_with("mod.rs") {
            "is a mod.rs".into()
        } else {
            return None;
        };
        Some(format!("{} {wrong}", path.display()))
    });
    refuse("each file opens with what it owns, and has at most 400 lines", broken.collect());
}

#[test]
fn subjects_and_streams_are_named_in_schemas_only() {
    let kinds = [
        "jobs.",
        "results.",
        "done.",
        "events.",
        "logs.",
        "heartbeats.",
        "dead.",
        "control.",
        "rpc.",
        "query.result",
        "query.cancel",
        "commands.",
        "identity.renew",
        "$JS.API",
        "$KV.",
        "JOBS_",
        "KV_",
    ];
    let mut broken = Vec::new();
    for path in files(".rs") {
        if is_test(&path) || path.starts_with(root().join("schemas")) {
            continue;
        }
        for (number, line) in code(&text(&path)).lines().enumerate() {
            let spoken = line.trim_start().starts_with("//");
            // An action of the audit trail looks like a subject, and is none.
            let action = ["audited(", "audited_made(", "AuditEntry::new("].iter().any(|call| line.contains(call));
            if !spoken && !action && kinds.iter().any(|kind| line.contains(&format!("\"{kind}"))) {
                broken.push(format!("{}:{}: {}", path.display(), number + 1, line.trim()));
            }
        }
    }
    refuse("no subject, stream or bucket is written by hand outside schemas", broken);
}

#[test]
fn tests_neither_sleep_nor_hide() {
    // The needles are cut in two so that this file does not find itself.
    let hidden = ["#[ign", "ore"].concat();
    let naps = [["thread::", "sleep("].concat(), ["time::", "sleep("].concat()];
    let mut broken = Vec::new();
    for path in files(".rs").into_iter().filter(|path| is_test(path) && !path.ends_with("wait.rs")) {
        for (number, line) in text(&path).lines().enumerate() {
            let nap = naps.iter().any(|nap| line.contains(nap)) && !line.contains("// poll") && !line.contains("// stuck on purpose");
            if line.contains(&hidden) || nap {
                broken.push(format!("{}:{}: {}", path.display(), number + 1, line.trim()));
            }
        }
    }
    refuse("a test waits with `eventually`, and is never skipped", broken);
}

#[test]
fn nothing_in_the_repository_names_a_machine_or_a_registry() {
    let needles = [
        ["/wo", "rk/"],
        ["/ro", "ot/"],
        ["pypi", ".org"],
        ["index.crates", ".io"],
        ["registry.npm", "js"],
        ["deb.deb", "ian"],
        ["files.python", "hosted"],
    ]
    .map(|parts| parts.concat());
    let mut broken = Vec::new();
    for path in files("") {
        let Ok(content) = std::fs::read_to_string(&path) else { continue };
        // The lock file names the registry of every crate, as cargo writes it.
        if path.ends_with("Cargo.lock") {
            continue;
        }
        broken.extend(
            needles.iter().filter(|needle| content.contains(needle.as_str())).map(|needle| format!("{}: {needle}", path.display())),
        );
    }
    refuse("the repository stands on its own", broken);
}

#[test]
fn versions_of_dependencies_stand_in_the_root_manifest_only() {
    let mut broken = Vec::new();
    for path in files("Cargo.toml") {
        if path.parent() == Some(root()) {
            continue;
        }
        let manifest = text(&path);
        let dependencies =
            manifest.split("\n[").filter(|section| section.split(']').next().is_some_and(|name| name.ends_with("dependencies")));
        let own = dependencies.flat_map(str::lines).filter(|line| line.contains('=') && !line.contains("workspace = true"));
        broken.extend(own.map(|line| format!("{}: {line}", path.display())));
    }
    refuse("a member takes its dependencies from the workspace", broken);
}

#[test]
fn every_decision_is_in_the_index_and_the_readme_is_short() {
    let index = text(&root().join("docs/decisions/README.md"));
    let records = std::fs::read_dir(root().join("docs/decisions")).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let broken = records.filter(|name| name != "README.md" && !index.contains(&format!("({name})"))).collect();
    refuse("docs/decisions/README.md lists every record", broken);
    assert!(text(&root().join("README.md")).lines().count() <= 150, "the README has more than 150 lines");
}

#[test]
fn links_between_documents_lead_somewhere() {
    let mut broken = Vec::new();
    for path in files(".md") {
        for target in text(&path).split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(target, _)| target.to_string()) {
            let target = target.split('#').next().unwrap();
            if !target.is_empty() && !target.contains("://") && !path.parent().unwrap().join(target).exists() {
                broken.push(format!("{}: {target}", path.display()));
            }
        }
    }
    refuse("every relative link leads to a file", broken);
}
