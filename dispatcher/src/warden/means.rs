//! What the warden needs: credentials in the system account, the operator's signing key, and which account is the agents'.
//!
//! A deployment of an older version has none of it until `muster init` ran again; then everything else works as before. A file that is there
//! and is not what it should be ends the start.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use muster_broker_config::jwt;
use nkeys::{KeyPair, KeyPairType};
use zeroize::Zeroizing;

use crate::config::Files;

/// All that is needed.
pub(crate) struct Means {
    /// The credentials in the system account.
    pub(crate) credentials: PathBuf,
    /// Signs accounts.
    pub(crate) operator: KeyPair,
    /// The public key of the agents' account.
    pub(crate) fleet: String,
}

impl std::fmt::Debug for Means {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Means").field("credentials", &self.credentials).field("fleet", &self.fleet).finish_non_exhaustive()
    }
}

/// What is missing, by the names of the settings.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}; run `muster init` on the deployment again, and give the dispatcher its folder", .0.join(", "))]
pub(crate) struct Missing(Vec<String>);

/// Reads the files. What is not set or not there is missing.
///
/// # Errors
/// When a file can't be read, or is damaged.
pub(crate) fn load(files: &Files) -> anyhow::Result<Result<Means, Missing>> {
    let places = [
        ("revoker_credentials", &files.revoker_credentials),
        ("operator_key", &files.operator_key),
        ("fleet_account", &files.fleet_account),
    ];
    let missing = |(name, place): &(&str, &Option<PathBuf>)| match place {
        None => Some(format!("`{name}` is not set")),
        Some(path) if !path.exists() => Some(format!("`{name}`: there is no {}", path.display())),
        Some(_) => None,
    };
    let missing: Vec<String> = places.iter().filter_map(missing).collect();
    let (Some(credentials), Some(operator), Some(fleet), true) =
        (&files.revoker_credentials, &files.operator_key, &files.fleet_account, missing.is_empty())
    else {
        return Ok(Err(Missing(missing)));
    };
    let seed = Zeroizing::new(read(operator)?);
    let operator_key = jwt::key_pair(&seed, "the operator's signing key").with_context(|| format!("{} is damaged", operator.display()))?;
    anyhow::ensure!(operator_key.key_pair_type() == KeyPairType::Operator, "{} holds no operator's seed (SO…)", operator.display());
    let account = read(fleet)?.trim().to_owned();
    let is_account = account.starts_with('A') && KeyPair::from_public_key(&account).is_ok();
    anyhow::ensure!(is_account, "{} holds no public key of an account (A…)", fleet.display());
    Ok(Ok(Means { credentials: credentials.clone(), operator: operator_key, fleet: account }))
}

fn read(path: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;

    fn files(dir: &Path) -> Files {
        let at = |name: &str| Some(dir.join(name));
        Files { revoker_credentials: at("r.creds"), operator_key: at("o.nk"), fleet_account: at("f.pub"), ..Files::default() }
    }

    #[test]
    fn what_is_missing_is_named_by_its_setting() {
        let dir = tempfile::tempdir().unwrap();
        let said = load(&Files::default()).unwrap().unwrap_err().to_string();
        assert!(said.contains("`revoker_credentials` is not set, `operator_key` is not set, `fleet_account` is not set"), "{said}");
        std::fs::write(dir.path().join("r.creds"), "x").unwrap();
        std::fs::write(dir.path().join("f.pub"), KeyPair::new_account().public_key()).unwrap();
        let said = load(&files(dir.path())).unwrap().unwrap_err().to_string();
        assert!(said.contains("`operator_key`: there is no") && said.contains("o.nk") && !said.contains("fleet_account"), "{said}");
    }

    #[test]
    fn what_is_there_and_damaged_is_an_error_that_names_the_file_and_not_the_seed() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        let (operator, fleet) = (KeyPair::new_operator().seed().unwrap(), KeyPair::new_account().public_key());
        write("r.creds", "x");
        for (key, account) in [("SOnonsense", fleet.as_str()), (KeyPair::new_user().seed().unwrap().as_str(), &fleet), (&operator, "U1")] {
            write("o.nk", key);
            write("f.pub", account);
            let said = format!("{:#}", load(&files(dir.path())).unwrap_err());
            assert!(said.contains(dir.path().to_str().unwrap()) && !said.contains(key), "{said}");
        }
        write("f.pub", &format!("{fleet}\n"));
        assert_eq!(load(&files(dir.path())).unwrap().unwrap().fleet, fleet);
    }
}
