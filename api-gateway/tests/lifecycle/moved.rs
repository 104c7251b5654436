//! Changing what operators say of an agent, and giving it to another pool.

use muster_schemas::{
    connection::Mailbox,
    subjects::{self, broker::ConsumerApi},
    topology, wire,
};
use serde_json::{Value, json};

use crate::{
    stack::{POOL, body, come_back},
    world::{World, path, permissions},
};

#[tokio::test]
async fn what_operators_say_goes_first_what_is_absent_stays_and_null_takes_away() {
    let world = World::start().await;
    let (joined, id) = world.agent("web-1").await;
    let admin = world.admin();
    let change =
        json!({"description": "in the cellar", "labels": {"zone": "south", "rack": "7"}, "tags": ["blue", "*"], "capabilities": ["shell"]});
    let data = admin.patch(&path(&id), &change).await.data(200).clone();
    assert_eq!((data["labels"]["zone"].as_str(), data["labels"]["rack"].as_str()), (Some("south"), Some("7")));
    assert_eq!((&data["capabilities"], &data["tags"]), (&json!(["shell"]), &json!(["*", "blue"])));
    // The agent comes back and says the same of itself as before.
    come_back(&world.two, joined["api_key"].as_str().unwrap(), &body("x")).await.data(200);
    let data = admin.put(&path(&id), &json!({"tags": []})).await.data(200).clone();
    assert_eq!((data["labels"]["zone"].as_str(), &data["capabilities"]), (Some("south"), &json!(["shell"])));
    assert!(data["tags"].is_null() && data["description"] == "in the cellar");
    let data = admin.patch(&path(&id), &json!({"description": null, "labels": {}, "capabilities": null})).await.data(200).clone();
    assert_eq!((data["description"].is_null(), data["labels"]["zone"].as_str()), (true, Some("north")));
    assert_eq!(data["capabilities"], json!(["probe", "shell"]));
    assert_eq!(world.settled(&id), 0, "nothing of that cuts it off");
    assert_eq!(admin.patch(&path(&id), &json!({})).await.data(200)["name"], "web-1");
}

#[tokio::test]
async fn an_empty_list_of_executors_allows_none() {
    let world = World::start().await;
    let (_, id) = world.agent("web-1").await;
    let admin = world.admin();
    let data = admin.patch(&path(&id), &json!({"capabilities": []})).await.data(200).clone();
    assert_eq!(data["capabilities"], json!([]));
    let command = json!({"type": "shell", "params": {"command": "true"}});
    let refused = admin.post(&format!("{}/commands", path(&id)), &command).await;
    assert_eq!(refused.code(), "type_unknown");
    let group = json!({"type": "shell.run", "params": {"command": "true"}, "target": {"all": {"pool": POOL}}});
    let refused = admin.post("/api/v1/jobs", &group).await;
    assert_eq!(refused.code(), "no_agent_matches", "{}", refused.text);
    assert_eq!(admin.get("/api/v1/agents?capability=shell").await.data(200), &json!([]));
}

#[tokio::test]
async fn an_agent_that_is_moved_is_cut_off_and_registers_in_the_new_pool_with_the_same_key() {
    let world = World::start().await;
    let first = body("web-1");
    let (joined, id) = world.agent_with(&first).await;
    let (admin, key) = (world.admin(), joined["api_key"].as_str().unwrap());
    assert_eq!(admin.patch(&path(&id), &json!({"pool": "none"})).await.code(), "pool_not_found");
    let command = json!({"type": "shell", "params": {"command": "true"}});
    let waits = admin.post(&format!("{}/commands", path(&id)), &command).await.data(202)["command_id"].as_str().unwrap().to_owned();
    let busy = admin.patch(&path(&id), &json!({"pool": "other", "description": "moved"})).await;
    assert_eq!((busy.code(), busy.status.as_u16()), ("agent_busy", 409));
    assert!(world.view(&id).await["description"].is_null(), "none of it was done");
    admin.post(&format!("/api/v1/jobs/{waits}/cancel"), &json!({})).await.data(200);

    let core = world.stack.broker().await;
    let queue = async || {
        let info = core.request(ConsumerApi::Info.subject(topology::COMMANDS, id.as_str()), "".into()).await.unwrap();
        serde_json::from_slice::<Value>(&info.payload).unwrap()
    };
    assert_eq!(queue().await["name"], id.as_str(), "made for the command");

    let mailboxes = world.stack.bucket(topology::MAILBOXES).await;
    mailboxes.put(id.as_str(), wire::encode(&Mailbox::default()).into()).await.unwrap();
    let data = admin.patch(&path(&id), &json!({"pool": "other", "description": "moved"})).await.data(200).clone();
    assert_eq!(mailboxes.get(id.as_str()).await.unwrap(), None, "what was sealed to it in the old pool");
    assert_eq!((data["pool"].as_str(), data["description"].as_str(), world.settled(&id)), (Some("other"), Some("moved"), 1));
    assert!(world.is_refused(first["public_key"].as_str().unwrap()).await);
    // A gateway may have died before the end of it, so until the agent is back a repeated request makes sure.
    admin.patch(&path(&id), &json!({"pool": "other"})).await.data(200);
    assert_eq!(world.settled(&id), 2);
    assert_eq!(come_back(&world.two, key, &first).await.code(), "key_revoked");
    let back = come_back(&world.two, key, &body("x")).await.data(200).clone();
    assert_eq!((back["pool"].as_str(), back["agent_id"].as_str()), (Some("other"), Some(id.as_str())));
    let claims = permissions(back["jwt"].as_str().unwrap()).to_string();
    assert!(claims.contains("heartbeats.other.") && !claims.contains(&format!("heartbeats.{POOL}.")), "{claims}");
    admin.patch(&path(&id), &json!({"pool": "other"})).await.data(200);
    assert_eq!(world.settled(&id), 2, "it is there already");

    admin.post(&format!("{}/commands", path(&id)), &command).await.data(202);
    assert_eq!(queue().await["config"]["filter_subject"], subjects::commands_to(&"other".parse().unwrap(), &id));
}

#[tokio::test]
async fn one_that_has_not_registered_or_is_revoked_is_moved_by_the_dispatcher_too() {
    let world = World::start().await;
    let (admin, (_, revoked)) = (world.admin(), world.agent("web-1").await);
    world.act(&revoked, "revoke").await.data(200);
    let data = admin.post("/api/v1/agents", &json!({"name": "web-2", "pool": POOL})).await.data(201).clone();
    let pending = data["id"].as_str().unwrap().parse().unwrap();
    for id in [revoked, pending] {
        let before = world.settled(&id);
        admin.patch(&path(&id), &json!({"pool": "other"})).await.data(200);
        assert_eq!((world.view(&id).await["pool"].as_str(), world.settled(&id)), (Some("other"), before + 1));
    }
}
