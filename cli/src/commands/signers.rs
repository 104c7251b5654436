//! `muster signers list|add|remove`: whose jobs agents run.

use std::{path::Path, time::Duration};

use anyhow::Context as _;
use muster_broker_config::{creds::Creds, jwt};
use muster_schemas::{
    api::{AddSigner, SignerView},
    names::PoolName,
};
use reqwest::Method;
use serde_json::json;

use crate::{api::Api, args::SignersCommand, failure::Failure, output};

pub(crate) async fn run(api: &Api, command: SignersCommand, json: bool) -> anyhow::Result<()> {
    match command {
        SignersCommand::List => {
            let signers: Vec<SignerView> = api.list("/signers", &[]).await?;
            if json { output::json(&signers)? } else { output::line(&table(&signers))? }
        }
        SignersCommand::Add { key, pools, name } => {
            let signer = register(api, &name, public_key(&key)?, &pools).await?;
            if json {
                return output::json(&signer);
            }
            let pools = signer.pools.iter().map(PoolName::as_str).collect::<Vec<_>>().join(", ");
            output::line(&format!("agents of {pools} run what {} signs ({})", signer.name, signer.public_key))?;
        }
        SignersCommand::Remove { key } => {
            let key = public_key(&key)?;
            api.delete(&format!("/signers/{key}")).await?;
            if json { output::json(&json!({"removed": key}))? } else { output::line(&format!("no agent runs what {key} signs any more"))? }
        }
    }
    Ok(())
}

/// Has agents of these pools run what the key signs.
pub(crate) async fn register(api: &Api, name: &str, public_key: String, pools: &[PoolName]) -> anyhow::Result<SignerView> {
    let add = AddSigner { name: name.into(), public_key, pools: pools.iter().map(ToString::to_string).collect() };
    api.send(Method::POST, "/signers", &add, Duration::ZERO).await
}

/// The public key in a credentials file.
pub(crate) fn key_of(credentials: &Path) -> anyhow::Result<String> {
    let unfit = || format!("can't use the credentials in {}", credentials.display());
    let text = std::fs::read_to_string(credentials).with_context(unfit)?;
    let creds = Creds::parse(&text).with_context(unfit)?;
    Ok(jwt::key_pair(&creds.seed, "the seed of the credentials").with_context(unfit)?.public_key())
}

/// A public key as it is given, or that of a file.
fn public_key(given: &str) -> anyhow::Result<String> {
    if jwt::check_user_key(given).is_ok() {
        return Ok(given.to_owned());
    }
    if Path::new(given).exists() {
        return key_of(Path::new(given));
    }
    if let Some(error) = seed(given) {
        return Err(error.into());
    }
    let shown = if given.starts_with('S') { "what was given" } else { given };
    Err(Failure::new(format!("{shown} is neither a public key (U…) nor a file with credentials"))
        .hint("`muster signers list` shows the keys")
        .into())
}

/// What to say of a seed that is given in place of a public key; without the seed.
fn seed(given: &str) -> Option<Failure> {
    let shape = |text: &str| text.len() > 50 && text.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit());
    if !given.starts_with('S') || !shape(given) {
        return None;
    }
    let public = jwt::key_pair(given, "the seed").ok().map(|pair| pair.public_key()).filter(|key| jwt::check_user_key(key).is_ok());
    let failure = Failure::new("this is a seed: keep it secret, and give the public key (U…)");
    Some(match public {
        Some(key) => failure.hint(format!("its public key is {key}")),
        None => failure.hint("no user's key has such a seed; `muster signers list` shows the keys"),
    })
}

fn table(signers: &[SignerView]) -> String {
    let row = |signer: &SignerView| {
        let pools = if signer.control_plane {
            "all (control plane)".to_owned()
        } else {
            signer.pools.iter().map(PoolName::as_str).collect::<Vec<_>>().join(", ")
        };
        [signer.name.clone(), pools, signer.added_at.to_string(), signer.public_key.clone()]
    };
    output::table(["name", "pools", "added", "public key"], signers.iter().map(row).collect(), "Nobody's jobs are run.")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use muster_broker_config::{
        init::{Broker, InitOptions, init},
        layout::Account,
    };

    use super::*;

    #[test]
    fn what_is_no_public_key_is_refused_and_a_seed_is_not_repeated() {
        assert!(public_key("nonsense").unwrap_err().to_string().contains("nonsense"));
        let error = public_key("SUAGSECRETSEED").unwrap_err().to_string();
        assert!(!error.contains("SECRET"), "{error}");
    }

    #[test]
    fn of_a_seed_the_public_key_is_told_and_the_seed_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let broker = Broker::local(None, folder.path().join("store"));
        let layout = init(&folder.path().join("d"), &InitOptions { broker, pool: "p".parse().unwrap() }).unwrap().layout;
        let read = |path: &Path| std::fs::read_to_string(path).unwrap();
        let user = Creds::parse(&read(&layout.gateway_creds())).unwrap().seed;
        let account = read(&layout.account_key(Account::Core)).trim().to_owned();
        for (seed, hint) in [(user.as_str(), key_of(&layout.gateway_creds()).unwrap()), (&account, "no user's key".to_owned())] {
            let failure = public_key(seed).unwrap_err().downcast::<Failure>().unwrap();
            assert!(failure.message.contains("this is a seed: keep it secret"), "{failure:?}");
            assert!(failure.hint.as_ref().unwrap().contains(&hint) && !format!("{failure:?}").contains(seed));
        }
    }
}
