//! Credentials of a registry, out of a connection, for the images of that registry only; and the try of such a connection.

use bollard::auth::DockerCredentials;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{Request, client::conn::http1};
use hyper_util::rt::TokioIo;
use muster_executor::{BoxFuture, Connection, Finish, Rejection, Scope, Work};
use muster_schemas::code::Code;
use serde_json::{Value, json};
use std::sync::Arc;

use crate::{
    engine::Engine,
    failure::{Failure, cut},
    image::{Image, Registry},
};

/// Most bytes of an answer to a login.
const ANSWER_BYTES: usize = 64 * 1024;

/// A registry and who we are there.
#[derive(Debug)]
pub(crate) struct Login<'a> {
    registry: Registry,
    username: &'a str,
    password: &'a str,
}

impl<'a> Login<'a> {
    /// What the connection holds, if the job names one.
    pub(crate) fn of(connection: Option<&'a Connection>) -> Result<Option<Self>, Rejection> {
        let Some(connection) = connection else { return Ok(None) };
        let registry = connection.read(|fields| {
            let text = fields.text("registry")?.ok_or_else(|| Rejection::field("registry", "is missing"))?;
            let registry = text.parse().map_err(|problem| Rejection::field("registry", problem))?;
            fields.end()?;
            Ok(registry)
        })?;
        Ok(Some(Self { registry, username: connection.secret("username")?, password: connection.secret("password")? }))
    }

    /// Whether the image is from there.
    pub(crate) fn is_for(&self, image: &Image) -> bool {
        image.registry() == &self.registry
    }

    /// For the one image of a job: a connection that has nothing to do with it is a mistake.
    pub(crate) fn must_be_for(&self, image: &Image) -> Result<(), Rejection> {
        if self.is_for(image) {
            return Ok(());
        }
        let message = format!("the connection is for the registry {}; `{image}` is from {}", self.registry, image.registry());
        Err(Rejection::new(Code::ConnectionMismatch, message))
    }

    /// As the engine takes them; `None` for an image of another registry.
    pub(crate) fn credentials_for(&self, image: &Image) -> Option<DockerCredentials> {
        self.is_for(image).then(|| DockerCredentials {
            username: Some(self.username.to_owned()),
            password: Some(self.password.to_owned()),
            serveraddress: Some(self.registry.address().to_owned()),
            ..DockerCredentials::default()
        })
    }
}

/// `probe.connection` of the kind registry: has the engine log in.
#[derive(Debug)]
pub(crate) struct Try(pub(crate) Arc<Engine>);

impl Work for Try {
    fn run<'a>(self: Box<Self>, scope: &'a Scope) -> BoxFuture<'a, Finish> {
        Box::pin(async move { self.login(scope).await.unwrap_or_else(Finish::from) })
    }
}

impl Try {
    async fn login(&self, scope: &Scope) -> Result<Finish, Failure> {
        let Some(login) = Login::of(scope.connection.as_ref())? else {
            return Ok(Finish::rejected(Code::ConnectionMismatch, "there is no connection to try"));
        };
        let body = json!({"username": login.username, "password": login.password, "serveraddress": login.registry.address()});
        let (status, said) = post(&self.0, "/auth", &body).await?;
        match status {
            200..=299 => Ok(Finish::succeeded(Some(json!({"registry": login.registry.to_string()})))),
            _ => {
                let said = serde_json::from_slice::<Value>(&said).unwrap_or_default();
                let said = cut(said.get("message").and_then(Value::as_str).unwrap_or("no reason given"));
                Err(Failure::new(Code::RegistryRefused, format!("the registry {} refused: {said}", login.registry)))
            }
        }
    }
}

/// Posts to the engine what its client has no call for.
async fn post(engine: &Engine, path: &str, body: &Value) -> Result<(u16, Vec<u8>), Failure> {
    let away = |problem: String| Failure::new(Code::ExecutorUnavailable, format!("the container engine does not answer: {problem}"));
    let socket = engine.path().map_err(|problem| Failure::new(Code::ExecutorUnavailable, problem))?;
    let stream = tokio::net::UnixStream::connect(socket).await.map_err(|error| away(error.to_string()))?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|error| away(error.to_string()))?;
    let request = Request::post(path)
        .header("host", "docker")
        .header("content-type", "application/json")
        .body(Full::new(bytes::Bytes::from(body.to_string())))
        .map_err(|error| away(error.to_string()))?;
    let talk = async {
        let answer = sender.send_request(request).await.map_err(|error| away(error.to_string()))?;
        let status = answer.status().as_u16();
        let body = Limited::new(answer.into_body(), ANSWER_BYTES).collect().await.map_err(|error| away(error.to_string()))?;
        Ok((status, body.to_bytes().to_vec()))
    };
    tokio::pin!(connection, talk);
    tokio::select! {
        biased;
        answer = &mut talk => answer,
        // The end of the connection with its answer already read leaves the rest to the talk.
        _ended = &mut connection => talk.await,
    }
}
