//! The deployment of a stack: its keys and credentials, made by the same code as `muster init`, in the stack's folder.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use muster_broker_config::{
    init::{self, Broker, Deployment, InitOptions},
    layout::Layout,
    server::{Places, find_binary},
};
use muster_schemas::{
    names::PoolName,
    topology::{EVENT_BYTES, LOG_BYTES},
};

use super::{Variant, folder::Folder, ports::Ports};
use crate::{
    commands::{May, issue},
    failure::Failure,
    profile::{LOCAL, Profiles, path},
};

/// What the parts are started with.
#[derive(Debug)]
pub(super) struct Made {
    pub(super) deployment: Deployment,
    pub(super) nats_server: PathBuf,
    pub(super) admin_key: String,
    pub(super) service_creds: PathBuf,
}

/// Makes everything, or finds it as it was made before.
pub(super) async fn make(folder: &Folder, ports: Ports, pool: &PoolName, tls: bool, variant: Option<&Variant>) -> anyhow::Result<Made> {
    let nats_server = match variant.and_then(|variant| variant.nats_server.clone()) {
        Some(wrapped) => wrapped,
        None => find_binary(&Places::from_env()).await?,
    };
    let broker = Broker {
        max_file_store: max_file_store(&folder.store()),
        durable: variant.is_none_or(|variant| variant.durable),
        tls: tls.then(Vec::new),
        ..Broker::local(Some(ports.nats), folder.store())
    };
    let options = InitOptions { broker, pool: pool.clone() };
    // It blocks, and nothing else is going on yet.
    let deployment = init::init(&folder.deployment(), &options).context("can't make the deployment")?;
    let admin_key = match &deployment.admin_key {
        Some(key) => key.to_string(),
        None => known_key(folder.root()).ok_or_else(|| lost_key(&deployment.layout))?,
    };
    let service_creds = deployment.layout.service_creds(pool.as_str());
    if !service_creds.exists() {
        issue(&deployment.layout, pool.as_str(), May { publish: std::slice::from_ref(pool), watch: &[] }, &service_creds)?;
    }
    init::certify(&deployment.layout, pool.as_str(), &service_creds).context("can't make the service's certificate")?;
    Ok(Made { nats_server, admin_key, service_creds, deployment })
}

/// The broker sets aside the caps of events and logs at once, and would refuse to start on a small disk: three quarters of what is
/// free are its own limit. There it is told to take them, since a trial never fills them.
fn max_file_store(folder: &Path) -> Option<u64> {
    let stat = nix::sys::statvfs::statvfs(folder).ok()?;
    let free = stat.blocks_available().saturating_mul(stat.fragment_size());
    let wanted = u64::try_from(EVENT_BYTES + LOG_BYTES).ok()?.saturating_mul(2);
    (free / 4 * 3 < wanted).then_some(wanted)
}

/// The key that an earlier `up` on this folder left in the profile.
fn known_key(root: &Path) -> Option<String> {
    let profiles = Profiles::load(&path().ok()?).ok()?;
    let local = profiles.profiles.get(LOCAL)?;
    local.api_key.clone().filter(|_| local.data_dir.as_deref() == Some(root))
}

fn lost_key(layout: &Layout) -> Failure {
    Failure::new(format!("the administrator's key is not in {} any more", layout.admin_key().display()))
        .hint(format!("put it back there, or {}", new_key(layout)))
}

/// How to get in again without a key that works. Whoever owns the files owns the deployment: a first key whose record is gone is made anew,
/// and the gateway stores its record at its next start beside those that are there.
pub(super) fn new_key(layout: &Layout) -> String {
    let [key, record] = [layout.admin_key(), layout.bootstrap()].map(|path| path.display().to_string());
    format!("let the next `muster up` make a new one; its jobs and agents stay: rm -f '{key}' '{record}'")
}
