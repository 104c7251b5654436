//! Machines that lie: an SFTP server that lists and sends whatever a test wants it to.

use std::{collections::HashMap, fs, sync::Arc, time::Duration};

use muster_schemas::{code::Code, result::Outcome};
use russh::{
    Channel, ChannelId,
    keys::{Algorithm, PrivateKey},
    server::{Auth, ChannelOpenHandle, Config, Handler, Msg, Session},
};
use russh_sftp::protocol::{Attrs, Data, File, FileAttributes, Handle, Name, OpenFlags, Status, StatusCode};
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::JoinSet};

use crate::bench::{Bench, LONG, connection, error};

/// What it lies about.
#[derive(Debug, Clone, Default)]
struct Lies {
    /// What every folder lists, with the modes.
    lists: Vec<(String, u32)>,
    /// Lists it again and again, under new names.
    lists_for_ever: bool,
    /// Lists nothing, again and again.
    lists_nothing_for_ever: bool,
    /// The size that files are said to have.
    said: u64,
    /// The size that they have.
    real: u64,
    /// Sends this much more than it is asked for.
    surplus: usize,
}

const FILE: u32 = 0o100_644;
const FOLDER: u32 = 0o040_755;

struct Machine {
    lies: Lies,
    channels: HashMap<ChannelId, Channel<Msg>>,
}

impl Handler for Machine {
    type Error = russh::Error;

    async fn auth_password(&mut self, _user: &str, _password: &str) -> Result<Auth, russh::Error> {
        Ok(Auth::Accept)
    }

    async fn channel_open_session(&mut self, channel: Channel<Msg>, reply: ChannelOpenHandle, _: &mut Session) -> Result<(), russh::Error> {
        self.channels.insert(channel.id(), channel);
        reply.accept().await;
        Ok(())
    }

    async fn subsystem_request(&mut self, id: ChannelId, _name: &str, session: &mut Session) -> Result<(), russh::Error> {
        let channel = self.channels.remove(&id).unwrap();
        session.channel_success(id)?;
        russh_sftp::server::run(channel.into_stream(), Liar { lies: self.lies.clone(), listed: HashMap::new() }).await;
        Ok(())
    }
}

struct Liar {
    lies: Lies,
    /// How often each folder was listed.
    listed: HashMap<String, usize>,
}

impl Liar {
    fn attributes(&self, mode: u32) -> FileAttributes {
        FileAttributes { size: Some(self.lies.said), permissions: Some(mode), ..FileAttributes::empty() }
    }
}

fn done(id: u32) -> Status {
    Status { id, status_code: StatusCode::Ok, error_message: String::new(), language_tag: String::new() }
}

impl russh_sftp::server::Handler for Liar {
    type Error = StatusCode;

    fn unimplemented(&self) -> StatusCode {
        StatusCode::OpUnsupported
    }

    async fn stat(&mut self, id: u32, path: String) -> Result<Attrs, StatusCode> {
        Ok(Attrs { id, attrs: self.attributes(if path.ends_with("dir") { FOLDER } else { FILE }) })
    }

    async fn open(&mut self, id: u32, path: String, _: OpenFlags, _: FileAttributes) -> Result<Handle, StatusCode> {
        Ok(Handle { id, handle: path })
    }

    async fn close(&mut self, id: u32, _: String) -> Result<Status, StatusCode> {
        Ok(done(id))
    }

    async fn read(&mut self, id: u32, _: String, offset: u64, length: u32) -> Result<Data, StatusCode> {
        let left = self.lies.real.saturating_sub(offset).min(length.into());
        if left == 0 {
            return Err(StatusCode::Eof);
        }
        Ok(Data { id, data: vec![b'x'; left as usize + self.lies.surplus] })
    }

    async fn opendir(&mut self, id: u32, path: String) -> Result<Handle, StatusCode> {
        self.listed.insert(path.clone(), 0);
        Ok(Handle { id, handle: path })
    }

    async fn readdir(&mut self, id: u32, handle: String) -> Result<Name, StatusCode> {
        let times = self.listed.entry(handle).or_default();
        *times += 1;
        let file = |name: String, mode: u32| File {
            filename: name,
            longname: String::new(),
            attrs: FileAttributes { permissions: Some(mode), size: Some(self.lies.said), ..FileAttributes::empty() },
        };
        if self.lies.lists_nothing_for_ever {
            return Ok(Name { id, files: Vec::new() });
        }
        if self.lies.lists_for_ever {
            let files = (0..500).map(|at| file(format!("{times}-{at}"), FILE)).collect();
            return Ok(Name { id, files });
        }
        if *times > 1 {
            return Err(StatusCode::Eof);
        }
        Ok(Name { id, files: self.lies.lists.iter().map(|(name, mode)| file(name.clone(), *mode)).collect() })
    }
}

/// Downloads from a machine that lies so, into `got`; the tasks that serve it end with the set.
async fn download(bench: &Bench, lies: Lies, params: Value) -> muster_executor::Execution {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let key = PrivateKey::random(&mut russh::keys::key::safe_rng(), Algorithm::Ed25519).unwrap();
    let config = Arc::new(Config { keys: vec![key.clone()], auth_rejection_time: Duration::ZERO, ..Config::default() });
    let mut serving = JoinSet::new();
    serving.spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let machine = Machine { lies, channels: HashMap::new() };
        if let Ok(session) = russh::server::run_stream(config, stream, machine).await {
            let _ended = session.await;
        }
    });
    let host_key = key.public_key().to_openssh().unwrap();
    let settings = json!({"host": "127.0.0.1", "port": port, "user": "u", "host_keys": [host_key]});
    bench.run_with("download", params, connection(settings, &[("password", "hunter2-hunter2")]), LONG).await
}

impl Bench {
    fn tree(&self) -> Value {
        json!({"path": "/dir", "to": format!("{}/got", self.files), "recursive": true})
    }

    /// All files that were made, anywhere in the test's folder.
    fn made(&self) -> Vec<String> {
        let mut found = Vec::new();
        let mut waiting = vec![self.dir.path().join("files")];
        while let Some(folder) = waiting.pop() {
            for entry in fs::read_dir(folder).unwrap().flatten() {
                if entry.file_type().unwrap().is_dir() {
                    waiting.push(entry.path());
                } else {
                    found.push(entry.path().strip_prefix(self.dir.path()).unwrap().display().to_string());
                }
            }
        }
        found.sort();
        found
    }
}

fn listing(entries: &[(&str, u32)]) -> Lies {
    Lies { lists: entries.iter().map(|(name, mode)| ((*name).to_owned(), *mode)).collect(), said: 3, real: 3, ..Lies::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_leads_out_is_refused_whatever_it_is_said_to_be() {
    let bench = Bench::new();
    for name in ["../x", "/etc/x", "a/b", "..\\x", "a\u{0}b", "a\nb", "x.", "", &"x".repeat(300)] {
        for mode in [FILE, FOLDER] {
            let result = download(&bench, listing(&[(name, mode)]), bench.tree()).await;
            assert_eq!((result.outcome, error(&result).0), (Outcome::Failed, Code::TransferFailed), "{name:?}");
        }
    }
    assert_eq!(bench.made(), Vec::<String>::new());
    let result = download(&bench, listing(&[(".", FOLDER), ("..", FOLDER), ("%2e%2e", FILE), ("good", FILE)]), bench.tree()).await;
    assert_eq!(result.outcome, Outcome::Succeeded, "{:?}", result.error);
    assert_eq!(bench.made(), ["files/got/%2e%2e", "files/got/good"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_come_twice_are_refused_and_links_and_devices_are_left_out() {
    let bench = Bench::new();
    for (one, other) in [("a", "a"), ("a", "A")] {
        let result = download(&bench, listing(&[(one, FILE), (other, FILE)]), bench.tree()).await;
        assert!(error(&result).1.contains("twice"), "{:?}", result.error);
    }
    let result =
        download(&bench, listing(&[("link", 0o120_777), ("tty", 0o020_600), ("fifo", 0o010_600), ("f", FILE)]), bench.tree()).await;
    assert_eq!(result.data.unwrap()["skipped"], 3);
    assert!(bench.made().contains(&"files/got/f".to_owned()) && bench.made().len() == 2, "{:?}", bench.made());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_that_lies_here_already_is_not_written_through() {
    let bench = Bench::new();
    let outside = bench.dir.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::create_dir(format!("{}/got", bench.files)).unwrap();
    std::os::unix::fs::symlink(&outside, format!("{}/got/sub", bench.files)).unwrap();
    std::os::unix::fs::symlink(outside.join("file"), format!("{}/got/file", bench.files)).unwrap();
    for entry in [("sub", FOLDER), ("file", FILE)] {
        let result = download(&bench, listing(&[entry]), bench.tree()).await;
        assert_eq!(error(&result).0, Code::TransferFailed);
    }
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn listings_and_folders_without_end_are_given_up() {
    let bench = Bench::new();
    for lies in [Lies { lists_for_ever: true, ..Lies::default() }, Lies { lists_nothing_for_ever: true, ..Lies::default() }] {
        let result = download(&bench, lies, bench.tree()).await;
        assert!(error(&result).1.contains("more entries"), "{:?}", result.error);
    }
    let result = download(&bench, listing(&[("d", FOLDER)]), bench.tree()).await;
    assert!(error(&result).1.contains("too deep"), "{:?}", result.error);
    assert_eq!(bench.made(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn sizes_are_counted_and_not_believed() {
    let mut bench = Bench::new();
    bench.limits.bytes = 1 << 20;
    let bench = bench.remade();
    let to = format!("{}/file", bench.files);
    let params = json!({"path": "/file", "to": to});
    for (lies, code, word) in [
        // It says nothing of its size, and never ends.
        (Lies { said: 0, real: u64::MAX, ..Lies::default() }, Code::ResultTooLarge, "more than the 1048576 bytes"),
        (Lies { said: 1 << 40, real: 1, ..Lies::default() }, Code::ResultTooLarge, "more than the 1048576 bytes"),
        (Lies { said: 1000, real: 10, ..Lies::default() }, Code::TransferFailed, "ended after 10 of the 1000"),
        (Lies { said: 1000, real: 1000, surplus: 1, ..Lies::default() }, Code::TransferFailed, "1001 bytes"),
    ] {
        let result = download(&bench, lies.clone(), params.clone()).await;
        assert!(error(&result).0 == code && error(&result).1.contains(word), "{lies:?}: {:?}", result.error);
        let result = download(&bench, lies.clone(), json!({"path": "/file"})).await;
        assert_eq!(result.outcome, Outcome::Failed, "{lies:?}");
    }
    assert_eq!(bench.made(), Vec::<String>::new());
    // A file that grows is what it was when it was looked at.
    let result = download(&bench, Lies { said: 100_000, real: u64::MAX, ..Lies::default() }, params).await;
    assert_eq!((result.outcome, fs::metadata(&to).unwrap().len()), (Outcome::Succeeded, 100_000));
    // The files of a folder count together.
    let many: Vec<(String, u32)> = (0..20).map(|at| (at.to_string(), FILE)).collect();
    let result = download(&bench, Lies { lists: many, said: 100_000, real: 100_000, ..Lies::default() }, bench.tree()).await;
    assert_eq!(error(&result).0, Code::ResultTooLarge);
}
