//! `muster init`: makes a deployment's files. It works on files only, and may be run again.

use anyhow::Context as _;
use muster_broker_config::{
    init::{self, Broker, Endpoint, InitOptions},
    layout::Layout,
};
use serde_json::json;

use crate::{args::InitArgs, output};

/// Where the broker listens when nobody says otherwise.
const PORT: u16 = 4222;

pub(crate) fn run(args: InitArgs, as_json: bool) -> anyhow::Result<()> {
    if args.roll_job_keys || args.drop_old_job_keys {
        return roll(&args, as_json);
    }
    let existed = Layout::new(&args.dir).bootstrap().exists();
    let options = options(&args).context("can't make the deployment")?;
    let deployment = init::init(&args.dir, &options).context("can't make the deployment")?;
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

/// What is given, and for the rest what the last init was given.
fn options(args: &InitArgs) -> anyhow::Result<InitOptions> {
    let mut broker = match Broker::of_last_init(&args.dir)? {
        Some(broker) => broker,
        None => Broker::local(Some(PORT), Broker::store_in(&args.dir)?),
    };
    if let Some(listen) = args.listen {
        (broker.host, broker.port) = (listen.ip().to_string(), Some(listen.port()));
    }
    if let Some(dir) = &args.store_dir {
        broker.store_dir.clone_from(dir);
    }
    if let Some(at) = args.websocket {
        broker.websocket = Some(Endpoint { host: at.ip().to_string(), port: Some(at.port()) });
    }
    broker.tls = args.tls.then(|| args.tls_names.clone());
    Ok(InitOptions { broker, pool: args.pool.clone() })
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking")]
    use std::path::Path;

    use clap::Parser as _;

    use super::*;
    use crate::args::{Cli, Command};

    /// Runs `muster init`, and returns the server's config.
    fn init(dir: &Path, flags: &[&str]) -> String {
        let line = ["muster", "init", "--dir", dir.to_str().unwrap()].into_iter().chain(flags.iter().copied());
        let Command::Init(args) = Cli::try_parse_from(line).unwrap().command else { panic!("not an init") };
        init::init(&args.dir, &options(&args).unwrap()).unwrap();
        std::fs::read_to_string(Layout::new(dir).server_config()).unwrap()
    }

    #[test]
    fn an_init_without_options_leaves_the_brokers_settings_as_they_are() {
        let folder = tempfile::tempdir().unwrap();
        let store = folder.path().join("js");
        let store = store.to_str().unwrap();
        for (name, tls) in [("plain", None), ("tls", Some("--tls"))] {
            let dir = folder.path().join(name);
            let mut flags = vec!["--listen", "127.0.0.1:27422", "--store-dir", store, "--websocket", "0.0.0.0:27443"];
            flags.extend(tls);
            let first = init(&dir, &flags);
            assert!(first.contains("port: 27422\n") && first.contains(store) && first.contains("27443"), "{first}");
            assert_eq!(init(&dir, &[]), first);
            // What is given counts, and the rest stays.
            assert_eq!(init(&dir, &["--listen", "0.0.0.0:4222"]), first.replace("127.0.0.1", "0.0.0.0").replace("27422", "4222"));
            assert_eq!(init(&dir, &flags), first);
        }
    }

    #[test]
    fn without_a_word_the_broker_is_on_loopback_and_its_store_in_the_folder_which_may_be_moved() {
        let folder = tempfile::tempdir().unwrap();
        let (here, there) = (folder.path().join("here"), folder.path().join("there"));
        let first = init(&here, &[]);
        let store = |dir: &Path| format!("store_dir: \"{}\"", dir.join("broker/store").display());
        assert!(first.contains("host: \"127.0.0.1\"\nport: 4222\n") && first.contains(&store(&here)), "{first}");
        std::fs::create_dir(here.join("broker/store")).unwrap();
        std::fs::rename(&here, &there).unwrap();
        let moved = init(&there, &[]);
        assert!(moved.contains(&store(&there)), "{moved}");
    }
}
