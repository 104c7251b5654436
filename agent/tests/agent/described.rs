//! What an agent tells of its executors: the digest in its heartbeats, and the description that it names.

use muster_schemas::{
    control::DESCRIBE,
    describe::{Description, digest},
    subjects, wire,
};

use crate::bench::Bench;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heartbeats_name_what_the_agent_answers_when_it_is_asked_what_it_can_do() {
    let bench = Bench::start().await;
    let agent = bench.agent(1).await;
    let beat = bench.heartbeat_of(&agent.id, |beat| beat.description.is_some()).await;
    let answer = bench.gateway.request(subjects::rpc(&agent.id, DESCRIBE), "".into()).await.unwrap();
    assert_eq!(beat.description, Some(digest(&answer.payload)));
    let description: Description = wire::decode(&answer.payload).unwrap();
    let names: Vec<_> = description.executors.iter().map(|executor| executor.name.clone()).collect();
    assert_eq!(names, beat.executors, "it tells of what is on, and of nothing else");
    let command = description.types().find(|info| info.name == "shell.run").unwrap();
    assert!(command.params["properties"]["command"].is_object());
}
