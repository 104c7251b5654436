//! Commands to one agent, from the request to the agent and back into the list of its commands.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail by panicking")]

use std::time::Duration;

use muster_schemas::time::Timestamp;
use muster_tests::{Stack, eventually};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(60);

async fn send(stack: &Stack, path: &str, body: Value) -> String {
    let answer = stack.rest.post(path, &body).await;
    assert_eq!((answer.status.as_u16(), answer.text("/data/status")), (202, "queued"), "{answer:?}");
    answer.text("/data/command_id").into()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_is_away_gets_its_commands_when_it_is_back_unless_they_have_expired() {
    let mut stack = Stack::usual().await;
    let agent = stack.agent_id("agent-0").await;
    let path = format!("/agents/{agent}/commands");
    let mut sent = Vec::new();
    for number in 0..3 {
        let id = send(&stack, &path, json!({"type": "shell", "params": {"command": format!("echo here {number}"), "timeout": 30}})).await;
        let done = stack.rest.finished(&id, 60).await;
        assert_eq!((&done["state"], &done["agent_id"]), (&json!("succeeded"), &json!(agent)), "{done}");
        assert_eq!(done["result"]["stdout"], format!("here {number}\n"));
        sent.insert(0, (id, "succeeded", Some(format!("here {number}\n"))));
    }
    stack.kill_agent(0);
    let kept = send(&stack, &path, json!({"type": "shell", "params": {"command": "echo back"}})).await;
    let soon = Timestamp::now() + Duration::from_secs(3);
    let brief = send(&stack, &path, json!({"type": "shell", "params": {"command": "echo late"}, "expires_at": soon})).await;
    eventually("its agent is known to be away", SOON, || async {
        let why = stack.rest.get(&format!("/jobs/{kept}/why")).await;
        (why.text("/data/reason") == "agent_offline").then_some(())
    })
    .await;
    eventually("the brief one's time has passed", SOON, || async { (Timestamp::now() > soon).then_some(()) }).await;
    assert_eq!(stack.rest.get(&format!("/jobs/{kept}")).await.text("/data/state"), "pending");
    stack.revive_agent(0);
    let done = stack.rest.finished(&kept, 90).await;
    assert_eq!((&done["state"], &done["agent_id"], &done["result"]["stdout"]), (&json!("succeeded"), &json!(agent), &json!("back\n")));
    let expired = stack.rest.finished(&brief, 90).await;
    assert_eq!((&expired["state"], &expired["attempt"]), (&json!("expired"), &json!(0)));
    sent.insert(0, (kept, "succeeded", Some("back\n".into())));
    sent.insert(0, (brief, "expired", Some(String::new())));
    eventually("the list has all of them, newest first, with their output", SOON, || async {
        let list = stack.rest.get(&path).await;
        let rows = list.data().as_array().unwrap().iter().map(|row| {
            (row["id"].as_str().unwrap().to_owned(), row["state"].as_str().unwrap().to_owned(), row["output"].as_str().map(str::to_owned))
        });
        rows.eq(sent.iter().map(|(id, state, output)| (id.clone(), (*state).to_owned(), output.clone()))).then_some(())
    })
    .await;
    let other = stack.agent_id("agent-1").await;
    assert_eq!(stack.rest.get(&format!("/agents/{other}/commands")).await.data(), &json!([]));
}
