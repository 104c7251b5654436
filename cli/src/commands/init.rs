//! `muster init`: makes a deployment's files. It works on files only, and may be run again.

use anyhow::Context as _;
use muster_broker_config::{
    init::{self, Broker, InitOptions},
    layout::Layout,
};
use serde_json::json;

use crate::{args::InitArgs, output};

pub(crate) fn run(args: InitArgs, as_json: bool) -> anyhow::Result<()> {
    let existed = Layout::new(&args.dir).bootstrap().exists();
    let store_dir = match args.store_dir {
        Some(dir) => dir,
        None => std::path::absolute(&args.dir)?.join("broker/store"),
    };
    let broker = Broker { host: args.listen.ip().to_string(), ..Broker::local(Some(args.listen.port()), store_dir) };
    let deployment = init::init(&args.dir, &InitOptions { broker, pool: args.pool }).context("can't make the deployment")?;
    let layout = &deployment.layout;
    let made = [
        ("server config", layout.server_config()),
        ("gateway's credentials", layout.gateway_creds()),
        ("dispatcher's credentials", layout.dispatcher_creds()),
        ("key that signs agents", layout.signing_key(muster_broker_config::layout::Account::Fleet)),
        ("administrator's API key", layout.admin_key()),
        ("join token for agents", layout.join_token()),
    ];
    if as_json {
        let paths: serde_json::Map<_, _> = [
            ("server_config", layout.server_config()),
            ("gateway_creds", layout.gateway_creds()),
            ("dispatcher_creds", layout.dispatcher_creds()),
            ("admin_key", layout.admin_key()),
            ("join_token", layout.join_token()),
        ]
        .map(|(name, path)| (name.to_owned(), json!(path)))
        .into_iter()
        .collect();
        return output::json(&json!({"dir": layout.root(), "existed": existed, "paths": paths}));
    }
    let verb = if existed { "The deployment was there, and is complete" } else { "A deployment was made" };
    output::line(&format!("{verb}: {}\n", layout.root().display()))?;
    output::line(&output::fields(made.map(|(what, path)| (what, Some(path.display().to_string()))).into()))?;
    output::line("\nWhoever can read these files owns the deployment. Keep the folders operator/ and accounts/ away from what runs.")?;
    Ok(())
}
