//! One cluster, for one attempt: requests with bounds on time and size. Reads are tried again, changes never.
//!
//! kube's own calls read answers of any size, so bodies are read here. Watches and logs are streams, which end when they do.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt as _;
use kube::{
    Client,
    client::Body,
    core::{ApiResource, DynamicObject, Resource as _, Status},
};
use muster_executor::finish::chain;
use serde_json::Value;

use crate::{
    kinds::{Cache, Kind},
    problem::{Problem, cut},
};

/// The most bytes of an answer that is kept: more than the largest page of objects, or list of kinds, that is asked for usually has.
const ANSWER_BYTES: usize = 16 * 1024 * 1024;

/// The most bytes of an answer that says no.
const REFUSAL_BYTES: usize = 64 * 1024;

/// Until an answer is complete, or a stream has begun. The API server gives up on its own after 60 s.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// Between the tries of a read: a restart of a load balancer is over, one of the API server is for the job's own retry.
const PAUSES: [Duration; 2] = [Duration::from_millis(200), Duration::from_secs(1)];

/// The longest that a cluster may ask to wait before a read is tried again.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(5);

/// A request; its body is bytes until it is sent, so that it can be sent again.
pub(crate) type Request = http::Request<Vec<u8>>;

/// A cluster that can be asked.
pub(crate) struct Cluster {
    pub(crate) client: Client,
    /// Where it is, for messages.
    pub(crate) server: String,
    /// The namespace of what names none.
    pub(crate) namespace: String,
    /// Whose list of kinds this is in the cache.
    pub(crate) key: String,
    pub(crate) kinds: Arc<Cache>,
}

impl Cluster {
    /// Reads; tries again when that may help. `what` is what for, in messages.
    pub(crate) async fn read(&self, request: Request, what: &str) -> Result<Value, Problem> {
        let mut pauses = PAUSES.iter();
        loop {
            match self.send(request.clone(), what).await {
                Ok((_, value)) => return Ok(value),
                Err(problem) if problem.passes() => {
                    let Some(pause) = pauses.next() else { return Err(problem) };
                    let asked = problem.retry_after().map(|seconds| Duration::from_secs(seconds.into()).min(RETRY_AFTER_MAX));
                    tokio::time::sleep(asked.unwrap_or(*pause)).await;
                }
                Err(problem) => return Err(problem),
            }
        }
    }

    /// Reads what may not be there.
    pub(crate) async fn find(&self, request: Request, what: &str) -> Result<Option<Value>, Problem> {
        match self.read(request, what).await {
            Ok(value) => Ok(Some(value)),
            Err(problem) if problem.status_code() == 404 => Ok(None),
            Err(problem) => Err(problem),
        }
    }

    /// Sends one request, once. Gives the HTTP status and the answer.
    pub(crate) async fn send(&self, request: Request, what: &str) -> Result<(u16, Value), Problem> {
        let answer = async {
            let (status, mut stream) = self.begin(request, what).await?;
            let body = stream.rest(ANSWER_BYTES).await?;
            let value = serde_json::from_slice(&body)
                .map_err(|error| Problem::unanswered(format!("{what}: {} answers with something else than JSON ({error})", self.server)))?;
            Ok((status, value))
        };
        tokio::time::timeout(ANSWER_TIMEOUT, answer).await.unwrap_or_else(|_| Err(self.late(what)))
    }

    /// Begins a stream.
    pub(crate) async fn stream(&self, request: Request, what: &str) -> Result<Stream, Problem> {
        let begun = tokio::time::timeout(ANSWER_TIMEOUT, self.begin(request, what)).await;
        begun.unwrap_or_else(|_| Err(self.late(what))).map(|(_, stream)| stream)
    }

    async fn begin(&self, request: Request, what: &str) -> Result<(u16, Stream), Problem> {
        let answer = self.client.send(request.map(Body::from)).await.map_err(|error| {
            let error = chain(&error);
            let hint = if error.contains("certificate") { " (see the connection's `ca`)" } else { "" };
            Problem::unanswered(format!("{what}: no answer from {}: {error}{hint}", self.server))
        })?;
        let status = answer.status().as_u16();
        let mut stream = Stream { body: answer.into_body(), waiting: Vec::new(), ended: false };
        if (200..300).contains(&status) {
            return Ok((status, stream));
        }
        let body = stream.rest(REFUSAL_BYTES).await.unwrap_or_default();
        let told = serde_json::from_slice::<Status>(&body).ok().filter(|told| !told.message.is_empty() || !told.reason.is_empty());
        let told = told.unwrap_or_else(|| Status::failure(&cut(&String::from_utf8_lossy(&body), 200), "no status of the Kubernetes API"));
        Err(Problem::refused(what, told.with_code(status)))
    }

    fn late(&self, what: &str) -> Problem {
        Problem::unanswered(format!("{what}: no answer from {} within {} s", self.server, ANSWER_TIMEOUT.as_secs()))
    }

    /// The path of objects of this kind, to make requests with.
    pub(crate) fn path(kind: &ApiResource, namespace: Option<&str>) -> kube::core::Request {
        kube::core::Request::new(DynamicObject::url_path(kind, namespace))
    }

    /// The namespace of an object of this kind: the given one, or the connection's. `None` where the kind has none.
    pub(crate) fn namespace_of<'a>(&'a self, kind: &Kind, given: Option<&'a str>) -> Option<&'a str> {
        kind.namespaced.then(|| given.unwrap_or(&self.namespace))
    }
}

/// A request for a path of the API that is no object's.
pub(crate) fn get(path: &str) -> Result<Request, Problem> {
    http::Request::get(path).body(Vec::new()).map_err(|error| built(&error))
}

/// A request that kube refuses to make.
pub(crate) fn built(error: &dyn std::error::Error) -> Problem {
    Problem::absent(format!("this can't be asked for: {}", chain(error)))
}

/// The body of an answer, as it comes.
pub(crate) struct Stream {
    body: Body,
    waiting: Vec<u8>,
    ended: bool,
}

impl Stream {
    /// The next bytes; `None` at the end.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, Problem> {
        while let Some(frame) = self.body.frame().await {
            let frame = frame.map_err(|error| Problem::unanswered(format!("the answer broke off: {}", chain(&error))))?;
            if let Ok(bytes) = frame.into_data() {
                return Ok(Some(bytes));
            }
        }
        Ok(None)
    }

    /// The next line, without its end; `None` at the end. A longer line than `most` bytes is a problem.
    pub(crate) async fn line(&mut self, most: usize) -> Result<Option<Vec<u8>>, Problem> {
        let mut looked = 0;
        loop {
            let fresh = self.waiting.get(looked..).unwrap_or_default();
            if let Some(at) = fresh.iter().position(|byte| *byte == b'\n') {
                let mut line: Vec<u8> = self.waiting.drain(..=looked + at).collect();
                line.pop();
                return Ok(Some(line));
            }
            looked = self.waiting.len();
            if looked > most {
                return Err(Problem::unanswered(format!("a line of the answer has more than {most} bytes")));
            }
            if self.ended {
                return Ok(if self.waiting.is_empty() { None } else { Some(std::mem::take(&mut self.waiting)) });
            }
            match self.next().await? {
                Some(bytes) => self.waiting.extend_from_slice(&bytes),
                None => self.ended = true,
            }
        }
    }

    async fn rest(&mut self, most: usize) -> Result<Vec<u8>, Problem> {
        let mut body = Vec::new();
        while let Some(bytes) = self.next().await? {
            if body.len() + bytes.len() > most {
                return Err(Problem::unanswered(format!("the answer has more than {most} bytes; ask for less")));
            }
            body.extend_from_slice(&bytes);
        }
        Ok(body)
    }
}
