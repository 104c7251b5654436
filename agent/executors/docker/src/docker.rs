//! The executor `docker`: its types. Each is in a module of its own.

mod exec;
mod kill;
mod logs;
pub(crate) mod ps;
mod rm;
mod run;
mod stop;

use std::sync::Arc;

use muster_executor::{BoxFuture, Executor, Finish, Rejection, Scope, Work, fields::Fields, schema};
use muster_schemas::{connection::ConnectionKind, describe::TypeInfo};
use serde_json::{Value, json};

use crate::{Options, container::short, engine::Engine, failure::Failure, image::Image, params, pull, registry};

/// Containers on the agent's host.
#[derive(Debug)]
pub struct Docker(Arc<Engine>);

impl Docker {
    /// The executor's name.
    pub const NAME: &str = "docker";

    /// Opens nothing: that is for the first job.
    pub fn new(options: &Options) -> Self {
        Self(Arc::new(Engine::new(options)))
    }
}

impl Executor for Docker {
    fn name(&self) -> &str {
        Self::NAME
    }

    fn about(&self) -> &str {
        "containers on the agent's host"
    }

    fn types(&self) -> Vec<TypeInfo> {
        let registry = |info: TypeInfo| TypeInfo { connections: vec![ConnectionKind::Registry], ..info };
        vec![registry(Pull::info()), registry(run::info()), stop::info(), rm::info(), logs::info(), exec::info(), ps::info()]
    }

    fn works_here(&self) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(self.0.answers())
    }

    fn check(&self, verb: &str, params: &Value) -> Result<Option<Box<dyn Work>>, Rejection> {
        let engine = Arc::clone(&self.0);
        let mut fields = Fields::of(params)?;
        let work: Box<dyn Work> = match verb {
            "pull" => Box::new(Pull::parse(engine, &mut fields)?),
            "run" => Box::new(run::Run::parse(engine, &mut fields)?),
            "stop" => Box::new(stop::Stop::parse(engine, &mut fields)?),
            "rm" => Box::new(rm::Rm::parse(engine, &mut fields)?),
            "logs" => Box::new(logs::Logs::parse(engine, &mut fields)?),
            "exec" => Box::new(exec::Exec::parse(engine, &mut fields)?),
            "ps" => Box::new(ps::Ps::parse(engine, &mut fields)?),
            _ => return Ok(None),
        };
        fields.end()?;
        Ok(Some(work))
    }

    fn probe(&self, kind: ConnectionKind) -> Option<Box<dyn Work>> {
        (kind == ConnectionKind::Registry).then(|| Box::new(registry::Try(Arc::clone(&self.0))) as Box<dyn Work>)
    }
}

/// `docker.pull`.
#[derive(Debug)]
struct Pull {
    engine: Arc<Engine>,
    image: Image,
    platform: Option<String>,
}

impl Pull {
    fn info() -> TypeInfo {
        let platform = schema::text("Such as linux/arm64; the host's if absent.");
        let params = schema::object(&["image"], [params::image_schema(), ("platform", platform)]);
        schema::type_info(Docker::NAME, "pull", "Pulls an image.", params, json!({"image": "debian:bookworm-slim"}))
    }

    fn parse(engine: Arc<Engine>, fields: &mut Fields<'_>) -> Result<Self, Rejection> {
        let platform = |text: &str| {
            let part = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte));
            let fits = (1..=3).contains(&text.split('/').count()) && text.split('/').all(part);
            if fits { Ok(text.to_owned()) } else { Err("expected a platform such as linux/arm64".to_owned()) }
        };
        Ok(Self { engine, image: params::image(fields)?, platform: params::parsed(fields, "platform", platform)? })
    }

    async fn pull(&self, scope: &Scope) -> Result<Finish, Failure> {
        let login = registry::Login::of(scope.connection.as_ref())?;
        if let Some(login) = &login {
            login.must_be_for(&self.image)?;
        }
        let client = self.engine.client(&scope.attempt.agent_id).await?;
        let found = pull::pull(client, &self.image, self.platform.as_deref(), login.as_ref(), &scope.recorder).await?;
        let id = found.id.unwrap_or_default();
        let digests = found.repo_digests.unwrap_or_default();
        Ok(Finish::succeeded(Some(json!({"image": self.image.full(), "id": short(&id), "digests": digests, "bytes": found.size}))))
    }
}

impl Work for Pull {
    fn run<'a>(self: Box<Self>, scope: &'a Scope) -> BoxFuture<'a, Finish> {
        Box::pin(async move { self.pull(scope).await.unwrap_or_else(Finish::from) })
    }
}
