//! Credentials from the mailbox to the job, and to another agent.

use std::time::Duration;

use muster_runtime::tasks::Group;
use muster_schemas::{
    code::Code,
    connection::ConnectionKind,
    control::{RESEAL, ResealAnswer, ResealRequest},
    event::EventKind,
    names::AgentId,
    result::Outcome,
    sealed::{Binding, OpeningKey, Purpose},
    subjects,
    time::Timestamp,
    wire::{self, V},
};
use nkeys::KeyPair;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::{
    bench::{Bench, eventually},
    connections::credentials,
};

const OPEN: &[(&str, &str)] = &[("allow_private_network", "true")];

/// A web service that answers with what was asked, and where it is.
async fn site(group: &Group) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    group.spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut asked = Vec::new();
            while !asked.windows(4).any(|end| end == b"\r\n\r\n") && stream.read_buf(&mut asked).await.is_ok_and(|count| count > 0) {}
            let head = format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", asked.len());
            let _ = stream.write_all(&[head.as_bytes(), &asked].concat()).await;
        }
    });
    url
}

fn request(url: &str, connection: &str) -> Value {
    json!({"type": "http.request", "params": {"url": format!("{url}/x")}, "connection": connection})
}

fn bearer(url: &str) -> Value {
    json!({"base_url": url, "auth": "bearer"})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_delivered_is_told_at_once_and_what_leaves_the_mailbox_leaves_the_vault() {
    let bench = Bench::start().await;
    let agent = bench.agent(1).await;
    let id = agent.id.clone();
    let secret = credentials("token", "first-secret", false);
    let a = bench.sealed(&id, "a", 1, &secret).await;
    bench.mailbox(&id, &[("a", a.clone())]).await;
    bench.holds(&id, &[("a", 1)]).await;
    // One that is for another connection, and the others with it.
    let c = bench.sealed(&id, "c", 3, &secret).await;
    bench.mailbox(&id, &[("a", a.clone()), ("b", a.clone()), ("c", c.clone())]).await;
    bench.holds(&id, &[("a", 1), ("c", 3)]).await;
    let beat = bench.heartbeat_of(&id, |beat| beat.last_error.is_some()).await;
    assert!(beat.last_error.as_ref().unwrap().contains("`b`"), "{:?}", beat.last_error);
    bench.mailbox(&id, &[("c", c)]).await;
    bench.holds(&id, &[("c", 3)]).await;

    // What changes while it is away: removed and made anew, so the number is smaller.
    let anew = bench.sealed(&id, "c", 1, &secret).await;
    let state_dir = agent.state_dir.clone();
    agent.stop().await.unwrap();
    bench.mailbox(&id, &[("c", anew)]).await;
    let agent = bench.agent_in(id.clone(), state_dir, 1, &[]).await;
    bench.holds(&id, &[("c", 1)]).await;
    bench.mailbox(&id, &[]).await;
    bench.holds(&id, &[]).await;
    agent.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_waits_for_its_credentials_gets_them_and_does_not_show_them() {
    let (bench, group) = (Bench::start().await, Group::new("site"));
    let url = site(&group).await;
    let agent = bench.agent_with(1, OPEN).await;
    bench.standing(&agent.id, true, 0).await;
    bench.connection("web", ConnectionKind::Http, bearer(&url), 1).await;
    let id = bench.submit(request(&url, "web")).await;
    eventually("it is given back", async || {
        let events = bench.events(&id).await;
        events.iter().any(|event| event.kind == EventKind::Released && event.reason.as_ref().unwrap().contains("no credentials of `web`"))
    })
    .await;
    bench.deliver(&agent.id, "web", 1, &credentials("token", "t0p-secret-t0ken", false)).await;
    let result = bench.result(&id).await;
    assert_eq!((result.outcome, result.attempt), (Outcome::Succeeded, 1), "{:?}", result.error);
    let answer = result.stdout.to_text().to_lowercase();
    assert!(answer.contains("authorization: bearer ***"), "{answer}");
    // Older ones than the newest are as good as none.
    bench.connection("web", ConnectionKind::Http, bearer(&url), 2).await;
    let id = bench.submit(request(&url, "web")).await;
    eventually("it is given back", async || {
        bench.events(&id).await.iter().any(|event| event.reason.as_ref().is_some_and(|why| why.contains("revision 1")))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn credentials_are_used_for_nothing_but_what_they_were_sealed_for() {
    let (bench, group) = (Bench::start().await, Group::new("site"));
    let (meant, other) = (site(&group).await, site(&group).await);
    let agent = bench.agent_with(1, OPEN).await;
    bench.standing(&agent.id, true, 0).await;
    // Whoever can write records sends the connection elsewhere, and a job there.
    bench.connection("web", ConnectionKind::Http, bearer(&other), 1).await;
    let mut secret = credentials("token", "t0p-secret-t0ken", false);
    secret.bound = Some(Binding::of(ConnectionKind::Http, &bearer(&meant)));
    bench.deliver(&agent.id, "web", 1, &secret).await;
    let id = bench.submit(request(&other, "web")).await;
    eventually("it is given back", async || {
        let events = bench.events(&id).await;
        events
            .iter()
            .any(|event| event.reason.as_ref().is_some_and(|why| why.contains("are not those that its credentials were delivered for")))
    })
    .await;
    bench.connection("web", ConnectionKind::Http, bearer(&meant), 1).await;
    let id = bench.submit(request(&meant, "web")).await;
    assert_eq!(bench.result(&id).await.outcome, Outcome::Succeeded);
    agent.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_run_where_the_credentials_are_though_another_agent_is_served_first() {
    let (bench, group) = (Bench::start().await, Group::new("site"));
    let url = site(&group).await;
    let (first, has) = (bench.agent_with(2, OPEN).await, bench.agent_with(2, OPEN).await);
    bench.connection("web", ConnectionKind::Http, bearer(&url), 1).await;
    bench.deliver(&has.id, "web", 1, &credentials("token", "t0p-secret-t0ken", false)).await;
    bench.standing_among(&first.id, true, 0, 2).await;
    bench.standing_among(&has.id, true, 8, 2).await;
    let mut ids = Vec::new();
    for _ in 0..6 {
        ids.push(bench.submit(request(&url, "web")).await);
    }
    for id in ids {
        let result = bench.result_within(&id, Duration::from_secs(15)).await;
        assert_eq!(
            (result.outcome, result.attempt, result.agent_id.as_ref()),
            (Outcome::Succeeded, 1, Some(&has.id)),
            "{:?}",
            result.error
        );
    }
    // The one without them does other work meanwhile.
    let other = bench.submit(json!({"type": "probe.ping"})).await;
    assert_eq!(bench.result(&other).await.outcome, Outcome::Succeeded);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_is_not_there_or_does_not_fit_rejects_the_job_without_an_attempt() {
    let bench = Bench::start().await;
    let _agent = bench.agent_with(1, OPEN).await;
    bench.connection("box", ConnectionKind::Ssh, json!({"host": "h", "user": "u"}), 0).await;
    for (name, code) in [("nowhere", Code::ConnectionNotFound), ("box", Code::ConnectionMismatch)] {
        let result = bench.result(&bench.submit(request("http://127.0.0.1:1", name)).await).await;
        let error = result.error.unwrap();
        assert_eq!((result.outcome, result.attempt, error.code), (Outcome::Rejected, 0, code), "{}", error.message);
        assert!(error.message.contains(name), "{}", error.message);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_a_closed_vault_jobs_with_a_connection_are_left_to_others_and_the_rest_runs() {
    let bench = Bench::start().await;
    let (id, state_dir) = bench.enrolled(Duration::from_secs(3600)).await;
    std::fs::write(state_dir.join("vault"), "no vault").unwrap();
    let _agent = bench.agent_in(id.clone(), state_dir, 1, OPEN).await;
    bench.connection("web", ConnectionKind::Http, bearer("http://127.0.0.1:1"), 1).await;
    let beat = bench.heartbeat_of(&id, |beat| beat.fault.is_some()).await;
    assert!(beat.sealing.is_none() && beat.vault.is_none(), "{beat:?}");
    let job = bench.submit(request("http://127.0.0.1:1", "web")).await;
    eventually("it is given back", async || {
        bench.events(&job).await.iter().any(|event| event.reason.as_ref().is_some_and(|why| why.contains("can't use its vault")))
    })
    .await;
    let other = bench.submit(json!({"type": "probe.ping"})).await;
    assert_eq!(bench.result(&other).await.outcome, Outcome::Succeeded);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn credentials_are_sealed_to_another_agent_if_they_are_shared_and_its_key_is_its_own() {
    let bench = Bench::start().await;
    let agent = bench.agent(1).await;
    let (shared, own) = (credentials("token", "shared-secret", true), credentials("token", "own-secret", false));
    let entries = [("db", bench.sealed(&agent.id, "db", 4, &shared).await), ("own", bench.sealed(&agent.id, "own", 1, &own).await)];
    bench.mailbox(&agent.id, &entries).await;
    bench.holds(&agent.id, &[("db", 4), ("own", 1)]).await;

    let (to, identity, opening) = (AgentId::generate(), KeyPair::new_user(), OpeningKey::generate());
    let asked = |name: &str, revision| ResealRequest {
        v: V,
        connection: name.parse().unwrap(),
        revision,
        agent_id: to.clone(),
        public_key: identity.public_key(),
        sealing: opening.public(&to, &identity).unwrap(),
    };
    let ask = async |body: Vec<u8>| {
        let answer = bench.gateway.request(subjects::rpc(&agent.id, RESEAL), body.into()).await.unwrap();
        wire::decode::<ResealAnswer>(&answer.payload).unwrap()
    };
    let entry = ask(wire::encode(&asked("db", 4))).await.entry.unwrap();
    let connection = "db".parse().unwrap();
    let opened = opening.open(&entry, Purpose { agent: &to, connection: &connection, revision: 4 }).unwrap();
    assert_eq!((opened.get("token"), opened.shared), (Some("shared-secret"), true), "and whoever gets them may hand them on");

    let forged = ResealRequest { public_key: KeyPair::new_user().public_key(), ..asked("db", 4) };
    for (body, code) in [
        (wire::encode(&asked("own", 1)), Code::Forbidden),
        (wire::encode(&asked("db", 3)), Code::ConnectionUndelivered),
        (wire::encode(&asked("db", 5)), Code::ConnectionUndelivered),
        (wire::encode(&asked("db", 0)), Code::ConnectionUndelivered),
        (wire::encode(&asked("none", 1)), Code::ConnectionUndelivered),
        (wire::encode(&forged), Code::CredentialsInvalid),
        (b"nonsense".to_vec(), Code::BodyMalformed),
        (vec![b' '; 20_000], Code::BodyMalformed),
    ] {
        let answer = ask(body).await;
        assert_eq!((answer.entry, answer.error.map(|error| error.code)), (None, Some(code)));
    }
    // Sealed to this agent by somebody who is told the time wrongly: nothing in an entry depends on it.
    let late = bench.sealing(&agent.id).await.seal(
        &own,
        Purpose { agent: &agent.id, connection: &connection, revision: 5 },
        Timestamp::from_secs(0),
    );
    bench.mailbox(&agent.id, &[("db", late.unwrap())]).await;
    bench.holds(&agent.id, &[("db", 5)]).await;
    assert_eq!(ask(wire::encode(&asked("db", 5))).await.error.unwrap().code, Code::Forbidden);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_somebody_put_there_by_hand_stays_until_a_newer_one_is_delivered() {
    let bench = Bench::start().await;
    let agent = bench.agent(1).await;
    let secret = credentials("password", "delivered-secret", true);
    let delivered = bench.sealed(&agent.id, "db", 3, &secret).await;
    bench.mailbox(&agent.id, &[("db", delivered.clone())]).await;
    bench.holds(&agent.id, &[("db", 3)]).await;
    agent.put("db", json!({"password": "secret-by-hand"})).await;
    bench.holds(&agent.id, &[("db", 0)]).await;
    // The same entry is looked at again, and again after a restart.
    let other = bench.sealed(&agent.id, "web", 1, &secret).await;
    bench.mailbox(&agent.id, &[("db", delivered.clone()), ("web", other.clone())]).await;
    bench.holds(&agent.id, &[("db", 0), ("web", 1)]).await;
    let (id, state_dir) = (agent.id.clone(), agent.state_dir.clone());
    agent.stop().await.unwrap();
    bench.mailbox(&id, &[("db", delivered)]).await;
    let agent = bench.agent_in(id.clone(), state_dir, 1, &[]).await;
    bench.holds(&id, &[("db", 0)]).await;
    let newer = bench.sealed(&id, "db", 4, &secret).await;
    bench.mailbox(&id, &[("db", newer), ("web", other)]).await;
    bench.holds(&id, &[("db", 4), ("web", 1)]).await;
    agent.stop().await.unwrap();
}
