//! Keeps the broker's timers as the records say, and makes up for missed firings. Only the active dispatcher does.
//!
//! A reconciler: a change of a record is only a hint to look now, and what fails is done at the next look.

use std::time::{Duration, Instant};

use async_nats::{Client, HeaderMap, Request};
use futures_util::StreamExt as _;
use muster_runtime::shutdown::Shutdown;
use muster_schemas::{
    names::ScheduleName,
    schedule::{ScheduleRecord, ScheduleState, keys},
    subjects::{self, broker::StreamApi, js},
    topology::{DUE_CONSUMER, SCHEDULES, SCHEDULES_BUCKET},
};
use serde_json::{Value, json};

use super::{
    decide::missed,
    desk::Desk,
    plan::{Command, plan},
    store,
};
use crate::{
    broker::{self, BrokerError, PATIENCE},
    held::Record,
    lease::keeper::Leadership,
};

/// How often everything is looked at. A look reads each schedule twice.
const EVERY: Duration = Duration::from_secs(10);
/// Firings are not looked for before the broker and this dispatcher have been in touch for so long: a broker that was stopped in good
/// order fires what it missed within a second of its start.
const SETTLE: Duration = Duration::from_secs(3);

/// The task that keeps timers.
#[derive(Debug)]
pub(super) struct Timers {
    desk: Desk,
    leadership: Leadership,
}

impl Timers {
    pub(super) fn new(desk: Desk, leadership: Leadership) -> Self {
        Self { desk, leadership }
    }

    /// Runs until the shutdown.
    pub(super) async fn run(mut self, shutdown: Shutdown) -> anyhow::Result<()> {
        let client = self.desk.broker.client().clone();
        let mut hints = client.subscribe(js::key(SCHEDULES_BUCKET, keys::DEFINITIONS)).await?;
        let (mut look_at, mut led_since) = (Instant::now() + EVERY, None);
        loop {
            let look = tokio::select! {
                () = shutdown.requested() => return Ok(()),
                Some(_) = hints.next() => true,
                () = tokio::time::sleep_until(look_at.into()) => true,
                () = self.leadership.changed() => false,
            };
            if !self.leadership.is_mine() {
                led_since = None;
                if look {
                    look_at = Instant::now() + EVERY;
                }
                continue;
            }
            let fresh = led_since.is_none();
            let since = *led_since.get_or_insert_with(Instant::now);
            if !look && !fresh {
                continue;
            }
            // Once more when missed firings may be looked for.
            let settled = since + SETTLE;
            look_at = if Instant::now() < settled { settled } else { Instant::now() + EVERY };
            tokio::select! {
                looked = self.look(&client, Instant::now() >= settled) => if let Err(error) = looked {
                    tracing::warn!(error = &error as &dyn std::error::Error, "could not look after all schedules; trying again");
                },
                () = shutdown.requested() => return Ok(()),
            }
        }
    }

    async fn look(&self, client: &Client, make_up: bool) -> Result<(), BrokerError> {
        let (records, states) = store::schedules(client).await?;
        let (held, now) = (store::timers(client).await?, self.desk.now().await?);
        for command in plan(&records, &held, now) {
            if !self.leadership.is_mine() {
                return Ok(());
            }
            self.perform(client, command).await?;
        }
        // What the broker has fired is settled first; it may be what seems to be missed.
        let consumer = broker::consumer_info(client, SCHEDULES, DUE_CONSUMER).await?;
        if make_up && consumer.num_pending == 0 && consumer.num_ack_pending == 0 {
            for (name, record) in &records {
                let state = match states.get(name) {
                    None | Some(Record::Absent) => None,
                    Some(Record::Value(state)) => Some(state),
                    // What it fired last is not known, and firing that again could run a job of long ago twice.
                    Some(Record::Unreadable) => continue,
                };
                self.make_up(name, record, state).await?;
            }
        }
        Ok(())
    }

    async fn perform(&self, client: &Client, command: Command) -> Result<(), BrokerError> {
        let (subject, headers, body, name) = match &command {
            Command::Arm(name, timer) => {
                let (headers, token) = timer.message();
                (subjects::schedule(name), headers, token, name)
            }
            Command::Disarm(name) => {
                let purge = json!({"filter": subjects::schedule(name)}).to_string();
                (StreamApi::Purge.subject(SCHEDULES), HeaderMap::new(), purge, name)
            }
        };
        let request = Request::new().headers(headers).payload(body.into()).timeout(Some(PATIENCE));
        let answer = client.send_request(subject, request).await;
        let answer = answer.map_err(|source| BrokerError::Silent { what: format!("schedule {name}"), source })?;
        // A broker without this time zone refuses it; the other schedules must not wait for that one.
        match serde_json::from_slice::<Value>(&answer.payload).ok().and_then(|answer| answer.get("error").cloned()) {
            Some(error) => tracing::error!(schedule = %name, %error, "the broker refuses the timer of a schedule"),
            None => tracing::info!(schedule = %name, armed = matches!(command, Command::Arm(..)), "the broker has the timer of a schedule"),
        }
        Ok(())
    }

    async fn make_up(&self, name: &ScheduleName, record: &ScheduleRecord, state: Option<&ScheduleState>) -> Result<(), BrokerError> {
        let Some(firing) = missed(record, state, self.desk.now().await?) else { return Ok(()) };
        tracing::warn!(schedule = %name, at = %firing.at, "the broker has missed firings; making up for them");
        self.desk.settle(name, |_| firing.clone()).await
    }
}
