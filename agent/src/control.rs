//! What others tell this agent: its standing, orders to stop a job, and requests that it answers.
//!
//! Its subscriptions live as long as the agent; async-nats makes them anew after a reconnect.

use std::{
    collections::BTreeSet,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use async_nats::{Message, Subject};
use bytes::Bytes;
use futures_util::StreamExt as _;
use muster_runtime::{http::Readiness, shutdown::Shutdown};
use muster_schemas::{
    control::{CALL_UP_MAX_S, DESCRIBE, Order, PING, Pong, RESEAL, What},
    headers,
    records::keys,
    standing::{PULL_PRIORITY_UNKNOWN, Standing},
    subjects::{self, js},
    time::Timestamp,
    topology,
    wire::{self, V},
};
use tokio::sync::{mpsc, watch};

use crate::{
    attempt::{self, live::Stop},
    clock::Reading,
    connections,
    core::Core,
    identity::{end::End, renew::show_clock},
    intake::Event,
    pull,
};

/// The name of the check that fails while another process runs with this agent's identity.
const TWIN: &str = "twin";

/// Listens for ever.
///
/// `known` is told once the standing has been looked up for the first time, or could not be.
pub(crate) async fn run(
    core: Arc<Core>,
    intake: mpsc::Sender<Event>,
    known: watch::Sender<bool>,
    readiness: Readiness,
    shutdown: Shutdown,
) -> anyhow::Result<()> {
    let client = core.js.client();
    let standing_subject = js::key(topology::STANDINGS, &keys::standing(&core.pool, &core.id));
    let mut orders = client.subscribe(subjects::control(&core.id)).await.context("can't listen for orders")?;
    let mut requests = client.subscribe(subjects::rpc_of(&core.id)).await.context("can't listen for requests")?;
    let mut standings = client.subscribe(standing_subject.clone()).await.context("can't listen for the standing")?;
    let mut link = core.link.clone();
    let mut newest: Option<Timestamp> = None;
    loop {
        let standing = tokio::select! {
            // Orders go before requests: who gets an answer knows that what was ordered before has been done.
            biased;
            () = shutdown.requested() => return Ok(()),
            Some(order) = orders.next() => {
                if let Some(event) = obey(&core, &order) {
                    intake.send(event).await?;
                }
                None
            }
            Some(request) = requests.next() => { answer(&core, request).await; None }
            Some(message) = standings.next() => {
                let told = read_standing(&core, &readiness, &message);
                // It was written just now, by the dispatcher's clock.
                if let Some(at) = told.at {
                    let reading = Reading::at_once(Timestamp::now(), at);
                    core.clock.read(reading);
                    show_clock(&readiness, reading.skew());
                }
                Some(told)
            }
            up = link.changed() => {
                up?;
                let now = *link.borrow_and_update();
                // What was said while we were away.
                let missed = if now.up { missed(&core, &readiness, &standing_subject).await } else { None };
                if let Some(told) = missed.filter(|told| told.at >= newest) {
                    newest = told.at.or(newest);
                    told.pass_on(&core, &intake).await?;
                }
                known.send_if_modified(|known| now.up && !std::mem::replace(known, true));
                None
            }
            else => anyhow::bail!("the subscriptions ended"),
        };
        if let Some(told) = standing {
            newest = told.at.or(newest);
            told.pass_on(&core, &intake).await?;
        }
    }
}

/// Looks up what may have been missed: our standing, and whether running jobs have ended elsewhere.
async fn missed(core: &Arc<Core>, readiness: &Readiness, standing_subject: &str) -> Option<Told> {
    let checked = Arc::clone(core);
    drop(core.group.spawn(async move { attempt::stop_finished(&checked).await }));
    match core.js.last(&topology::bucket_stream(topology::STANDINGS), standing_subject).await {
        Ok(Some(message)) => Some(read_standing(core, readiness, &message)),
        Ok(None) => Some(Told::unknown()),
        Err(error) => {
            tracing::warn!(%error, "can't look up this agent's standing");
            None
        }
    }
}

/// What a standing says to the intake.
struct Told {
    accepting: bool,
    priority: u8,
    /// When it was said.
    at: Option<Timestamp>,
}

impl Told {
    fn unknown() -> Self {
        Self { accepting: true, priority: PULL_PRIORITY_UNKNOWN, at: None }
    }

    async fn pass_on(&self, core: &Core, intake: &mpsc::Sender<Event>) -> anyhow::Result<()> {
        intake.send(Event::Gates(pull::gates(core))).await?;
        Ok(intake.send(Event::Standing { accepting: self.accepting, priority: self.priority }).await?)
    }
}

/// Reads the standing. How many agents accept, what the pool gives its jobs and which executors are allowed or stood by for is noted at once, and so
/// is whether this agent has a twin.
fn read_standing(core: &Core, readiness: &Readiness, message: &Message) -> Told {
    core.preference.accepting.store(0, Ordering::Relaxed);
    let deleted = message.headers.as_ref().is_some_and(|found| found.get(headers::KV_OPERATION).is_some());
    if deleted || message.payload.is_empty() {
        core.defaults.told(None);
        core.allowed.told(None);
        core.acks.told(0);
        core.standby.told(BTreeSet::new());
        show_twin(readiness, false);
        return Told::unknown();
    }
    match wire::decode::<Standing>(&message.payload) {
        Ok(standing) => {
            let priority = standing.pull_priority.min(9);
            tracing::debug!(priority, standing.accepting, reason = standing.reason, "standing");
            core.preference.accepting.store(standing.accepting_agents, Ordering::Relaxed);
            core.defaults.told(standing.defaults);
            core.allowed.told(standing.executors);
            core.acks.told(standing.ack_delay_ms);
            core.standby.told(standing.standby);
            show_twin(readiness, standing.twin);
            standing.vault.iter().for_each(|seen| core.vault.must_reach(seen));
            Told { accepting: standing.accepting, priority, at: Some(standing.at) }
        }
        Err(error) => {
            tracing::error!(%error, "can't read this agent's standing; going on as if it were unknown");
            Told::unknown()
        }
    }
}

/// Shows whether another process has this identity. There is no such check before the first one is seen.
pub(crate) fn show_twin(readiness: &Readiness, twin: bool) {
    let before = readiness.failing().iter().any(|(check, _)| *check == TWIN);
    if twin && !before {
        tracing::error!(
            "another process runs with this agent's identity: its state directory was copied, or stolen. Give each agent an identity of its own, and revoke this one if nobody here did it"
        );
    }
    if twin {
        readiness.set(TWIN, Err("another process runs with this agent's identity".to_owned()));
    } else if before {
        readiness.set(TWIN, Ok(()));
    }
}

/// Obeys an order. What of it is for the intake comes back.
fn obey(core: &Core, message: &Message) -> Option<Event> {
    match wire::decode::<Order>(&message.payload) {
        Ok(Order { what: What::Cancel { job_id }, .. }) => {
            let here = core.live.stop(&job_id, Stop::Cancelled);
            tracing::info!(%job_id, here, "told to cancel a job");
            core.live.cancelled(job_id, Instant::now());
        }
        Ok(Order { what: What::CallUp { executors, for_s }, .. }) => {
            tracing::debug!(?executors, for_s, "called up");
            let until = Instant::now() + Duration::from_secs(for_s.min(CALL_UP_MAX_S).into());
            return Some(pull::call_up(core, &executors, until));
        }
        Ok(Order { what: What::AskQueue, .. }) => return Some(Event::Commands),
        Ok(Order { what: What::IdentityEnded { why, reason }, .. }) => {
            core.ended.say(End::Ordered { why, reason });
            // The rest is for the core; but not even so long does anything run.
            core.live.stop_all(Stop::Ended);
        }
        Err(error) => tracing::warn!(%error, "an order can't be understood"),
    }
    None
}

async fn answer(core: &Arc<Core>, message: Message) {
    let Some(reply) = message.reply.clone() else { return };
    let asked = |verb| message.subject.as_str() == subjects::rpc(&core.id, verb);
    let body = if asked(PING) {
        wire::encode(&Pong { v: V, agent_id: core.id.clone(), instance: core.instance.clone() }).into()
    } else if asked(DESCRIBE) {
        core.description.body()
    } else if asked(RESEAL) {
        // It waits for the vault, and orders must not.
        let core = Arc::clone(core);
        return drop(core.clone().group.spawn(async move {
            let answer = connections::reseal(&core, &message.payload).await;
            say(&core, reply, wire::encode(&answer).into()).await;
        }));
    } else {
        return tracing::warn!(subject = %message.subject, "a request that this build does not know");
    };
    say(core, reply, body).await;
}

async fn say(core: &Core, reply: Subject, body: Bytes) {
    let mut headers = async_nats::HeaderMap::new();
    headers.insert(headers::CONTENT_TYPE, headers::MSGPACK);
    if let Err(error) = core.js.client().publish_with_headers(reply, headers, body).await {
        tracing::debug!(%error, "could not answer a request");
    }
}
