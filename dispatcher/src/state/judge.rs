//! Judging a pool: each agent by itself, then its place among the others, and what of it must be written.
//!
//! The formulas are in [`crate::score`] and [`crate::ranking`], who stands by is chosen in [`super::standby`].

use std::collections::BTreeSet;

use muster_schemas::{
    names::{AgentId, ExecutorName, PoolName},
    standing::{ACCEPTING_MAX, Standing},
    time::Timestamp,
    wire::V,
};

use super::{
    Command, Key, Note, State,
    roster::Judged,
    standby::{self, Candidate},
};
use crate::ranking;

/// An agent of a pool that is being judged.
struct Seat {
    agent: AgentId,
    judged: Judged,
    /// In tenths.
    score: u16,
    standby: BTreeSet<ExecutorName>,
    /// Whether it pulls any lane, or has a place among those who do.
    pulls: bool,
}

impl State {
    /// Judges the agents of a pool, and says what of it must be written.
    pub(super) fn judge(&mut self, pool: &PoolName, now: Timestamp, commands: &mut Vec<Command>) {
        let seats = self.seats(pool, now);
        let count = |seats: usize| u32::try_from(seats).unwrap_or(u32::MAX);
        let accepting_agents = count(seats.iter().filter(|seat| seat.judged.accepting).count()).min(ACCEPTING_MAX);
        // Those who pull nothing are behind all who do, so that what becomes of one of thousands is no news to the others.
        let scores: Vec<u16> = seats.iter().filter(|seat| seat.pulls).map(|seat| seat.score).collect();
        let mut places = ranking::places(&scores).into_iter();
        let behind_all = ranking::Place { rank: count(scores.len()), pull_priority: ranking::PRIORITY_LAST };
        let commanding = self.commanding();
        self.calls.judged(pool, seats.iter().flat_map(|seat| &seat.standby));
        for seat in seats {
            let place = if seat.pulls { places.next() } else { None }.unwrap_or(behind_all);
            let Seat { agent, judged, standby, .. } = seat;
            let Judged { health, accepting, reason, executors, twin, description, vault } = judged;
            let standing = Standing {
                v: V,
                score: health.score(),
                heartbeat_part: health.heartbeat_part,
                success_part: health.success_part,
                status: health.status,
                rank: place.rank,
                pull_priority: place.pull_priority,
                accepting_agents,
                accepting,
                reason,
                executors,
                standby,
                ack_delay_ms: self.defaults.ack_delay_ms(pool),
                twin,
                defaults: self.defaults.of(pool),
                vault,
                description,
                at: now,
            };
            let key = Key { pool: pool.clone(), agent };
            if commanding && let Some(revision) = self.board.wants(&key, &standing) {
                commands.push(Command::Put(key.clone(), Box::new(standing.clone()), revision));
            }
            let before = self.roster.judged(&key.agent, standing.clone());
            if before.is_some_and(|before| before != standing.status) {
                commands.push(Command::Note(Note::Status(key, standing.status, standing.reason)));
            }
        }
    }

    /// Writes standings that had to wait for others to be written, as their agents were last judged.
    pub(super) fn write_waiting(&mut self, commands: &mut Vec<Command>) {
        while let Some(key) = self.board.next_waiting() {
            if let Some(standing) = self.roster.standing(&key)
                && let Some(revision) = self.board.wants(&key, standing)
            {
                commands.push(Command::Put(key, Box::new(standing.clone()), revision));
            }
        }
    }

    /// The agents of a pool, each as it is judged by itself, with what it stands by for.
    fn seats(&self, pool: &PoolName, now: Timestamp) -> Vec<Seat> {
        let members: Vec<_> = self
            .roster
            .members(pool)
            .map(|(id, agent)| {
                let written = self.board.standing(pool, id);
                (id, agent, written, self.roster.judge(agent, written, now))
            })
            .collect();
        let accepting = members.iter().filter(|(.., judged)| judged.accepting);
        let candidates: Vec<_> = accepting
            .map(|(id, agent, written, judged)| Candidate {
                id,
                executors: agent.capabilities(),
                allowed: judged.executors.as_ref(),
                score: ranking::tenths(judged.health.score()),
                // What is written outlives dispatchers. Of what is not written yet this one knows.
                before: written.or_else(|| agent.judged()),
            })
            .collect();
        let standbys = standby::standbys(&candidates, self.active_max.unwrap_or(standby::ACTIVE_MAX));
        let places = candidates.iter().zip(standbys).map(|(candidate, standby)| {
            let pulls = !standby::pulls_nothing(candidate, &standby);
            (candidate.score, standby, pulls)
        });
        let mut places = places.collect::<Vec<_>>().into_iter();
        let seats = members.into_iter().map(|(id, _, _, judged)| {
            let place = if judged.accepting { places.next() } else { None };
            let (score, standby, pulls) = place.unwrap_or_default();
            Seat { agent: id.clone(), judged, score, standby, pulls }
        });
        seats.collect()
    }

    /// Deletes standings whose agent is no more, or is in another pool now.
    pub(super) fn tidy(&mut self, commands: &mut Vec<Command>) {
        let roster = &self.roster;
        let orphans = self.board.orphans(|pool, agent| roster.is_member(pool, agent));
        commands.extend(orphans.into_iter().map(|(key, revision)| Command::Delete(key, revision)));
    }
}
