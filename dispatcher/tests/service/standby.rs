//! More agents than pull: the others stand by, and are called up when nobody asks for the jobs there are.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail by panicking")]

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use async_nats::{Message, Subscriber};
use futures_util::{StreamExt as _, stream::select_all};
use muster_schemas::{
    control::{Order, What},
    lane::{Lane, Priority},
    names::{AgentId, ExecutorName, JobId},
    standing::Standing,
    subjects::{self, js},
    topology::{PRIORITY_GROUP, jobs_stream},
    wire,
};

use crate::support::{Agent, Dispatcher, POOL, SOON, Stack, eventually};

/// How many agents of an executor pull.
const MOST: usize = 2;
/// What a call may take on a busy machine. That it takes less than 100 ms on one that is not is for the bench to show.
const IN_TIME: Duration = Duration::from_secs(1);

fn shell() -> ExecutorName {
    "shell".parse().unwrap()
}

async fn dispatcher(stack: &Stack) -> Dispatcher {
    let settings = [("active_max", MOST.to_string())];
    let dispatcher = Dispatcher::start_with(stack.deployment.layout.root().display().to_string(), &stack.server.url(), &settings);
    dispatcher.becomes_active().await;
    dispatcher
}

/// So many agents with shell, each of which has said that it is there.
async fn fleet(stack: &Stack, agents: usize) -> Vec<Agent> {
    let mut fleet = Vec::new();
    for _ in 0..agents {
        let mut agent = Agent::connect(stack, POOL, AgentId::generate()).await;
        stack.record(POOL, &agent.id, |record| record.capabilities = [shell()].into()).await;
        agent.beats(|_| {}).await;
        fleet.push(agent);
    }
    for agent in &fleet {
        stack.standing(agent, "it accepts", |standing| standing.accepting).await;
    }
    fleet
}

async fn standings(stack: &Stack, fleet: &[Agent]) -> Vec<Standing> {
    let mut standings = Vec::new();
    for agent in fleet {
        standings.push(stack.entry(POOL, &agent.id).await.unwrap().0);
    }
    standings
}

/// The orders to each of the agents, from here on.
async fn orders(fleet: &[Agent]) -> impl futures_util::Stream<Item = (AgentId, Message)> + Unpin {
    let mut all: Vec<(AgentId, Subscriber)> = Vec::new();
    for agent in fleet {
        all.push((agent.id.clone(), agent.client.subscribe(subjects::control(&agent.id)).await.unwrap()));
        agent.client.flush().await.unwrap();
    }
    select_all(all.into_iter().map(|(id, orders)| orders.map(move |order| (id.clone(), order)).boxed()))
}

async fn next_called(orders: &mut (impl futures_util::Stream<Item = (AgentId, Message)> + Unpin)) -> AgentId {
    let (agent, order) = tokio::time::timeout(SOON, orders.next()).await.expect("a call").unwrap();
    let Order { what: What::CallUp { executors, for_s }, .. } = wire::decode(&order.payload).unwrap() else { panic!("no call: {order:?}") };
    assert_eq!((executors, for_s > 0), ([shell()].into(), true));
    agent
}

async fn submit(stack: &Stack, jobs: usize) {
    let pool = POOL.parse().unwrap();
    let lane = Lane { priority: Priority::Normal, executor: shell() };
    for _ in 0..jobs {
        stack.gateway.request(subjects::job(&pool, &lane, &JobId::generate(&pool)), "{}".into()).await.unwrap();
    }
}

/// Pulls of all lanes of shell that wait, for one job each.
async fn pull(agent: &Agent) -> Subscriber {
    let inbox = agent.client.new_inbox();
    let messages = agent.client.subscribe(inbox.clone()).await.unwrap();
    for lane in Lane::of(&shell()) {
        let body = format!(r#"{{"batch":1,"expires":60000000000,"group":"{PRIORITY_GROUP}","priority":0}}"#);
        let next = js::next(&jobs_stream(&agent.pool), &lane.consumer());
        agent.client.publish_with_reply(next, inbox.clone(), body.into()).await.unwrap();
    }
    agent.client.flush().await.unwrap();
    messages
}

#[tokio::test(flavor = "multi_thread")]
async fn of_more_agents_than_pull_the_others_stand_by_and_a_backlog_calls_them_up() {
    let stack = Stack::start().await;
    let dispatcher = dispatcher(&stack).await;
    let fleet = fleet(&stack, 6).await;
    let standing_by = |standings: &[Standing]| standings.iter().filter(|standing| standing.standby.contains(&shell())).count();
    let standings = eventually("all but two stand by", SOON, async || {
        let standings = standings(&stack, &fleet).await;
        (standing_by(&standings) == 4).then_some(standings)
    })
    .await;
    assert!(standings.iter().all(|standing| standing.accepting && standing.standby.is_subset(&[shell()].into())));

    let mut orders = orders(&fleet).await;
    // Those who pull have no slot free.
    let submitted = Instant::now();
    submit(&stack, 1).await;
    let first = next_called(&mut orders).await;
    let took = submitted.elapsed();
    assert!(took < IN_TIME, "{took:?}");
    let place = fleet.iter().position(|agent| agent.id == first).unwrap();
    assert!(standings[place].standby.contains(&shell()), "it stood by");

    // While jobs go on waiting, the others are called too, and each once.
    submit(&stack, 5).await;
    let mut called = BTreeSet::from([first]);
    while called.len() < 4 {
        assert!(called.insert(next_called(&mut orders).await), "called twice: {called:?}");
    }
    assert_eq!(dispatcher.figure("muster_agents_called_total").await, 4.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn while_somebody_asks_nobody_is_called_and_a_job_that_comes_back_finds_somebody() {
    let stack = Stack::start().await;
    let dispatcher = dispatcher(&stack).await;
    let fleet = fleet(&stack, 4).await;
    let mut orders = orders(&fleet).await;
    let pulls = eventually("two pull", SOON, async || {
        let standings = standings(&stack, &fleet).await;
        let pulls: Vec<_> = fleet.iter().zip(standings).filter(|(_, standing)| standing.standby.is_empty()).collect();
        (pulls.len() == 2).then(|| pulls.into_iter().map(|(agent, _)| agent).collect::<Vec<_>>())
    })
    .await;
    // A job that runs, beside an agent that is idle.
    let (mut busy, mut idle) = (pull(pulls[0]).await, pull(pulls[1]).await);
    submit(&stack, 1).await;
    let job = tokio::select! {
        job = busy.next() => job.unwrap(),
        job = idle.next() => job.unwrap(),
    };
    // One pull of every lane is left. It takes a second job, after which nobody asks that lane.
    assert_eq!(dispatcher.figure("muster_agents_called_total").await, 0.0, "somebody asks");
    submit(&stack, 1).await;
    let called = next_called(&mut orders).await;
    let called = fleet.iter().find(|agent| agent.id == called).unwrap();
    // An agent had no slot for it after all.
    let mut rescued = pull(called).await;
    pulls[0].client.publish(job.reply.unwrap(), "-NAK".into()).await.unwrap();
    let again = tokio::time::timeout(SOON, rescued.next()).await.expect("in time").unwrap();
    assert_eq!(again.subject, job.subject);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_place_of_an_agent_that_goes_is_taken_by_one_other_and_few_standings_are_written() {
    let stack = Stack::start().await;
    let dispatcher = dispatcher(&stack).await;
    let mut fleet = fleet(&stack, 5).await;
    let pulling = async |fleet: &[Agent]| -> Vec<usize> {
        let standings = standings(&stack, fleet).await;
        (0..fleet.len()).filter(|at| standings[*at].accepting && standings[*at].standby.is_empty()).collect()
    };
    let first = eventually("two pull", SOON, async || Some(pulling(&fleet).await).filter(|pulling| pulling.len() == 2)).await;
    let gone = first[0];
    fleet[gone].beats(|beat| beat.goodbye = true).await;
    let then = eventually("another one pulls", SOON, async || {
        Some(pulling(&fleet).await).filter(|pulling| pulling.len() == 2 && !pulling.contains(&gone))
    })
    .await;
    assert!(then.contains(&first[1]), "who pulled goes on");
    let written = dispatcher.figure("muster_standings_written_total").await;
    // Ten standings: one when each agent appeared, one when it was there; and at most these, of the one that went and the one that came, and of agents
    // that appeared before they were known to be too many.
    assert!(written <= 10.0 + 2.0 + 5.0, "{written}");
}
