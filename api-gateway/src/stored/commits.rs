//! One group commit for each queue: jobs that are submitted at the same time share a flush of the broker's.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use async_nats::Client;
use muster_client::{
    atomic::{Answer, Outgoing},
    commits,
};
use muster_runtime::tasks::Group;

/// The commits of all queues. There are as many as pools.
#[derive(Debug)]
pub(crate) struct Commits {
    nats: Client,
    /// What carries them. It ends with the process; until then every request waits for its own answer.
    group: Group,
    streams: Mutex<HashMap<String, commits::Commits>>,
}

impl Commits {
    pub(crate) fn new(nats: Client) -> Self {
        Self { nats, group: Group::new("commits"), streams: Mutex::default() }
    }

    /// Stores a message in a stream that exists, or did a moment ago.
    pub(crate) async fn store(&self, stream: String, message: Outgoing) -> Answer {
        let commits = self.of(stream);
        commits.store(message).await
    }

    fn of(&self, stream: String) -> commits::Commits {
        let mut streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        let begin = |stream: &String| {
            let (commits, driver) = commits::Commits::new(self.nats.clone(), stream.clone(), commits::CALLERS);
            drop(self.group.spawn(driver.run()));
            commits
        };
        let commits = streams.entry(stream).or_insert_with_key(begin);
        commits.clone()
    }
}
