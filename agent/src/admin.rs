//! The local admin interface: what a person on this machine puts into the vault, on the port of `/healthz`.
//!
//! | method and path | what |
//! |---|---|
//! | `GET /vault` | the names |
//! | `PUT /vault/{name}` | keeps credentials: a JSON object of fields, or with `?field=` the value of one |
//! | `POST /vault/{name}/test` | whether they can be opened, and which fields they have |
//! | `DELETE /vault/{name}` | removes them |
//!
//! No answer holds a secret. Who may come in is for [`door`] to say; the other endpoints of the port are [`muster_runtime::http`]'s, and open
//! to everybody on the machine.

mod door;
mod entries;
pub(crate) mod peer;
mod problem;
pub(crate) mod token;

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, OnceLock, PoisonError, RwLock},
};

use axum::{
    Router, middleware,
    routing::{get, post, put},
};
use muster_runtime::{config::Secret, shutdown::Shutdown};
use muster_schemas::code::Code;
use tokio::net::TcpListener;

use crate::{config::Config, identity::FileError, vault::Vault};
use door::Limiter;
use problem::Refusal;

/// The interface; clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Admin(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// Where it listens.
    address: SocketAddr,
    /// Known once the state directory is this process's.
    token: OnceLock<Secret>,
    limiter: Mutex<Limiter>,
    /// The vault of the present identity.
    vault: RwLock<Option<Vault>>,
}

impl Admin {
    /// On this port of 127.0.0.1. It lets nobody in before [`Admin::begin`].
    pub(crate) fn new(port: u16) -> Self {
        Self(Arc::new(Inner {
            address: (Ipv4Addr::LOCALHOST, port).into(),
            token: OnceLock::new(),
            limiter: Mutex::default(),
            vault: RwLock::default(),
        }))
    }

    /// Takes the token of the settings, or the one in the state directory, which is made if it is not there; and leaves word there of
    /// where it listens.
    pub(crate) fn begin(&self, config: &Config) -> Result<(), FileError> {
        token::leave_address(&config.state_dir, self.0.address)?;
        let _first = self.0.token.set(token::of(config)?);
        Ok(())
    }

    /// From now on this is the vault; `None` while there is no identity.
    pub(crate) fn has(&self, vault: Option<Vault>) {
        *self.0.vault.write().unwrap_or_else(PoisonError::into_inner) = vault;
    }

    fn vault(&self) -> Result<Vault, Refusal> {
        let vault = self.0.vault.read().unwrap_or_else(PoisonError::into_inner).clone();
        vault.ok_or_else(|| {
            Refusal::new(Code::VaultUnavailable, "this agent has no identity at the moment, and with it no vault; see /readyz")
        })
    }

    fn router(&self) -> Router {
        let refused = async || Refusal::new(Code::MethodNotAllowed, "see docs/vault.md for what this path takes");
        Router::new()
            .route("/vault", get(entries::list).fallback(refused))
            .route("/vault/{name}", put(entries::put).delete(entries::delete).fallback(refused))
            .route("/vault/{name}/test", post(entries::test).fallback(refused))
            .layer(middleware::from_fn_with_state(self.clone(), door::pass))
            .with_state(self.clone())
    }

    /// Serves it beside the other endpoints until the shutdown is requested.
    pub(crate) async fn serve(self, listener: TcpListener, others: Router, shutdown: Shutdown) -> io::Result<()> {
        let service = others.merge(self.router()).into_make_service_with_connect_info::<SocketAddr>();
        axum::serve(listener, service).with_graceful_shutdown(shutdown.requested_owned()).await
    }
}
