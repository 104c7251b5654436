//! What is read of the broker about all schedules at once.

use std::collections::BTreeMap;

use async_nats::Client;
use muster_schemas::{
    names::ScheduleName,
    schedule::{ScheduleRecord, ScheduleState, keys},
    subjects::{self, broker, js},
    topology::{SCHEDULES, SCHEDULES_BUCKET, bucket_stream},
};

use super::plan::Timer;
use crate::{
    broker::BrokerError,
    held::{Record, all, decoded},
};

/// All schedules, and what became of their last firings.
pub(super) async fn schedules(
    client: &Client,
) -> Result<(BTreeMap<ScheduleName, ScheduleRecord>, BTreeMap<ScheduleName, Record<ScheduleState>>), BrokerError> {
    let (mut records, mut states) = (BTreeMap::new(), BTreeMap::new());
    for held in all(client, &bucket_stream(SCHEDULES_BUCKET), &broker::keys_of(SCHEDULES_BUCKET)).await? {
        let key = held.subject.strip_prefix(&js::key(SCHEDULES_BUCKET, "")).unwrap_or_default();
        if let Some(name) = keys::parse_definition(key) {
            records.extend(decoded(&held).readable().map(|record| (name, record)));
        } else if let Some(name) = keys::parse_state(key) {
            states.insert(name, decoded(&held));
        }
    }
    Ok((records, states))
}

/// The timers that the broker holds.
pub(super) async fn timers(client: &Client) -> Result<BTreeMap<ScheduleName, Timer>, BrokerError> {
    let held = all(client, SCHEDULES, broker::SCHEDULES).await?;
    Ok(held.iter().filter_map(|held| Some((subjects::parse_schedule(&held.subject)?, Timer::read(&held.headers, &held.payload)))).collect())
}
