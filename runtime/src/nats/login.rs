//! Who connects: credentials that last, or an identity that is asked for at each connect.

use std::{
    fmt, io,
    path::PathBuf,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use async_nats::{Auth, AuthError, ConnectOptions};

use super::ConnectError;
use crate::config::Secret;

/// Who connects to the broker.
#[derive(Clone, Default)]
pub enum Login {
    /// Nobody; for brokers without authentication (tests).
    #[default]
    Anonymous,
    /// A `.creds` file: a user JWT and its seed.
    File(PathBuf),
    /// The text of a `.creds` file.
    Text(Secret),
    /// An identity that is asked for at each connect; see [`Login::callback`].
    Callback(Callback),
}

/// A user JWT, and a function that signs the broker's nonce with the key that the JWT names.
#[derive(Clone)]
pub struct Identity {
    jwt: String,
    sign: Arc<SignFn>,
}

type SignFn = dyn Fn(&[u8]) -> Result<Vec<u8>, IdentityError> + Send + Sync;
type IdentityFuture = Pin<Box<dyn Future<Output = Result<Identity, IdentityError>> + Send>>;

/// The function behind [`Login::Callback`].
#[derive(Clone)]
pub struct Callback(Arc<dyn Fn() -> IdentityFuture + Send + Sync>);

/// There is no identity at present, for example because it expired and can't be renewed now. The
/// attempt to connect fails, and the next one asks again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct IdentityError(String);

impl IdentityError {
    /// Says why.
    pub fn new(reason: impl fmt::Display) -> Self {
        Self(reason.to_string())
    }
}

impl Identity {
    /// An identity: `sign` gets the nonce and returns the 64 bytes of its signature.
    pub fn new<F>(jwt: impl Into<String>, sign: F) -> Self
    where
        F: Fn(&[u8]) -> Result<Vec<u8>, IdentityError> + Send + Sync + 'static,
    {
        Self { jwt: jwt.into(), sign: Arc::new(sign) }
    }
}

impl Login {
    /// Asks `ask` for the identity at each connect, so that a renewed JWT is used from then on.
    /// It should be quick: the connection waits for it, five seconds at most.
    pub fn callback<F, Fut>(ask: F) -> Self
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Identity, IdentityError>> + Send + 'static,
    {
        Self::Callback(Callback(Arc::new(move || Box::pin(ask()))))
    }

    pub(super) async fn options(self) -> Result<ConnectOptions, ConnectError> {
        match self {
            Self::Anonymous => Ok(ConnectOptions::new()),
            Self::File(path) => {
                let loaded = ConnectOptions::with_credentials_file(&path).await;
                loaded.map_err(|source| ConnectError::Credentials { path: Some(path), source })
            }
            Self::Text(text) => {
                let parsed = ConnectOptions::with_credentials(text.expose());
                parsed.map_err(|source: io::Error| ConnectError::Credentials { path: None, source })
            }
            Self::Callback(Callback(ask)) => Ok(ConnectOptions::with_auth_callback(move |nonce| {
                let asked = ask();
                Synchronous(Mutex::new(Box::pin(async move { answer(asked, &nonce).await })))
            })),
        }
    }
}

async fn answer(asked: IdentityFuture, nonce: &[u8]) -> Result<Auth, AuthError> {
    let identity = asked.await.map_err(AuthError::new)?;
    let signature = (identity.sign)(nonce).map_err(AuthError::new)?;
    let mut auth = Auth::new();
    auth.jwt = Some(identity.jwt);
    auth.signature = Some(signature);
    Ok(auth)
}

/// async-nats wants the callback's future to be `Sync`, which few futures are. Polling needs
/// `&mut`, so a mutex that is never contended makes any of them so.
struct Synchronous<T>(Mutex<Pin<Box<dyn Future<Output = T> + Send>>>);

impl<T> Future for Synchronous<T> {
    type Output = T;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        let inner = self.get_mut().0.get_mut();
        inner.unwrap_or_else(PoisonError::into_inner).as_mut().poll(context)
    }
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anonymous => f.write_str("Anonymous"),
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
            Self::Text(text) => f.debug_tuple("Text").field(text).finish(),
            Self::Callback(callback) => callback.fmt(f),
        }
    }
}

impl fmt::Debug for Callback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Callback")
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Identity")
    }
}
