//! `muster creds issue`: credentials for a service, signed with a key of the deployment, and its key registered with the gateway. The file is
//! written without a gateway too; then it says what is left to do. `muster creds sign`: the header of a job that goes straight onto NATS.

use std::{io::Read as _, path::Path};

use anyhow::Context as _;
use muster_broker_config::{
    creds,
    init::{Certified, certify},
    jwt::key_pair,
    layout::{Account, Layout},
};
use muster_schemas::{
    headers,
    names::PoolName,
    signature::{Signed, Signer},
    subjects,
    time::Timestamp,
};
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
    match command {
        CredsCommand::Issue { publish, watch, name, out, dir } => {
            let dir = match dir {
                Some(dir) => dir,
                None => of_up()?,
            };
            make(api, &Layout::new(dir), &name, May { publish: &publish, watch: &watch }, &out, as_json).await
        }
        CredsCommand::Sign { creds, subject, body } => {
            let body = match body {
                Some(body) => body.into_bytes(),
                None => {
                    let mut bytes = Vec::new();
                    std::io::stdin().read_to_end(&mut bytes).context("can't read the message from standard input")?;
                    bytes
                }
            };
            let signature = sign(&creds, &subject, &body, Timestamp::now())?;
            match as_json {
                true => output::json(&json!({"header": headers::SIGNATURE, "value": signature})),
                false => Ok(output::line(&format!("{}: {signature}", headers::SIGNATURE))?),
            }
        }
    }
}

/// The signature of a job, by the key of a credentials file.
fn sign(creds: &Path, subject: &str, body: &[u8], now: Timestamp) -> anyhow::Result<String> {
    if subjects::parse_job(subject).is_none() {
        let message = format!("`{subject}` is no subject of a job");
        return Err(Failure::new(message).hint("it has five parts: jobs.<pool>.<high|normal|low>.<executor>.<job id>").into());
    }
    let unfit = || format!("can't use the credentials in {}", creds.display());
    let creds = creds::Creds::parse(&std::fs::read_to_string(creds).with_context(unfit)?).with_context(unfit)?;
    let signer = Signer::from_seed(&creds.seed).ok_or_else(|| anyhow::anyhow!("the seed is not that of a user")).with_context(unfit)?;
    Ok(signer.sign(Signed::Job { fresh: false }, subject, body, now).to_string())
}

async fn make(
    api: impl FnOnce() -> anyhow::Result<Api>,
    layout: &Layout,
    name: &str,
    may: May<'_>,
    out: &Path,
    as_json: bool,
) -> anyhow::Result<()> {
    let May { publish, watch } = may;
    let (certificate, key) = Layout::beside_creds(out);
    let mut made = vec![out];
    if layout.ca_key().exists() {
        made.extend([certificate.as_path(), key.as_path()]);
    }
    if let Some(path) = made.into_iter().find(|path| path.exists()) {
        let message = format!("{} exists", path.display());
        return Err(Failure::new(message).hint("name another file with --out, or remove that one").into());
    }
    let certified = issue(layout, name, may, out)?;
    let public_key = signers::key_of(out)?;
    let registered = match api() {
        // Who only watches signs nothing.
        _ if publish.is_empty() => Ok(()),
        Ok(api) => signers::register(&api, name, public_key.clone(), publish).await.map(drop),
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
            "name": name, "publish": list(publish), "watch": list(watch), "path": out, "public_key": public_key,
            "registered": registered.is_ok() && !publish.is_empty(), "certificate": certificate, "key": key, "ca": ca,
        }));
    }
    let (may, pools) = if publish.is_empty() { ("watch", watch) } else { ("submit to", publish) };
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
    fn a_signature_is_of_the_message_as_it_was_given_and_a_subject_of_no_job_is_refused() {
        use muster_schemas::signature::Signature;
        let dir = tempfile::tempdir().unwrap();
        let (out, signer) = (dir.path().join("x.creds"), nkeys::KeyPair::new_account());
        let made = creds::issue_service(&signer.seed().unwrap(), &signer.public_key(), "s", &["p".parse().unwrap()]).unwrap();
        std::fs::write(&out, made.to_text()).unwrap();
        let (subject, now) = ("jobs.p.normal.shell.a", Timestamp::now());
        let signature = Signature::parse(&sign(&out, subject, b"{}", now).unwrap()).unwrap();
        signature.verify(Signed::Job { fresh: false }, subject, b"{}").unwrap();
        assert_eq!(signature.at, now);
        let error = sign(&out, "jobs.p.urgent.shell.a", b"{}", now).unwrap_err().to_string();
        assert!(error.contains("no subject of a job"), "{error}");
    }

    #[test]
    fn a_folder_without_a_deployment_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let error =
            issue(&Layout::new(dir.path()), "a", May { publish: &["p".parse().unwrap()], watch: &[] }, &dir.path().join("x")).unwrap_err();
        assert!(error.to_string().contains(&dir.path().display().to_string()), "{error}");
    }
}
