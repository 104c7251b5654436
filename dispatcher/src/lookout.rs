//! Looks out for jobs that nobody asks for in pools where agents stand by, and has some called up. Only the active dispatcher does this.
//!
//! It looks every 25 ms ([`EVERY`]); a pool without jobs costs one request. A lane without a single waiting pull, in a queue that is not empty, has nobody
//! who would take a job that comes, or comes back: it is no matter whether one waits there at this moment. Seen at two looks in a row, somebody is
//! called up. So a lane that is busy always has a pull that waits, and a backlog calls up as many agents as it needs. Whom: [`crate::state`].

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use futures_util::{
    FutureExt as _,
    future::{join_all, try_join_all},
};
use muster_runtime::{nats::Broker, shutdown::Shutdown};
use muster_schemas::{
    control::{Order, What},
    lane::Lane,
    names::{AgentId, ExecutorName, PoolName},
    subjects,
    topology::jobs_stream,
    wire::{self, V},
};
use tokio::sync::{mpsc, watch};

use crate::{
    broker::{self, BrokerError, ConsumerInfo},
    intake::Input,
    lease::keeper::Leadership,
    state::Event,
};

/// How often: two looks and a pull must fit well into 100 ms.
const EVERY: Duration = Duration::from_millis(25);
/// While nobody stands by, or another dispatcher leads.
const IDLE: Duration = Duration::from_millis(250);
/// Calls that may wait to be sent. Whoever finds no room is called at the next look.
const CALLS: usize = 64;

/// For which executors agents of each pool stand by.
type Standby = BTreeMap<PoolName, BTreeSet<ExecutorName>>;
/// How many jobs of which executors have nobody who asks for them.
type Unasked = BTreeMap<(PoolName, ExecutorName), u64>;

/// Agents to be called up.
#[derive(Debug)]
struct Call {
    agents: Vec<AgentId>,
    executor: ExecutorName,
    for_s: u32,
}

/// The core's side of the lookout.
#[derive(Debug)]
pub(crate) struct Caller {
    standby: watch::Sender<Standby>,
    calls: mpsc::Sender<Call>,
}

impl Caller {
    /// Says for what agents stand by.
    pub(crate) fn stand_by(&self, standby: &Standby) {
        self.standby.send_if_modified(|known| {
            let changed = known != standby;
            if changed {
                known.clone_from(standby);
            }
            changed
        });
    }

    /// Has agents told to pull the lanes of an executor for so many seconds.
    ///
    /// # Errors
    /// Whom it is not told: too many calls wait.
    pub(crate) fn call_up(&self, agents: Vec<AgentId>, executor: ExecutorName, for_s: u32) -> Result<(), (Vec<AgentId>, ExecutorName)> {
        self.calls.try_send(Call { agents, executor, for_s }).map_err(|full| {
            let Call { agents, executor, .. } = full.into_inner();
            (agents, executor)
        })
    }
}

/// The task that looks.
#[derive(Debug)]
pub(crate) struct Lookout {
    broker: Broker,
    leadership: Leadership,
    inputs: mpsc::Sender<Input>,
    standby: watch::Receiver<Standby>,
    calls: mpsc::Receiver<Call>,
}

impl Lookout {
    /// One that tells the core what it sees, and what the core tells it with.
    pub(crate) fn new(broker: Broker, leadership: Leadership, inputs: mpsc::Sender<Input>) -> (Self, Caller) {
        let ((standby_now, standby), (calls_now, calls)) = (watch::channel(Standby::new()), mpsc::channel(CALLS));
        (Self { broker, leadership, inputs, standby, calls }, Caller { standby: standby_now, calls: calls_now })
    }

    /// Runs until the shutdown.
    pub(crate) async fn run(mut self, shutdown: Shutdown) -> anyhow::Result<()> {
        let (mut before, mut look_at) = (Unasked::new(), Instant::now());
        loop {
            tokio::select! {
                () = shutdown.requested() => return Ok(()),
                Some(call) = self.calls.recv() => {
                    self.send(call).await;
                    continue;
                }
                () = tokio::time::sleep_until(look_at.into()) => {}
            }
            let standby = self.standby.borrow_and_update().clone();
            if standby.is_empty() || !self.leadership.is_mine() {
                before.clear();
                look_at = Instant::now() + IDLE;
                continue;
            }
            let began = Instant::now();
            let now = tokio::select! {
                () = shutdown.requested() => return Ok(()),
                now = self.look(&standby) => now,
            };
            for ((pool, executor), jobs) in now.iter().filter(|(lane, _)| before.contains_key(*lane)) {
                let waiting = Event::Waiting(pool.clone(), executor.clone(), *jobs);
                // A core that has ended takes the process with it.
                let _ = self.inputs.send(Input::Event(Box::new(waiting))).await;
            }
            before = now;
            // At most half of the time is spent looking.
            look_at = Instant::now() + EVERY.saturating_sub(began.elapsed()).max(began.elapsed());
        }
    }

    async fn look(&self, standby: &Standby) -> Unasked {
        let pools: Vec<_> = standby.iter().map(|(pool, executors)| self.look_at(pool, executors).boxed()).collect();
        let mut all = Unasked::new();
        for ((pool, _), found) in standby.iter().zip(join_all(pools).await) {
            match found {
                Ok(found) => all.extend(found.into_iter().map(|(executor, jobs)| ((pool.clone(), executor), jobs))),
                Err(error) => tracing::debug!(%pool, error = &error as &dyn std::error::Error, "can't tell what waits in a pool"),
            }
        }
        all
    }

    async fn look_at(&self, pool: &PoolName, executors: &BTreeSet<ExecutorName>) -> Result<BTreeMap<ExecutorName, u64>, BrokerError> {
        let queue = jobs_stream(pool);
        let mut found = BTreeMap::new();
        if broker::stream_info(self.broker.client(), &queue).await?.state.messages == 0 {
            return Ok(found);
        }
        let lanes: Vec<_> = executors.iter().flat_map(Lane::of).collect();
        let looks: Vec<_> = lanes.iter().map(|lane| self.look_into(&queue, lane).boxed()).collect();
        for (lane, jobs) in lanes.iter().zip(try_join_all(looks).await?).filter(|(_, jobs)| *jobs > 0) {
            *found.entry(lane.executor.clone()).or_default() += jobs;
        }
        Ok(found)
    }

    async fn look_into(&self, queue: &str, lane: &Lane) -> Result<u64, BrokerError> {
        match broker::consumer_info(self.broker.client(), queue, &lane.consumer()).await {
            Ok(lane) => Ok(unasked(&lane)),
            // It will be made.
            Err(BrokerError::Missing(_)) => Ok(0),
            Err(error) => Err(error),
        }
    }

    async fn send(&self, Call { agents, executor, for_s }: Call) {
        tracing::debug!(agents = agents.len(), %executor, for_s, "calling agents up");
        let order = Order { v: V, what: What::CallUp { executors: [executor].into(), for_s } };
        let body = bytes::Bytes::from(wire::encode(&order));
        for agent in &agents {
            if let Err(error) = self.broker.client().publish(subjects::control(agent), body.clone()).await {
                tracing::debug!(%agent, %error, "could not call an agent up");
            }
        }
    }
}

/// How many jobs of a lane have nobody who asks for them: those that wait, and one that may come back at any time. None where somebody asks,
/// or where nobody would be given any.
fn unasked(lane: &ConsumerInfo) -> u64 {
    let most = u64::try_from(lane.config.max_ack_pending).ok().filter(|most| *most > 0).unwrap_or(u64::MAX);
    let room = most.saturating_sub(lane.num_ack_pending);
    if lane.paused || lane.num_waiting > 0 { 0 } else { lane.num_pending.max(1).min(room) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::ConsumerLimits;

    #[test]
    fn jobs_without_a_pull_count_unless_nobody_would_be_given_any() {
        let lane = |num_pending, num_waiting, paused, max_ack_pending| ConsumerInfo {
            num_pending,
            num_ack_pending: 10,
            num_redelivered: 0,
            num_waiting,
            paused,
            config: ConsumerLimits { max_ack_pending },
        };
        for (lane, jobs) in [
            (lane(7, 0, false, 1000), 7),
            (lane(7, 0, false, -1), 7),
            (lane(0, 0, false, 1000), 1),
            (lane(7, 1, false, 1000), 0),
            (lane(7, 0, true, 1000), 0),
            (lane(7, 0, false, 10), 0),
            (lane(7, 0, false, 12), 2),
        ] {
            assert_eq!(unasked(&lane), jobs, "{lane:?}");
        }
    }
}
