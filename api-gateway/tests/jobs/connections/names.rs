//! Records of connections and their names: made, changed, listed, removed, and raced for.

use muster_schemas::connection::ConnectionPlace;

use super::*;
use crate::world::pool;

fn ssh(pool: &str) -> Value {
    json!({"kind": "ssh", "pool": pool, "settings": {"host": "db-1.lan", "user": "deploy"}})
}

#[tokio::test]
async fn a_connection_is_made_changed_listed_and_removed_with_what_lies_in_mailboxes() {
    let world = World::start().await;
    let rest = world.rest();
    let one = Holder::new(&world, "default", "one").await;
    for (connection, body) in [("b", secret()), ("a", ssh("default")), ("c", ssh("other"))] {
        rest.put(&format!("/connections/{connection}"), &body).await.data(201);
    }
    let listed = async |query: &str| -> Vec<String> {
        let data = rest.get(&format!("/connections{query}")).await.data(200);
        data.as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(listed("").await, ["a", "b", "c"]);
    assert_eq!(
        (listed("?pool=default").await, listed("?kind=ssh").await),
        (vec!["a".to_owned(), "b".into()], vec!["a".to_owned(), "c".into()])
    );
    let page = rest.get("/connections?limit=2").await;
    let cursor = page.body["meta"]["page"]["cursor"].as_str().unwrap();
    assert_eq!(listed(&format!("?limit=2&cursor={cursor}")).await, ["c"]);

    let mut changed = ssh("default");
    changed["settings"]["port"] = json!(2222);
    assert_eq!(rest.put("/connections/a", &changed).await.data(200)["settings"]["port"], 2222);
    let same = rest.put("/connections/a", &changed).await.data(200);
    assert_eq!(same["updated_at"], rest.get("/connections/a").await.data(200)["updated_at"]);
    assert_eq!(rest.put("/connections/a", &ssh("other")).await.code(409), "connection_exists");
    assert_eq!(rest.put("/connections/a", &secret()).await.code(409), "connection_exists");
    assert_eq!(rest.put("/connections/d", &ssh("none")).await.code(404), "pool_not_found");
    for (field, value) in
        [("host", json!(7)), ("host", json!("a b")), ("port", json!(0)), ("pasword", json!(SECRET)), ("user", Value::Null)]
    {
        let mut wrong = ssh("default");
        wrong["settings"][field] = value;
        let refused = rest.put("/connections/d", &wrong).await;
        assert_eq!(refused.code(400), "settings_invalid");
        let detail = refused.body["detail"].as_str().unwrap();
        assert!(detail.contains(&format!("`{field}`")) && !detail.contains(SECRET), "{detail}");
    }
    assert_eq!(rest.put("/connections/A", &secret()).await.code(400), "name_invalid");
    assert_eq!(rest.put("/connections/d", &json!({"kind": "ftp", "pool": "default"})).await.code(400), "field_invalid");

    let view = look(rest, "b", 1).await;
    deliver(rest, "b", &sealed(&view, 1, SECRET)).await.data(200);
    assert_eq!(one.mailbox().await.entries.len(), 1);
    assert_eq!(rest.delete("/connections/b").await.status, 204);
    assert!(one.mailbox().await.entries.is_empty());
    assert_eq!(
        (rest.get("/connections/b").await.code(404), rest.delete("/connections/b").await.code(404)),
        ("connection_not_found", "connection_not_found")
    );
    assert_eq!(rest.put("/connections/b", &ssh("other")).await.data(201)["revision"], 0);
}

#[tokio::test]
async fn a_removal_that_was_cut_off_is_finished_by_the_next_one_and_the_name_is_free_meanwhile() {
    let world = World::start().await;
    let rest = world.rest();
    let one = Holder::new(&world, "default", "one").await;
    let connections = bucket(&world, topology::CONNECTIONS).await;
    rest.put("/connections/app", &secret()).await.data(201);
    let view = look(rest, "app", 1).await;
    deliver(rest, "app", &sealed(&view, 1, SECRET)).await.data(200);
    connections.purge(keys::record(&pool("default"), &name("app"))).await.unwrap();
    assert_eq!(rest.get("/connections/app").await.code(404), "connection_not_found");
    assert_eq!(rest.delete("/connections/app").await.status, 204);
    assert!(one.mailbox().await.entries.is_empty());
    assert_eq!(rest.delete("/connections/app").await.code(404), "connection_not_found");
}

#[tokio::test]
async fn a_name_whose_gateway_died_before_the_record_is_free_for_any_pool() {
    let world = World::start().await;
    let rest = world.rest();
    let connections = bucket(&world, topology::CONNECTIONS).await;
    for (connection, left) in [("same", "default"), ("another", "other")] {
        let place = ConnectionPlace { v: V, pool: pool(left) };
        connections.put(keys::name(&name(connection)), wire::encode(&place).into()).await.unwrap();
        assert_eq!(rest.get(&format!("/connections/{connection}")).await.code(404), "connection_not_found");
        assert_eq!(rest.get("/connections").await.data(200).as_array().unwrap().iter().filter(|one| one["name"] == connection).count(), 0);
        rest.put(&format!("/connections/{connection}"), &secret()).await.data(201);
        assert_eq!(rest.get(&format!("/connections/{connection}")).await.data(200)["pool"], "default");
    }
}

#[tokio::test]
async fn of_gateways_that_race_for_a_name_one_pool_gets_it_and_no_record_is_left_of_the_other() {
    let world = World::with_gateways(2).await;
    let connections = bucket(&world, topology::CONNECTIONS).await;
    let (one, two) = (world.rest(), &world.gateways[1].rest);
    for round in 0..8 {
        let connection = format!("c-{round}");
        if round % 4 == 0 {
            // Left by a gateway that died.
            let place = ConnectionPlace { v: V, pool: pool("other") };
            connections.put(keys::name(&name(&connection)), wire::encode(&place).into()).await.unwrap();
        }
        let path = format!("/connections/{connection}");
        let (mine, theirs) = (ssh("default"), ssh("other"));
        let answers = tokio::join!(one.put(&path, &mine), two.put(&path, &theirs), one.put(&path, &theirs), two.put(&path, &mine));
        let answers = [("default", &answers.0), ("other", &answers.1), ("other", &answers.2), ("default", &answers.3)];
        let won = one.get(&path).await.data(200)["pool"].as_str().unwrap().to_owned();
        for (pool, answer) in answers {
            let expected: &[u16] = if pool == won { &[200, 201] } else { &[409] };
            assert!(expected.contains(&answer.status.as_u16()), "{won}, {pool}: {}", answer.body);
        }
        assert_eq!(answers.iter().filter(|(_, answer)| answer.status == 201).count(), 1);
        let lost = crate::world::pool(if won == "default" { "other" } else { "default" });
        let left = connections.get(keys::record(&lost, &name(&connection))).await.unwrap();
        assert!(left.is_none_or(|record| record.is_empty()));
    }
}
