//! More agents than may pull: who stands by, and who is called up.

use muster_schemas::topology::EPHEMERAL_AWAY_MAX;

use super::*;
use crate::{ranking::PRIORITY_LAST, state::calls};

const FLEET: u32 = 10;
/// How many of them may pull.
const MOST: usize = 3;

fn shell() -> ExecutorName {
    "shell".parse().unwrap()
}

fn able(pool: &str) -> Enlisted {
    Enlisted { capabilities: [shell()].into(), ..enlisted(pool) }
}

/// A pool `p` of agents that are there, of which few may pull, over a bucket.
fn fleet_over(bucket: BTreeMap<Key, (Standing, u64)>) -> Desk {
    let agents: Vec<_> = (0..FLEET).map(|n| (n, able("p"))).collect();
    let beats: Vec<_> = (0..FLEET).map(|n| (key("p", n), beat(1), noon())).collect();
    let mut desk = Desk::over(bucket);
    desk.state = State::new(EPHEMERAL_AWAY_MAX, MOST);
    desk.ready(&agents, &beats, noon())
}

fn fleet() -> Desk {
    fleet_over(BTreeMap::new())
}

impl Desk {
    fn standing_by(&self) -> Vec<u32> {
        (0..FLEET).filter(|n| self.standing("p", *n).standby.contains(&shell())).collect()
    }

    fn waiting(&mut self, jobs: u64, now: Timestamp) -> Vec<AgentId> {
        self.called.clear();
        self.send([Event::Waiting("p".parse().unwrap(), shell(), jobs)], now);
        self.called.iter().flat_map(|(agents, ..)| agents.clone()).collect()
    }
}

#[test]
fn few_pull_and_the_others_stand_by_behind_them() {
    let desk = fleet();
    assert_eq!(desk.standing_by(), [3, 4, 5, 6, 7, 8, 9]);
    let (pulls, stands_by) = (desk.standing("p", 0), desk.standing("p", 9));
    assert_eq!((pulls.accepting, pulls.rank, pulls.pull_priority), (true, 0, 0));
    assert_eq!((stands_by.accepting, stands_by.rank, stands_by.pull_priority), (true, 3, PRIORITY_LAST));
    assert_eq!(desk.state.standby(), &[("p".parse().unwrap(), [shell()].into())].into());
}

#[test]
fn a_dispatcher_that_takes_over_goes_by_what_is_written() {
    let mut desk = fleet();
    // One that is not among the first by its name pulls.
    desk.finish("p", 0, Outcome::Failed, 3, noon());
    assert_eq!(desk.standing_by().len(), 7);
    assert!(desk.standing("p", 0).standby.contains(&shell()));
    let next = fleet_over(desk.bucket.clone());
    assert_eq!(next.standing_by(), desk.standing_by());
}

#[test]
fn the_place_of_one_that_goes_is_taken_by_one_other_and_nobody_else_is_told_anything() {
    let mut desk = fleet();
    desk.writes.clear();
    desk.send([Event::Heartbeat(key("p", 1), Beat { goodbye: true, ..beat(2) }, at(1))], at(1));
    let written: Vec<_> = desk.writes.iter().map(|(key, standing)| (key.agent.clone(), standing.accepting)).collect();
    assert_eq!(written, [(id(1), false), (id(3), true)]);
    assert_eq!(desk.standing_by(), [4, 5, 6, 7, 8, 9]);
    // It comes back, and stands by.
    desk.writes.clear();
    desk.send([Event::Heartbeat(key("p", 1), beat(3), at(2))], at(2));
    assert_eq!((desk.standing_by(), desk.writes.len()), (vec![1, 4, 5, 6, 7, 8, 9], 1));
}

#[test]
fn what_becomes_of_one_on_standby_is_no_news_to_the_others() {
    let mut desk = fleet();
    desk.writes.clear();
    desk.finish("p", 9, Outcome::Failed, 1, at(10));
    let written: Vec<_> = desk.writes.iter().map(|(key, _)| key.agent.clone()).collect();
    assert_eq!(written, [id(9)]);
}

#[test]
fn as_many_are_called_up_as_the_jobs_need_the_best_first_and_nobody_twice() {
    let mut desk = fleet();
    desk.finish("p", 3, Outcome::Failed, 1, noon());
    assert_eq!(desk.waiting(2, at(1)), [id(4), id(5)]);
    assert_eq!(desk.called[0].1, shell());
    assert_eq!(desk.waiting(1, at(1)), [id(6)], "the others have been called");
    assert_eq!(desk.waiting(100, at(2)), [id(7), id(8), id(9), id(3)], "the one that failed a job comes last");
    assert_eq!(desk.waiting(100, at(2)), []);
    // When a call is about to end, and jobs still wait.
    desk.send([Event::Tick], at(u64::from(calls::CALL_S)));
    assert_eq!(desk.waiting(100, at(u64::from(calls::CALL_S))), [id(4), id(5), id(6)]);
}

#[test]
fn an_agent_with_many_slots_counts_for_as_many_jobs() {
    let mut desk = fleet();
    desk.send([Event::Heartbeat(key("p", 3), Beat { slots: 8, ..beat(2) }, at(1))], at(1));
    assert_eq!(desk.waiting(9, at(1)), [id(3), id(4)]);
}

#[test]
fn nobody_is_called_up_by_a_follower_or_for_an_executor_that_nobody_stands_by_for() {
    let mut desk = fleet();
    desk.send([Event::Waiting("p".parse().unwrap(), "http".parse().unwrap(), 5)], at(1));
    desk.send([Event::Waiting("q".parse().unwrap(), shell(), 5)], at(1));
    assert_eq!(desk.called, []);
    desk.send([Event::Lead(false)], at(1));
    assert_eq!(desk.waiting(5, at(1)), []);
}

#[test]
fn one_look_calls_so_many_at_most() {
    let many = u32::try_from(calls::CALLS_MAX).unwrap() + 8;
    let agents: Vec<_> = (0..many).map(|n| (n, able("p"))).collect();
    let beats: Vec<_> = (0..many).map(|n| (key("p", n), beat(1), noon())).collect();
    let mut desk = Desk::new();
    desk.state = State::new(EPHEMERAL_AWAY_MAX, 1);
    let mut desk = desk.ready(&agents, &beats, noon());
    assert_eq!(desk.waiting(1_000_000, at(1)).len(), calls::CALLS_MAX);
    assert_eq!(desk.waiting(1_000_000, at(1)).len(), 7);
}

#[test]
fn those_whose_call_could_not_be_sent_are_called_at_the_next_look() {
    let mut desk = fleet();
    let first = desk.waiting(2, at(1));
    assert_eq!(desk.waiting(100, at(1)).len(), 7 - first.len(), "who was called is not called again");
    desk.state.not_called(&first, &shell());
    assert_eq!(desk.waiting(100, at(1)), first);
    assert_eq!(desk.waiting(100, at(1)), []);
}

#[test]
fn a_pool_whose_agents_all_pull_again_has_nobody_standing_by() {
    let mut desk = fleet();
    let gone = (3..FLEET).map(|n| Event::Agents(Feed::Gone(id(n), 9)));
    desk.send(gone, at(1));
    assert!(desk.state.standby().is_empty());
    desk.send((0..3).map(|n| Event::Agents(Feed::Gone(id(n), 9))), at(2));
    assert!(desk.state.standby().is_empty());
}

#[test]
fn twenty_thousand_agents_of_which_most_stand_by_cost_a_tick_of_milliseconds() {
    let pool: PoolName = "p".parse().unwrap();
    let agents: Vec<_> = (0..20_000).map(|_| AgentId::generate()).collect();
    let executors: BTreeSet<ExecutorName> = ["probe", "shell", "http"].map(|name| name.parse().unwrap()).into();
    let record = Enlisted { capabilities: executors, ..enlisted("p") };
    let put = |id: &AgentId| Event::Agents(Feed::Put(id.clone(), record.clone(), 1));
    let mut state = State::default();
    state.apply_all(agents.iter().map(put), noon());
    let beats = agents.iter().map(|agent| Event::Heartbeat(Key { pool: pool.clone(), agent: agent.clone() }, beat(1), noon()));
    state.apply_all(beats, noon());
    let started = std::time::Instant::now();
    state.apply(Event::Tick, at(1));
    let took = started.elapsed();
    assert_eq!(state.standby().get(&pool).map(BTreeSet::len), Some(3));
    // The bound is that it is not quadratic.
    assert!(took < Duration::from_secs(10), "{took:?}");
}
