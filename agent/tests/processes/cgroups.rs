//! Cgroups for real: on a hierarchy that the test mounts in a mount namespace of its own, for which it starts itself again.
//!
//! That takes root. Where the tests run as somebody else, what is tested is that there are none, and it says so.

use muster_schemas::names::AgentId;

use crate::bench::*;

/// Where the inner run finds the hierarchy.
const AT: &str = "MUSTER_TEST_CGROUP";

/// Whether this is the run with a hierarchy; otherwise starts the test `name` again in one, and checks that it did run there.
fn inside(name: &str) -> Option<std::path::PathBuf> {
    if let Some(at) = muster_runtime::env::var(AT).unwrap() {
        println!("ran in {at}");
        return Some(at.into());
    }
    if !is_root() {
        eprintln!("not root: {name} can't mount a hierarchy of cgroups; only that there is none was tested");
        assert!(Base::find("/proc").is_err());
        return None;
    }
    let dir = tempfile::tempdir().unwrap();
    let script = "mount -t cgroup2 none \"$1\" && mkdir \"$1/$2\" && MUSTER_TEST_CGROUP=\"$1/$2\" \"$0\" --exact \"$3\" --nocapture; e=$?; rmdir \"$1/$2\"; exit $e";
    let output = std::process::Command::new("unshare")
        .args(["-m", "sh", "-c", script])
        .arg(std::env::current_exe().unwrap())
        .arg(dir.path())
        .args([&format!("muster-test-{}", rand::random::<u64>()), name])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("ran in ") && text.contains("1 passed"), "{text}");
    None
}

fn with_cgroups(at: &Path) -> Options {
    Options { cgroup: Base::find(at.to_str().unwrap()).unwrap(), ..options() }
}

fn folders(at: &Path) -> usize {
    std::fs::read_dir(at.join("muster-agt_01ARZ3NDEKTSV4RRFFQ69G5FAV"))
        .map_or(0, |entries| entries.flatten().filter(|entry| entry.path().is_dir()).count())
}

fn remove(at: &Path) {
    std::fs::remove_dir(at.join("muster-agt_01ARZ3NDEKTSV4RRFFQ69G5FAV")).unwrap();
}

/// Starts a process that has lost its parents, its session and its environment, so that nothing but a cgroup tells whose it is.
fn escape(seconds: u64) -> Value {
    let inner = format!("(sleep {seconds} </dev/null >/dev/null 2>&1 &)");
    let command = format!("env -i setsid sh -c '{inner}'; while ! pgrep -xf 'sleep {seconds}' >/dev/null; do :; done; echo ready");
    json!({"command": command})
}

fn seconds() -> u64 {
    6_000_000_000 + u64::from(rand::random::<u32>())
}

#[tokio::test]
async fn nothing_gets_out_of_its_cgroup() {
    let Some(at) = inside("cgroups::nothing_gets_out_of_its_cgroup") else { return };
    let (held, free) = (seconds(), seconds());
    let ended = run(&registry(&options()), escape(free)).await;
    let out_of_reach = sleepers(free);
    out_of_reach
        .iter()
        .for_each(|pid| nix::sys::signal::kill(nix::unistd::Pid::from_raw(*pid), nix::sys::signal::Signal::SIGKILL).unwrap());
    assert_eq!((&*out(&ended), out_of_reach.len()), ("ready\n", 1), "without a cgroup it gets away, so what follows says something");
    let all = registry(&with_cgroups(&at));
    let ended = run(&all, escape(held)).await;
    assert_eq!((ended.outcome, &*out(&ended), sleepers(held)), (Outcome::Succeeded, "ready\n", Vec::new()), "{ended:?}");
    assert_eq!((ended.data, folders(&at)), (None, 0), "nothing was asked for, so nothing is reported, and its cgroup is gone");
    let mut limited = escape(held);
    limited["limits"] = json!({"open_files": 100});
    let ended = run(&all, limited).await;
    assert_eq!(ended.data.unwrap(), json!({"containment": "cgroup", "limits": {"open_files": {"limit": 100, "by": "rlimit"}}}));
    remove(&at);
}

#[tokio::test]
async fn a_time_out_and_a_lost_attempt_kill_what_is_in_the_cgroup() {
    let Some(at) = inside("cgroups::a_time_out_and_a_lost_attempt_kill_what_is_in_the_cgroup") else { return };
    let all = registry(&with_cgroups(&at));
    for abandoned in [false, true] {
        let seconds = seconds();
        let (context, mut feed) = Context::new(CancellationToken::new());
        let mut params = escape(seconds);
        params["command"] = json!(format!("{}; trap '' TERM; sleep 1000 & wait; wait", params["command"].as_str().unwrap()));
        let prepared = all.check("shell.run", &params, None).unwrap();
        let ready = async { while !matches!(feed.next().await, Some(Update::Output(_)) | None) {} };
        let running = all.run(prepared, attempt(if abandoned { LONG } else { Duration::from_secs(2) }), None, context);
        if abandoned {
            tokio::select! { ended = running => panic!("{ended:?}"), () = ready => {} }
        } else {
            assert_eq!(tokio::join!(running, ready).0.outcome, Outcome::TimedOut);
        }
        assert_eq!((sleepers(seconds), folders(&at)), (Vec::new(), 0), "abandoned: {abandoned}");
    }
    remove(&at);
}

#[tokio::test]
async fn what_an_earlier_run_of_the_agent_left_in_its_cgroups_is_found_and_killed() {
    let Some(at) = inside("cgroups::what_an_earlier_run_of_the_agent_left_in_its_cgroups_is_found_and_killed") else { return };
    let all = registry(&with_cgroups(&at));
    let seconds = seconds();
    // Of its own: tests beside this one run as the other agent.
    let agent = AgentId::generate();
    let own = at.join(format!("muster-{agent}"));
    let left = own.join("left/inner");
    std::fs::create_dir_all(&left).unwrap();
    let script = format!("echo 0 >{}/cgroup.procs; exec sleep {seconds}", left.display());
    let mut child = std::process::Command::new("sh").args(["-c", &script]).spawn().unwrap();
    while sleepers(seconds).is_empty() {
        std::thread::yield_now();
    }
    let reaped = std::thread::spawn(move || child.wait());
    assert_eq!(all.kill_orphans(&agent), 1);
    reaped.join().unwrap().unwrap();
    assert_eq!((sleepers(seconds), own.exists()), (Vec::new(), false));
}

#[tokio::test]
async fn what_has_controllers_is_limited_by_them() {
    let Some(at) = inside("cgroups::what_has_controllers_is_limited_by_them") else { return };
    let all = registry(&with_cgroups(&at));
    let there = std::fs::read_to_string(at.join("cgroup.controllers")).unwrap();
    for (controller, limits, command) in [
        ("pids", json!({"processes": 5}), "for i in 1 2 3 4 5 6 7 8; do sleep 2 & done; wait"),
        ("memory", json!({"memory_bytes": 64 << 20}), "head -c 300000000 /dev/zero | tail -c 200000000 >/dev/null"),
        ("cpu", json!({"cpus": 0.2}), "true"),
    ] {
        let ended = run(&all, json!({"command": command, "limits": limits})).await;
        let name = limits.as_object().unwrap().keys().next().unwrap();
        if there.split_ascii_whitespace().any(|there| there == controller) {
            assert_eq!(ended.data.as_ref().unwrap()["limits"][name]["by"], "cgroup", "{ended:?}");
            assert!(controller == "cpu" || ended.outcome == Outcome::Failed || !ended.stderr.is_empty(), "{ended:?}");
        } else {
            eprintln!("no controller {controller} in this hierarchy: tested is that its limit is kept otherwise, or refused");
            let by_rlimit = ended.data.as_ref().is_some_and(|data| data["limits"][name]["by"] == "rlimit");
            assert!(by_rlimit || code(&ended) == Some(Code::SpawnFailed), "{ended:?}");
        }
        assert_eq!(folders(&at), 0);
    }
    remove(&at);
}
