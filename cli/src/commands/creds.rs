//! `muster creds issue`: credentials for a service, signed with a key of the deployment. It works on files only.

use std::path::Path;

use anyhow::Context as _;
use muster_broker_config::{
    creds,
    jwt::key_pair,
    layout::{Account, Layout},
};
use muster_schemas::names::PoolName;
use serde_json::json;

use crate::{
    args::CredsCommand,
    failure::Failure,
    output,
    profile::{self, LOCAL, Profiles, write_private},
};

pub(crate) fn run(command: CredsCommand, as_json: bool) -> anyhow::Result<()> {
    let CredsCommand::Issue { pools, name, out, dir } = command;
    let dir = match dir {
        Some(dir) => dir,
        None => of_up()?,
    };
    if out.exists() {
        let message = format!("{} exists", out.display());
        return Err(Failure::new(message).hint("name another file with --out, or remove that one").into());
    }
    issue(&Layout::new(dir), &name, &pools, &out)?;
    let list = pools.iter().map(PoolName::as_str).collect::<Vec<_>>();
    if as_json {
        return output::json(&json!({"name": name, "publish": list, "path": out}));
    }
    output::line(&format!("{} may submit to {} with {}", name, list.join(", "), out.display()))?;
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

/// Issues credentials into a file.
pub(crate) fn issue(layout: &Layout, name: &str, pools: &[PoolName], out: &Path) -> anyhow::Result<()> {
    let read = |path: std::path::PathBuf| match std::fs::read_to_string(&path) {
        Ok(text) => Ok(text.trim().to_owned()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let message = format!("there is no deployment with its keys in {}", layout.root().display());
            Err(Failure::new(message).hint("name its folder with --dir; `muster init` or `muster up` makes one").into())
        }
        Err(error) => Err(anyhow::Error::from(error).context(format!("can't read {}", path.display()))),
    };
    let account = key_pair(&read(layout.account_key(Account::Core))?, "the key of the account CORE")?.public_key();
    let creds = creds::issue_service(&read(layout.signing_key(Account::Core))?, &account, name, pools)?;
    write_private(out, creds.to_text().as_bytes()).with_context(|| format!("can't write {}", out.display()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use muster_broker_config::init::{Broker, InitOptions, init};

    use super::*;
    use crate::profile::is_open_to_others;

    #[test]
    fn credentials_are_for_their_owner_only_and_never_replace_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("deployment");
        let options = InitOptions { broker: Broker::local(None, dir.path().join("store")), pool: "p".parse().unwrap() };
        init(&root, &options).unwrap();
        let out = dir.path().join("service.creds");
        let command =
            || CredsCommand::Issue { pools: vec!["p".parse().unwrap()], name: "billing".into(), out: out.clone(), dir: Some(root.clone()) };
        run(command(), false).unwrap();
        assert!(!is_open_to_others(&out));
        creds::Creds::parse(&std::fs::read_to_string(&out).unwrap()).unwrap();
        let again = run(command(), false).unwrap_err();
        assert!(again.to_string().contains("exists"), "{again}");
    }

    #[test]
    fn a_folder_without_a_deployment_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let error = issue(&Layout::new(dir.path()), "a", &["p".parse().unwrap()], &dir.path().join("x")).unwrap_err();
        assert!(error.to_string().contains(&dir.path().display().to_string()), "{error}");
    }
}
