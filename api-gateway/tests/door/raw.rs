//! Bytes on a socket, for what no HTTP client would send.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::stack::Gateway;

/// A connection to the gateway.
pub(crate) async fn connect(gateway: &Gateway) -> TcpStream {
    TcpStream::connect(gateway.url.strip_prefix("http://").unwrap()).await.unwrap()
}

/// Sends bytes and reads whatever comes back until the gateway closes, or for this long.
pub(crate) async fn exchange(gateway: &Gateway, bytes: &[u8], wait: Duration) -> (String, bool) {
    let mut stream = connect(gateway).await;
    // It may close before it has read everything.
    let _ = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let closed = tokio::time::timeout(wait, stream.read_to_end(&mut answer)).await.is_ok();
    (String::from_utf8_lossy(&answer).into_owned(), closed)
}

/// How many answers there are.
pub(crate) fn answers(text: &str) -> usize {
    text.matches("HTTP/1.1 ").count()
}
