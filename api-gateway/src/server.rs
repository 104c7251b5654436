//! The HTTP server, with TLS or without: accepts connections up to a limit, gives each its own task, and finishes what runs when it stops.
//!
//! axum's own server has no time-out for a request's head and no limit of connections; this one is hyper's, one layer down.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{Router, body::Body};
use hyper::{Request, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use muster_runtime::{shutdown::Shutdown, tasks::Group};
use rustls::ServerConfig;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt as _;

use crate::extract::Remote;

/// Most bytes of a request's head. Cookies do not belong here, so that is plenty.
const HEAD_MAX: usize = 32 * 1024;
/// How long to wait after a failed accept: it fails when files run out, and at once again if tried at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How long a TLS handshake may take. It holds a place all the while.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Limits of the server.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) connections: usize,
    pub(crate) header_timeout: Duration,
    pub(crate) grace: Duration,
}

/// Serves until the shutdown is requested, and then until running requests are done or the grace is over. With `tls` it serves HTTPS alone.
pub(crate) async fn serve(listener: TcpListener, router: Router, limits: Limits, tls: Option<Arc<ServerConfig>>, shutdown: Shutdown) {
    let tls = tls.map(TlsAcceptor::from);
    let connections = Group::new("connection");
    let places = Arc::new(Semaphore::new(limits.connections));
    while let Some((stream, remote, place)) = next(&listener, &places, &shutdown).await {
        let (router, tls, shutdown) = (router.clone(), tls.clone(), shutdown.clone());
        drop(connections.spawn(async move {
            // Answers are small and whole: waiting to fill a packet would only delay them.
            if let Err(error) = stream.set_nodelay(true) {
                tracing::debug!(%error, "cannot set TCP_NODELAY");
            }
            match tls {
                None => connection(stream, remote, router, limits, shutdown).await,
                Some(tls) => match tokio::time::timeout(HANDSHAKE, tls.accept(stream)).await {
                    Ok(Ok(stream)) => connection(stream, remote, router, limits, shutdown).await,
                    Ok(Err(error)) => tracing::debug!(%remote, %error, "no TLS handshake"),
                    Err(_) => tracing::debug!(%remote, "no TLS handshake in time"),
                },
            }
            drop(place);
        }));
    }
    drop(listener);
    if tokio::time::timeout(limits.grace, connections.idle()).await.is_err() {
        tracing::warn!(connections = connections.count(), "requests still run after the grace; they are cut off");
        connections.abort_all();
    }
}

type Place = tokio::sync::OwnedSemaphorePermit;

/// The next connection, once there is a place for it. `None` when the shutdown was requested.
async fn next(listener: &TcpListener, places: &Arc<Semaphore>, shutdown: &Shutdown) -> Option<(TcpStream, SocketAddr, Place)> {
    let accepted = async {
        // The semaphore is never closed, so this never fails.
        let place = Arc::clone(places).acquire_owned().await.ok()?;
        loop {
            match listener.accept().await {
                Ok((stream, remote)) => return Some((stream, remote, place)),
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    };
    tokio::select! {
        accepted = accepted => accepted,
        () = shutdown.requested() => None,
    }
}

async fn connection<S>(stream: S, remote: SocketAddr, router: Router, limits: Limits, shutdown: Shutdown)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request: Request<Incoming>| {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(Remote(remote.ip()));
        router.clone().oneshot(request)
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(limits.header_timeout).max_buf_size(HEAD_MAX);
    let mut connection = std::pin::pin!(http.serve_connection(TokioIo::new(stream), service).with_upgrades());
    let outcome = tokio::select! {
        outcome = connection.as_mut() => outcome,
        () = shutdown.requested() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = outcome {
        tracing::debug!(%remote, %error, "a connection ended early");
    }
}
