//! Opening the vault at the beginning of a turn. It never stops the agent: jobs without a connection run without it.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, RwLock},
};

use muster_executor::Masks;
use muster_runtime::{config::Secret, http::Readiness, process::chain};
use muster_schemas::sealed::OpeningKey;
use tokio::sync::Notify;

use super::{CHECK, Inner, Shown, Vault, entry};
use crate::figures::Figures;

impl Vault {
    /// Opens the vault in this file, or begins one. One that was sealed with another API key is void: it is moved aside, and a new one begins.
    /// One with anything else wrong stays as it is, and closed. Deriving the key takes a moment, on a thread of its own.
    pub(crate) async fn open(path: PathBuf, api_key: Secret, masks: Masks, readiness: Readiness, figures: &Figures) -> Self {
        let opened = tokio::task::spawn_blocking(move || open(&path, &api_key)).await;
        let opened = opened.unwrap_or_else(|error| Err(error.into()));
        let begin = |shown| {
            let (store, shown) = (Mutex::new(None), RwLock::new(shown));
            Self(Arc::new(Inner { store, shown, masks, readiness: readiness.clone(), changed: Notify::new() }))
        };
        match opened {
            Ok(Opened { store, key, void }) => {
                if let Some(aside) = void {
                    let text = format!("the vault was sealed with another API key and is void; it was moved to {}", aside.display());
                    tracing::error!("{text}, and an empty one begins: credentials have to be delivered again");
                    readiness.note(CHECK, text.clone());
                    figures.error(text);
                }
                let shown = Shown { opening_key: Some(Arc::new(key)), ..Shown::default() };
                let vault = begin(shown);
                vault.show(&store);
                *vault.0.store.lock().unwrap_or_else(PoisonError::into_inner) = Some(store);
                readiness.set(CHECK, Ok(()));
                vault
            }
            Err(error) => {
                let vault = begin(Shown::default());
                vault.close(chain(&error));
                vault
            }
        }
    }
}

struct Opened {
    store: muster_vault::Vault,
    key: OpeningKey,
    /// Where a vault is that was void.
    void: Option<PathBuf>,
}

fn open(path: &Path, api_key: &Secret) -> anyhow::Result<Opened> {
    let (mut store, void) = match muster_vault::Vault::open(path, api_key.expose()) {
        Err(muster_vault::VaultError::Key { .. }) => {
            let aside = muster_vault::set_aside(path)?;
            (muster_vault::Vault::open(path, api_key.expose())?, Some(aside))
        }
        other => (other?, None),
    };
    let key = entry::opening_key(&mut store)?;
    Ok(Opened { store, key, void })
}
