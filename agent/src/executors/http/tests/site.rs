//! A small HTTP server for tests: one connection at a time, every byte of its answers under the test's control.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail by panicking")]

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

/// What to answer.
pub(in crate::executors::http) enum Reply {
    Raw(Vec<u8>),
    /// A byte every tenth of a second, without end.
    Trickle,
    /// Nothing, and the connection stays open.
    Hang,
}

/// A plain answer; the status' own phrase does not matter.
pub(in crate::executors::http) fn text(status: u16, headers: &str, body: &str) -> Reply {
    let length = body.len();
    Reply::Raw(format!("HTTP/1.1 {status} X\r\nContent-Length: {length}\r\nConnection: close\r\n{headers}\r\n{body}").into_bytes())
}

/// One request that arrived.
pub(in crate::executors::http) struct Seen {
    pub(in crate::executors::http) line: String,
    pub(in crate::executors::http) body: String,
    head: String,
}

impl Seen {
    pub(in crate::executors::http) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().filter_map(|line| line.split_once(": ")).find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// The path `/<number>`.
    pub(in crate::executors::http) fn number(&self) -> u32 {
        self.line.split(['/', ' ']).nth(2).unwrap().parse().unwrap()
    }
}

pub(in crate::executors::http) struct Site {
    listener: TcpListener,
    answer: Box<dyn Fn(&Seen) -> Reply>,
    arrived: Arc<Notify>,
}

impl Site {
    pub(in crate::executors::http) async fn new(answer: impl Fn(&Seen) -> Reply + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self { listener, answer: Box::new(answer), arrived: Arc::default() }
    }

    pub(in crate::executors::http) fn port(&self) -> u16 {
        self.listener.local_addr().unwrap().port()
    }

    pub(in crate::executors::http) fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port())
    }

    /// Told of each request.
    pub(in crate::executors::http) fn arrived(&self) -> Arc<Notify> {
        self.arrived.clone()
    }

    /// Serves while `asking` runs; gives what arrived.
    pub(in crate::executors::http) async fn during<T>(&self, asking: impl Future<Output = T>) -> (T, Vec<Seen>) {
        let mut seen = Vec::new();
        let value = tokio::select! {
            value = asking => value,
            () = self.serve(&mut seen) => panic!("it never ends"),
        };
        (value, seen)
    }

    async fn serve(&self, seen: &mut Vec<Seen>) {
        loop {
            let (mut stream, _) = self.listener.accept().await.unwrap();
            let Some(request) = read(&mut stream).await else { continue };
            let reply = (self.answer)(&request);
            seen.push(request);
            self.arrived.notify_one();
            let _gone = match reply {
                Reply::Raw(bytes) => stream.write_all(&bytes).await,
                Reply::Trickle => trickle(&mut stream).await,
                Reply::Hang => stream.read(&mut [0]).await.map(drop),
            };
        }
    }
}

async fn trickle(stream: &mut TcpStream) -> std::io::Result<()> {
    stream.write_all(b"HTTP/1.1 200 X\r\nContent-Length: 1000\r\n\r\n").await?;
    let mut tick = tokio::time::interval(Duration::from_millis(100));
    loop {
        tick.tick().await;
        stream.write_all(b"x").await?;
    }
}

async fn read(stream: &mut TcpStream) -> Option<Seen> {
    let mut bytes = Vec::new();
    loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
            let line = head.lines().next().unwrap().to_owned();
            let request = Seen { line, head, body: String::from_utf8_lossy(&bytes[end + 4..]).into_owned() };
            let length = request.header("content-length").map_or(0, |length| length.parse().unwrap());
            if request.body.len() >= length {
                return Some(request);
            }
        }
        if !bytes.is_empty() && !bytes[0].is_ascii_alphabetic() {
            return tls(stream).await;
        }
        match stream.read_buf(&mut bytes).await {
            Ok(1..) => {}
            _ => return None,
        }
    }
}

/// A TLS hello: answer in plain HTTP, as a server on the wrong port would.
async fn tls(stream: &mut TcpStream) -> Option<Seen> {
    let _gone = stream.write_all(b"HTTP/1.1 400 X\r\n\r\n").await;
    None
}
