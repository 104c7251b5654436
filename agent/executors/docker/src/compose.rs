//! The executor `compose`: projects of containers, from a clearly stated part of the Compose specification.
//!
//! | to find | look in |
//! |---|---|
//! | the file, read: what is supported, and refusal of all else | [`file`] |
//! | names and labels, as `docker compose` writes them | [`project`] |
//! | what is there, what is to be done | [`up`], [`down`] |

mod down;
mod file;
mod project;
mod provide;
mod ps;
mod ready;
mod up;

use std::sync::Arc;

use file::File;
use muster_executor::{BoxFuture, Executor, Finish, Rejection, Scope, Work, fields::Fields, schema};
use muster_schemas::{connection::ConnectionKind, describe::TypeInfo};
use serde_json::{Value, json};

use crate::{Options, engine::Engine, failure::Failure, params, pull, registry::Login};

/// A file for the examples.
const EXAMPLE: &str = "services:\n  web:\n    image: nginx:1.27\n    ports: [\"8080:80\"]\n    restart: unless-stopped\n";

/// Projects of containers on the agent's host.
#[derive(Debug)]
pub struct Compose(Arc<Engine>);

impl Compose {
    /// The executor's name.
    pub const NAME: &str = "compose";

    /// Opens nothing: that is for the first job.
    pub fn new(options: &Options) -> Self {
        Self(Arc::new(Engine::new(options)))
    }
}

impl Executor for Compose {
    fn name(&self) -> &str {
        Self::NAME
    }

    fn about(&self) -> &str {
        "projects of containers on the agent's host"
    }

    fn types(&self) -> Vec<TypeInfo> {
        let registry = |info: TypeInfo| TypeInfo { connections: vec![ConnectionKind::Registry], ..info };
        vec![registry(up::info()), down::info(), registry(Pull::info()), ps::info()]
    }

    fn works_here(&self) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(self.0.answers())
    }

    fn check(&self, verb: &str, params: &Value) -> Result<Option<Box<dyn Work>>, Rejection> {
        let engine = Arc::clone(&self.0);
        let mut fields = Fields::of(params)?;
        let work: Box<dyn Work> = match verb {
            "up" => Box::new(up::Up::parse(engine, &mut fields)?),
            "down" => Box::new(down::Down::parse(engine, &mut fields)?),
            "pull" => Box::new(Pull::parse(engine, &mut fields)?),
            "ps" => Box::new(ps::Ps::parse(engine, &mut fields)?),
            _ => return Ok(None),
        };
        fields.end()?;
        Ok(Some(work))
    }
}

/// The project's name, as `docker compose` allows it.
fn project(fields: &mut Fields<'_>) -> Result<String, Rejection> {
    let name = params::parsed(fields, "project", |text| {
        let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-".contains(&byte);
        let starts = text.starts_with(|first: char| first.is_ascii_lowercase() || first.is_ascii_digit());
        if starts && text.len() <= 63 && text.bytes().all(fits) {
            return Ok(text.to_owned());
        }
        Err("must be 1 to 63 of a-z, 0-9, `_` and `-`, the first a letter or digit".to_owned())
    })?;
    params::required("project", name)
}

/// The file.
fn file(fields: &mut Fields<'_>, engine: &Engine) -> Result<File, Rejection> {
    let text = fields.text("file")?.ok_or_else(|| Rejection::field("file", "is missing"))?;
    File::parse(text, &engine.bind_roots).map_err(|problem| Rejection::field("file", problem))
}

fn project_schema() -> (&'static str, Value) {
    ("project", schema::text("The project's name."))
}

fn file_schema() -> (&'static str, Value) {
    ("file", schema::text("The Compose file, as text: the part of the specification that docs/docker.md states."))
}

/// `compose.pull`.
#[derive(Debug)]
struct Pull {
    engine: Arc<Engine>,
    project: String,
    file: File,
}

impl Pull {
    fn info() -> TypeInfo {
        let params = schema::object(&["project", "file"], [project_schema(), file_schema()]);
        schema::type_info(Compose::NAME, "pull", "Pulls the images of a project.", params, json!({"project": "shop", "file": EXAMPLE}))
    }

    fn parse(engine: Arc<Engine>, fields: &mut Fields<'_>) -> Result<Self, Rejection> {
        let project = project(fields)?;
        let file = file(fields, &engine)?;
        Ok(Self { engine, project, file })
    }

    async fn pull(&self, scope: &Scope) -> Result<Finish, Failure> {
        let login = Login::of(scope.connection.as_ref())?;
        let client = self.engine.client(&scope.attempt.agent_id).await?;
        let mut pulled = Vec::new();
        for image in self.file.images() {
            let found = pull::pull(client, &image, None, login.as_ref(), &scope.recorder).await?;
            pulled.push(json!({"image": image.full(), "id": crate::container::short(&found.id.unwrap_or_default())}));
        }
        Ok(Finish::succeeded(Some(json!({"project": self.project, "images": pulled}))))
    }
}

impl Work for Pull {
    fn run<'a>(self: Box<Self>, scope: &'a Scope) -> BoxFuture<'a, Finish> {
        Box::pin(async move { self.pull(scope).await.unwrap_or_else(Finish::from) })
    }
}
