//! `muster creds issue`: credentials for a service, signed with a key of the deployment, and its key registered with the gateway.
//!
//! The file is written without a gateway too; then it says what is left to do.

use std::path::Path;

use anyhow::Context as _;
use muster_broker_config::{
    creds,
    init::{Certified, certify},
    jwt::key_pair,
    layout::{Account, Layout},
};
use muster_schemas::names::PoolName;
use serde_json::json;

use super::signers;
use crate::{
    api::Api,
    args::CredsCommand,
    failure::Failure,
    output,
    profile::{self, LOCAL, Profiles, write_private},
};

pub(crate) async fn run(api: impl FnOnce() -> anyhow::Result<Api>, command: CredsCommand, as_json: bool) -> anyhow::Result<()> {
    let CredsCommand::Issue { publish, watch, name, out, dir } = command;
    let dir = match dir {
        Some(dir) => dir,
        None => of_up()?,
    };
    let layout = Layout::new(dir);
    let (certificate, key) = Layout::beside_creds(&out);
    let mut made = vec![&out];
    if layout.ca_key().exists() {
        made.extend([&certificate, &key]);
    }
    if let Some(path) = made.into_iter().find(|path| path.exists()) {
        let message = format!("{} exists", path.display());
        return Err(Failure::new(message).hint("name another file with --out, or remove that one").into());
    }
    let certified = issue(&layout, &name, May { publish: &publish, watch: &watch }, &out)?;
    let public_key = signers::key_of(&out)?;
    let registered = match api() {
        // Who only watches signs nothing.
        _ if publish.is_empty() => Ok(()),
        Ok(api) => signers::register(&api, &name, public_key.clone(), &publish).await.map(drop),
        Err(error) => Err(error),
    };
    if let Err(error) = &registered {
        let publish: String = publish.iter().map(|pool| format!(" --publish {pool}")).collect();
        output::warn(&format!(
            "no agent runs what these credentials sign yet: their key could not be registered ({error:#}). Once a gateway is reached:\n  \
             muster signers add {public_key} --name '{name}'{publish}"
        ));
    }
    let list = |pools: &[PoolName]| pools.iter().map(PoolName::to_string).collect::<Vec<_>>();
    if as_json {
        let (certificate, key) = certified.map(|made| (made.certificate, made.key)).unzip();
        let ca = certificate.is_some().then(|| layout.ca());
        return output::json(&json!({
            "name": name, "publish": list(&publish), "watch": list(&watch), "path": out, "public_key": public_key,
            "registered": registered.is_ok() && !publish.is_empty(), "certificate": certificate, "key": key, "ca": ca,
        }));
    }
    let (may, pools) = if publish.is_empty() { ("watch", &watch) } else { ("submit to", &publish) };
    output::line(&format!("{name} may {may} {} with {}", list(pools).join(", "), out.display()))?;
    if let Some(Certified { certificate, key }) = certified {
        let (certificate, key, ca) = (certificate.display(), key.display(), layout.ca());
        output::line(&format!("It shows the broker {certificate} with {key}, for a year, and knows it by {}", ca.display()))?;
    }
    Ok(())
}

/// The deployment of the last `muster up`, or of one in the default folder.
fn of_up() -> anyhow::Result<std::path::PathBuf> {
    let profiles = Profiles::load(&profile::path()?).unwrap_or_default();
    let root = profiles.profiles.get(LOCAL).and_then(|local| local.data_dir.clone());
    let root = match root {
        Some(root) => root,
        None => profile::data_dir()?,
    };
    Ok(root.join("deployment"))
}

/// What credentials are for: one of the two is empty.
#[derive(Debug, Clone, Copy)]
pub(crate) struct May<'a> {
    /// Pools to submit to.
    pub(crate) publish: &'a [PoolName],
    /// Pools to watch.
    pub(crate) watch: &'a [PoolName],
}

/// Issues credentials into a file, and where TLS is on a certificate beside them.
pub(crate) fn issue(layout: &Layout, name: &str, may: May<'_>, out: &Path) -> anyhow::Result<Option<Certified>> {
    let read = |path: std::path::PathBuf| match std::fs::read_to_string(&path) {
        Ok(text) => Ok(text.trim().to_owned()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let message = format!("there is no deployment with its keys in {}", layout.root().display());
            Err(Failure::new(message).hint("name its folder with --dir; `muster init` or `muster up` makes one").into())
        }
        Err(error) => Err(anyhow::Error::from(error).context(format!("can't read {}", path.display()))),
    };
    let account = key_pair(&read(layout.account_key(Account::Core))?, "the key of the account CORE")?.public_key();
    let signing = read(layout.signing_key(Account::Core))?;
    let creds = match may.publish {
        [] => creds::issue_viewer(&signing, &account, name, may.watch)?,
        pools => creds::issue_service(&signing, &account, name, pools)?,
    };
    write_private(out, creds.to_text().as_bytes()).with_context(|| format!("can't write {}", out.display()))?;
    certify(layout, name, out).context("can't make its certificate")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use muster_broker_config::init::{Broker, InitOptions, init};

    use super::*;
    use crate::profile::is_open_to_others;

    #[tokio::test]
    async fn credentials_are_for_their_owner_only_never_replace_a_file_and_are_written_without_a_gateway() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("deployment");
        let options = InitOptions { broker: Broker::local(None, dir.path().join("store")), pool: "p".parse().unwrap() };
        init(&root, &options).unwrap();
        let out = dir.path().join("service.creds");
        let issue = |publish: &[&str], watch: &[&str], out: &Path| CredsCommand::Issue {
            publish: publish.iter().map(|pool| pool.parse().unwrap()).collect(),
            watch: watch.iter().map(|pool| pool.parse().unwrap()).collect(),
            name: "billing".into(),
            out: out.to_owned(),
            dir: Some(root.clone()),
        };
        let command = || issue(&["p"], &[], &out);
        let nowhere = || Err(anyhow::anyhow!("no gateway is known"));
        run(nowhere, command(), false).await.unwrap();
        assert!(!is_open_to_others(&out));
        creds::Creds::parse(&std::fs::read_to_string(&out).unwrap()).unwrap();
        let again = run(nowhere, command(), false).await.unwrap_err();
        assert!(again.to_string().contains("exists"), "{again}");
        let watching = dir.path().join("watch.creds");
        run(nowhere, issue(&[], &["p"], &watching), true).await.unwrap();
        creds::Creds::parse(&std::fs::read_to_string(&watching).unwrap()).unwrap();
    }

    #[test]
    fn a_folder_without_a_deployment_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let error =
            issue(&Layout::new(dir.path()), "a", May { publish: &["p".parse().unwrap()], watch: &[] }, &dir.path().join("x")).unwrap_err();
        assert!(error.to_string().contains(&dir.path().display().to_string()), "{error}");
    }
}
