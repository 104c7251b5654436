//! `docker.logs`: what a container has written, and with `follow` what it goes on to write.

use std::sync::Arc;

use bollard::query_parameters::LogsOptionsBuilder;
use muster_executor::{BoxFuture, Finish, Rejection, Scope, Work, fields::Fields, schema};
use muster_schemas::{code::Code, describe::TypeInfo};
use serde_json::json;

use crate::{
    container::{self, short},
    engine::Engine,
    failure::Failure,
    params,
};

/// Lines if nobody says how many.
const TAIL: i64 = 1000;

/// Most lines.
const TAIL_MAX: i64 = 1_000_000;

/// The last second that the engine's API can say.
const SINCE_MAX: i64 = i32::MAX as i64;

/// What it takes.
pub(super) fn info() -> TypeInfo {
    let params = schema::object(
        &["container"],
        [
            params::container_schema(),
            ("tail", schema::integer("How many of the last lines; 1000 if absent.", 0..=TAIL_MAX)),
            ("since", schema::integer("Only what was written after this second, counted from 1970.", 0..=SINCE_MAX)),
            ("follow", schema::flag("Go on until the container ends.")),
        ],
    );
    schema::type_info(super::Docker::NAME, "logs", "Reads what a container has written.", params, json!({"container": "web", "tail": 100}))
}

/// A `docker.logs`.
#[derive(Debug)]
pub(super) struct Logs {
    engine: Arc<Engine>,
    container: String,
    tail: i64,
    since: Option<i64>,
    follow: bool,
}

impl Logs {
    pub(super) fn parse(engine: Arc<Engine>, fields: &mut Fields<'_>) -> Result<Self, Rejection> {
        Ok(Self {
            engine,
            container: params::container(fields)?,
            tail: params::within(fields, "tail", 0..=TAIL_MAX)?.unwrap_or(TAIL),
            since: params::within(fields, "since", 0..=SINCE_MAX)?,
            follow: fields.flag("follow")?.unwrap_or(false),
        })
    }

    async fn read(&self, scope: &Scope) -> Result<Finish, Failure> {
        let client = self.engine.client(&scope.attempt.agent_id).await?;
        let found = container::inspect(client, &self.container).await?;
        // What a terminal writes has no frames, and may have no end of a line: nothing would bound what is held of it.
        if found.config.and_then(|config| config.tty) == Some(true) {
            return Err(Failure::new(
                Code::EngineFailed,
                format!("`{}` has a terminal; the log of such a container is not read", self.container),
            ));
        }
        let mut options = LogsOptionsBuilder::default().stdout(true).stderr(true).follow(self.follow).tail(&self.tail.to_string());
        if let Some(since) = self.since {
            options = options.since(i32::try_from(since).unwrap_or(i32::MAX));
        }
        container::pump(client.logs(&self.container, Some(options.build())), &scope.recorder).await?;
        let id = found.id.unwrap_or_default();
        Ok(Finish::succeeded(Some(json!({"container": short(&id)}))))
    }
}

impl Work for Logs {
    fn run<'a>(self: Box<Self>, scope: &'a Scope) -> BoxFuture<'a, Finish> {
        Box::pin(async move { self.read(scope).await.unwrap_or_else(Finish::from) })
    }
}
