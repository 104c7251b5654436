#![allow(clippy::all)]
#[path = "stack/stack.rs"]
mod stack;
use futures_util::StreamExt as _;
#[tokio::test]
async fn t() {
    let stack = stack::Stack::start().await;
    let client = async_nats::ConnectOptions::with_credentials_file(stack.deployment.layout.gateway_creds()).await.unwrap().custom_inbox_prefix("_GW.abc").event_callback(|e| async move { eprintln!("EV {e}") }).connect(stack.server.url()).await.unwrap();
    muster_broker_config::provision::provision(&client, &stack.deployment.bootstrap).await.unwrap();
    let js = async_nats::jetstream::new(client.clone());
    let kv = js.get_key_value("pools").await.unwrap();
    let mut w = kv.watch_all().await.unwrap();
    let r = tokio::time::timeout(std::time::Duration::from_secs(3), w.next()).await;
    eprintln!("GOT {r:?}");
    let conf = std::fs::read_to_string(stack.deployment.layout.server_config()).unwrap();
    for l in conf.lines() { if l.len() < 200 { eprintln!("C {l}"); } }
    let s = js.get_stream("KV_pools").await.unwrap();
    eprintln!("{:?}", s.cached_info().config);
    let kvx = js.get_key_value("pools").await.unwrap();
    eprintln!("entry {:?}", kvx.entry("default").await);
    let mut names = s.consumers();
    while let Some(c) = names.next().await { eprintln!("CONS {c:?}"); }
    panic!();
}
