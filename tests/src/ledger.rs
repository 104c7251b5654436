//! The books of a fault test: which submits were acknowledged, which results are stored, which attempts ran. It finds losses and duplicates.

use std::collections::{BTreeMap, BTreeSet};

/// What happened, as seen from outside.
#[derive(Debug, Clone, Default)]
pub struct Ledger {
    /// Jobs whose submit was acknowledged.
    pub acknowledged: BTreeSet<String>,
    /// How many results each job has.
    pub results: BTreeMap<String, u32>,
    /// How often each job was begun, as the jobs themselves noted it.
    pub runs: BTreeMap<String, u32>,
}

/// What the books say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Audit {
    /// Acknowledged jobs without a result.
    pub lost: Vec<String>,
    /// Jobs with more than one result.
    pub doubled: Vec<String>,
    /// Jobs that were begun more than once. Allowed, but only when an agent died or was cut off.
    pub reran: usize,
    /// Jobs with a result whose submit was not acknowledged: the answer was lost, not the job.
    pub unacknowledged: usize,
}

impl Ledger {
    /// Compares the books.
    pub fn audit(&self) -> Audit {
        let lost = self.acknowledged.iter().filter(|id| !self.results.contains_key(*id)).cloned().collect();
        let doubled = self.results.iter().filter(|(_, count)| **count > 1).map(|(id, _)| id.clone()).collect();
        Audit {
            lost,
            doubled,
            reran: self.runs.values().filter(|count| **count > 1).count(),
            unacknowledged: self.results.keys().filter(|id| !self.acknowledged.contains(*id)).count(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn books() -> Ledger {
        let ids = (0..100).map(|n| format!("j{n}"));
        Ledger {
            acknowledged: ids.clone().collect(),
            results: ids.clone().map(|id| (id, 1)).collect(),
            runs: ids.map(|id| (id, 1)).collect(),
        }
    }

    #[test]
    fn honest_books_balance() {
        assert_eq!(books().audit(), Audit { lost: vec![], doubled: vec![], reran: 0, unacknowledged: 0 });
    }

    #[test]
    fn a_planted_loss_is_found() {
        let mut books = books();
        books.results.remove("j42");
        assert_eq!(books.audit().lost, ["j42"]);
    }

    #[test]
    fn a_planted_duplicate_is_found() {
        let mut books = books();
        *books.results.get_mut("j7").unwrap() += 1;
        *books.runs.get_mut("j8").unwrap() += 1;
        let audit = books.audit();
        assert_eq!((audit.doubled.as_slice(), audit.reran), (&["j7".to_string()][..], 1));
    }

    #[test]
    fn a_job_whose_answer_was_lost_is_counted_apart() {
        let mut books = books();
        books.acknowledged.remove("j1");
        let audit = books.audit();
        assert_eq!((audit.lost.len(), audit.unacknowledged), (0, 1));
    }
}
