//! How an agent connects to the broker.

use muster_runtime::nats::{Broker, Connect};
use muster_schemas::subjects;

use crate::{
    config::Config,
    identity::{Identity, certificate::Certificates},
};

/// Connects with whatever identity is newest at each connect.
pub(crate) async fn connect(config: &Config, identity: &Identity, certificates: &Certificates) -> anyhow::Result<Broker> {
    let stored = identity.stored();
    let urls = config.nats_url.clone().unwrap_or_else(|| stored.nats_urls.clone());
    let (authority, certificate) = certificates.for_broker().unzip();
    let connect = Connect {
        login: identity.login(),
        inbox_prefix: Some(subjects::agent_inbox(&stored.agent_id)),
        root_certificates: config.nats_ca.clone().or(authority),
        client_certificate: certificate,
        // A broker that is away now is no reason to give up.
        retry_first: true,
        ..Connect::new(urls, stored.agent_id.to_string())
    };
    let identity = identity.clone();
    let gate = move |_, _| {
        let identity = identity.clone();
        async move {
            identity.may_connect().await;
            None
        }
    };
    // An inbox gets at most its credits and refusals; what waits to be sent is bounded by jobs, leases and log lines.
    let options =
        |options: async_nats::ConnectOptions| options.subscription_capacity(1024).client_capacity(2048).reconnect_to_server_callback(gate);
    Ok(connect.connect_with(options).await?)
}
