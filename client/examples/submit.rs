//! A service in Rust that submits a job straight onto NATS, waits for its stored result and prints it.
//!
//! `cargo run -p muster-client --example submit -- nats://127.0.0.1:4222 service.creds`
//!
//! With TLS on, `MUSTER_CA` names the authority's certificate, and `muster creds issue` wrote a certificate and its key beside the credentials.

use std::{path::PathBuf, time::Duration};

use muster_client::{Client, NewJob, Tls};

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    let (Some(url), Some(credentials)) = (args.next(), args.next()) else {
        anyhow::bail!("usage: submit NATS_URL CREDENTIALS_FILE [POOL]");
    };
    let pool = args.next().unwrap_or_else(|| "default".into()).parse()?;

    #[allow(clippy::disallowed_methods, reason = "an example has no settings of its own")]
    let tls = std::env::var_os("MUSTER_CA").map(|ca| {
        let beside = |suffix| PathBuf::from(&credentials).with_extension(suffix);
        Tls { authority: Some(ca.into()), certificate: Some((beside("pem"), beside("key"))) }
    });
    let client = Client::connect_with(&url, &credentials, &tls.unwrap_or_default()).await?;
    let job = NewJob::new("probe.echo", serde_json::json!({"greeting": "hello from Rust"})).timeout(Duration::from_secs(10));
    let result = client.run(&pool, job, Duration::from_secs(30)).await?;

    #[allow(clippy::print_stdout, reason = "an example shows what it got")]
    {
        println!("{}", serde_json::to_string(&result)?);
    }
    Ok(())
}
