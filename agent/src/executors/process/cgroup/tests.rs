//! Tests of [`super`] in folders that look like cgroups: what is written where. Real cgroups are in `tests/processes.rs`.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking")]
use muster_runtime::config::ByteSize;

use super::*;

fn folder(files: &[&str]) -> (tempfile::TempDir, Cgroup) {
    let dir = tempfile::tempdir().unwrap();
    for file in files {
        fs::write(dir.path().join(file), "").unwrap();
    }
    let cgroup = Cgroup(dir.path().to_owned());
    (dir, cgroup)
}

fn limits() -> Limits {
    Limits { cpus: Some(0.5), memory_bytes: Some(ByteSize::new(1 << 26)), processes: Some(20), cpu_s: Some(3), ..Limits::default() }
}

#[test]
fn a_cgroup_keeps_the_limits_that_it_has_controllers_for() {
    let (dir, cgroup) = folder(&["memory.max", "pids.max", "cpu.max"]);
    assert_eq!(cgroup.limit(&limits()).unwrap(), ["memory_bytes", "processes", "cpus"]);
    let read = |file: &str| fs::read_to_string(dir.path().join(file)).unwrap();
    assert_eq!((&*read("memory.max"), &*read("pids.max"), &*read("cpu.max")), ("67108864", "20", "50000 100000"));
    assert_eq!((&*read("memory.swap.max"), &*read("memory.oom.group")), ("0", "1"));
    let (dir, cgroup) = folder(&["pids.max"]);
    assert_eq!(cgroup.limit(&limits()).unwrap(), ["processes"]);
    assert!(!dir.path().join("memory.swap.max").exists());
    assert_eq!(cgroup.limit(&Limits::default()).unwrap(), [""; 0]);
}

#[test]
fn controllers_are_handed_down_as_far_as_they_are_there() {
    let (dir, _) = folder(&[]);
    fs::write(dir.path().join("cgroup.controllers"), "cpuset cpu io pids\n").unwrap();
    hand_down(dir.path());
    assert_eq!(fs::read_to_string(dir.path().join("cgroup.subtree_control")).unwrap(), "+cpu", "the last that was written, one by one");
}

#[test]
fn members_are_those_of_all_cgroups_within_and_never_the_first_process() {
    let (dir, cgroup) = folder(&[]);
    fs::create_dir_all(dir.path().join("a/b")).unwrap();
    fs::write(dir.path().join("cgroup.procs"), "0\n1\n700\n").unwrap();
    fs::write(dir.path().join("a/b/cgroup.procs"), "701\n").unwrap();
    assert_eq!(cgroup.members(), BTreeSet::from([700, 701]));
}

#[test]
fn a_folder_that_is_no_cgroup_is_refused_by_name() {
    let (dir, _) = folder(&[]);
    let problem = Base::find(dir.path().to_str().unwrap()).unwrap_err();
    assert!(problem.contains("no cgroup (version 2)") && problem.contains(dir.path().to_str().unwrap()), "{problem}");
    assert!(Base::find("none").unwrap().is_none());
}
