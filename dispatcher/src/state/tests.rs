//! What follows from what is known. Each test reads as a promise; time is a number.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail by panicking")]

use std::time::Duration;

use muster_schemas::{records::PoolDefaults, standing::Status};

use super::*;
use board::IN_FLIGHT_MAX;

mod standby;

fn noon() -> Timestamp {
    Timestamp::from_secs(1_800_000_000)
}

fn at(secs: u64) -> Timestamp {
    noon() + Duration::from_secs(secs)
}

fn key(pool: &str, n: u32) -> Key {
    Key { pool: pool.parse().unwrap(), agent: id(n) }
}

fn id(n: u32) -> AgentId {
    ids()[n as usize].clone()
}

fn ids() -> &'static [AgentId] {
    static IDS: std::sync::LazyLock<Vec<AgentId>> = std::sync::LazyLock::new(|| {
        let mut ids: Vec<_> = (0..600).map(|_| AgentId::generate()).collect();
        ids.sort();
        ids
    });
    &IDS
}

fn beat(seq: u64) -> Beat {
    Beat {
        instance: "one".into(),
        seq,
        interval_s: 30,
        fault: None,
        description: None,
        vault: None,
        slots: 1,
        draining: false,
        goodbye: false,
    }
}

fn enlisted(pool: &str) -> Enlisted {
    Enlisted { pool: pool.parse().unwrap(), state: AgentState::Active, capabilities: BTreeSet::new(), allowed: None, ephemeral: false }
}

/// A state with the bucket that its commands are carried out upon.
struct Desk {
    state: State,
    bucket: BTreeMap<Key, (Standing, u64)>,
    /// Revisions of deletions, which the next write of the key must name.
    deleted: BTreeMap<Key, u64>,
    revision: u64,
    /// All standings written, in order.
    writes: Vec<(Key, Standing)>,
    notes: Vec<Note>,
    lanes: Vec<(PoolName, BTreeSet<ExecutorName>)>,
    /// What has to be done about agents.
    leaving: Vec<Command>,
    /// Agents that were called up, for which executor and how many seconds.
    called: Vec<(Vec<AgentId>, ExecutorName, u32)>,
}

impl Desk {
    fn new() -> Self {
        Self::over(BTreeMap::new())
    }

    /// A leader that starts over a bucket.
    fn over(bucket: BTreeMap<Key, (Standing, u64)>) -> Self {
        let revision = bucket.values().map(|(_, revision)| *revision).max().unwrap_or(0);
        Self {
            state: State::default(),
            bucket,
            deleted: BTreeMap::new(),
            revision,
            writes: vec![],
            notes: vec![],
            lanes: vec![],
            leaving: vec![],
            called: vec![],
        }
    }

    /// Everything that is there was read, and this process leads.
    fn ready(mut self, agents: &[(u32, Enlisted)], beats: &[(Key, Beat, Timestamp)], now: Timestamp) -> Self {
        let put = |(n, record): &(u32, Enlisted)| Event::Agents(Feed::Put(id(*n), record.clone(), 1));
        self.send([Event::Agents(Feed::Begin)], now);
        self.send(agents.iter().map(put), now);
        self.send([Event::Agents(Feed::End), Event::Standings(Feed::Begin)], now);
        let written: Vec<_> = self.bucket.iter().map(|(key, (standing, revision))| (key.clone(), standing.clone(), *revision)).collect();
        self.send(written.into_iter().map(|(key, standing, revision)| Event::Standings(Feed::Put(key, Some(standing), revision))), now);
        self.send([Event::Standings(Feed::End)], now);
        self.send(beats.iter().cloned().map(|(key, beat, at)| Event::Heartbeat(key, beat, at)), now);
        assert_eq!(self.writes, [], "nothing is written before all is known");
        let rest = [Source::Heartbeats, Source::Results, Source::Pools].map(Event::CaughtUp);
        self.send(rest.into_iter().chain([Event::Lead(true)]), now);
        self
    }

    fn send(&mut self, events: impl IntoIterator<Item = Event>, now: Timestamp) {
        let mut commands = self.state.apply_all(events, now);
        while !commands.is_empty() {
            let mut done = Vec::new();
            for command in commands {
                match command {
                    Command::Put(key, standing, revision) => {
                        let standing = *standing;
                        let there = self.bucket.get(&key).map(|(_, revision)| *revision).or(self.deleted.get(&key).copied());
                        assert_eq!(there.unwrap_or(0), revision, "the write names what it replaces");
                        self.revision += 1;
                        self.bucket.insert(key.clone(), (standing.clone(), self.revision));
                        self.writes.push((key.clone(), standing));
                        done.push(Event::Written(key, Some(self.revision)));
                    }
                    Command::Delete(key, revision) => {
                        assert_eq!(self.bucket.remove(&key).map(|(_, revision)| revision), Some(revision));
                        self.revision += 1;
                        self.deleted.insert(key.clone(), self.revision);
                        done.push(Event::Written(key, Some(self.revision)));
                    }
                    Command::Lanes(pool, executors) => self.lanes.push((pool, executors)),
                    Command::CallUp(agents, executor, for_s) => self.called.push((agents, executor, for_s)),
                    leaving @ (Command::Remove(_) | Command::Expel(_)) => self.leaving.push(leaving),
                    Command::Note(note) => self.notes.push(note),
                }
            }
            commands = self.state.apply_all(done, now);
        }
    }

    fn standing(&self, pool: &str, n: u32) -> &Standing {
        &self.bucket.get(&key(pool, n)).expect("it has a standing").0
    }

    fn finish(&mut self, pool: &str, n: u32, outcome: Outcome, times: usize, now: Timestamp) {
        let finished = Event::Finished(pool.parse().unwrap(), Some(id(n)), outcome, now);
        self.send(std::iter::repeat_n(finished, times).chain([Event::Tick]), now);
    }
}

fn one_online() -> Desk {
    Desk::new().ready(&[(0, enlisted("p"))], &[(key("p", 0), beat(1), noon())], noon())
}

#[test]
fn a_standing_says_how_many_agents_accept_up_to_eight() {
    let agents: Vec<(u32, Enlisted)> = (0..20).map(|n| (n, enlisted(if n < 3 { "few" } else { "many" }))).collect();
    let beats: Vec<_> = (0..19).map(|n| (key(if n < 3 { "few" } else { "many" }, n), beat(1), noon())).collect();
    let mut desk = Desk::new().ready(&agents, &beats, noon());
    assert_eq!((desk.standing("few", 0).accepting_agents, desk.standing("many", 5).accepting_agents), (3, 8));
    assert_eq!((desk.standing("many", 19).accepting, desk.standing("many", 19).accepting_agents), (false, 8), "it is told of the others");
    let goodbye = Beat { goodbye: true, ..beat(2) };
    desk.send([Event::Heartbeat(key("few", 2), goodbye, at(10))], at(10));
    assert_eq!(desk.standing("few", 0).accepting_agents, 2);
}

#[test]
fn an_agent_is_offline_until_its_first_heartbeat_and_online_at_once_after_it() {
    let mut desk = Desk::new().ready(&[(0, enlisted("p"))], &[], noon());
    let standing = desk.standing("p", 0);
    assert_eq!((standing.status, standing.accepting, standing.pull_priority), (Status::Offline, false, 9));
    assert_eq!(standing.reason.as_deref(), Some("no heartbeat yet"));

    desk.send([Event::Heartbeat(key("p", 0), beat(1), at(1))], at(1));
    let standing = desk.standing("p", 0);
    assert_eq!((standing.status, standing.accepting, standing.rank, standing.pull_priority), (Status::Online, true, 0, 0));
    assert_eq!((standing.score, standing.reason.as_deref()), (100.0, None));
}

#[test]
fn a_pool_of_hundreds_is_judged_again_after_a_while_however_much_news_comes_and_one_of_few_at_once() {
    let (many, few): (Vec<_>, Vec<_>) =
        ((0..400).map(|n| (n, enlisted("many"))).collect(), (400..410).map(|n| (n, enlisted("few"))).collect());
    let mut desk = Desk::new().ready(&[many, few].concat(), &[], noon());
    // Long enough for 400 agents is 8 ms.
    let millis = |n: u64| at(1) + Duration::from_millis(n);
    let online = |desk: &Desk| {
        let is_online = |pool: &str, n: u32| desk.standing(pool, n).status == Status::Online;
        ((0..4).filter(|n| is_online("many", *n)).count(), (400..403).filter(|n| is_online("few", *n)).count())
    };
    for (n, now, seen) in [(0, 0, (1, 1)), (1, 1, (1, 2)), (2, 7, (1, 3)), (3, 8, (4, 3))] {
        let beats = [key("many", n), key("few", 400 + n)].map(|key| Event::Heartbeat(key, beat(1), millis(now)));
        desk.send(beats, millis(now));
        assert_eq!(online(&desk), seen, "{now} ms");
    }
    desk.send([Event::Heartbeat(key("many", 4), beat(1), millis(9))], millis(9));
    assert_ne!(desk.standing("many", 4).status, Status::Online);
    desk.send([Event::Tick], millis(10));
    assert_eq!(desk.standing("many", 4).status, Status::Online, "a tick waits for nothing");
}

#[test]
fn an_unchanged_agent_costs_no_write_however_long_it_lives() {
    let mut desk = one_online();
    for second in 1..600 {
        let mut events = vec![Event::Tick];
        if second % 30 == 0 {
            events.push(Event::Heartbeat(key("p", 0), beat(1 + second), at(second)));
            events.push(Event::Finished("p".parse().unwrap(), Some(id(0)), Outcome::Succeeded, at(second)));
        }
        desk.send(events, at(second));
    }
    assert_eq!(desk.writes.len(), 1);
}

#[test]
fn a_silent_agent_ages_and_is_offline_after_three_intervals_in_few_writes() {
    let mut desk = one_online();
    for second in 1..=200 {
        desk.send([Event::Tick], at(second));
        let standing = desk.standing("p", 0);
        match second {
            0..=60 => assert_eq!(standing.score, 100.0),
            61..=89 => assert!(standing.accepting && standing.status == Status::Online),
            _ => assert_eq!((standing.status, standing.score, standing.accepting), (Status::Offline, 50.0, false)),
        }
    }
    assert_eq!(desk.standing("p", 0).reason.as_deref(), Some("no heartbeat for three intervals"));
    assert!(desk.writes.len() <= 9, "{} writes", desk.writes.len());
}

#[test]
fn a_goodbye_is_offline_at_once() {
    let mut desk = one_online();
    desk.send([Event::Heartbeat(key("p", 0), Beat { goodbye: true, ..beat(2) }, at(3))], at(3));
    let standing = desk.standing("p", 0);
    assert_eq!((standing.status, standing.accepting, standing.reason.as_deref()), (Status::Offline, false, Some("said goodbye")));
}

#[test]
fn what_an_operator_or_the_agent_decided_stops_it_with_the_reason() {
    for (state, reason) in [
        (AgentState::Disabled, "disabled"),
        (AgentState::Revoked, "revoked"),
        (AgentState::Draining, "draining"),
        (AgentState::Pending, "not registered yet"),
    ] {
        let mut desk = one_online();
        desk.send([Event::Agents(Feed::Put(id(0), Enlisted { state, ..enlisted("p") }, 2))], at(1));
        let standing = desk.standing("p", 0);
        assert_eq!((standing.accepting, standing.reason.as_deref(), standing.status), (false, Some(reason), Status::Online));

        desk.send([Event::Agents(Feed::Put(id(0), enlisted("p"), 3))], at(2));
        assert!(desk.standing("p", 0).accepting);
    }
    let mut desk = one_online();
    desk.send([Event::Heartbeat(key("p", 0), Beat { draining: true, ..beat(2) }, at(1))], at(1));
    assert_eq!((desk.standing("p", 0).accepting, desk.standing("p", 0).reason.as_deref()), (false, Some("draining")));
}

#[test]
fn failures_lower_the_score_and_the_place_and_then_degrade() {
    let two = [(0, enlisted("p")), (1, enlisted("p"))];
    let beats = [(key("p", 0), beat(1), noon()), (key("p", 1), beat(1), noon())];
    let mut desk = Desk::new().ready(&two, &beats, noon());
    assert_eq!((desk.standing("p", 0).pull_priority, desk.standing("p", 1).pull_priority), (0, 0));

    desk.finish("p", 0, Outcome::Succeeded, 1, at(1));
    desk.finish("p", 0, Outcome::Failed, 1, at(1));
    let standing = desk.standing("p", 0);
    assert_eq!((standing.success_part, standing.score, standing.rank, standing.pull_priority), (25.0, 75.0, 1, 1));
    assert_eq!(standing.status, Status::Online);

    desk.finish("p", 0, Outcome::TimedOut, 3, at(2));
    let standing = desk.standing("p", 0);
    assert_eq!((standing.status, standing.accepting, standing.score), (Status::Degraded, true, 60.0));
    assert!(standing.reason.as_deref().unwrap().contains("half of its jobs"), "{standing:?}");

    for minute in 1..=70 {
        let seq = 1 + minute;
        let beats = [0, 1].map(|n| Event::Heartbeat(key("p", n), beat(seq), at(minute * 60)));
        desk.send(beats.into_iter().chain([Event::Tick]), at(minute * 60));
    }
    assert_eq!(desk.standing("p", 0).status, Status::Online, "after an hour it is forgotten");
}

#[test]
fn outcomes_that_say_nothing_of_the_agent_do_not_count() {
    let mut desk = one_online();
    for outcome in [Outcome::Cancelled, Outcome::Expired, Outcome::Rejected] {
        desk.finish("p", 0, outcome, 10, at(1));
    }
    assert_eq!((desk.standing("p", 0).score, desk.standing("p", 0).status), (100.0, Status::Online));
}

#[test]
fn a_result_counts_only_for_an_agent_of_its_own_pool() {
    let two = [(0, enlisted("p")), (1, enlisted("q"))];
    let beats = [(key("p", 0), beat(1), noon()), (key("q", 1), beat(1), noon())];
    let mut desk = Desk::new().ready(&two, &beats, noon());
    desk.finish("q", 0, Outcome::Failed, 10, at(1));
    assert_eq!(desk.standing("p", 0).score, 100.0);
    assert!(desk.notes.contains(&Note::Unattributed("q".parse().unwrap(), id(0))));
    desk.send([Event::Finished("q".parse().unwrap(), None, Outcome::Failed, at(1))], at(1));
    desk.send([Event::Finished("q".parse().unwrap(), Some(id(9)), Outcome::Failed, at(1))], at(1));
    assert_eq!(desk.standing("q", 1).score, 100.0);
}

#[test]
fn a_heartbeat_on_another_pools_subject_or_of_an_unknown_agent_changes_nothing() {
    let mut desk = one_online();
    let writes = desk.writes.len();
    desk.send([Event::Heartbeat(key("q", 0), Beat { goodbye: true, ..beat(9) }, at(1))], at(1));
    desk.send([Event::Heartbeat(key("p", 7), beat(1), at(1)), Event::Tick], at(1));
    assert_eq!(desk.writes.len(), writes);
    assert_eq!(desk.bucket.len(), 1);
}

#[test]
fn a_heartbeat_that_comes_just_before_the_record_counts() {
    let mut desk = one_online();
    desk.send([Event::Heartbeat(key("p", 1), beat(1), at(1))], at(1));
    desk.send([Event::Agents(Feed::Put(id(1), enlisted("p"), 2))], at(1));
    assert_eq!(desk.standing("p", 1).status, Status::Online);
}

#[test]
fn a_replayed_heartbeat_does_not_keep_an_agent_alive() {
    let mut desk = one_online();
    for second in 1..=90 {
        desk.send([Event::Heartbeat(key("p", 0), beat(1), at(second)), Event::Tick], at(second));
    }
    assert_eq!(desk.standing("p", 0).status, Status::Offline);
    assert!(desk.notes.contains(&Note::Replay(key("p", 0))));
}

#[test]
fn two_processes_with_one_identity_are_degraded_and_told_once() {
    let mut desk = one_online();
    for n in 1..10 {
        let beats = ["two", "one"].map(|instance| Event::Heartbeat(key("p", 0), Beat { instance: instance.into(), ..beat(n + 1) }, at(n)));
        desk.send(beats, at(n));
    }
    let standing = desk.standing("p", 0);
    assert_eq!((standing.status, standing.accepting), (Status::Degraded, true));
    assert_eq!(standing.reason.as_deref(), Some("two processes use this identity"));
    assert_eq!(desk.notes.iter().filter(|note| matches!(note, Note::TwoProcesses(_))).count(), 1);
}

#[test]
fn a_reported_fault_degrades_and_its_text_is_cut_and_cleaned() {
    let mut desk = one_online();
    let fault = Some(format!("disk\r\n\u{1b}[31mfull{}", "!".repeat(10_000)));
    desk.send([Event::Heartbeat(key("p", 0), Beat { fault, ..beat(2) }, at(1))], at(1));
    let standing = desk.standing("p", 0);
    let reason = standing.reason.clone().unwrap();
    assert_eq!(standing.status, Status::Degraded);
    assert!(reason.starts_with("it reports a fault: disk[31mfull!"), "{reason}");
    assert!(reason.len() < 300 && !reason.contains(char::is_control), "{reason:?}");
}

#[test]
fn the_standing_names_the_description_that_the_last_heartbeat_named_if_it_can_be_one() {
    let mut desk = one_online();
    assert_eq!(desk.standing("p", 0).description, None);
    let mut told = |seq: u64, description: &str| {
        let beat = Beat { description: Some(description.into()).filter(|digest: &String| is_digest(digest)), ..beat(seq) };
        desk.send([Event::Heartbeat(key("p", 0), beat, at(6 * seq)), Event::Tick], at(6 * seq));
        desk.standing("p", 0).description.clone()
    };
    let (first, second) = ("0".repeat(32), "f".repeat(32));
    assert_eq!(told(2, &first), Some(first));
    assert_eq!(told(3, &second), Some(second));
    assert_eq!(told(4, "more\r\nthan a digest"), None);
}

#[test]
fn the_standing_names_the_highest_state_of_the_vault_which_a_dispatcher_after_this_one_goes_on_with() {
    let mark = |id: &str, counter| Some(VaultMark { id: id.into(), counter });
    fn told(desk: &mut Desk, seq: u64, vault: Option<VaultMark>) -> Option<VaultMark> {
        desk.send([Event::Heartbeat(key("p", 0), Beat { vault, ..beat(seq) }, at(6 * seq)), Event::Tick], at(6 * seq));
        desk.standing("p", 0).vault.clone()
    }
    let mut desk = one_online();
    assert_eq!(desk.standing("p", 0).vault, None);
    assert_eq!(told(&mut desk, 2, mark("a", 5)), mark("a", 5));
    assert_eq!(told(&mut desk, 3, mark("a", 4)), mark("a", 5), "rolled back");
    assert_eq!(told(&mut desk, 4, None), mark("a", 5), "and closed");
    // Another dispatcher knows it from the bucket, whatever the agent says meanwhile.
    let mut desk = Desk::over(desk.bucket).ready(&[(0, enlisted("p"))], &[], at(30));
    assert_eq!(told(&mut desk, 5, mark("a", 4)), mark("a", 5));
    assert_eq!(told(&mut desk, 6, mark("a", 6)), mark("a", 6));
    assert_eq!(told(&mut desk, 7, mark("b", 1)), mark("b", 1), "a new vault begins anew");
}

#[test]
fn a_removed_record_removes_the_standing_and_an_agent_that_moved_has_one_in_its_new_pool_only() {
    let mut desk = Desk::new().ready(&[(0, enlisted("p")), (1, enlisted("p"))], &[], noon());
    desk.send([Event::Agents(Feed::Gone(id(0), 2))], at(1));
    desk.send([Event::Agents(Feed::Put(id(1), enlisted("q"), 3))], at(1));
    assert_eq!(desk.bucket.keys().collect::<Vec<_>>(), [&key("q", 1)]);

    desk.send([Event::Agents(Feed::Put(id(0), enlisted("p"), 4))], at(2));
    assert!(desk.bucket.contains_key(&key("p", 0)), "a record that comes back gets a standing again");
}

#[test]
fn a_deleted_standing_is_forgotten_once_its_marker_has_vanished() {
    let mut desk = Desk::new().ready(&[(0, enlisted("p")), (1, enlisted("p"))], &[], noon());
    desk.send([Event::Agents(Feed::Gone(id(0), 2))], at(1));
    desk.send([Event::Tick], at(2));
    // The bucket does not tell of it.
    desk.deleted.clear();
    let later = at(2) + muster_schemas::topology::MARKER_AGE;
    desk.send([Event::Tick], later);
    desk.send([Event::Agents(Feed::Put(id(0), enlisted("p"), 4))], later);
    assert!(desk.bucket.contains_key(&key("p", 0)), "it is written as if there had never been one");
}

#[test]
fn a_record_that_is_missing_when_all_are_read_again_is_gone() {
    let mut desk = Desk::new().ready(&[(0, enlisted("p")), (1, enlisted("p"))], &[], noon());
    desk.send([Event::Agents(Feed::Begin), Event::Agents(Feed::Put(id(1), enlisted("p"), 9))], at(1));
    assert_eq!(desk.bucket.len(), 2, "not before all was read");
    desk.send([Event::Agents(Feed::End)], at(1));
    assert_eq!(desk.bucket.keys().collect::<Vec<_>>(), [&key("p", 1)]);
}

#[test]
fn a_follower_knows_all_and_writes_nothing_and_a_new_leader_writes_only_what_differs() {
    let two = [(0, enlisted("p")), (1, enlisted("p"))];
    let beats = [(key("p", 0), beat(1), noon()), (key("p", 1), beat(1), noon())];
    let leader = Desk::new().ready(&two, &beats, noon());
    let writes = leader.writes.len();
    assert_eq!(writes, 2);

    let mut next = Desk::over(leader.bucket.clone()).ready(&two, &beats, noon());
    assert_eq!(next.writes, [], "the same figures give the same standings");
    next.send([Event::Lead(false)], at(1));
    next.send([Event::Heartbeat(key("p", 0), Beat { goodbye: true, ..beat(2) }, at(1)), Event::Tick], at(1));
    assert_eq!(next.writes, []);
    next.send([Event::Lead(true)], at(2));
    assert_eq!(next.writes.len(), 1);
    assert_eq!(next.standing("p", 0).status, Status::Offline);
}

#[test]
fn what_somebody_else_wrote_is_put_right_and_a_refused_write_is_tried_again() {
    let mut desk = one_online();
    let wrong = Standing { accepting: false, ..desk.standing("p", 0).clone() };
    desk.bucket.insert(key("p", 0), (wrong.clone(), 77));
    desk.revision = 77;
    desk.send([Event::Standings(Feed::Put(key("p", 0), Some(wrong), 77)), Event::Tick], at(6));
    assert!(desk.standing("p", 0).accepting);

    desk.bucket.clear();
    desk.send([Event::Standings(Feed::Begin), Event::Standings(Feed::End), Event::Tick], at(12));
    assert!(desk.standing("p", 0).accepting, "a bucket that was made anew is filled");

    let refused = desk.state.apply(Event::Heartbeat(key("p", 0), Beat { goodbye: true, ..beat(2) }, at(20)), at(20));
    let is_put = |commands: &[Command]| commands.iter().any(|command| matches!(command, Command::Put(..)));
    assert!(is_put(&refused));
    assert!(!is_put(&desk.state.apply(Event::Tick, at(21))), "while it is under way nothing else is written to its key");
    desk.state.apply(Event::Written(key("p", 0), None), at(21));
    assert!(is_put(&desk.state.apply(Event::Tick, at(22))));
}

#[test]
fn an_unreadable_standing_is_replaced() {
    let mut desk = one_online();
    let revision = desk.revision + 1;
    let put = desk.state.apply(Event::Standings(Feed::Put(key("p", 0), None, revision)), at(5));
    assert_eq!(put, []);
    assert!(matches!(&desk.state.apply(Event::Tick, at(6))[..], [Command::Put(_, _, named)] if *named == revision));
}

#[test]
fn an_agent_that_flaps_costs_a_bounded_number_of_writes() {
    let mut desk = one_online();
    for n in 0..1000 {
        let beat = Beat { goodbye: n % 2 == 0, ..beat(n + 2) };
        desk.send([Event::Heartbeat(key("p", 0), beat, at(1))], at(1) + Duration::from_millis(n));
    }
    assert!(desk.writes.len() <= 7, "{} writes in a second", desk.writes.len());
}

fn terms(timeout_s: Option<i64>) -> Terms {
    Terms { defaults: PoolDefaults { timeout_s, retry: None }, prompt: false }
}

#[test]
fn how_long_acks_may_wait_is_in_the_standings_of_a_pools_agents() {
    let mut desk = Desk::new().ready(&[(0, enlisted("p")), (1, enlisted("q"))], &[], noon());
    desk.send([Event::Pools(Feed::Put("p".parse().unwrap(), Terms { prompt: true, ..Terms::default() }, 1))], noon());
    assert_eq!((desk.standing("p", 0).ack_delay_ms, desk.standing("q", 1).ack_delay_ms), (0, 400));
}

#[test]
fn what_a_pool_gives_its_jobs_is_in_the_standings_of_its_agents_at_once() {
    let mut desk = Desk::new().ready(&[(0, enlisted("p")), (1, enlisted("q"))], &[], noon());
    let put = |timeout_s| Event::Pools(Feed::Put("p".parse().unwrap(), terms(timeout_s), 1));
    desk.writes.clear();
    desk.send([put(Some(7))], noon());
    let written: Vec<_> = desk.writes.iter().map(|(key, standing)| (key.pool.as_str(), standing.defaults.clone())).collect();
    assert_eq!(written, [("p", Some(PoolDefaults { timeout_s: Some(7), retry: None }))]);
    desk.send([put(None)], noon());
    assert_eq!(desk.standing("p", 0).defaults, None);
}

#[test]
fn nothing_is_written_before_the_pools_are_known() {
    let mut desk = Desk::new();
    let agents = [Event::Agents(Feed::Begin), Event::Agents(Feed::Put(id(0), enlisted("p"), 1)), Event::Agents(Feed::End)];
    let sources = [Source::Standings, Source::Heartbeats, Source::Results].map(Event::CaughtUp);
    desk.send(agents.into_iter().chain(sources).chain([Event::Lead(true)]), noon());
    assert_eq!(desk.writes, []);
    let put = Event::Pools(Feed::Put("p".parse().unwrap(), terms(Some(7)), 1));
    desk.send([Event::Pools(Feed::Begin), put, Event::Pools(Feed::End)], noon());
    assert_eq!(desk.standing("p", 0).defaults.as_ref().and_then(|defaults| defaults.timeout_s), Some(7));
}

#[test]
fn a_thousand_writes_wait_for_one_another_and_all_are_done() {
    let agents: Vec<_> = (0..600).map(|n| (n, enlisted("p"))).collect();
    let mut desk = Desk::new();
    desk.state.apply_all(agents.iter().map(|(n, record)| Event::Agents(Feed::Put(id(*n), record.clone(), 1))), noon());
    let caught_up = Source::ALL.map(Event::CaughtUp).into_iter().chain([Event::Lead(true)]);
    let first = desk.state.apply_all(caught_up, noon());
    assert_eq!(first.iter().filter(|command| matches!(command, Command::Put(..))).count(), IN_FLIGHT_MAX);

    // Each that is done makes room for one, without another judgement of all.
    let Some(Command::Put(done, ..)) = first.first() else { panic!("{first:?}") };
    let next = desk.state.apply(Event::Written(done.clone(), Some(1)), noon());
    assert!(matches!(&next[..], [Command::Put(key, ..)] if key != done), "{next:?}");

    let mut written = 1;
    let mut commands: Vec<_> = first.into_iter().skip(1).chain(next).collect();
    while !commands.is_empty() {
        let puts = commands.into_iter().filter_map(|command| if let Command::Put(key, ..) = command { Some(key) } else { None });
        let done: Vec<_> = puts.map(|key| Event::Written(key, Some(1))).collect();
        written += done.len();
        commands = desk.state.apply_all(done, noon());
    }
    assert_eq!(written, 600);
}

#[test]
fn agents_that_were_well_keep_their_standing_until_they_can_be_heard_again() {
    let before = one_online().bucket;
    let record = [(0, enlisted("p"))];
    // The broker was away for an hour, and the stream of heartbeats with it; so was the dispatcher.
    let hour = 3600;
    let mut desk = Desk::over(before.clone());
    desk.send([Event::HeartbeatsSince(at(hour))], at(hour));
    let mut desk = desk.ready(&record, &[], at(hour));
    assert_eq!(desk.writes, []);
    desk.send([Event::Tick], at(hour + 60));
    assert!(desk.standing("p", 0).accepting);
    desk.send([Event::Tick], at(hour + 90));
    assert_eq!(desk.standing("p", 0).status, Status::Offline);

    // Without that reason, silence is silence.
    let mut desk = Desk::over(before);
    desk.send([Event::HeartbeatsSince(noon())], at(hour));
    assert_eq!(desk.ready(&record, &[], at(hour)).standing("p", 0).status, Status::Offline);
}

#[test]
fn lanes_are_asked_for_once_per_new_capability_and_only_by_the_leader() {
    let able = |names: &[&str]| Enlisted { capabilities: names.iter().map(|name| name.parse().unwrap()).collect(), ..enlisted("p") };
    let mut desk = Desk::new().ready(&[(0, able(&["shell"]))], &[], noon());
    let lanes = |desk: &Desk| desk.lanes.iter().map(|(_, executors)| executors.len()).collect::<Vec<_>>();
    assert_eq!(lanes(&desk), [1]);
    desk.send([Event::Agents(Feed::Put(id(1), able(&["shell"]), 2))], at(1));
    assert_eq!(lanes(&desk), [1]);
    desk.send([Event::Agents(Feed::Put(id(1), able(&["shell", "sql"]), 3))], at(2));
    assert_eq!(lanes(&desk), [1, 1], "only the one that is new");
    desk.send([Event::Lead(false), Event::Agents(Feed::Put(id(1), able(&["vm"]), 4))], at(3));
    assert_eq!(lanes(&desk), [1, 1]);
    desk.send([Event::Lead(true)], at(4));
    assert_eq!(lanes(&desk), [1, 1, 2], "a new leader asks for all");
}

#[test]
fn twenty_thousand_agents_cost_a_tick_of_milliseconds() {
    let pool: PoolName = "p".parse().unwrap();
    let mut state = State::default();
    let agents: Vec<_> = (0..20_000).map(|_| AgentId::generate()).collect();
    state.apply_all(agents.iter().map(|id| Event::Agents(Feed::Put(id.clone(), enlisted("p"), 1))), noon());
    let beats = agents.iter().map(|agent| Event::Heartbeat(Key { pool: pool.clone(), agent: agent.clone() }, beat(1), noon()));
    state.apply_all(beats, noon());
    let started = std::time::Instant::now();
    state.apply(Event::Tick, at(1));
    let took = started.elapsed();
    // 40 ms unoptimised on a busy core when this was written; the bound is that it is not quadratic.
    assert!(took < Duration::from_secs(1), "{took:?}");
}

mod properties {
    use proptest::prelude::*;

    use super::*;

    fn event() -> impl Strategy<Value = Event> {
        let key = (0u32..4, prop::sample::select(vec!["p", "q"])).prop_map(|(n, pool)| key(pool, n));
        let beat = (0u8..3, 0u64..6, any::<bool>(), any::<bool>()).prop_map(|(instance, seq, draining, goodbye)| Beat {
            instance: instance.to_string(),
            draining,
            goodbye,
            ..beat(seq)
        });
        let heard = (key.clone(), beat, 0u64..200).prop_map(|(key, beat, secs)| Event::Heartbeat(key, beat, at(secs)));
        let finished = (key.clone(), prop::sample::select(Outcome::ALL.to_vec()), 0u64..200)
            .prop_map(|(key, outcome, secs)| Event::Finished(key.pool, Some(key.agent), outcome, at(secs)));
        let states = vec![AgentState::Active, AgentState::Active, AgentState::Disabled, AgentState::Revoked];
        let record = (key.clone(), prop::sample::select(states))
            .prop_map(|(key, state)| Event::Agents(Feed::Put(key.agent, Enlisted { state, ..enlisted(key.pool.as_str()) }, 1)));
        let gone = key.prop_map(|key| Event::Agents(Feed::Gone(key.agent, 1)));
        let lead = any::<bool>().prop_map(Event::Lead);
        prop_oneof![4 => heard, 4 => finished, 4 => record, 1 => gone, 1 => lead, 3 => Just(Event::Tick)]
    }

    proptest! {
        #[test]
        fn whatever_happens_the_bucket_follows_and_standings_make_sense(steps in prop::collection::vec((event(), 0u64..20), 1..80)) {
            let mut desk = Desk::new().ready(&[], &[], noon());
            let mut now = 0;
            for (event, later) in steps {
                now += later;
                desk.send([event], at(now));
            }
            desk.send([Event::Lead(true)], at(now + 10));
            desk.send([Event::Tick], at(now + 20));
            let known: BTreeMap<_, _> =
                desk.state.agents().map(|(pool, agent, judged)| (Key { pool: pool.clone(), agent: agent.clone() }, judged.unwrap())).collect();
            prop_assert_eq!(known.keys().collect::<Vec<_>>(), desk.bucket.keys().collect::<Vec<_>>());
            for (key, (written, _)) in &desk.bucket {
                let judged = known[key];
                prop_assert_eq!((written.status, written.accepting, written.pull_priority), (judged.status, judged.accepting, judged.pull_priority));
                prop_assert!((written.score - judged.score).abs() < 0.05);
                prop_assert!((0.0..=100.0).contains(&written.score) && written.pull_priority <= 9);
                prop_assert!(!written.accepting || written.status != Status::Offline);
                prop_assert_eq!(written.reason.is_some(), !written.accepting || written.status == Status::Degraded);
            }
            for pool in ["p", "q"] {
                let accepting: Vec<_> = desk.bucket.iter().filter(|(key, (s, _))| key.pool.as_str() == pool && s.accepting).collect();
                prop_assert!(accepting.is_empty() || accepting.iter().any(|(_, (standing, _))| standing.pull_priority == 0));
            }
        }
    }
}

fn ephemeral(state: AgentState) -> Enlisted {
    Enlisted { ephemeral: true, state, ..enlisted("p") }
}

const AWAY: u64 = muster_schemas::topology::EPHEMERAL_AWAY_MAX.as_secs();

#[test]
fn an_agent_that_is_being_removed_takes_nothing_and_is_told_of_at_each_tick_until_its_record_is_gone() {
    let mut desk = one_online();
    assert_eq!(desk.leaving, []);
    let deleting = Enlisted { state: AgentState::Deleting, ..enlisted("p") };
    desk.send([Event::Agents(Feed::Put(id(0), deleting, 2))], at(1));
    assert_eq!((desk.standing("p", 0).accepting, desk.standing("p", 0).reason.as_deref()), (false, Some("being removed")));
    for n in 2..4 {
        desk.send([Event::Tick], at(n));
        assert_eq!(std::mem::take(&mut desk.leaving), [Command::Remove(id(0))]);
    }
    desk.send([Event::Agents(Feed::Gone(id(0), 3)), Event::Tick], at(4));
    assert!(desk.leaving.is_empty() && desk.bucket.is_empty());
}

#[test]
fn a_follower_removes_nobody() {
    let deleting = Enlisted { state: AgentState::Deleting, ..enlisted("p") };
    let mut desk = Desk::new().ready(&[(0, deleting), (1, ephemeral(AgentState::Active))], &[], noon());
    desk.leaving.clear();
    desk.send([Event::Lead(false), Event::Tick], at(2 * AWAY));
    assert_eq!(desk.leaving, []);
}

#[test]
fn an_ephemeral_agent_goes_after_an_hour_away_and_any_other_stays() {
    let agents =
        [(0, ephemeral(AgentState::Active)), (1, enlisted("p")), (2, ephemeral(AgentState::Revoked)), (3, ephemeral(AgentState::Disabled))];
    let beats: Vec<_> = (0..4).map(|n| (key("p", n), beat(1), noon())).collect();
    let mut desk = Desk::new().ready(&agents, &beats, noon());
    // Three intervals of 30 s after its last heartbeat it is away.
    desk.send([Event::Tick], at(AWAY + 89));
    assert_eq!(desk.leaving, []);
    desk.send([Event::Tick], at(AWAY + 90));
    assert_eq!(desk.leaving, [Command::Expel(id(0)), Command::Expel(id(3))]);
}

#[test]
fn an_ephemeral_agent_that_said_goodbye_is_away_from_then_on_and_one_that_comes_back_is_not() {
    let agents = [(0, ephemeral(AgentState::Active)), (1, ephemeral(AgentState::Active))];
    let beats: Vec<_> = (0..2).map(|n| (key("p", n), beat(1), noon())).collect();
    let mut desk = Desk::new().ready(&agents, &beats, noon());
    let goodbye = |n| Event::Heartbeat(key("p", n), Beat { goodbye: true, ..beat(2) }, at(10));
    desk.send([goodbye(0), goodbye(1)], at(10));
    desk.send([Event::Heartbeat(key("p", 1), Beat { instance: "two".into(), ..beat(1) }, at(AWAY))], at(AWAY));
    desk.send([Event::Tick], at(AWAY + 9));
    assert_eq!(desk.leaving, []);
    desk.send([Event::Tick], at(AWAY + 10));
    assert_eq!(desk.leaving, [Command::Expel(id(0))]);
}

#[test]
fn an_ephemeral_agent_of_which_nothing_was_heard_gets_an_hour_from_the_start_of_the_dispatcher() {
    let mut desk = Desk::new().ready(&[(0, ephemeral(AgentState::Active))], &[], noon());
    desk.send([Event::HeartbeatsSince(at(0) - Duration::from_secs(9 * AWAY)), Event::Tick], at(AWAY - 1));
    assert_eq!(desk.leaving, []);
    desk.send([Event::Tick], at(AWAY));
    assert_eq!(desk.leaving, [Command::Expel(id(0))]);
}

#[test]
fn an_ephemeral_agent_is_not_away_while_nobody_could_be_heard() {
    let last = (key("p", 0), beat(1), noon());
    let mut desk = Desk::new().ready(&[(0, ephemeral(AgentState::Active))], &[last], noon());
    // The broker was away for days, and has the stream of heartbeats made anew.
    let back = 50 * AWAY;
    desk.send([Event::HeartbeatsSince(at(back)), Event::Tick], at(back));
    desk.send([Event::Tick], at(back + AWAY - 1));
    assert_eq!(desk.leaving, []);
    desk.send([Event::Tick], at(back + AWAY));
    assert_eq!(desk.leaving, [Command::Expel(id(0))]);
}

#[test]
fn an_ephemeral_agent_of_which_the_broker_still_has_an_old_heartbeat_goes_at_once() {
    let old = noon() - Duration::from_secs(2 * AWAY);
    let desk = Desk::new().ready(&[(0, ephemeral(AgentState::Active))], &[(key("p", 0), beat(1), old)], noon());
    assert_eq!(desk.leaving, [Command::Expel(id(0))]);
}

#[test]
fn a_standing_says_at_once_which_executors_an_operator_allows() {
    let mut desk = one_online();
    assert_eq!(desk.standing("p", 0).executors, None);
    for (n, allowed) in [(1, Some(BTreeSet::from(["shell".parse().unwrap()]))), (2, Some(BTreeSet::new())), (3, None)] {
        desk.send([Event::Agents(Feed::Put(id(0), Enlisted { allowed: allowed.clone(), ..enlisted("p") }, n))], at(n));
        assert_eq!(desk.standing("p", 0).executors, allowed);
        assert!(desk.standing("p", 0).accepting);
    }
}

#[test]
fn a_standing_shows_a_twin_until_one_of_the_two_has_gone() {
    let mut desk = one_online();
    let other = |seq| Event::Heartbeat(key("p", 0), Beat { instance: "two".into(), ..beat(seq) }, at(seq));
    desk.send([other(1)], at(1));
    assert!(!desk.standing("p", 0).twin, "a restart");
    desk.send([Event::Heartbeat(key("p", 0), beat(2), at(2))], at(2));
    let standing = desk.standing("p", 0);
    assert_eq!((standing.twin, standing.accepting, standing.reason.as_deref()), (true, true, Some("two processes use this identity")));
    assert_eq!(desk.notes.iter().filter(|note| matches!(note, Note::TwoProcesses(_))).count(), 1);
    for seq in [3, 30, 60, 90] {
        desk.send([other(seq), Event::Tick], at(seq));
    }
    desk.send([Event::Tick], at(95));
    assert!(!desk.standing("p", 0).twin);
}
