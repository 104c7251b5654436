//! Pages against a naive model: all rows, filtered and sorted.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail by panicking")]

use std::{collections::HashMap, convert::Infallible};

use muster_schemas::{
    names::{AgentId, JobId, PoolName},
    result::Outcome,
    signature::Mark,
    wire::V,
};
use proptest::prelude::*;

use super::*;
use crate::history::row::{Change, Ended, Place, Queued};

const START: i64 = 1_700_000_000_000_000;
const NOW: i64 = START + 10_000_000;

struct World {
    catalogue: Catalogue,
    hashes: Hashes,
    rows: HashMap<RowKey, Row>,
}

fn agents() -> [AgentId; 2] {
    ["agt_01ARZ3NDEKTSV4RRFFQ69G5FAV", "agt_01ARZ3NDEKTSV4RRFFQ69G5FAW"].map(|id| id.parse().unwrap())
}

fn row((number, at_s, pool, agent, kind, label, put_off): (usize, i64, usize, Option<usize>, usize, usize, bool)) -> Row {
    let pool: PoolName = ["p", "q"][pool].parse().unwrap();
    let id: JobId = format!("j{number}").parse().unwrap();
    let (mut row, at) = (Row::new(pool, id), START + at_s * 1_000_000);
    let job_type = Some(["shell.run", "probe.sleep"][kind].parse().unwrap());
    row.apply(Change::Queued(Queued {
        place: Place(at, 1),
        at,
        priority: muster_schemas::lane::Priority::Normal,
        job_type,
        labels: [("team".to_owned(), ["a", "b", "c"][label].to_owned()), ("n".to_owned(), number.to_string())].into(),
        parent: None,
        not_before: put_off.then_some(NOW + 1),
        expires_at: None,
        // One in three is for one agent alone.
        to: (number % 3 > 0).then(|| agents()[number % 3 - 1].clone()),
        ttl_s: 60,
    }));
    if let Some(agent) = agent {
        row.apply(Change::Ended(Ended {
            signature: [Mark::Valid, Mark::Wrong, Mark::Missing][number % 3],
            place: Place(at + 1, 1),
            outcome: Outcome::Succeeded,
            agent: Some(agents()[agent].clone()),
            attempt: 1,
            queued_at: at,
            started_at: Some(at),
            finished_at: at + 1,
            exit_code: None,
            error: None,
            priority: muster_schemas::lane::Priority::Normal,
            job_type: None,
            labels: [].into(),
        }));
    }
    row
}

impl World {
    fn of(rows: impl IntoIterator<Item = Row>) -> Self {
        let mut world = Self { catalogue: Catalogue::default(), hashes: Hashes::default(), rows: HashMap::new() };
        rows.into_iter().for_each(|row| world.add(row));
        world
    }

    fn add(&mut self, row: Row) {
        let key = RowKey::of(&row.pool, &row.id).unwrap();
        self.catalogue.insert(self.hashes.entry(key, &row));
        self.rows.insert(key, row);
    }

    fn page(&self, question: &JobsQuestion, from: Option<Spot>) -> Page {
        let load = |key| Ok::<_, Infallible>(self.rows.get(&key).cloned());
        page(&self.catalogue, &self.hashes, question, from, Timestamp::from_micros(NOW), load).unwrap()
    }

    /// All pages, one behind the other; between two of them `meanwhile` happens.
    fn all(&mut self, question: &JobsQuestion, mut meanwhile: impl FnMut(&mut Self)) -> Vec<JobRow> {
        let (mut rows, mut from) = (Vec::new(), None);
        loop {
            let page = self.page(question, from);
            assert!(page.rows.len() <= question.limit as usize);
            rows.extend(page.rows);
            let Some(next) = page.next else { return rows };
            from = spot(&cursor(next));
            assert_eq!(from, Some(next));
            meanwhile(self);
        }
    }

    fn model(&self, question: &JobsQuestion) -> Vec<JobRow> {
        let mut rows: Vec<_> = self.rows.iter().map(|(key, row)| (row.queued_at(), *key, row.view(Timestamp::from_micros(NOW)))).collect();
        rows.sort_by_key(|(at, key, _)| std::cmp::Reverse((*at, *key)));
        let since = |row: &JobRow| question.since.is_none_or(|since| row.queued_at >= since);
        let until = |row: &JobRow| question.until.is_none_or(|until| row.queued_at < until);
        rows.into_iter().map(|(_, _, row)| row).filter(|row| fits(question, row) && since(row) && until(row)).collect()
    }
}

fn rows() -> impl Strategy<Value = Vec<Row>> {
    let one = (0_i64..8, 0..2_usize, prop::option::of(0..2_usize), 0..2_usize, 0..3_usize, any::<bool>());
    prop::collection::vec(one, 0..40).prop_map(|rows| {
        let numbered = rows.into_iter().enumerate();
        numbered.map(|(number, (at, pool, agent, kind, label, off))| row((number, at, pool, agent, kind, label, off))).collect()
    })
}

fn questions() -> impl Strategy<Value = JobsQuestion> {
    let time = || prop::option::of((0_i64..9).prop_map(|s| Timestamp::from_micros(START + s * 1_000_000)));
    let state = prop::sample::select(vec![JobState::Pending, JobState::Scheduled, JobState::Succeeded, JobState::Failed]);
    let pool = prop::option::of(prop::sample::select(vec!["p", "q", "none"]));
    let job_type = prop::option::of(prop::sample::select(vec!["shell.run", "probe.sleep"]));
    let label = prop::option::of(prop::sample::select(vec!["a", "b", "z"]));
    let agent = || prop::option::weighted(0.3, 0..2_usize);
    let signature = prop::option::weighted(0.3, prop::sample::select(vec![Mark::Valid, Mark::Wrong]));
    (pool, agent(), agent(), job_type, prop::option::of(state), signature, label, time(), time(), 1_u32..12).prop_map(
        |(pool, agent, target, job_type, state, signature, label, since, until, limit)| JobsQuestion {
            v: V,
            pool: pool.map(|pool| pool.parse().unwrap()),
            agent: agent.map(|agent| agents()[agent].clone()),
            target_agent: target.map(|agent| agents()[agent].clone()),
            job_type: job_type.map(|job_type| job_type.parse().unwrap()),
            state,
            signature,
            label: label.map(|value| ("team".to_owned(), value.to_owned())),
            since,
            until,
            limit,
            cursor: None,
        },
    )
}

proptest! {
    #[test]
    fn all_pages_together_are_what_was_asked_for_newest_first(rows in rows(), question in questions()) {
        let mut world = World::of(rows);
        let wanted = world.model(&question);
        prop_assert_eq!(world.all(&question, |_| ()), wanted);
    }

    #[test]
    fn jobs_that_arrive_between_pages_neither_repeat_nor_hide_others(rows in rows(), question in questions()) {
        let mut world = World::of(rows);
        let wanted = world.model(&question);
        let mut number = 1000;
        let got = world.all(&question, |world| {
            number += 1;
            world.add(row((number, 9, number % 2, None, number % 2, number % 3, false)));
        });
        prop_assert_eq!(got, wanted);
    }
}

#[test]
fn a_page_that_loads_too_many_rows_is_short_and_has_a_cursor() {
    // The hashes cannot tell them from the one that is asked for: a label whose bits are all set.
    let count = LOADS_MAX + 10;
    let mut world = World::of((0..count).map(|number| row((number, 1, 0, None, 0, 0, false))));
    let mut entries: Vec<Entry> = world.catalogue.oldest_first().copied().collect();
    entries.iter_mut().for_each(|entry| entry.labels = u128::MAX);
    world.catalogue = Catalogue::build(entries);
    let last = world.model(&JobsQuestion { limit: 1, ..JobsQuestion::default() }).pop().unwrap();
    let question = JobsQuestion { label: Some(("n".into(), last.labels["n"].clone())), limit: 50, ..JobsQuestion::default() };
    let first = world.page(&question, None);
    assert!(first.rows.is_empty() && first.next.is_some());
    assert_eq!(world.all(&question, |_| ()), [last]);
}

#[test]
fn what_is_no_cursor_is_none() {
    for text in ["", "1", "1.", "x.00000000000000000000000000000000", "1.0000000000000000000000000000000g", "1.00"] {
        assert_eq!(spot(text), None, "{text}");
    }
}
