//! Completion as a shell does it: a real bash reads what `muster completion` prints and asks the real binary.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail by panicking")]

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::TcpListener,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

/// What bash does when somebody presses the key at the end of these words.
const PRESS: &str = r#"
source <("$MUSTER" completion bash) || exit 3
function=$(complete -p muster | sed 's/.*-F \([^ ]*\) .*/\1/')
compopt() { :; }
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMP_LINE="$*"; COMP_POINT=${#COMP_LINE}; COMP_TYPE=9; COMP_KEY=9
"$function" muster "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
printf '%s\n' "${COMPREPLY[@]}"
"#;

/// What bash proposes for the last of these words.
fn proposed(words: &[&str], url: Option<&str>) -> Vec<String> {
    let home = tempfile::tempdir().unwrap();
    let mut bash = Command::new("bash");
    bash.args(["--norc", "-c", PRESS, "bash", "muster"]).args(words).env("MUSTER", env!("CARGO_BIN_EXE_muster"));
    bash.env("XDG_CONFIG_HOME", home.path()).env("XDG_DATA_HOME", home.path());
    for name in ["MUSTER_URL", "MUSTER_API_KEY", "MUSTER_PROFILE"] {
        bash.env_remove(name);
    }
    if let Some(url) = url {
        bash.env("MUSTER_URL", url).env("MUSTER_API_KEY", "mst_test");
    }
    let done = bash.stdin(Stdio::null()).output().unwrap();
    assert!(done.status.success() && done.stderr.is_empty(), "{}", String::from_utf8_lossy(&done.stderr));
    let lines = String::from_utf8(done.stdout).unwrap();
    lines.lines().filter(|line| !line.is_empty()).map(|line| line.trim_end().to_owned()).collect()
}

/// A gateway that knows a pool and a plugin's type, and tells which paths it was asked for.
fn gateway() -> (String, std::sync::mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (told, asked) = std::sync::mpsc::sync_channel(100);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map(Result::unwrap);
            let path = lines.next().unwrap().split(' ').nth(1).unwrap().to_owned();
            assert!(lines.by_ref().take_while(|line| !line.is_empty()).any(|line| line.contains("mst_test")));
            let data = match path.split('?').next().unwrap() {
                "/api/v1/executors" => {
                    r#"[{"name":"deploy","about":"","agents":1,"types":[{"name":"deploy.app","about":"Deploys.","agents":1,"example":{},
                        "params":{"type":"object","properties":{"app":{"type":"string"},"replicas":{"type":"integer"}}}}]}]"#
                }
                "/api/v1/connections" => r#"[{"name":"prod-db","kind":"secret","pool":"build"}]"#,
                _ => "[]",
            };
            let body = format!(r#"{{"data":{data},"meta":{{"page":{{"limit":50}}}}}}"#);
            let head =
                format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", body.len());
            stream.write_all((head + &body).as_bytes()).unwrap();
            told.send(path).unwrap();
        }
    });
    (url, asked)
}

#[test]
fn bash_completes_words_flags_and_the_types_and_params_that_are_part_of_muster() {
    assert_eq!(proposed(&["subm"], None), ["submit"]);
    assert!(proposed(&["submit", "--ty"], None).contains(&"--type".to_owned()));
    assert!(proposed(&["submit", "--type", "shell"], None).contains(&"shell.run".to_owned()));
    assert_eq!(proposed(&["types", "http"], None), ["http.request"]);
    assert_eq!(proposed(&["submit", "--type", "http.request", "-P", "ur"], None), ["url="]);
    assert_eq!(proposed(&["submit", "--type", "no.such", "-P", ""], None), Vec::<String>::new());
}

#[test]
fn bash_completes_what_the_gateway_of_the_line_knows() {
    let (url, asked) = gateway();
    assert_eq!(proposed(&["submit", "--pool", "build", "--type", "dep"], Some(&url)), ["deploy.app"]);
    assert_eq!(asked.recv().unwrap(), "/api/v1/executors?pool=build");
    let params = proposed(&["run", "--all", "--type", "deploy.app", "--param", ""], Some(&url));
    assert_eq!(params, ["app=", "replicas:="]);
}

#[test]
fn a_gateway_that_does_not_answer_holds_nobody_up() {
    // Connections are taken by the kernel, and nobody answers.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    let began = Instant::now();
    assert_eq!(proposed(&["types", "shell"], Some(&url)), ["shell.run"]);
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
}

#[test]
fn each_shell_gets_a_script_that_asks_the_program_as_it_was_called() {
    for shell in ["bash", "zsh", "fish"] {
        let done = Command::new(env!("CARGO_BIN_EXE_muster")).args(["completion", shell]).output().unwrap();
        let script = String::from_utf8(done.stdout).unwrap();
        assert!(done.status.success() && script.contains("MUSTER_COMPLETE") && script.contains(env!("CARGO_BIN_EXE_muster")), "{script}");
    }
}
