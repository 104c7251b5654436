//! `docker.pull`, and credentials of registries.

use bollard::{
    auth::DockerCredentials,
    query_parameters::{PushImageOptionsBuilder, RemoveImageOptionsBuilder, TagImageOptionsBuilder},
};
use futures_util::StreamExt as _;
use muster_executor::Executor as _;
use muster_schemas::{code::Code, connection::ConnectionKind, result::Outcome};
use serde_json::json;

use crate::{
    bench::{Bench, IMAGE, Job, error, fact, registry, texts},
    host::PASSWORD,
};

/// Puts the image into both registries, by this name, and takes it from the host.
pub(crate) async fn pushed(bench: &Bench, name: &str) {
    let image = format!("{}/{name}", bench.host.open);
    let tag = TagImageOptionsBuilder::default().repo(&image).tag("1").build();
    bench.client.tag_image(IMAGE, Some(tag)).await.unwrap();
    let options = PushImageOptionsBuilder::default().tag("1").build();
    let mut news = bench.client.push_image(&image, Some(options), Some(DockerCredentials::default()));
    while let Some(step) = news.next().await {
        step.unwrap();
    }
    drop(news);
    forget(bench, &format!("{image}:1")).await;
}

async fn forget(bench: &Bench, image: &str) {
    bench.client.remove_image(image, Some(RemoveImageOptionsBuilder::default().build()), None).await.unwrap();
}

#[tokio::test]
async fn an_image_is_pulled_with_the_credentials_of_its_registry_only() {
    let bench = Bench::new().await;
    pushed(&bench, "team/app").await;
    let image = format!("{}/team/app:1", bench.host.locked);
    let bare = bench.run("docker.pull", json!({"image": image})).await;
    assert_eq!(error(&bare).0, Code::RegistryRefused, "{bare:?}");
    let mut wrong = bench.job("docker.pull", json!({"image": image}));
    wrong.connection = Some(registry(&bench.host.locked, "wrong-password"));
    let wrong = wrong.run().await;
    assert_eq!(error(&wrong).0, Code::RegistryRefused, "{wrong:?}");
    assert!(!format!("{wrong:?}").contains("wrong-password"));
    // Credentials go nowhere but to their registry.
    let mut other = bench.job("docker.pull", json!({"image": image}));
    other.connection = Some(registry("registry.example.com", PASSWORD));
    let other = other.run().await;
    assert_eq!((other.outcome, error(&other).0), (Outcome::Rejected, Code::ConnectionMismatch));
    let mut right = bench.job("docker.pull", json!({"image": image}));
    right.connection = Some(registry(&bench.host.locked, PASSWORD));
    let (right, progress) = right.run_with_progress().await;
    assert_eq!(right.outcome, Outcome::Succeeded, "{right:?}");
    assert!(fact(&right, "/digests/0").as_str().unwrap().starts_with(&format!("{}/team/app@sha256:", bench.host.locked)));
    assert_eq!(progress.last().unwrap().percent, 100);
    // A run pulls it where it is missing.
    forget(&bench, &image).await;
    let mut run = bench.job("docker.run", json!({"image": image, "command": ["echo", "pulled"]}));
    run.connection = Some(registry(&bench.host.locked, PASSWORD));
    assert_eq!(texts(&run.run().await).0, "pulled\n");
}

#[tokio::test]
async fn an_image_that_is_not_there_is_told_from_one_that_is_refused() {
    let bench = Bench::new().await;
    for image in [format!("{}/no/such:1", bench.host.open), format!("{}/no/such", bench.host.open)] {
        let execution = bench.run("docker.pull", json!({"image": image})).await;
        assert_eq!(error(&execution).0, Code::ImageNotFound, "{execution:?}");
    }
    let away = bench.run("docker.pull", json!({"image": "127.0.0.1:1/a:1"})).await;
    assert_eq!(error(&away).0, Code::EngineFailed, "{away:?}");
    for (params, place) in [
        (json!({}), "params.image: is missing"),
        (json!({"image": "a b"}), "params.image: "),
        (json!({"image": "a", "platform": "linux/../x"}), "params.platform: "),
        (json!({"image": "a", "all": true}), "params.all: unknown"),
    ] {
        assert!(bench.refusal("docker.pull", params).1.starts_with(place), "{place}");
    }
}

#[tokio::test]
async fn a_connection_to_a_registry_can_be_tried() {
    let bench = Bench::new().await;
    assert!(bench.docker.probe(ConnectionKind::Ssh).is_none());
    for (password, code) in [(PASSWORD, None), ("wrong-password", Some(Code::RegistryRefused))] {
        let mut job = Job::of(bench.docker.probe(ConnectionKind::Registry).unwrap());
        job.connection = Some(registry(&bench.host.locked, password));
        let execution = job.run().await;
        assert_eq!(execution.error.as_ref().map(|error| error.code), code, "{execution:?}");
        assert!(!format!("{execution:?}").contains(password));
    }
}
