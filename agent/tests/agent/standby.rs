//! Lanes that others pull: nothing is asked of them until the agent is called up, or nobody is left who could call.

use std::{collections::BTreeSet, time::Duration};

use async_nats::Client;
use muster_runtime::tasks::Group;
use muster_schemas::{
    control::{Order, What},
    lane::{Lane, Priority},
    names::{AgentId, ExecutorName},
    records::LeaseRecord,
    standing::Standing,
    subjects::{
        self,
        broker::{self, ConsumerApi},
        js,
    },
    time::Timestamp,
    topology::{DISPATCHER_LEASE, LEASES, jobs_stream},
    wire::{self, V},
};
use serde_json::json;

use crate::bench::{Agent, Bench, connect, eventually};

/// With the shortest interval there is, so that the lease is looked at often.
const SETTINGS: [(&str, &str); 1] = [("heartbeat_interval", "1s")];

/// A dispatcher, as far as it has the lease.
struct Lease(Group);

impl Lease {
    /// Taken, and kept until this is dropped.
    async fn taken(bench: &Bench) -> Self {
        let text = std::fs::read_to_string(bench.deployment.layout.dispatcher_creds()).unwrap();
        let client = connect(&bench.server.url(), &text, &broker::dispatcher_inbox("d2")).await;
        renew(&client).await;
        let group = Group::new("lease");
        group.spawn(async move {
            let mut seconds = tokio::time::interval(Duration::from_secs(1));
            loop {
                seconds.tick().await;
                renew(&client).await;
            }
        });
        Self(group)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.0.abort_all();
    }
}

async fn renew(client: &Client) {
    let record = LeaseRecord { v: V, holder: "d2".into(), renewed_at: Timestamp::now() };
    client.request(js::key(LEASES, DISPATCHER_LEASE), wire::encode(&record).into()).await.unwrap();
}

/// The executors of an agent of these tests, its own and the one that every agent has.
fn all() -> BTreeSet<ExecutorName> {
    ["probe", "shell", "http"].map(|name| name.parse().unwrap()).into()
}

async fn tell(bench: &Bench, id: &AgentId, standby: BTreeSet<ExecutorName>) {
    bench.tell(id, &Standing { standby, ..Standing::first(Timestamp::now()) }).await;
}

async fn call_up(bench: &Bench, id: &AgentId, for_s: u32) {
    let order = Order { v: V, what: What::CallUp { executors: ["probe".parse().unwrap()].into(), for_s } };
    bench.gateway.publish(subjects::control(id), wire::encode(&order).into()).await.unwrap();
}

/// Pulls that wait in the lane of the probe jobs of normal priority.
async fn waiting(bench: &Bench) -> u64 {
    let lane = Lane { priority: Priority::Normal, executor: "probe".parse().unwrap() };
    let info = bench.api(ConsumerApi::Info.subject(&jobs_stream(&bench.pool), &lane.consumer()), json!({})).await;
    info["num_waiting"].as_u64().unwrap()
}

/// An agent that stands by for everything from its start.
async fn standing_by(bench: &Bench) -> Agent {
    let (id, state_dir) = bench.enrolled(Duration::from_secs(3600)).await;
    tell(bench, &id, all()).await;
    let agent = bench.agent_in(id, state_dir, 2, &SETTINGS).await;
    // Of its own queue.
    agent.ready().await;
    agent
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_on_standby_pulls_nothing_but_its_own_queue_until_it_is_called_up_and_then_stops_again() {
    let bench = Bench::start().await;
    let _lease = Lease::taken(&bench).await;
    let agent = standing_by(&bench).await;
    assert_eq!(agent.figure("muster_agent_pulls_total").await, 1.0);

    let first = bench.submit(json!({"type": "probe.ping"})).await;
    call_up(&bench, &agent.id, 8).await;
    assert_eq!(bench.result(&first).await.agent_id.as_ref(), Some(&agent.id));
    eventually("it asks for more", async || waiting(&bench).await > 0).await;
    eventually("the call ends", async || waiting(&bench).await == 0).await;
    let asked = agent.figure("muster_agent_pulls_total").await;

    let second = bench.submit(json!({"type": "probe.ping"})).await;
    let other = bench.agent(1).await;
    assert_eq!(bench.result(&second).await.agent_id.as_ref(), Some(&other.id));
    assert_eq!(agent.figure("muster_agent_pulls_total").await, asked, "a call that is over costs nothing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_dispatchers_lease_it_pulls_and_with_one_it_stands_by_again() {
    let bench = Bench::start().await;
    let agent = standing_by(&bench).await;
    let first = bench.submit(json!({"type": "probe.ping"})).await;
    assert_eq!(bench.result(&first).await.agent_id.as_ref(), Some(&agent.id));

    let lease = Lease::taken(&bench).await;
    eventually("its pulls have run out", async || waiting(&bench).await == 0).await;
    let second = bench.submit(json!({"type": "probe.ping"})).await;
    let other = bench.agent(1).await;
    assert_eq!(bench.result(&second).await.agent_id.as_ref(), Some(&other.id));

    // The dispatcher dies, and its lease vanishes with it.
    drop((lease, other.stop().await.unwrap()));
    let third = bench.submit(json!({"type": "probe.ping"})).await;
    assert_eq!(bench.result(&third).await.agent_id.as_ref(), Some(&agent.id));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standing_that_says_standby_no_more_opens_the_lanes_at_once() {
    let bench = Bench::start().await;
    let _lease = Lease::taken(&bench).await;
    let agent = standing_by(&bench).await;
    let job = bench.submit(json!({"type": "probe.ping"})).await;
    tell(&bench, &agent.id, ["shell".parse().unwrap()].into()).await;
    assert_eq!(bench.result(&job).await.agent_id.as_ref(), Some(&agent.id));
}
