//! Tests of `plan`: who is asked to seal what to whom.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail by panicking")]
use muster_schemas::{heartbeat::Heartbeat, sealed::OpeningKey};
use nkeys::KeyPair;

use super::*;
use crate::{
    credentials::known::{Connected, Contents, Member},
    state::{Feed, Key},
};

const START: i64 = 1_800_000_000;

fn at(secs: f64) -> Timestamp {
    Timestamp::from_secs(START - 1000) + Duration::from_secs_f64(1000.0 + secs)
}

struct Agent {
    id: AgentId,
    identity: KeyPair,
    sealing: SealingKey,
}

impl Agent {
    fn new() -> Self {
        let (id, identity) = (AgentId::generate(), KeyPair::new_user());
        let sealing = OpeningKey::generate().public(&id, &identity).unwrap();
        Self { id, identity, sealing }
    }

    fn rotates(&mut self) {
        self.sealing = OpeningKey::generate().public(&self.id, &self.identity).unwrap();
    }

    fn record(&self, pool: &str) -> Event {
        let member = Member { pool: pool.parse().unwrap(), trusted: true, public_key: Some(self.identity.public_key()) };
        Event::Heard(Heard::Agents(Feed::Put(self.id.clone(), member, 1)))
    }

    fn beat(&self, pool: &str, held: &[(&str, u64)], secs: f64, change: impl FnOnce(&mut Heartbeat)) -> Event {
        let mut beat = Heartbeat {
            at: at(secs),
            sealing: Some(self.sealing.clone()),
            credentials: held.iter().map(|(name, revision)| (name.parse().unwrap(), *revision)).collect(),
            ..Heartbeat::first("a".parse().unwrap(), "i", at(0.0))
        };
        change(&mut beat);
        Event::Heard(Heard::Heartbeat(Key { pool: pool.parse().unwrap(), agent: self.id.clone() }, Box::new(beat), at(secs)))
    }

    fn lies(&self, entries: &[(&str, u64)]) -> Event {
        let entry = |(name, revision): &(&str, u64)| (name.parse().unwrap(), (*revision, self.sealing.key.clone()));
        let contents: Contents = entries.iter().map(entry).collect();
        Event::Heard(Heard::Mailboxes(Feed::Put(self.id.clone(), contents, 1)))
    }
}

fn connection(pool: &str, name: &str, revision: u64) -> Event {
    Event::Heard(Heard::Connections(Feed::Put((pool.parse().unwrap(), name.parse().unwrap()), Connected { revision }, 1)))
}

/// A plan that leads and has read everything.
fn plan(events: Vec<Event>) -> Plan {
    let mut plan = Plan::default();
    let read = [
        Heard::Connections(Feed::Begin),
        Heard::Connections(Feed::End),
        Heard::Agents(Feed::Begin),
        Heard::Agents(Feed::End),
        Heard::Mailboxes(Feed::Begin),
        Heard::Mailboxes(Feed::End),
        Heard::Heartbeats,
    ];
    assert!(plan.apply_all(read.map(Event::Heard), at(0.0)).is_empty());
    assert!(plan.apply_all([Event::Lead(true)].into_iter().chain(events), at(0.0)).is_empty(), "only a tick looks");
    plan
}

fn tick(plan: &mut Plan, secs: f64) -> Vec<Command> {
    plan.apply_all([Event::Tick], at(secs))
}

fn only(mut commands: Vec<Command>) -> Handing {
    match (commands.pop(), commands.is_empty()) {
        (Some(Command::Hand(handing)), true) => handing,
        other => panic!("{other:?}"),
    }
}

fn ended(command: &Handing, outcome: Outcome) -> Event {
    Event::Ended(Command::Hand(command.clone()).about(), outcome)
}

#[test]
fn an_agent_that_joins_gets_what_another_one_of_its_pool_has_once() {
    let (holder, joins, elsewhere) = (Agent::new(), Agent::new(), Agent::new());
    let mut plan = plan(vec![
        connection("p", "db", 3),
        connection("p", "new", 0),
        holder.record("p"),
        holder.beat("p", &[("db", 3)], 0.0, |_| {}),
        elsewhere.record("q"),
        elsewhere.beat("q", &[], 0.0, |_| {}),
    ]);
    assert!(tick(&mut plan, 0.2).is_empty(), "nobody needs any");
    plan.apply_all([joins.record("p"), joins.beat("p", &[], 1.0, |_| {})], at(1.0));
    let handing = only(tick(&mut plan, 1.0));
    assert_eq!((handing.connection.as_ref(), handing.revision), ("db", 3));
    assert_eq!((&handing.from, &handing.to, &handing.sealing), (&holder.id, &joins.id, &joins.sealing));
    plan.apply_all([joins.beat("p", &[], 1.1, |_| {}), connection("p", "other", 1)], at(1.1));
    assert!(tick(&mut plan, 1.2).is_empty(), "it is under way");
    plan.apply_all([ended(&handing, Outcome::Done), joins.lies(&[("db", 3)])], at(1.3));
    assert!(tick(&mut plan, 60.0).is_empty(), "it lies in its mailbox");
}

#[test]
fn another_sealing_key_or_a_newer_revision_is_another_need() {
    let (holder, mut agent) = (Agent::new(), Agent::new());
    let mut plan = plan(vec![
        connection("p", "db", 3),
        holder.record("p"),
        agent.record("p"),
        holder.beat("p", &[("db", 3)], 0.0, |_| {}),
        agent.beat("p", &[], 0.0, |_| {}),
        agent.lies(&[("db", 3)]),
    ]);
    assert!(tick(&mut plan, 0.0).is_empty());
    agent.rotates();
    plan.apply_all([agent.beat("p", &[], 1.0, |_| {})], at(1.0));
    let handing = only(tick(&mut plan, 1.0));
    assert_eq!(handing.sealing, agent.sealing);
    plan.apply_all([ended(&handing, Outcome::Done), agent.lies(&[("db", 3)]), agent.beat("p", &[("db", 3)], 2.0, |_| {})], at(2.0));
    assert!(tick(&mut plan, 10.0).is_empty());
    plan.apply_all([connection("p", "db", 4)], at(11.0));
    assert!(tick(&mut plan, 11.0).is_empty(), "nobody has the newest");
    plan.apply_all([holder.beat("p", &[("db", 4)], 12.0, |_| {})], at(12.0));
    assert_eq!(only(tick(&mut plan, 12.0)).revision, 4);
}

#[test]
fn none_is_handed_to_whom_it_must_not_or_need_not_go() {
    let (holder, agent, thief) = (Agent::new(), Agent::new(), Agent::new());
    let have = |what: Vec<Event>| {
        let mut events = vec![connection("p", "db", 1), holder.record("p"), holder.beat("p", &[("db", 1)], 0.0, |_| {})];
        events.extend(what);
        tick(&mut plan(events), 0.0).len()
    };
    let record = |trusted, public_key| {
        let member = Member { pool: "p".parse().unwrap(), trusted, public_key };
        Event::Heard(Heard::Agents(Feed::Put(agent.id.clone(), member, 1)))
    };
    let beat = || agent.beat("p", &[], 0.0, |_| {});
    assert_eq!(have(vec![agent.record("p"), beat()]), 1);
    for (what, why) in [
        (vec![beat()], "it has no record"),
        (vec![record(false, Some(agent.identity.public_key())), beat()], "it is revoked"),
        (vec![record(true, None), beat()], "it never registered"),
        (vec![record(true, Some(thief.identity.public_key())), beat()], "somebody else signed the sealing key"),
        (vec![agent.record("q"), beat()], "it is in another pool"),
        (vec![agent.record("p"), agent.beat("p", &[], 0.0, |beat| beat.sealing = None)], "its vault is closed"),
        (vec![agent.record("p"), agent.beat("p", &[], 0.0, |beat| beat.goodbye = true)], "it has gone"),
        (vec![agent.record("p"), agent.beat("p", &[], -91.0, |_| {})], "it is away"),
        (vec![agent.record("p"), agent.beat("p", &[("db", 0)], 0.0, |_| {})], "somebody put others there by hand"),
        (vec![agent.record("p"), agent.beat("p", &[("db", 1)], 0.0, |_| {})], "it has them"),
    ] {
        assert_eq!(have(what), 0, "{why}");
    }
}

#[test]
fn what_fails_is_tried_again_later_each_time_with_another_holder_and_what_is_forbidden_not_for_long() {
    let (first, second, agent) = (Agent::new(), Agent::new(), Agent::new());
    let mut plan = plan(vec![
        connection("p", "db", 1),
        first.record("p"),
        second.record("p"),
        agent.record("p"),
        first.beat("p", &[("db", 1)], 0.0, |_| {}),
        second.beat("p", &[("db", 1)], 0.0, |_| {}),
        agent.beat("p", &[], 0.0, |_| {}),
    ]);
    let (mut asked, mut when, mut secs) = (Vec::new(), Vec::new(), 0.0);
    while asked.len() < 4 {
        for command in tick(&mut plan, secs) {
            let Command::Hand(handing) = command else { panic!("{command:?}") };
            plan.apply_all([ended(&handing, Outcome::Failed)], at(secs));
            asked.push(handing.from);
            when.push(secs);
        }
        secs += 0.25;
    }
    assert_ne!(asked[0], asked[1]);
    assert_eq!((&asked[0], &asked[1]), (&asked[2], &asked[3]));
    assert_eq!(when, [0.0, 1.0, 3.0, 7.0]);
    plan.apply_all(
        [first.beat("p", &[("db", 1)], 700.0, |_| {}), second.beat("p", &[("db", 1)], 700.0, |_| {}), agent.beat("p", &[], 700.0, |_| {})],
        at(700.0),
    );
    let handing = only(tick(&mut plan, 700.0));
    plan.apply_all([ended(&handing, Outcome::Forbidden)], at(700.0));
    assert!(tick(&mut plan, 780.0).is_empty());
}

#[test]
fn a_follower_commands_nothing_nor_one_that_has_not_read_everything() {
    let (holder, agent) = (Agent::new(), Agent::new());
    let events = || {
        vec![
            connection("p", "db", 1),
            holder.record("p"),
            agent.record("p"),
            holder.beat("p", &[("db", 1)], 0.0, |_| {}),
            agent.beat("p", &[], 0.0, |_| {}),
        ]
    };
    let mut follower = plan(events());
    follower.apply_all([Event::Lead(false)], at(0.0));
    assert!(tick(&mut follower, 1.0).is_empty());
    follower.apply_all([Event::Lead(true)], at(2.0));
    assert_eq!(tick(&mut follower, 2.0).len(), 1, "it knows as much");
    let mut unread = Plan::default();
    unread.apply_all(events().into_iter().chain([Event::Lead(true)]), at(0.0));
    assert!(tick(&mut unread, 1.0).is_empty());
}

#[test]
fn two_hundred_that_join_at_once_are_served_a_few_at_a_time() {
    let holder = Agent::new();
    let mut plan = plan(vec![connection("p", "db", 1), holder.record("p"), holder.beat("p", &[("db", 1)], 0.0, |_| {})]);
    let agents: Vec<Agent> = (0..200).map(|_| Agent::new()).collect();
    plan.apply_all(agents.iter().flat_map(|agent| [agent.record("p"), agent.beat("p", &[], 0.0, |_| {})]), at(0.0));
    let (mut begun, mut secs) = (Vec::new(), 0.0);
    while begun.len() < 200 {
        let commands = tick(&mut plan, secs);
        assert!(commands.len() <= AT_ONCE);
        for command in commands {
            let Command::Hand(handing) = command else { panic!("{command:?}") };
            let agent = agents.iter().find(|agent| agent.id == handing.to).unwrap();
            plan.apply_all([ended(&handing, Outcome::Done), agent.lies(&[("db", 1)])], at(secs));
            begun.push(secs);
        }
        secs += 0.01;
    }
    for second in 0..4 {
        let from = f64::from(second);
        assert!(begun.iter().filter(|secs| (from..from + 0.99).contains(*secs)).count() <= RATE);
    }
    assert!(secs < 8.0, "{secs}");
}

#[test]
fn what_is_left_over_for_a_while_is_taken_out() {
    let (agent, gone) = (Agent::new(), Agent::new());
    let mut plan = plan(vec![
        connection("p", "db", 2),
        connection("q", "web", 2),
        connection("p", "anew", 1),
        agent.record("p"),
        agent.lies(&[("db", 2), ("web", 2), ("anew", 4), ("old", 1)]),
        gone.lies(&[]),
    ]);
    assert!(tick(&mut plan, 0.0).is_empty());
    assert!(tick(&mut plan, 9.0).is_empty(), "whoever deletes it takes it out");
    // One at a time of each agent.
    let first = tick(&mut plan, 10.0);
    assert!(first.contains(&Command::Discard(gone.id.clone())) && first.len() == 2, "{first:?}");
    let mut dropped = Vec::new();
    for secs in 10..20 {
        let commands = if secs == 10 { first.clone() } else { tick(&mut plan, f64::from(secs)) };
        for command in commands {
            if let Command::Drop(_, name) = &command {
                dropped.push(name.to_string());
            }
            plan.apply_all([Event::Ended(command.about(), Outcome::Done)], at(f64::from(secs)));
        }
        if dropped.len() == 3 {
            break;
        }
    }
    assert_eq!(dropped, ["anew", "old", "web"]);
}
