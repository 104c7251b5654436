//! Commands through the launcher: as if started directly, with limits, as other users.

use crate::bench::*;

#[tokio::test]
async fn a_launched_command_is_as_one_that_was_started_directly() {
    for params in [
        json!({"argv": ["printf", "%s|", "-n", "--", "--help", "$(id)", "a b", "*", "; exit 9", "", "=x", "launch"]}),
        json!({"command": "cat; echo err >&2; exit 3", "stdin": "in\n"}),
        json!({"command": "kill -9 $$"}),
        json!({"command": "pwd", "cwd": "/usr"}),
        json!({"command": "pwd"}),
        json!({"command": "printf '\\377' >&2"}),
        json!({"command": "-c 'echo no'"}),
        json!({"command": "env | grep -v -e MUSTER_ATTEMPT_KEY -e ^_= | sort", "env": {"A": "b c", "HOME": "/tmp"}}),
    ] {
        let (direct, launched) = (shell(params.clone()).await, shell(launched(params.clone())).await);
        assert_eq!(launched.data.as_ref().unwrap()["containment"], "process tree", "{params}");
        let expected = Execution { data: None, ..launched };
        assert_eq!(expected, direct, "{params}");
    }
}

#[tokio::test]
async fn a_launched_command_is_killed_with_all_that_it_started() {
    let seconds = 1_500_000_000 + u64::from(rand::random::<u32>());
    let (context, mut feed) = Context::new(CancellationToken::new());
    let all = registry(&options());
    let command = format!("trap '' TERM; (setsid sleep {seconds} &); sleep {seconds} & echo ready; while :; do sleep {seconds}; done");
    let prepared = all.check("shell.run", &launched(json!({"command": command})), None).unwrap();
    let reading = async { while feed.next().await.is_some() {} };
    let (ended, ()) = tokio::join!(all.run(prepared, attempt(Duration::from_secs(1)), None, context), reading);
    assert_eq!((ended.outcome, &*out(&ended)), (Outcome::TimedOut, "ready\n"));
    assert_eq!(sleepers(seconds), [0; 0]);
}

#[tokio::test]
async fn each_limit_holds_and_the_result_says_what_by() {
    for (limits, command, exit) in [
        (json!({"cpu_s": 1}), "while :; do :; done", 128 + 24),
        (
            json!({"file_bytes": 4096}),
            "trap '' XFSZ; cd $(mktemp -d) && head -c 10000 /dev/zero >f; test $(stat -c %s f) -le 4096 && exit 9",
            9,
        ),
        (json!({"open_files": 20}), "test $(ulimit -n) = 20 && exit 9", 9),
        (
            json!({"memory_bytes": 64 << 20}),
            "test $(ulimit -v) = 65536 && ! head -c 200000000 /dev/zero | tail -c 150000000 >/dev/null && exit 9",
            9,
        ),
    ] {
        let ended = shell(json!({"command": command, "limits": limits})).await;
        assert_eq!(ended.exit_code, Some(exit), "{limits}: {ended:?}");
        let (name, limit) = limits.as_object().unwrap().iter().next().unwrap();
        let data = ended.data.unwrap();
        assert_eq!(data["limits"][name], json!({"limit": limit, "by": "rlimit"}), "{data}");
    }
}

#[tokio::test]
async fn the_agents_own_limits_are_those_of_a_job_that_says_nothing() {
    let shell_limits = Limits { open_files: Some(33), ..Limits::default() };
    let all = registry(&Options { shell_limits, ..options() });
    for (limits, expected) in [(json!({}), "33\n"), (json!({"open_files": 20}), "20\n")] {
        assert_eq!(out(&run(&all, json!({"command": "ulimit -n", "limits": limits})).await), expected);
    }
}

#[tokio::test]
async fn a_limit_that_nothing_can_keep_is_refused_and_the_command_does_not_run() {
    let ended = shell(json!({"command": "echo ran", "limits": {"cpus": 0.5}})).await;
    assert_eq!((code(&ended), &*out(&ended)), (Some(Code::SpawnFailed), ""));
    assert!(ended.error.unwrap().message.contains("params.limits.cpus: this agent has no cgroup"));
    let ended = shell(json!({"command": "echo ran", "limits": {"processes": 5}})).await;
    if is_root() {
        assert_eq!((code(&ended), &*out(&ended)), (Some(Code::SpawnFailed), ""));
        assert!(ended.error.unwrap().message.contains("params.limits.processes: the command would run as root"));
    }
}

#[tokio::test]
async fn a_command_may_run_as_another_user_with_its_groups_and_home_and_nothing_of_the_agents_rights() {
    if !is_root() {
        let ended = shell(json!({"command": "echo ran", "user": "root"})).await;
        assert_eq!((code(&ended), &*out(&ended)), (Some(Code::SpawnFailed), ""));
        assert!(ended.error.unwrap().message.contains("this agent is not root"));
        return;
    }
    let secret = tempfile::NamedTempFile::new().unwrap(); // 0600, of root
    let command = format!(
        "id -u; id -g; echo $USER $LOGNAME; echo $HOME; cat {} || echo denied; grep ^Cap /proc/self/status",
        secret.path().display()
    );
    let ended = shell(json!({"command": command, "user": "daemon"})).await;
    let text = out(&ended);
    let lines: Vec<_> = text.lines().collect();
    let daemon = nix::unistd::User::from_name("daemon").unwrap().unwrap();
    let home = daemon.dir.display().to_string();
    assert_eq!(lines[..5], [&*daemon.uid.to_string(), &*daemon.gid.to_string(), "daemon daemon", &*home, "denied"], "{ended:?}");
    assert!(text.contains("CapEff:\t0000000000000000") && text.contains("CapPrm:\t0000000000000000"), "{text}");
    assert_eq!(ended.data.unwrap()["user"], json!({"name": "daemon", "uid": daemon.uid.as_raw(), "gid": daemon.gid.as_raw()}));
    let groups = shell(json!({"command": "id -G", "user": "daemon"})).await;
    assert!(!out(&groups).split_whitespace().any(|group| group == "0"), "{groups:?}");
    let numbered = shell(json!({"argv": ["id"], "user": "54321", "group": "daemon"})).await;
    assert!(out(&numbered).starts_with(&format!("uid=54321 gid={}", daemon.gid)), "{numbered:?}");
    let own = shell(json!({"command": "id -u; ulimit -u; for i in 1 2 3 4 5 6 7 8; do sleep 2 & done; wait", "user": "54321", "group": "54321", "limits": {"processes": 4}})).await;
    assert!(out(&own).starts_with("54321\n") && own.stderr.to_text().to_lowercase().contains("fork"), "{own:?}");
}

#[tokio::test]
async fn a_user_that_cannot_be_had_is_said_and_the_command_does_not_run() {
    if !is_root() {
        return; // said by the test above
    }
    let closed = tempfile::tempdir().unwrap();
    std::fs::set_permissions(closed.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
    for (params, problem) in [
        (json!({"user": "nobody-of-that-name"}), "params.user: there is no user `nobody-of-that-name` here"),
        (json!({"user": "54321"}), "give `group` too"),
        (json!({"user": "daemon", "group": "no-such-group"}), "params.group: there is no group"),
        (json!({"user": "daemon", "cwd": closed.path()}), "params.cwd"),
    ] {
        let mut params = params;
        params["command"] = json!("echo ran");
        let ended = shell(params.clone()).await;
        assert_eq!(
            (ended.outcome, code(&ended), &*out(&ended), ended.exit_code),
            (Outcome::Failed, Some(Code::SpawnFailed), "", None),
            "{params}"
        );
        let message = ended.error.unwrap().message;
        assert!(message.contains(problem), "{message}");
    }
}

#[tokio::test]
async fn what_the_launcher_cannot_do_is_no_exit_of_the_command() {
    let file = tempfile::NamedTempFile::new().unwrap();
    for (params, problem) in [
        (json!({"argv": ["no-such-program-here"]}), "cannot start `no-such-program-here`: no such program"),
        (json!({"argv": ["/dev/null"]}), "denied"),
        (json!({"argv": [file.path()]}), "denied"),
        (json!({"command": "true", "cwd": "/no/such/place"}), "params.cwd"),
        (json!({"argv": ["true", "x".repeat(3 << 20)]}), "more than the system takes"),
        (json!({"argv": ["true"], "env": {"A": "x".repeat(3 << 20)}}), "more than the system takes"),
    ] {
        let ended = shell(launched(params)).await;
        assert_eq!(
            (ended.outcome, code(&ended), ended.exit_code),
            (Outcome::Failed, Some(Code::SpawnFailed), None),
            "{problem}: {ended:?}"
        );
        assert_eq!((&*out(&ended), &*ended.stderr.to_text()), ("", ""));
        let message = ended.error.unwrap().message;
        assert!(message.contains(problem) && message.len() < 500, "{message}");
    }
    let gone = Options { launcher: Some(Launcher::at("/no/such/agent", &[])), ..options() };
    let ended = run(&registry(&gone), launched(json!({"command": "echo ran"}))).await;
    assert_eq!((code(&ended), &*out(&ended)), (Some(Code::SpawnFailed), ""));
}

#[tokio::test]
async fn no_variable_of_a_job_changes_the_launcher() {
    let names = ["LD_PRELOAD", "LD_DEBUG", "MUSTER_LAUNCH"];
    let shell_env_allow = names.map(str::to_owned).to_vec();
    let all = registry(&Options { shell_env_allow, ..options() });
    let params = json!({"argv": ["/bin/true"], "env": {"LD_PRELOAD": "/no/such/library.so", "LD_DEBUG": "files"}});
    let ended = run(&all, launched(params)).await;
    let said = ended.stderr.to_text();
    assert_eq!(said.matches("cannot be preloaded").count(), 1, "by the loader of the command alone: {said}");
    assert!(said.contains("/bin/true") && !said.contains("muster-agent"), "{said}");
}

#[test]
fn the_launcher_is_of_no_use_by_hand() {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_muster-agent")).args(["launch", "=id"]).output().unwrap();
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(64), b"".as_slice()));
}

#[tokio::test]
async fn a_launcher_costs_a_moment() {
    let all = registry(&options());
    let mut took = [Duration::MAX; 2];
    for _ in 0..20 {
        for (at, params) in [json!({"argv": ["true"]}), launched(json!({"argv": ["true"]}))].into_iter().enumerate() {
            let began = Instant::now();
            run(&all, params).await;
            took[at] = took[at].min(began.elapsed());
        }
    }
    eprintln!("directly {:?}, launched {:?}", took[0], took[1]);
    assert!(took[1] < took[0] + Duration::from_millis(500), "{took:?}");
}
