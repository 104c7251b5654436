//! Who pulls, and who stands by: the broker keeps waiting pulls in a list per lane, and what a job costs grows with its length.
//!
//! Of each executor of a pool a few hundred agents pull, the best ones; the others stand by until they are called up
//! ([`super::State::call_up`]). Pure, and stable: who pulls goes on pulling until another agent is clearly better, so that scores that
//! move a little write no standings. An executor that few agents have is pulled by all of them.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

use muster_schemas::{
    names::{AgentId, ExecutorName},
    standing::Standing,
};

/// How many agents of an executor of a pool pull its lanes, unless the settings say otherwise: [measured] with so many waiting pulls a job takes as long
/// as with two, and so many take thousands of jobs a second.
pub const ACTIVE_MAX: usize = 256;

/// By how many tenths of a point an agent on standby must be better to take the place of one that pulls: a heartbeat that is a little late, or a
/// failure among many jobs, is no reason.
pub const MARGIN: u16 = 50;

/// An agent that may pull.
#[derive(Debug, Clone, Copy)]
pub struct Candidate<'a> {
    /// Its id.
    pub id: &'a AgentId,
    /// Its executors.
    pub executors: &'a BTreeSet<ExecutorName>,
    /// Those that an operator allows it; `None` is all that it has.
    pub allowed: Option<&'a BTreeSet<ExecutorName>>,
    /// In tenths.
    pub score: u16,
    /// Its standing so far.
    pub before: Option<&'a Standing>,
}

impl<'a> Candidate<'a> {
    /// The executors whose lanes it could pull.
    fn able(&self) -> impl Iterator<Item = &'a ExecutorName> + use<'a> {
        let allowed = self.allowed;
        self.executors.iter().filter(move |name| allowed.is_none_or(|allowed| allowed.contains(*name)))
    }

    /// Whether it pulls the lanes of this executor so far.
    fn pulls(&self, executor: &ExecutorName) -> bool {
        self.before.is_some_and(|before| before.accepting && !before.standby.contains(executor))
    }

    /// The better, the lower: who pulls already counts for more.
    fn place(&self, executor: &ExecutorName) -> (Reverse<u16>, bool, &'a AgentId) {
        let pulls = self.pulls(executor);
        (Reverse(self.score + if pulls { MARGIN } else { 0 }), !pulls, self.id)
    }
}

/// For which executors each of these agents stands by, if so many pull each of them. In the order of the agents.
pub fn standbys(candidates: &[Candidate<'_>], most: usize) -> Vec<BTreeSet<ExecutorName>> {
    let mut standbys = vec![BTreeSet::new(); candidates.len()];
    if candidates.len() <= most {
        return standbys;
    }
    let mut able: BTreeMap<&ExecutorName, Vec<_>> = BTreeMap::new();
    for (number, candidate) in candidates.iter().enumerate() {
        for executor in candidate.able() {
            able.entry(executor).or_default().push((candidate.place(executor), number));
        }
    }
    for (executor, mut able) in able.into_iter().filter(|(_, able)| able.len() > most) {
        if let Some(last) = most.checked_sub(1) {
            able.select_nth_unstable(last);
        }
        for (_, number) in able.iter().skip(most) {
            if let Some(standby) = standbys.get_mut(*number) {
                standby.insert(executor.clone());
            }
        }
    }
    standbys
}

/// Whether it stands by for all that it could pull.
pub fn pulls_nothing(candidate: &Candidate<'_>, standby: &BTreeSet<ExecutorName>) -> bool {
    !standby.is_empty() && candidate.able().count() == standby.len()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests fail by panicking")]
    use muster_schemas::time::Timestamp;
    use proptest::prelude::*;

    use super::*;

    /// An agent of a test: its score, its executors, and what its standing says so far.
    #[derive(Debug, Clone)]
    struct Agent {
        id: AgentId,
        executors: BTreeSet<ExecutorName>,
        score: u16,
        before: Option<Standing>,
    }

    impl Agent {
        fn candidate(&self) -> Candidate<'_> {
            Candidate { id: &self.id, executors: &self.executors, allowed: None, score: self.score, before: self.before.as_ref() }
        }
    }

    fn executor(name: &str) -> ExecutorName {
        name.parse().unwrap()
    }

    fn fleet(scores: impl IntoIterator<Item = u16>) -> Vec<Agent> {
        let agent = |score| Agent { id: AgentId::generate(), executors: [executor("shell")].into(), score, before: None };
        let mut fleet: Vec<_> = scores.into_iter().map(agent).collect();
        fleet.sort_by(|one, other| one.id.cmp(&other.id));
        fleet
    }

    /// Chooses, and keeps what was chosen as the standings so far. Answers how many standings that changes.
    fn choose(fleet: &mut [Agent], most: usize) -> usize {
        let chosen = standbys(&fleet.iter().map(Agent::candidate).collect::<Vec<_>>(), most);
        let mut changed = 0;
        for (agent, standby) in fleet.iter_mut().zip(chosen) {
            let now = Standing { standby, ..Standing::first(Timestamp::from_secs(0)) };
            changed += usize::from(agent.before.as_ref() != Some(&now));
            agent.before = Some(now);
        }
        changed
    }

    fn pulling<'a>(fleet: &'a [Agent], name: &str) -> Vec<&'a Agent> {
        let name = executor(name);
        fleet.iter().filter(|agent| agent.executors.contains(&name) && agent.candidate().pulls(&name)).collect()
    }

    #[test]
    fn the_best_pull_and_the_others_stand_by() {
        let mut fleet = fleet([900, 1000, 500, 1000, 950]);
        choose(&mut fleet, 3);
        let mut scores: Vec<_> = pulling(&fleet, "shell").iter().map(|agent| agent.score).collect();
        scores.sort_unstable();
        assert_eq!(scores, [950, 1000, 1000]);
    }

    #[test]
    fn a_pool_that_is_small_enough_has_nobody_standing_by() {
        let mut fleet = fleet([0, 1, 2]);
        choose(&mut fleet, 3);
        assert_eq!(pulling(&fleet, "shell").len(), 3);
    }

    #[test]
    fn an_executor_that_few_have_is_pulled_by_all_of_them() {
        let mut fleet = fleet([1000; 20]);
        fleet[17].executors.insert(executor("docker"));
        fleet[18].executors.insert(executor("docker"));
        choose(&mut fleet, 4);
        assert_eq!((pulling(&fleet, "shell").len(), pulling(&fleet, "docker").len()), (4, 2));
        let docker = fleet[18].candidate();
        assert!(!pulls_nothing(&docker, &fleet[18].before.as_ref().unwrap().standby), "it pulls docker");
        assert!(pulls_nothing(&fleet[19].candidate(), &fleet[19].before.as_ref().unwrap().standby));
    }

    #[test]
    fn an_executor_that_is_not_allowed_is_not_stood_by_for_either() {
        let fleet = fleet([1000; 4]);
        let none = BTreeSet::new();
        let candidates: Vec<_> = fleet.iter().map(|agent| Candidate { allowed: Some(&none), ..agent.candidate() }).collect();
        assert_eq!(standbys(&candidates, 2), vec![BTreeSet::new(); 4]);
    }

    #[test]
    fn who_is_clearly_better_takes_a_place_and_who_is_a_little_better_does_not() {
        let mut fleet = fleet([900; 10]);
        choose(&mut fleet, 5);
        let waits = fleet.iter().position(|agent| !agent.candidate().pulls(&executor("shell"))).unwrap();
        fleet[waits].score = 900 + MARGIN;
        assert_eq!(choose(&mut fleet, 5), 0);
        fleet[waits].score += 1;
        assert_eq!(choose(&mut fleet, 5), 2, "one comes, one goes");
        assert!(pulling(&fleet, "shell").iter().any(|agent| agent.score > 900));
    }

    #[test]
    fn the_place_of_one_that_stops_accepting_goes_to_one_other() {
        let mut fleet = fleet([900; 10]);
        choose(&mut fleet, 5);
        let pulls = fleet.iter().position(|agent| agent.candidate().pulls(&executor("shell"))).unwrap();
        fleet.remove(pulls);
        assert_eq!(choose(&mut fleet, 5), 1);
        assert_eq!(pulling(&fleet, "shell").len(), 5);
    }

    fn agents() -> impl Strategy<Value = Vec<(u16, Vec<bool>)>> {
        prop::collection::vec((0..=1000u16, prop::collection::vec(any::<bool>(), 3)), 1..60)
    }

    proptest! {
        #[test]
        fn as_many_pull_as_may_the_choice_is_stable_and_none_that_is_clearly_worse_pulls(
            agents in agents(), again in prop::collection::vec(0..=1000u16, 60), most in 1..12usize,
        ) {
            const NAMES: [&str; 3] = ["shell", "http", "docker"];
            let mut fleet = fleet(agents.iter().map(|(score, _)| *score));
            for (agent, (_, has)) in fleet.iter_mut().zip(&agents) {
                agent.executors = NAMES.into_iter().zip(has).filter(|(_, has)| **has).map(|(name, _)| executor(name)).collect();
            }
            choose(&mut fleet, most);
            for scores in [None, Some(&again)] {
                for (agent, score) in fleet.iter_mut().zip(scores.into_iter().flatten()) {
                    agent.score = *score;
                }
                choose(&mut fleet, most);
                prop_assert_eq!(choose(&mut fleet, most), 0, "the same again changes nothing");
                for name in NAMES {
                    let able: Vec<_> = fleet.iter().filter(|agent| agent.executors.contains(&executor(name))).collect();
                    let pulling = pulling(&fleet, name);
                    prop_assert_eq!(pulling.len(), able.len().min(most));
                    let worst = pulling.iter().map(|agent| agent.score).min().unwrap_or(1000);
                    let waits = |agent: &&&Agent| !agent.candidate().pulls(&executor(name));
                    prop_assert!(able.iter().filter(waits).all(|agent| agent.score <= worst + MARGIN));
                }
            }
        }

        #[test]
        fn scores_that_move_by_less_than_the_margin_change_no_standing(
            moves in prop::collection::vec(0..=MARGIN, 40), most in 1..40usize,
        ) {
            let mut fleet = fleet(vec![900; moves.len()]);
            choose(&mut fleet, most);
            for (agent, up) in fleet.iter_mut().zip(&moves) {
                agent.score = 900 + up;
            }
            prop_assert_eq!(choose(&mut fleet, most), 0);
        }
    }
}
