//! What of a connection makes a client: server, authority, credentials. Nothing on the agent's machine is read, run or asked on the way there,
//! but for an agent in a pod whose job names no connection: then kube reads the pod's own service account.
//!
//! What a kubeconfig may say is in `kubeconfig`.

use std::sync::Arc;
use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use kube::{Client, Config, config::AuthInfo};
use muster_executor::{Connection, Finish, Rejection, finish::chain};
use muster_schemas::code::Code;

use crate::{cluster::Cluster, kinds::Cache, kubeconfig};

/// A host that drops packets is reported as such long before the usual time-out of a job.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Where a pod finds its service account.
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";

/// Whether this agent runs in a pod that may talk to its cluster.
pub(crate) fn in_cluster() -> bool {
    std::path::Path::new(SERVICE_ACCOUNT).exists()
}

/// Where a cluster is and with what it lets us in, read from a connection.
pub(crate) struct Target {
    /// `https://…`
    pub(crate) server: String,
    /// The certificates (PEM) that its one must be signed by; `None` is the system's.
    pub(crate) ca: Option<String>,
    /// The name in its certificate, where that is not the server's.
    pub(crate) tls_server_name: Option<String>,
    /// The namespace of what names none.
    pub(crate) namespace: Option<String>,
    /// What it lets us in with. Only fields that hold the thing itself are ever set, never those that name a file or a program.
    pub(crate) auth: AuthInfo,
}

/// Makes the client. Connects to nothing yet.
pub(crate) fn open(connection: Option<&Connection>, kinds: Arc<Cache>) -> Result<Cluster, Box<Finish>> {
    // An error means that the process has a provider already, which does as well.
    let _already_set = rustls::crypto::ring::default_provider().install_default();
    let (name, mut config) = match connection {
        Some(connection) => (connection.name.to_string(), config(connection).map_err(|rejection| Box::new(rejection.into()))?),
        None => {
            let config = Config::incluster_env().map_err(|error| {
                let message = format!("this job names no connection, and the service account of this pod can't be used: {}", chain(&error));
                Box::new(Finish::failed(Code::ExecutorUnavailable, message))
            })?;
            (String::new(), config)
        }
    };
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    config.default_retry = false;
    let (server, namespace) = (config.cluster_url.to_string(), config.default_namespace.clone());
    let server = server.trim_end_matches('/').to_owned();
    let key = format!("{name} {server}");
    let client = Client::try_from(config).map_err(|error| {
        let message = format!("the credentials can't be used: {}", chain(&error));
        Box::new(Finish::rejected(Code::CredentialsInvalid, message))
    })?;
    Ok(Cluster { client, server, namespace, key, kinds })
}

fn config(connection: &Connection) -> Result<Config, Rejection> {
    let target = target(connection)?;
    let settings = |problem: String| Rejection::new(Code::SettingsInvalid, format!("connection `{}`: {problem}", connection.name));
    let server: http::Uri = target.server.parse().map_err(|error| settings(format!("server: {error}")))?;
    // Without TLS everybody on the way could read the credentials, and use them.
    if server.scheme() != Some(&http::uri::Scheme::HTTPS) || server.host().is_none_or(str::is_empty) {
        return Err(settings(format!("server: `{}` is no https URL", target.server)));
    }
    let mut config = Config::new(server);
    if let Some(pem) = &target.ca {
        config.root_cert = Some(certificates(pem).ok_or_else(|| settings("ca: no certificates (PEM)".to_owned()))?);
    }
    config.tls_server_name = target.tls_server_name;
    config.auth_info = target.auth;
    if let Some(namespace) = target.namespace {
        config.default_namespace = namespace;
    }
    Ok(config)
}

fn target(connection: &Connection) -> Result<Target, Rejection> {
    let (server, ca, namespace, context) = connection.read(|fields| {
        let read = (fields.text("server")?, fields.text("ca")?, crate::fields::namespace(fields)?, fields.text("context")?);
        fields.end()?;
        Ok(read)
    })?;
    let credentials = |problem: String| Rejection::new(Code::CredentialsInvalid, format!("connection `{}`: {problem}", connection.name));
    let settings = |problem: &str| Rejection::new(Code::SettingsInvalid, format!("connection `{}`: {problem}", connection.name));
    let has = |field: &str| connection.credentials.get(field).is_some();
    if has("kubeconfig") {
        if has("token") || has("certificate") || has("private_key") {
            return Err(credentials("a `kubeconfig` stands alone".to_owned()));
        }
        if server.is_some() || ca.is_some() {
            return Err(settings("`server` and `ca` are the kubeconfig's to say"));
        }
        let mut target = kubeconfig::read(connection.secret("kubeconfig")?, context).map_err(credentials)?;
        target.namespace = namespace.or(target.namespace);
        return Ok(target);
    }
    if context.is_some() {
        return Err(settings("`context` is for credentials with a `kubeconfig`"));
    }
    let Some(server) = server else { return Err(settings("`server` is missing (there is no `kubeconfig` to say it)")) };
    let mut auth = AuthInfo::default();
    match (has("token"), has("certificate") || has("private_key")) {
        (true, false) => {
            let problem =
                || credentials("the `token` can't be used: it has more than one line, or other characters than tokens have".to_owned());
            auth.token = Some(token(connection.secret("token")?).ok_or_else(problem)?.into());
        }
        (false, true) => {
            auth.client_certificate_data = Some(BASE64.encode(connection.secret("certificate")?));
            auth.client_key_data = Some(BASE64.encode(connection.secret("private_key")?).into());
        }
        _ => return Err(credentials("give one of `kubeconfig`, `token`, and `certificate` with `private_key`".to_owned())),
    }
    Ok(Target { server: server.to_owned(), ca: ca.map(str::to_owned), tls_server_name: None, namespace, auth })
}

/// A bearer token, without the line break that files end with. `None` when it can't be one: kube takes it for granted that it fits a header.
pub(crate) fn token(text: &str) -> Option<String> {
    let text = text.trim();
    (!text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic())).then(|| text.to_owned())
}

/// The certificates of PEM, as DER; `None` when there are none or one is broken.
fn certificates(pem: &str) -> Option<Vec<Vec<u8>>> {
    use rustls::pki_types::{CertificateDer, pem::PemObject as _};
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).map(|der| der.map(|der| der.to_vec())).collect();
    certificates.ok().filter(|certificates| !certificates.is_empty())
}
