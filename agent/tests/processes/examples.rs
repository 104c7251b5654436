//! The plugins of `agent/plugins`, as they are.

use muster_agent::executors::Plugins;
use muster_executor::Connection;
use muster_schemas::{connection::ConnectionKind, sealed::Credentials};

use crate::bench::*;

/// A registry with both, from a folder that is safe to have plugins in.
async fn plugins() -> (tempfile::TempDir, Registry) {
    // What the examples call.
    muster_test_packages::program("jq", "jq");
    let folder = tempfile::tempdir().unwrap();
    for name in ["disk", "signer"] {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("plugins").join(name);
        let installed = std::process::Command::new("install").args(["-m", "755"]).arg(source).arg(folder.path()).status();
        assert!(installed.unwrap().success());
    }
    // Where python3 is a wrapper, it needs its home.
    let options = Options { plugins: Some(Plugins::look(folder.path(), Registry::KNOWN).unwrap()), ..options() };
    let enabled = ["disk", "signer"];
    let registry = Registry::new(&enabled, &options).unwrap().with_plugins(&enabled, &options).await.unwrap();
    (folder, registry)
}

async fn job(registry: &Registry, kind: &str, params: Value, connection: Option<Connection>) -> (Execution, Vec<String>) {
    let (context, mut feed) = Context::new(CancellationToken::new());
    let name = connection.as_ref().map(|connection| connection.name.clone());
    let prepared = registry.check(kind, &params, name.as_ref()).unwrap();
    let reading = async {
        let mut messages = Vec::new();
        while let Some(update) = feed.next().await {
            if let Update::Progress(progress) = update {
                messages.push(progress.message);
            }
        }
        messages
    };
    tokio::join!(registry.run(prepared, attempt(LONG), connection, context), reading)
}

#[tokio::test]
async fn the_examples_describe_themselves_and_their_examples_are_right() {
    let (_folder, registry) = plugins().await;
    let types: Vec<_> = registry.description().executors.into_iter().flat_map(|executor| executor.types).collect();
    let find = |name: &str| types.iter().find(|info| info.name == name).unwrap().clone();
    let (usage, sign) = (find("disk.usage"), find("signer.sign"));
    assert_eq!((usage.example, usage.params["required"].clone()), (json!({"path": "/"}), json!(["path"])));
    assert_eq!((sign.connections, sign.needs_connection), (vec![ConnectionKind::Secret], true));
    let refused = registry.check("signer.sign", &sign.example, None).unwrap_err();
    assert_eq!(refused.code, Code::ConnectionMismatch);
}

#[tokio::test]
async fn the_example_in_shell_tells_how_full_a_disk_is() {
    let (_folder, registry) = plugins().await;
    let (ended, said) = job(&registry, "disk.usage", json!({"path": "/"}), None).await;
    let data = ended.data.clone().unwrap_or_default();
    assert!(ended.outcome == Outcome::Succeeded && data["kilobytes"].as_u64() > Some(0), "{ended:?}");
    assert!(out(&ended).ends_with(" /\n") && said == ["looking at /"], "{ended:?} {said:?}");
    for (params, problem) in [(json!({}), "params.path: expected text"), (json!({"path": "-h"}), "params.path: must be an absolute path")] {
        let (ended, _) = job(&registry, "disk.usage", params, None).await;
        assert_eq!((ended.outcome, &*ended.error.unwrap().message), (Outcome::Rejected, problem));
    }
    let (ended, _) = job(&registry, "disk.usage", json!({"path": "/no \"such\" place"}), None).await;
    assert_eq!((ended.outcome, &*ended.error.unwrap().message), (Outcome::Failed, "can't look at /no \"such\" place"));
    assert!(ended.stderr.to_text().contains("No such file"));
}

#[tokio::test]
async fn the_example_in_python_signs_with_a_secret_that_leaves_no_trace() {
    let (_folder, registry) = plugins().await;
    let connection = |fields: &[(&str, &str)]| {
        let fields = fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let credentials = Credentials { fields, ..Credentials::default() };
        Some(Connection { name: "orders".parse().unwrap(), kind: ConnectionKind::Secret, settings: json!({}), credentials })
    };
    let key = connection(&[("key", "key")]);
    let text = "The quick brown fox jumps over the lazy dog";
    let (ended, said) = job(&registry, "signer.sign", json!({"texts": [text, "b"]}), key.clone()).await;
    assert_eq!(ended.outcome, Outcome::Succeeded, "{ended:?}");
    // A well-known test vector of HMAC-SHA-256.
    let known = "f7bc83f430538424b13298e6aa6fb143ef4d59a14946175997479dbc2d1a3cd8";
    assert_eq!(ended.data.unwrap()["signatures"][0], known);
    assert_eq!(said.last().unwrap(), "2 of 2");
    let (ended, _) = job(&registry, "signer.sign", json!({"texts": []}), key).await;
    assert_eq!((ended.outcome, &*ended.error.unwrap().message), (Outcome::Rejected, "params.texts: expected a list of texts"));
    let (ended, _) = job(&registry, "signer.sign", json!({"texts": ["a"]}), connection(&[("other", "x")])).await;
    assert!(ended.error.unwrap().message.contains("`orders` have no `key`"));
}
