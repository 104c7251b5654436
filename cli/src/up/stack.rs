//! The parts of the stack, in the order of their start, with the settings that join them.
//!
//! Settings go on the command line, where they win over whatever the environment says; secrets go through the environment,
//! since command lines are visible to everybody on the machine.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

use muster_schemas::{
    api::{CreateJoinToken, JoinTokenView, PoolView, PutPool},
    code::Code,
    names::PoolName,
};
use reqwest::Method;

use super::{
    Variant,
    deployment::{self, Made},
    folder::Folder,
    ports::Ports,
    process::{Program, Supervisor},
    ready::Ready,
};
use crate::{
    api::Api,
    args::UpArgs,
    commands::{key_of, register},
    failure::{Failure, Refused},
    output,
    profile::{self, LOCAL, Profile, Profiles},
    target::Target,
};

/// How long the join token of a start works: its agents use it within seconds.
const TOKEN_TTL_S: i64 = 600;
/// Executors of the agents. It is the user's own machine and the user's own jobs, so the shell is on.
const EXECUTORS: &str = "shell,http";

/// A stack that runs.
#[derive(Debug)]
pub(super) struct Stack {
    pub(super) url: String,
    pub(super) nats_url: String,
    pub(super) api_key: String,
    pub(super) data_dir: PathBuf,
    pub(super) service_creds: PathBuf,
    pub(super) pool: PoolName,
    pub(super) agents: u16,
}

/// Starts everything, and returns when jobs run. A `variant` is no stack to be used: no profile leads to it.
pub(super) async fn start(args: &UpArgs, folder: &Folder, supervisor: &mut Supervisor, variant: Option<&Variant>) -> anyhow::Result<Stack> {
    let ports = Ports::choose(args.http_port, args.nats_port, &folder.ports())?;
    let made = deployment::make(folder, ports, &args.pool, args.tls, variant).await?;
    let (url, nats_url) = ports.urls(made.deployment.tls);
    let ca = made.deployment.tls.then(|| made.deployment.layout.ca());
    let ready = Ready::new(folder.clone());

    supervisor.start(broker(&made));
    ready.broker(ports.nats, supervisor).await?;
    supervisor.start(gateway(&made, ports, &nats_url));
    let api = Api::new(Target { url: url.clone(), api_key: Some(made.admin_key.clone()), ca: ca.clone() })?;
    ready.gateway(&api, supervisor).await?;
    // By now the gateway has made the streams, so the two do not make them side by side.
    supervisor.start(dispatcher(folder, &made, &nats_url, variant));
    ensure_pool(&api, &args.pool).await.map_err(|error| key_refused(error, &made))?;
    // Each time: it costs nothing where it is known.
    register(&api, args.pool.as_str(), key_of(&made.service_creds)?, std::slice::from_ref(&args.pool)).await?;
    if args.agents > 0 {
        let token = join_token(&api, &args.pool, args.agents).await?;
        for number in 1..=args.agents {
            supervisor.start(agent(folder, &args.pool, number, (&url, ca.as_deref()), &nats_url, &token));
        }
        let names = (1..=args.agents).map(|number| agent_name(&args.pool, number)).collect();
        ready.agents(&api, &args.pool, names, supervisor).await?;
        if let Some(why) = ready.job(&api, &args.pool, supervisor).await? {
            output::warn(&format!("no first job was run, which would have shown that all is well: {why}"));
        }
    }
    if variant.is_none()
        && let Err(error) = remember(&url, ca, &made.admin_key, folder)
    {
        output::warn(&format!("the command line will not find this stack by itself: {error:#}"));
    }
    Ok(Stack {
        url,
        nats_url,
        api_key: made.admin_key,
        data_dir: folder.root().to_owned(),
        service_creds: made.service_creds,
        pool: args.pool.clone(),
        agents: args.agents,
    })
}

/// The arguments that make this binary a service, and its settings.
fn service<'a>(name: &str, settings: impl IntoIterator<Item = (&'a str, String)>) -> Vec<OsString> {
    let set = settings.into_iter().flat_map(|(key, value)| ["--set".to_owned(), format!("{key}={value}")]);
    ["service".to_owned(), name.to_owned()].into_iter().chain(set).map(OsString::from).collect()
}

fn broker(made: &Made) -> Program {
    let mut args = service("broker", []);
    args.extend(["--binary".into(), made.nats_server.clone().into_os_string()]);
    args.extend(["--config".into(), made.deployment.layout.server_config().into_os_string()]);
    Program { name: "broker".into(), place: 0, args, secrets: Vec::new() }
}

fn gateway(made: &Made, ports: Ports, nats_url: &str) -> Program {
    let layout = &made.deployment.layout;
    let settings = [
        ("listen", format!("127.0.0.1:{}", ports.http)),
        ("nats_urls", nats_url.to_owned()),
        ("agent_nats_urls", nats_url.to_owned()),
        ("deployment", layout.root().display().to_string()),
    ];
    Program { name: "gateway".into(), place: 1, args: service("gateway", settings), secrets: Vec::new() }
}

fn dispatcher(folder: &Folder, made: &Made, nats_url: &str, variant: Option<&Variant>) -> Program {
    let mut settings = vec![
        ("nats_urls", nats_url.to_owned()),
        // All that it reads there is in a folder of its own.
        ("deployment", made.deployment.layout.root().display().to_string()),
        ("data_dir", folder.dispatcher().display().to_string()),
        ("listen", "127.0.0.1:0".to_owned()),
    ];
    settings.extend(variant.and_then(|variant| variant.history_max_jobs).map(|most| ("history_max_jobs", most.to_string())));
    Program { name: "dispatcher".into(), place: 2, args: service("dispatcher", settings), secrets: Vec::new() }
}

/// An agent stays in the pool that it joined, so each pool has agents of its own.
fn agent(folder: &Folder, pool: &PoolName, number: u16, (url, ca): (&str, Option<&Path>), nats_url: &str, token: &str) -> Program {
    let name = agent_name(pool, number);
    let mut settings = vec![
        ("api_url", url.to_owned()),
        // What the gateway told them once may be another port by now.
        ("nats_url", nats_url.to_owned()),
        ("name", name.clone()),
        ("state_dir", folder.agents().join(pool.as_str()).join(number.to_string()).display().to_string()),
        // Nobody looks for it, and several agents share this machine.
        ("admin_port", "0".to_owned()),
    ];
    // A setting of the command line would win over the environment.
    if muster_runtime::env::var("EXECUTORS").ok().flatten().is_none() {
        settings.push(("executors", EXECUTORS.to_owned()));
    }
    let mut args = service("agent", settings);
    if let Some(ca) = ca {
        args.extend(["--api-ca".into(), ca.into()]);
    }
    Program { name, place: 3, args, secrets: vec![("AGENT_JOIN_TOKEN", token.to_owned())] }
}

/// `agent-1` in the pool `default`, `build-1` in another one; the name of an agent is not longer than that of a pool.
fn agent_name(pool: &PoolName, number: u16) -> String {
    let stem: String = if pool.as_str() == "default" { "agent".to_owned() } else { pool.as_str().chars().take(50).collect() };
    format!("{stem}-{number}")
}

/// Makes the pool unless it is there; one that is there stays as it is.
async fn ensure_pool(api: &Api, pool: &PoolName) -> anyhow::Result<()> {
    let path = format!("/pools/{pool}");
    let Err(error) = api.get::<PoolView>(&path, &[]).await else { return Ok(()) };
    match error.downcast_ref::<Refused>() {
        Some(refused) if refused.problem.code == Code::PoolNotFound => {
            api.send::<PoolView>(Method::PUT, &path, &PutPool::default(), std::time::Duration::ZERO).await.map(drop)
        }
        _ => Err(error),
    }
}

/// A key that the gateway does not take needs a way that works without a gateway.
fn key_refused(error: anyhow::Error, made: &Made) -> anyhow::Error {
    match error.downcast_ref::<Refused>() {
        Some(refused) if refused.problem.code == Code::Unauthenticated => {
            let message = format!("the gateway does not take the administrator's key of this folder: {}", refused.problem.detail);
            Failure::new(message).hint(deployment::new_key(&made.deployment.layout)).into()
        }
        _ => error,
    }
}

async fn join_token(api: &Api, pool: &PoolName, agents: u16) -> anyhow::Result<String> {
    let create = CreateJoinToken {
        pool: pool.to_string(),
        uses: Some(agents.into()),
        ttl_s: Some(TOKEN_TTL_S),
        name_pattern: None,
        ephemeral: false,
    };
    let made: JoinTokenView = api.send(Method::POST, "/join-tokens", &create, std::time::Duration::ZERO).await?;
    made.token.ok_or_else(|| anyhow::anyhow!("the gateway did not say the join token"))
}

/// Leaves the profile by which the command line finds this stack.
fn remember(url: &str, ca: Option<PathBuf>, api_key: &str, folder: &Folder) -> anyhow::Result<()> {
    let path = profile::path()?;
    let mut profiles = Profiles::load(&path)?;
    let local = Profile { url: url.to_owned(), api_key: Some(api_key.to_owned()), ca, data_dir: Some(folder.root().to_owned()) };
    profiles.profiles.insert(LOCAL.to_owned(), local);
    profiles.save(&path)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use muster_schemas::names::AgentName;

    use super::*;

    #[test]
    fn agents_of_each_pool_have_names_that_an_agent_may_have() {
        let long = "p".repeat(63);
        for (pool, name) in [("default", "agent-64"), ("build", "build-64"), (long.as_str(), &*format!("{}-64", "p".repeat(50)))] {
            let made = agent_name(&pool.parse().unwrap(), 64);
            assert_eq!(made, name);
            made.parse::<AgentName>().unwrap();
        }
    }

    #[test]
    fn settings_are_flags_and_secrets_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::open(Some(dir.path().to_owned())).unwrap();
        let program = agent(&folder, &"p".parse().unwrap(), 1, ("http://u", None), "nats://n", "mst_join_secret");
        let line = program.args.iter().map(|arg| arg.to_string_lossy()).collect::<Vec<_>>().join(" ");
        assert!(line.starts_with("service agent --set api_url=http://u --set nats_url=nats://n --set name=p-1 "), "{line}");
        assert!(!line.contains("secret") && line.contains(&folder.root().display().to_string()), "{line}");
    }
}
