//! The jobs of groups against what was put in.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail by panicking")]

use std::convert::Infallible;

use muster_schemas::{lane::Priority, names::JobId, result::Outcome, signature::Mark};

use super::*;
use crate::history::row::{Change, Ended, Missing, Place, Queued};

const START: i64 = 1_700_000_000_000_000;

struct World {
    catalogue: Catalogue,
    hashes: Hashes,
    rows: HashMap<RowKey, Row>,
    pool: PoolName,
    group: GroupId,
}

impl World {
    fn new() -> Self {
        let (pool, group) = ("p".parse().unwrap(), GroupId::generate());
        Self { catalogue: Catalogue::default(), hashes: Hashes::default(), rows: HashMap::new(), pool, group }
    }

    fn add(&mut self, pool: &str, id: JobId, label: &str, then: Option<Change>) {
        let queued = Queued {
            place: Place(START, 1),
            at: START,
            priority: Priority::High,
            job_type: Some("shell.run".parse().unwrap()),
            labels: [("x".to_owned(), label.to_owned())].into(),
            parent: None,
            not_before: None,
            expires_at: None,
            to: Some("agt_01ARZ3NDEKTSV4RRFFQ69G5FAV".parse().unwrap()),
            ttl_s: 60,
        };
        let mut row = Row::new(pool.parse().unwrap(), id);
        row.apply(Change::Queued(queued));
        if let Some(change) = then {
            row.apply(change);
        }
        let key = RowKey::of(&row.pool, &row.id).unwrap();
        self.catalogue.insert(self.hashes.entry(key, &row));
        self.rows.insert(key, row);
    }

    fn ask(&self, members: u32, from: u32, limit: u32) -> GroupAnswer {
        let question = GroupQuestion { v: V, pool: self.pool.clone(), group: self.group.clone(), members, from, limit };
        let load = |key| Ok::<_, Infallible>(self.rows.get(&key).cloned());
        answer(&self.catalogue, &self.hashes, &question, Timestamp::from_micros(START + 9), load).unwrap()
    }
}

fn ended(outcome: Outcome) -> Option<Change> {
    Some(Change::Ended(Ended {
        signature: Mark::Valid,
        place: Place(START + 5, 1),
        outcome,
        agent: None,
        attempt: 1,
        queued_at: START,
        started_at: None,
        finished_at: START + 5,
        exit_code: None,
        error: None,
        priority: Priority::High,
        job_type: None,
        labels: BTreeMap::new(),
    }))
}

#[test]
fn members_are_counted_and_shown_by_their_places_and_no_other_job_is() {
    let mut world = World::new();
    let group = world.group.clone();
    let changes = [None, ended(Outcome::Succeeded), ended(Outcome::Expired), Some(Change::Missing(Missing::Lost))];
    for (place, change) in changes.into_iter().enumerate() {
        world.add("p", group.job(place), "", change);
    }
    world.add("p", group.job(5), "", ended(Outcome::Failed));
    // Behind what is asked for, of another pool, of another group, and of none.
    world.add("p", group.job(6), "", None);
    world.add("q", group.job(4), "", None);
    world.add("p", GroupId::generate().job(4), "", None);
    world.add("p", JobId::generate(&world.pool), "", None);
    let all = world.ask(6, 0, 10);
    // Where the lost one is, nobody knows.
    let counts = [("pending", 1), ("succeeded", 1), ("expired", 1), ("failed", 1)].map(|(state, count)| (state.to_owned(), count));
    assert_eq!(all.counts, counts.into());
    assert_eq!((all.rows.iter().map(|(place, _)| *place).collect::<Vec<_>>(), all.next), (vec![0, 1, 2, 3, 5], 6));
    assert!(all.rows.iter().all(|(place, row)| row.id == world.group.job(*place as usize) && row.target_agent.is_some()));
    // Page by page, and counts of all with each.
    let page = world.ask(6, 2, 2);
    assert_eq!((page.rows, page.next, page.counts), (all.rows[2..4].to_vec(), 4, all.counts.clone()));
    let page = world.ask(6, 4, 2);
    assert_eq!((page.rows.len(), page.next), (1, 6));
    let none = world.ask(6, 0, 0);
    assert_eq!((none.rows.len(), none.next, none.counts), (0, 0, all.counts));
    assert_eq!((world.ask(6, u32::MAX, 2).rows, world.ask(u32::MAX, 0, 100).rows.len()), (Vec::new(), 6));
}

#[test]
fn jobs_of_several_groups_are_followed_until_they_are_forgotten() {
    use Fate::{Ended, Open};
    let mut world = World::new();
    let (group, other) = (world.group.clone(), GroupId::generate());
    let changes = [None, ended(Outcome::Succeeded), ended(Outcome::Expired), Some(Change::Missing(Missing::Lost))];
    for (place, change) in changes.into_iter().enumerate() {
        world.add("p", group.job(place), "", change);
    }
    world.add("p", other.job(1), "", None);
    // None of a member: of another pool, of a place that there is not, of another group.
    for (pool, id) in [("q", group.job(4)), ("p", group.job(5)), ("p", GroupId::generate().job(0))] {
        world.add(pool, id, "", None);
    }
    let mut followed = Followed::default();
    assert_eq!(followed.fates(&world.catalogue), []);
    (0..5).for_each(|place| followed.follow(&world.pool, &group.job(place), (7, place), START));
    (0..2).for_each(|place| followed.follow(&world.pool, &other.job(place), (8, place), START + 5));
    let fates = |followed: &Followed| {
        let mut fates = followed.fates(&world.catalogue);
        fates.sort_unstable_by_key(|(member, ..)| *member);
        fates
    };
    let lost = ((7, 3), Ended(false), false);
    let all = [((7, 0), Open, false), ((7, 1), Ended(true), true), ((7, 2), Ended(false), true), lost, ((8, 1), Open, false)];
    assert_eq!(fates(&followed), all);
    (0..3).for_each(|place| followed.forget(&world.pool, &group.job(place)));
    assert_eq!(fates(&followed), all[3..]);
    followed.forget(&world.pool, &group.job(3));
    followed.forget(&world.pool, &group.job(4));
    assert_eq!(fates(&followed), all[4..]);
}

#[test]
fn jobs_are_followed_from_the_beginning_of_their_group_on_whatever_clock_dated_it() {
    let mut world = World::new();
    world.add("p", world.group.job(0), "", None);
    let fates = |since: i64| {
        let mut followed = Followed::default();
        followed.follow(&world.pool, &world.group.job(0), (1, 0), since);
        followed.fates(&world.catalogue).len()
    };
    assert_eq!((fates(i64::MIN), fates(START), fates(START + SKEW - 1), fates(START + SKEW + 1)), (1, 1, 1, 0));
}

#[test]
fn an_answer_is_bounded_in_rows_and_bytes() {
    let mut world = World::new();
    let group = world.group.clone();
    (0..600).for_each(|place| world.add("p", group.job(place), "", None));
    assert_eq!(world.ask(600, 0, u32::MAX).rows.len(), ROWS_MAX as usize);
    (0..600).for_each(|place| world.add("p", group.job(place), &"y".repeat(255 * 20), None));
    let page = world.ask(600, 0, u32::MAX);
    assert!(page.rows.len() < 150 && page.next as usize == page.rows.len());
    assert!(muster_schemas::wire::encode(&page).len() < 1 << 20);
}
