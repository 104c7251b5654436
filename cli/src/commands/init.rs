//! `muster init`: makes a deployment's files. It works on files only, and may be run again.

use anyhow::Context as _;
use muster_broker_config::{
    init::{self, Broker, Endpoint, InitOptions},
    layout::Layout,
};
use serde_json::json;

use crate::{args::InitArgs, output};

pub(crate) fn run(args: InitArgs, as_json: bool) -> anyhow::Result<()> {
    if args.roll_job_keys || args.drop_old_job_keys {
        return roll(&args, as_json);
    }
    let existed = Layout::new(&args.dir).bootstrap().exists();
    let store_dir = match args.store_dir {
        Some(dir) => dir,
        None => std::path::absolute(&args.dir)?.join("broker/store"),
    };
    let broker = Broker {
        host: args.listen.ip().to_string(),
        websocket: args.websocket.map(|at| Endpoint { host: at.ip().to_string(), port: Some(at.port()) }),
        tls: args.tls.then_some(args.tls_names),
        ..Broker::local(Some(args.listen.port()), store_dir)
    };
    let deployment = init::init(&args.dir, &InitOptions { broker, pool: args.pool }).context("can't make the deployment")?;
    let layout = &deployment.layout;
    let mut made = vec![
        ("server config", layout.server_config()),
        ("gateway's credentials", layout.gateway_creds()),
        ("dispatcher's credentials", layout.dispatcher_creds()),
        ("key that signs agents", layout.signing_key(muster_broker_config::layout::Account::Fleet)),
        ("administrator's API key", layout.admin_key()),
        ("join token for agents", layout.join_token()),
    ];
    if deployment.tls {
        made.push(("authority's certificate", layout.ca()));
    }
    if as_json {
        let paths: serde_json::Map<_, _> = [
            ("server_config", layout.server_config()),
            ("gateway_creds", layout.gateway_creds()),
            ("dispatcher_creds", layout.dispatcher_creds()),
            ("admin_key", layout.admin_key()),
            ("join_token", layout.join_token()),
        ]
        .into_iter()
        .chain(deployment.tls.then(|| ("ca", layout.ca())))
        .map(|(name, path)| (name.to_owned(), json!(path)))
        .collect();
        return output::json(&json!({"dir": layout.root(), "existed": existed, "paths": paths}));
    }
    let verb = if existed { "The deployment was there, and is complete" } else { "A deployment was made" };
    output::line(&format!("{verb}: {}\n", layout.root().display()))?;
    output::line(&output::fields(made.into_iter().map(|(what, path)| (what, Some(path.display().to_string()))).collect()))?;
    output::line(
        "\nWhoever can read these files owns the deployment. Keep the folders operator/, accounts/ and tls/ away from what runs.",
    )?;
    if deployment.tls {
        output::line(&format!(
            "TLS is on: callers and agents know the gateway and the broker by {}, which is no secret.",
            layout.ca().display()
        ))?;
    }
    Ok(())
}

/// One of the two steps in which the keys that sign jobs roll over.
fn roll(args: &InitArgs, as_json: bool) -> anyhow::Result<()> {
    let (done, next) = if args.roll_job_keys {
        init::roll_job_keys(&args.dir).context("can't roll the keys over")?;
        (
            "Gateway and dispatcher have new keys to sign jobs with, beside their old ones.",
            "Copy gateway/ and dispatcher/ to where they run, restart every gateway, then every dispatcher. Agents come to know the new keys by\n\
             themselves. When no job waits any more that was submitted before that: muster init --drop-old-job-keys",
        )
    } else {
        init::drop_old_job_keys(&args.dir).context("can't drop the old keys")?;
        (
            "The old keys are gone from the deployment's files.",
            "Copy gateway/ and dispatcher/ to where they run, restart every gateway, then every dispatcher. From then on agents refuse what\n\
             the old keys signed.",
        )
    };
    if as_json {
        return output::json(&json!({"dir": args.dir, "rolled": args.roll_job_keys, "dropped": args.drop_old_job_keys}));
    }
    output::line(done)?;
    output::line(next)?;
    Ok(())
}
