//! The admin interface of a running agent: who gets in, what is answered, and the commands that talk to it.

use std::{
    io::Write as _,
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::Path,
    process::{Command, Output, Stdio},
};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::bench::{Agent, Bench, eventually};

/// An answer: status, head, body.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Value,
}

/// A request with exactly these lines of its head.
async fn raw(address: &str, first: &str, headers: &[&str], body: &[u8]) -> Answer {
    // Status 0 is one that is not there, or is gone before it has answered.
    let Ok(mut stream) = TcpStream::connect(address).await else {
        return Answer { status: 0, head: String::new(), body: Value::Null };
    };
    let head = format!(
        "{first} HTTP/1.1\r\n{}Content-Length: {}\r\nConnection: close\r\n\r\n",
        headers.iter().map(|line| format!("{line}\r\n")).collect::<String>(),
        body.len()
    );
    // The answer may be there before all of it was read, and the agent may be gone.
    let _ = stream.write_all(head.as_bytes()).await;
    let _ = stream.write_all(body).await;
    let mut text = Vec::new();
    let _ = stream.read_to_end(&mut text).await;
    let text = String::from_utf8(text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    Answer { status, head: head.to_ascii_lowercase(), body: serde_json::from_str(body).unwrap_or_default() }
}

pub(crate) fn token(state_dir: &Path) -> String {
    std::fs::read_to_string(state_dir.join("admin.token")).unwrap()
}

impl Agent {
    /// A request with all that it needs.
    pub(crate) async fn admin(&self, method: &str, path: &str, body: &[u8]) -> Answer {
        let headers = [format!("Host: {}", self.ops), format!("Authorization: Bearer {}", token(&self.state_dir))];
        raw(&self.ops, &format!("{method} {path}"), &headers.each_ref().map(String::as_str), body).await
    }

    pub(crate) async fn put(&self, name: &str, fields: Value) {
        let answer = self.admin("PUT", &format!("/vault/{name}"), fields.to_string().as_bytes()).await;
        assert!(matches!(answer.status, 200 | 201), "{}", answer.body);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn credentials_are_put_listed_tested_and_removed_and_no_answer_holds_a_secret() {
    let bench = Bench::start().await;
    let agent = bench.agent(1).await;
    let all = [
        agent.admin("PUT", "/vault/db", br#"{"username": "root", "password": "hunter2-db"}"#).await,
        agent.admin("PUT", "/vault/db?field=token", b"hunter2-token\n").await,
        agent.admin("PUT", "/vault/web", br#"{"password": "abc"}"#).await,
        agent.admin("GET", "/vault", b"").await,
        agent.admin("POST", "/vault/db/test", b"").await,
        agent.admin("DELETE", "/vault/web", b"").await,
        agent.admin("GET", "/vault", b"").await,
    ];
    let said: Vec<_> = all.iter().map(|answer| (answer.status, answer.body["data"].clone())).collect();
    let short = "`password` has fewer than 4 bytes, so it is not hidden where a job prints it";
    assert_eq!(
        said,
        [
            (201, json!({"name": "db", "fields": ["password", "username"], "revision": 0})),
            (200, json!({"name": "db", "fields": ["password", "token", "username"], "revision": 0})),
            (201, json!({"name": "web", "fields": ["password"], "revision": 0, "warnings": [short]})),
            (200, json!(["db", "web"])),
            (200, json!({"name": "db", "fields": ["password", "token", "username"], "revision": 0})),
            (204, Value::Null),
            (200, json!(["db"])),
        ]
    );
    assert!(all.iter().all(|answer| !answer.body.to_string().contains("hunter2") && !answer.head.contains("access-control")));
    for (method, path) in [("POST", "/vault/web/test"), ("DELETE", "/vault/web")] {
        let answer = agent.admin(method, path, b"").await;
        assert_eq!((answer.status, &answer.body["code"]), (404, &json!("not_found")));
    }
    // The heartbeat tells of it at once.
    bench.heartbeat_of(&agent.id, |beat| beat.credentials.iter().map(|(name, revision)| (name.as_str(), *revision)).eq([("db", 0)])).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_set_of_credentials_is_refused_in_words_that_do_not_repeat_it() {
    let bench = Bench::start().await;
    let agent = bench.agent(1).await;
    let many = serde_json::to_vec(&(0..33).map(|n| (format!("f{n}"), "hunter2")).collect::<std::collections::BTreeMap<_, _>>()).unwrap();
    let long = format!("hunter2{}", "x".repeat(24 * 1024));
    let flood = vec![b'x'; 200 * 1024];
    for (path, body, status, code) in [
        ("/vault/db", &br#"{"password": "hunter2""#[..], 400, "body_malformed"),
        ("/vault/db", br#"{"password": 7, "x": "hunter2"}"#, 400, "body_malformed"),
        ("/vault/db", br#"["hunter2"]"#, 400, "body_malformed"),
        ("/vault/db", b"hunter2", 400, "body_malformed"),
        ("/vault/db", b"", 400, "body_malformed"),
        ("/vault/db", b"{}", 400, "credentials_invalid"),
        ("/vault/db", br#"{"password": ""}"#, 400, "credentials_invalid"),
        ("/vault/db", br#"{"pass word": "hunter2"}"#, 400, "credentials_invalid"),
        ("/vault/db", &many, 400, "credentials_invalid"),
        ("/vault/db?field=password", b"", 400, "credentials_invalid"),
        ("/vault/db?field=", b"hunter2", 400, "credentials_invalid"),
        ("/vault/db?field=password", b"hunter2\xff", 400, "credentials_invalid"),
        ("/vault/db?field=password", long.as_bytes(), 400, "credentials_invalid"),
        ("/vault/db?field=password", &flood, 413, "body_too_large"),
        ("/vault/db?filed=password", b"hunter2", 400, "query_invalid"),
        ("/vault/a%2fb", br#"{"password": "hunter2"}"#, 400, "name_invalid"),
        ("/vault/..", br#"{"password": "hunter2"}"#, 400, "name_invalid"),
    ] {
        let answer = agent.admin("PUT", path, body).await;
        let shown = String::from_utf8_lossy(&body[..body.len().min(60)]).into_owned();
        assert_eq!((answer.status, &answer.body["code"]), (status, &json!(code)), "{path} {shown}: {}", answer.body);
        assert!(!answer.body.to_string().contains("hunter2"), "{}", answer.body);
        assert!(answer.head.contains("content-type: application/problem+json"), "{}", answer.head);
    }
    assert_eq!(agent.admin("GET", "/vault", b"").await.body["data"], json!([]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_who_names_this_host_comes_from_no_page_and_says_the_token_gets_in() {
    let bench = Bench::start().await;
    let agent = bench.agent(1).await;
    let port = agent.ops.rsplit_once(':').unwrap().1;
    let good = format!("Authorization: Bearer {}", token(&agent.state_dir));
    let host = format!("Host: localhost:{port}");
    let (evil, bare) = (format!("Host: evil.example:{port}"), "Host: 127.0.0.1");
    let short = &good[..good.len() - 1];
    let ask = async |first: &str, headers: &[&str]| raw(&agent.ops, first, headers, b"").await;
    for (what, first, headers, status) in [
        ("all is well", "GET /vault", &[&*host, &good][..], 200),
        ("a rebound name", "GET /vault", &[&evil, &good], 421),
        ("a host without its port", "GET /vault", &[bare, &good], 421),
        ("two hosts", "GET /vault", &[&host, &evil, &good], 421),
        ("another host in the target", "GET http://evil.example/vault", &[&host, &good], 421),
        ("a page of another origin", "GET /vault", &[&host, &good, "Origin: https://evil.example"], 403),
        ("a page in a sandbox", "PUT /vault/db", &[&host, &good, "Origin: null"], 403),
        (
            "what a browser asks before",
            "OPTIONS /vault/db",
            &[&host, "Origin: https://evil.example", "Access-Control-Request-Method: PUT"],
            403,
        ),
        ("the same without an origin", "OPTIONS /vault/db", &[&host, &good], 405),
        ("no token", "GET /vault", &[&host], 401),
        ("no token, for what is not there", "POST /vault/x/test", &[&host], 401),
        ("a wrong token", "GET /vault", &[&host, "Authorization: Bearer x"], 401),
        ("a token cut short", "GET /vault", &[&host, short], 401),
        ("a token in another way", "GET /vault", &[&host, "Authorization: Basic eDp5"], 401),
        ("another method", "PATCH /vault/db", &[&host, &good], 405),
        ("another path", "GET /vault/db/secret", &[&host, &good], 404),
    ] {
        let answer = ask(first, headers).await;
        assert_eq!(answer.status, status, "{what}: {}", answer.body);
        assert!(!answer.head.contains("access-control"), "{what}: {}", answer.head);
    }
    let mode = std::fs::metadata(agent.state_dir.join("admin.token")).unwrap().permissions().mode();
    assert_eq!((mode & 0o777, token(&agent.state_dir).len()), (0o600, 43));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_sixty_requests_in_a_minute_it_is_said_when_to_come_back() {
    let bench = Bench::start().await;
    let agent = bench.agent_with(1, &[("admin_token", "a token of the settings")]).await;
    assert!(!agent.state_dir.join("admin.token").exists());
    let host = format!("Host: {}", agent.ops);
    let ask = async || raw(&agent.ops, "GET /vault", &[&host, "Authorization: Bearer a token of the settings"], b"").await;
    for _ in 0..60 {
        assert_eq!(ask().await.status, 200);
    }
    let answer = ask().await;
    assert_eq!((answer.status, &answer.body["code"]), (429, &json!("rate_limited")));
    let after = answer.head.lines().find_map(|line| line.strip_prefix("retry-after: ")?.parse::<u64>().ok()).unwrap();
    assert!((1..=60).contains(&after), "{after}");
    assert!(agent.get("/healthz").await.starts_with("HTTP/1.1 200"), "the others are not limited");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_user_of_the_machine_is_refused_even_with_the_token_and_even_when_gone_already() {
    if !nix::unistd::geteuid().is_root() {
        return; // Only root can be somebody else.
    }
    let bench = Bench::start().await;
    let agent = bench.agent(1).await;
    let port = agent.ops.rsplit_once(':').unwrap().1;
    let request = format!(
        "PUT /vault/db?field=password HTTP/1.1\\r\\nHost: 127.0.0.1:{port}\\r\\nAuthorization: Bearer {}\\r\\nContent-Length: 7\\r\\nConnection: close\\r\\n\\r\\nhunter2",
        token(&agent.state_dir)
    );
    let script = |rest: &str| format!("exec 3<>/dev/tcp/127.0.0.1/{port}; printf '{request}' >&3; {rest}");
    let run = |uid: u32, script: String| Command::new("bash").args(["-c", &script]).current_dir("/").uid(uid).gid(uid).output().unwrap();
    let answer = run(65_534, script("cat <&3"));
    let text = String::from_utf8_lossy(&answer.stdout).into_owned();
    assert!(text.starts_with("HTTP/1.1 403") && text.contains("user with id 65534"), "{text} {}", String::from_utf8_lossy(&answer.stderr));
    // Whose socket it was can't be told any more; it must not count as root's.
    for _ in 0..20 {
        run(65_534, script("exec 3>&-"));
    }
    assert_eq!(agent.admin("GET", "/vault", b"").await.body["data"], json!([]));
    // The same from root gets in, so it is the user that counts.
    let text = String::from_utf8(run(0, script("cat <&3")).stdout).unwrap();
    assert!(text.starts_with("HTTP/1.1 201"), "{text}");
}

/// `muster-agent vault …` for an agent, with this on stdin.
fn command(state_dir: &Path, args: &[&str], stdin: &[u8]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_muster-agent"));
    command.arg("--state-dir").arg(state_dir).arg("vault").args(args).env_clear();
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // It may end without having read it.
    let _ = child.stdin.take().unwrap().write_all(stdin);
    child.wait_with_output().unwrap()
}

fn said(output: &Output) -> (bool, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap().trim_end().to_owned();
    (output.status.success(), text(&output.stdout), text(&output.stderr))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_commands_put_list_test_and_remove_with_the_secret_from_stdin() {
    let bench = Bench::start().await;
    let agent = bench.process(1).await;
    eventually("it has a vault", async || command(&agent.state_dir, &["list"], b"").status.success()).await;
    let run = |args: &[&str], stdin: &[u8]| said(&command(&agent.state_dir, args, stdin));
    let ok = |text: &str| (true, text.to_owned(), String::new());
    assert_eq!(run(&["put", "db", "--field", "password"], b"hunter2-db\n"), ok("db: password"));
    assert_eq!(run(&["put", "web"], br#"{"username": "ci", "token": "hunter2-web"}"#), ok("web: token, username"));
    assert_eq!(run(&["list"], b""), ok("db\nweb"));
    assert_eq!(run(&["test", "web"], b""), ok("web: token, username (put by hand)"));
    assert_eq!(run(&["rm", "web"], b""), ok("web: removed"));
    let (done, out, error) = run(&["put", "db", "--field", "pin"], b"123\n");
    assert!(done && out == "db: password, pin" && error.contains("warning: `pin` has fewer than 4 bytes"), "{out} {error}");
    for (args, stdin, why) in [
        (&["rm", "web"][..], &b""[..], "there is nothing for `web`"),
        (&["put", "db", "--field", "password"], b"\n", "the value is empty"),
        (&["put", "db"], b"hunter2", "no JSON object"),
        (&["put", "db", "--field", "password"], &[b'x'; 25_000], "more than 24576 bytes"),
    ] {
        let (done, out, error) = run(args, stdin);
        assert!(!done && out.is_empty() && error.contains(why) && !error.contains("hunter2"), "{args:?}: {error}");
    }
    let log = std::fs::read_to_string(agent.state_dir.join("log")).unwrap();
    assert!(log.contains("put into the vault by hand") && !log.contains("hunter2"), "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_commands_say_that_no_agent_runs_or_that_the_token_is_wrong() {
    let bench = Bench::start().await;
    let mut agent = bench.process(1).await;
    let dir = agent.state_dir.clone();
    let list = |dir: &Path| said(&command(dir, &["list"], b""));
    let put = || said(&command(&dir, &["put", "db", "--field", "password"], b"hunter2-db"));
    eventually("it has a vault", async || list(&dir).0).await;
    let own = token(&dir);
    std::fs::write(dir.join("admin.token"), "another-token-as-long-as-it-is").unwrap();
    assert!(put().2.contains("the agent refuses: the token is wrong"), "{}", put().2);
    std::fs::write(dir.join("admin.token"), &own).unwrap();
    agent.kill().await;
    assert!(put().2.contains("the agent does not run: nothing listens on 127.0.0.1:"), "{}", put().2);
    if nix::unistd::geteuid().is_root() {
        // Somebody else has taken the port meanwhile, and would like to hear the token.
        let script = "import os, socket, sys; s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)\ns.bind(('127.0.0.1', 0)); s.listen(); print(s.getsockname()[1], flush=True); s.accept()";
        let mut thief = Command::new("python3").args(["-c", script]).uid(65_534).stdout(Stdio::piped()).spawn().unwrap();
        let mut port = String::new();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(thief.stdout.as_mut().unwrap()), &mut port).unwrap();
        std::fs::write(dir.join("admin.address"), format!("127.0.0.1:{}", port.trim())).unwrap();
        assert!(put().2.contains("listens a process of the user with id 65534"), "{}", put().2);
        assert!(thief.try_wait().unwrap().is_none(), "nobody has come");
        thief.kill().unwrap();
        thief.wait().unwrap();
    }
    assert!(list(Path::new("/nowhere")).2.contains("no agent has run with /nowhere"));
    std::fs::remove_file(dir.join("admin.token")).unwrap();
    assert!(list(&dir).2.contains("has left no token"));
}

#[test]
fn the_help_teaches_and_an_argument_is_no_place_for_a_secret() {
    let help = said(&command(Path::new("/nowhere"), &["put", "--help"], b""));
    assert!(help.0 && help.1.contains("pass show db | muster-agent vault put db --field password"), "{}", help.1);
    let refused = command(Path::new("/nowhere"), &["put", "db", "--field", "password", "hunter2"], b"");
    assert_eq!(refused.status.code(), Some(64));
}

/// What an agent's vault has; `None` when it can't say.
pub(crate) async fn list_of(state_dir: &Path) -> Option<Vec<String>> {
    let answer = ask_of(state_dir, "GET /vault", b"").await?;
    (answer.status == 200).then(|| serde_json::from_value(answer.body["data"].clone()).unwrap())
}

/// Puts something there; whether the agent says that it is there.
pub(crate) async fn put_at(state_dir: &Path, name: &str) -> bool {
    let answer = ask_of(state_dir, &format!("PUT /vault/{name}"), br#"{"password": "hunter2-hunter2"}"#).await;
    answer.is_some_and(|answer| answer.status == 201)
}

async fn ask_of(state_dir: &Path, first: &str, body: &[u8]) -> Option<Answer> {
    let address = std::fs::read_to_string(state_dir.join("admin.address")).ok()?;
    let headers = [format!("Host: {address}"), format!("Authorization: Bearer {}", token(state_dir))];
    let headers = headers.each_ref().map(String::as_str);
    Some(raw(&address, first, &headers, body).await)
}
