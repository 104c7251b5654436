//! Looks after jobs of which nothing was heard for long: is each still in its queue, or has it a result?
//!
//! A few at a time, in turn, so that a long queue costs the broker little. One that is in neither place is lost, and alarmed once; unless
//! its result may have come and gone while nobody here followed results.

use std::{sync::Arc, time::Duration};

use muster_runtime::nats::Broker;
use muster_schemas::{queue, subjects::About, time::Timestamp, topology};
use tokio::sync::{mpsc, watch};

use super::{
    blocking,
    catalogue::Spot,
    key::RowKey,
    ledger::Ledger,
    projection::Input,
    row::{Missing, Row},
    store::{HistoryError, Store},
};
use crate::{broker::BrokerError, held};

/// The longest time between two rounds.
const EVERY: Duration = Duration::from_secs(10);
/// The time between two rounds while jobs are found to be nowhere: a history that was built anew may be full of them.
const SOON: Duration = Duration::from_millis(100);
/// Jobs looked after in a round: at most three requests each.
const ROUND: usize = 200;

/// The task that looks.
pub(crate) struct Audit {
    pub(crate) store: Arc<Store>,
    pub(crate) broker: Broker,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) inputs: mpsc::Sender<Input>,
    /// How long nothing must have been heard of a job.
    pub(crate) after: Duration,
}

impl Audit {
    /// Looks for ever. Begins once the history is read.
    pub(crate) async fn run(self, mut caught_up: watch::Receiver<bool>) {
        // Refused only when the projection has ended, and then this is dropped.
        let _ = caught_up.wait_for(|done| *done).await;
        let mut from = None;
        loop {
            let mut wait = EVERY.min(self.after);
            match self.round(from).await {
                Ok((next, nowhere)) => {
                    from = next;
                    if next.is_some() && nowhere > 0 {
                        wait = SOON;
                    }
                }
                Err(error) => tracing::warn!(error = &error as &dyn std::error::Error, "cannot look after old jobs"),
            }
            tokio::time::sleep(wait).await;
        }
    }

    /// Looks after the next jobs. Answers where the round after begins, and how many were nowhere.
    async fn round(&self, from: Option<Spot>) -> Result<(Option<Spot>, usize), HistoryError> {
        let (store, before) = (Arc::clone(&self.store), Timestamp::now() - self.after);
        let (rows, next) = blocking(move || quiet(&store, from, before)).await?;
        let mut nowhere = 0;
        for row in rows {
            match self.is_somewhere(&row).await {
                Ok(true) => {}
                Ok(false) => {
                    self.missing(&row).await?;
                    nowhere += 1;
                }
                // No answer is no sign of anything.
                Err(error) => {
                    tracing::debug!(error = &error as &dyn std::error::Error, "cannot tell where a job is");
                    return Ok((from, 0));
                }
            }
        }
        Ok((next, nowhere))
    }

    async fn is_somewhere(&self, row: &Row) -> Result<bool, BrokerError> {
        let client = self.broker.client();
        let mut places = queue::places(&row.pool, &row.id);
        if row.target().is_some() {
            // Most likely there.
            places.reverse();
        }
        for (stream, filter) in places {
            if held::last_queued(client, &row.pool, &stream, &filter).await?.is_some() {
                return Ok(true);
            }
        }
        // In this order: a result is stored before its job leaves the queue.
        Ok(held::last(client, topology::RESULTS, &About::Result.job(&row.pool, &row.id)).await?.is_some())
    }

    async fn missing(&self, row: &Row) -> Result<(), HistoryError> {
        let (store, pool, id) = (Arc::clone(&self.store), row.pool.clone(), row.id.clone());
        let now = blocking(move || RowKey::of(&pool, &id).map_or(Ok(None), |key| store.row(key))).await?;
        // Something was heard of it meanwhile.
        if now.is_none_or(|now| now != *row) {
            return Ok(());
        }
        let unseen = self.ledger.may_have_ended_unseen(row);
        let why = if unseen { Missing::Unread } else { Missing::Lost };
        if why == Missing::Lost {
            self.ledger.lost(&row.pool, &row.id);
        }
        // Refused only when the projection has ended, and then this is dropped.
        let _ = self.inputs.send(Input::Missing(row.pool.clone(), row.id.clone(), why)).await;
        Ok(())
    }
}

/// The next jobs of which nothing was heard since `before`, and where to go on; from the beginning when the end is reached.
fn quiet(store: &Store, from: Option<Spot>, before: Timestamp) -> Result<(Vec<Row>, Option<Spot>), HistoryError> {
    let from = from.unwrap_or((i64::MIN, RowKey([0; 16])));
    let spots: Vec<Spot> = {
        let catalogue = store.catalogue();
        let old = catalogue.behind(from).take_while(|entry| entry.queued_at < before.micros());
        old.filter(|entry| !entry.phase.is_final()).take(ROUND).map(super::catalogue::Entry::spot).collect()
    };
    let next = spots.last().copied().filter(|_| spots.len() == ROUND);
    let mut rows = Vec::new();
    for (_, key) in spots {
        // Without the queued part it is no job of a queue, or its acknowledgement is not known.
        let wanted = |row: &Row| row.ttl_s().is_some() && !row.is_missing() && !row.phase().is_final() && row.heard_at() < before.micros();
        rows.extend(store.row(key)?.filter(wanted));
    }
    Ok((rows, next))
}
