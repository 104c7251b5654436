//! A service in Rust that submits a job straight onto NATS, waits for its stored result and prints it.
//!
//! `cargo run -p muster-client --example submit -- nats://127.0.0.1:4222 service.creds`

use std::time::Duration;

use muster_client::{Client, NewJob};

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    let (Some(url), Some(credentials)) = (args.next(), args.next()) else {
        anyhow::bail!("usage: submit NATS_URL CREDENTIALS_FILE [POOL]");
    };
    let pool = args.next().unwrap_or_else(|| "default".into()).parse()?;

    let client = Client::connect(&url, &credentials).await?;
    let job = NewJob::new("probe.echo", serde_json::json!({"greeting": "hello from Rust"})).timeout(Duration::from_secs(10));
    let result = client.run(&pool, job, Duration::from_secs(30)).await?;

    #[allow(clippy::print_stdout, reason = "an example shows what it got")]
    {
        println!("{}", serde_json::to_string(&result)?);
    }
    Ok(())
}
