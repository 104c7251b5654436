//! A connection to the gateway that sends the same request again and again, with as little work as that takes.
//!
//! The bench shares the machine's cores with what it measures, and what a general client spends on a request, the gateway has not got. So the
//! request is put together once, and of the answer only its status and length are read. With TLS it is the general client after all.

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use reqwest::Url;
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpStream,
};

/// One connection, with one request at a time.
pub(super) enum Line {
    /// Plain HTTP: the request as it goes out.
    Plain { stream: BufReader<TcpStream>, request: Bytes },
    /// TLS.
    Secured { http: reqwest::Client, url: String, key: String, body: Bytes },
}

impl Line {
    /// Connects.
    ///
    /// # Errors
    /// When nothing listens there.
    pub(super) async fn open(http: &reqwest::Client, url: &str, key: &str, body: &Value) -> Result<Self> {
        let body = serde_json::to_string(body)?;
        let parsed: Url = url.parse()?;
        if parsed.scheme() == "https" {
            return Ok(Self::Secured { http: http.clone(), url: url.to_owned(), key: key.to_owned(), body: body.into() });
        }
        let at = (parsed.host_str().context("a URL without a host")?, parsed.port_or_known_default().context("a URL without a port")?);
        let stream = TcpStream::connect(at).await.context("the gateway is away")?;
        stream.set_nodelay(true)?;
        let request = format!(
            "POST {} HTTP/1.1\r\nhost: {}:{}\r\nauthorization: Bearer {key}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            parsed.path(),
            at.0,
            at.1,
            body.len()
        );
        Ok(Self::Plain { stream: BufReader::new(stream), request: request.into() })
    }

    /// Sends the request, and gives back the answer's status once all of it is read.
    ///
    /// # Errors
    /// When the connection ends, or the answer is none that this understands.
    pub(super) async fn post(&mut self) -> Result<u16> {
        match self {
            Self::Plain { stream, request } => {
                stream.write_all(request).await?;
                answer(stream).await
            }
            Self::Secured { http, url, key, body } => {
                let request = http.post(&*url).bearer_auth(&*key).header("content-type", "application/json").body(body.clone());
                let answer = request.send().await?;
                let status = answer.status().as_u16();
                answer.bytes().await?;
                Ok(status)
            }
        }
    }
}

/// Reads one answer to its end. The gateway says the length of each.
async fn answer(stream: &mut (impl tokio::io::AsyncBufRead + Unpin)) -> Result<u16> {
    let mut line = String::new();
    ensure!(stream.read_line(&mut line).await? > 0, "the gateway closed the connection");
    let status = line.split_whitespace().nth(1).and_then(|status| status.parse().ok()).context("no status in the answer")?;
    let mut length = None;
    loop {
        line.clear();
        ensure!(stream.read_line(&mut line).await? > 0, "the gateway closed the connection");
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        if name.eq_ignore_ascii_case("content-length") {
            length = value.trim().parse::<u64>().ok();
        }
    }
    let Some(length) = length else { bail!("an answer without its length") };
    let read = tokio::io::copy(&mut stream.take(length), &mut tokio::io::sink()).await?;
    ensure!(read == length, "the gateway closed the connection");
    Ok(status)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;

    #[tokio::test]
    async fn each_answer_is_read_to_its_end_and_no_further() {
        let bytes = b"HTTP/1.1 202 Accepted\r\nContent-Length: 3\r\nx: y\r\n\r\nabcHTTP/1.1 429 No\r\ncontent-length: 0\r\n\r\n";
        let mut stream = &bytes[..];
        assert_eq!(answer(&mut stream).await.unwrap(), 202);
        assert_eq!(answer(&mut stream).await.unwrap(), 429);
        assert!(answer(&mut stream).await.is_err(), "it has ended");
        assert!(answer(&mut &b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc"[..]).await.is_err(), "cut off");
        assert!(answer(&mut &b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"[..]).await.is_err());
    }
}
