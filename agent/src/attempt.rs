//! One delivery, from its arrival to its ack: is it a job, has it ended already, which attempt is it, run it, end it.
//!
//! The common case asks the broker nothing: a first delivery whose publisher made the id runs at once. What a delivery says is in
//! [`delivery`], whether its body is a job in [`check`], which attempt it is in [`count`], what runs now in [`live`], whether it is left to others in
//! [`prefer`], what its connection gives it in [`access`], and running itself in [`run`]. How it ends at the broker is in [`crate::finish`].

mod access;
pub(crate) mod allowed;
pub(crate) mod check;
pub(crate) mod count;
pub(crate) mod defaults;
pub(crate) mod delivery;
mod end;
pub(crate) mod live;
pub(crate) mod prefer;
mod run;

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use async_nats::Message;
use muster_runtime::trace::TraceContext;
use muster_schemas::{
    code::Code,
    event::{self, Event},
    headers,
    job::Job,
    names::{GroupId, JobId},
    queue::{Place, Queue},
    result::{ErrorInfo, JobResult, Outcome},
    subjects::{self, About},
    time::Timestamp,
    topology, wire,
};
use tracing::Instrument as _;

use crate::{
    clock::Reading,
    core::Core,
    finish::{Ending, events},
    intake::Handle,
    pull::Slot,
    trust::verify::{Arrival, Word},
};
use access::Access;
use check::{Verdict, check};
use count::Past;
use delivery::Delivery;
use end::Step;
use live::{Brake, Stop};

/// A job that came to this agent.
#[derive(Debug)]
pub(crate) struct Arrived {
    pub(crate) handle: Handle,
    pub(crate) message: Message,
    pub(crate) reply: String,
    pub(crate) delivery: Delivery,
    /// The connection over which it came from a lane, by [`crate::js::Js::connects`]. Absent where that is not certain, and for a command.
    pub(crate) connection: Option<u64>,
    pub(crate) brake: Arc<Brake>,
}

/// The look-ups of a delivery that is not plainly new are tried for this long; a broker that restarts is back by then.
const LOOKUP_PATIENCE: Duration = Duration::from_secs(15);

/// The ack of a job waits only if its result is kept for so long: should this agent be killed before it is sent, the job is given out again after its
/// lease and once an agent is free, and the result must be there to answer it.
const KEPT_LONG: Duration = Duration::from_secs(3600);

/// Why a job is given back whose times can't be judged.
const UNSURE: &str = "its agent does not know yet whether its own clock is right";
/// After this it comes again; by then the broker has stored an event of ours, which says how far our clock is off.
const UNSURE_WAIT: Duration = Duration::from_secs(1);

/// Carries a delivery to its end. The slot is given back when the attempt is over, which is before its result is stored.
pub(crate) async fn carry(core: Arc<Core>, arrived: Arrived, slot: Slot) {
    let trace = TraceContext::from_message(arrived.message.headers.as_ref());
    // All at once: a field that is recorded later makes the JSON log write the span's fields anew. The attempt is, but only when it is
    // not the first.
    let job_id = arrived.message.subject.rsplit('.').next().unwrap_or_default();
    let span = muster_runtime::span!(trace, "attempt", job_id, attempt = tracing::field::Empty);
    let _present = Present { core: &core, handle: arrived.handle };
    async {
        let step = decide(&core, &arrived, &trace, &slot).await;
        // Never closed; and an agent without one would only be faster.
        let _passage = core.finishing.acquire().await;
        drop(slot);
        end::perform(&core, &arrived, step).await;
    }
    .instrument(span)
    .await;
}

/// Gives back a job that found no slot.
pub(crate) async fn release(core: Arc<Core>, arrived: Arrived, reason: &'static str) {
    let _present = Present { core: &core, handle: arrived.handle };
    let announced = core.defaults.decode(&arrived.message.payload).is_ok_and(|job| is_announced(&job));
    let step = match Address::of(&arrived) {
        Some(Address { id: Ok(id), .. }) => match past(&core, &id, &arrived, is_fresh(&arrived.message), announced).await {
            Some(Seen::Now(past)) => {
                let event = events::release(&core.id, None, &past, reason, None);
                Step::Release { id, event, delay: Duration::ZERO }
            }
            Some(Seen::Ended) => Step::Forget,
            None => Step::Abandon,
        },
        // Whoever gets it next will see what it is.
        _ => Step::Abandon,
    };
    end::perform(&core, &arrived, step).await;
}

/// Keeps the lease of a job for as long as its task lives, and not for ever should that panic.
struct Present<'a> {
    core: &'a Core,
    handle: Handle,
}

impl Drop for Present<'_> {
    fn drop(&mut self) {
        self.core.live.remove(self.handle);
    }
}

/// Stops running jobs that have a stored result: after a reconnect or a long sleep, another agent may have ended them.
pub(crate) async fn stop_finished(core: &Core) {
    for id in core.live.ids() {
        let stored = core.js.last(topology::RESULTS, &About::Result.job(&core.pool, &id)).await;
        if matches!(stored, Ok(Some(_))) && core.live.stop(&id, Stop::Finished) {
            tracing::warn!(job_id = %id, "this job has a stored result already; stopping it here");
        }
    }
}

/// What a delivery's subject says.
struct Address {
    queue: Queue,
    /// `Err` holds the id under which a job without a valid one is rejected.
    id: Result<JobId, JobId>,
}

impl Address {
    fn of(arrived: &Arrived) -> Option<Self> {
        let address = subjects::parse_job(arrived.message.subject.as_str())?;
        let id = address.id.parse::<JobId>();
        // The sequence alone would come again in a pool that was removed and made anew, or among its commands, and could be taken by
        // somebody else beforehand.
        let substitute = || format!("rejected-{}-{}", arrived.delivery.sequence, arrived.delivery.stored_at.micros()).parse::<JobId>();
        let id = match id {
            Ok(id) => Ok(id),
            Err(_) => Err(substitute().ok()?),
        };
        Some(Self { queue: address.queue, id })
    }
}

/// What the broker knows of a job before this delivery.
enum Seen {
    /// It has a stored result.
    Ended,
    /// It is still to be run; this is its past.
    Now(Past),
}

/// Decides what becomes of a delivery, running it if need be.
async fn decide(core: &Core, arrived: &Arrived, trace: &TraceContext, slot: &Slot) -> Step {
    if core.ended.is_over() {
        return Step::Abandon;
    }
    let Some(address) = Address::of(arrived) else {
        tracing::error!(subject = %arrived.message.subject, "a delivery that is no job; dropped for good");
        return Step::Terminate;
    };
    let now = core.clock.now(Timestamp::now());
    let arrival = Arrival { message: &arrived.message, stored_at: arrived.delivery.stored_at, agent: &core.id, pool: &core.pool };
    let mut fresh = false;
    let (id, verdict) = match address.id {
        Ok(id) => {
            let place = check::Place { queue: &address.queue, stored_at: arrived.delivery.stored_at };
            let verdict = match core.trust.verify(&core.js, arrival).await {
                Word::Holds { fresh: is_fresh } => {
                    fresh = is_fresh;
                    check(&arrived.message.payload, place, &core.registry, &core.defaults, now)
                }
                Word::Refused(error) => Verdict::End(Outcome::Rejected, error, None),
                Word::Open => return Step::Abandon,
            };
            (id, verdict)
        }
        Err(substitute) => {
            let error = ErrorInfo::new(
                Code::NameInvalid,
                format!("the job's id {} is not 1 to 64 of A-Z, a-z, 0-9, _ and -", shown_id(&arrived.message.subject)),
            );
            (substitute, Verdict::End(Outcome::Rejected, error, None))
        }
    };
    let verdict = core.allowed.check(verdict, &address.queue);
    if core.spool.holds(&id) {
        // Its result is on its way, and acks the job; running it again would be for nothing.
        return Step::Abandon;
    }
    let announced = matches!(&verdict, Verdict::Run(job, _) if is_announced(job));
    let past = match past(core, &id, arrived, fresh, announced).await {
        Some(Seen::Now(past)) => past,
        Some(Seen::Ended) => return Step::Forget,
        None => return Step::Abandon,
    };
    let context = run::Context { core, arrived, trace, id: &id, queue: &address.queue, past: &past };
    match verdict {
        Verdict::End(outcome, error, job) => context.end(outcome, error, job.as_deref()),
        Verdict::Later(job, start) => {
            let event = events::release(&core.id, Some(job.job_type.clone()), &past, "its time has not come", Some(start));
            Step::Release { id, event, delay: start.since(now.at) }
        }
        Verdict::Unsure(job) => {
            let event = events::release(&core.id, Some(job.job_type.clone()), &past, UNSURE, Some(now.at + UNSURE_WAIT));
            Step::Release { id, event, delay: UNSURE_WAIT }
        }
        Verdict::Run(job, prepared) => {
            // Without an attempt left it becomes a dead letter, for which any agent will do; and a command has no other agent.
            if address.queue.lane().is_some()
                && past.next() <= run::attempts_max(&job)
                && let Some(delay) = core.preference.yields(&core.id, &id, &past, Instant::now())
            {
                tracing::debug!(?delay, "left to agents that have not failed it");
                slot.step_back();
                let event = events::release(&core.id, Some(job.job_type.clone()), &past, prefer::REASON, Some(now.at + delay));
                return Step::Release { id, event, delay };
            }
            let (prepared, connection) = match access::access(core, &job, prepared).await {
                Access::Open(prepared, connection) => (prepared, connection),
                Access::Elsewhere(why) => {
                    let delay = access::delay(&past, core.preference.accepting.load(Ordering::Relaxed));
                    tracing::debug!(?delay, why, "given back");
                    slot.step_back();
                    let event = events::release(&core.id, Some(job.job_type.clone()), &past, why, Some(now.at + delay));
                    return Step::Release { id, event, delay };
                }
                Access::Refused(error) => return context.end(Outcome::Rejected, error, Some(&job)),
                Access::Unknown => return Step::Abandon,
            };
            tracing::debug!(job_type = %job.job_type, "an attempt begins");
            context.run(*job, prepared, connection, announced).await
        }
    }
}

/// The last token of a subject, whatever it is, so that its publisher finds the result.
fn shown_id(subject: &str) -> String {
    let id = subject.rsplit('.').next().unwrap_or_default();
    let short: String = id.chars().take(80).collect();
    format!("{short:?}{}", if short.len() < id.len() { " (cut short)" } else { "" })
}

fn is_fresh(message: &Message) -> bool {
    message.headers.as_ref().is_some_and(|headers| headers.get(headers::FRESH).is_some())
}

/// Whether even the first attempt begins only once its event is stored: so it is for a job that may be attempted only once. See [`count`].
fn is_announced(job: &Job) -> bool {
    job.retry.is_some_and(|retry| retry.max_attempts == 1)
}

/// Whether the copy by which the history learns of a queued job may lie over what an agent told of it: of a batch that copy comes after the
/// job, and only that of an id made for it goes nowhere where there is an event already.
fn may_be_covered(message: &Message, id: &JobId) -> bool {
    let batched = message.headers.as_ref().is_some_and(|headers| headers.get(headers::BATCH_ID).is_some());
    batched && !is_fresh(message) && GroupId::of(id).is_none()
}

/// Looks up what happened to a job before, as far as this delivery needs it. `fresh`: its publisher made the id for it, and just now. `None` when the broker does not say.
async fn past(core: &Core, id: &JobId, arrived: &Arrived, fresh: bool, announced: bool) -> Option<Seen> {
    let stored_at = arrived.delivery.stored_at;
    let announced = announced && !may_be_covered(&arrived.message, id);
    // One that was cancelled just before has a result, unless it is another job of the same id by now.
    let is_new = fresh && !core.live.was_cancelled(id, Instant::now());
    if arrived.delivery.delivered == 1 && is_new && core.link.borrow().saw_stored(core.clock.ours(stored_at)) {
        return Some(Seen::Now(Past::default()));
    }
    let until = Instant::now() + LOOKUP_PATIENCE;
    loop {
        match look_up(core, id, arrived.delivery, announced).await {
            Ok(seen) => return Some(seen),
            Err(error) if Instant::now() >= until => {
                tracing::warn!(%error, "can't tell what happened to this job before; leaving it to its lease");
                return None;
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(250)).await,
        }
    }
}

async fn look_up(core: &Core, id: &JobId, delivery: Delivery, announced: bool) -> Result<Seen, crate::js::LookupError> {
    let subject = About::Result.job(&core.pool, id);
    let result = core.js.last(topology::RESULTS, &subject);
    if delivery.delivered == 1 {
        return Ok(if result.await?.is_some() { Seen::Ended } else { Seen::Now(Past::default()) });
    }
    let subject = About::Event.job(&core.pool, id);
    let (result, last) = tokio::join!(result, core.js.last(topology::EVENTS, &subject));
    if result?.is_some() {
        return Ok(Seen::Ended);
    }
    // The last one is the broker's own copy of the job: then no agent has told anything yet.
    let queued = |message: &Message| {
        let subjects = message.headers.iter().flat_map(|all| all.get_all(headers::REPUBLISHED_SUBJECT));
        event::is_queued(subjects.map(|subject| subject.as_str()))
    };
    let last = last?.filter(|message| !queued(message)).and_then(|message| {
        let event = wire::decode::<Event>(&message.payload);
        let event = event.inspect_err(|error| tracing::error!(%error, "can't read this job's last event")).ok()?;
        read_clock(core, &message, &event);
        Some(event)
    });
    Ok(Seen::Now(Past::of(delivery.delivered, last.as_ref(), announced)))
}

/// As long as nobody has said what time it is: the broker stored an event of ours just after it was written by our clock.
fn read_clock(core: &Core, message: &Message, event: &Event) {
    let stored_at = message.headers.as_ref().and_then(|headers| headers.get(headers::STORED_AT)?.as_str().parse().ok());
    if let Some(stored_at) = stored_at.filter(|_| event.agent_id == core.id && !core.clock.is_measured()) {
        core.clock.read(Reading::at_once(event.at, stored_at));
    }
}

impl run::Context<'_> {
    /// Ends a job without another attempt.
    fn end(&self, outcome: Outcome, mut error: ErrorInfo, job: Option<&Job>) -> Step {
        // It may quote the job.
        self.core.registry.masks().now().error(&mut error);
        tracing::info!(%outcome, code = %error.code, "a job ended without an attempt: {}", error.message);
        self.core.figures.ended(outcome);
        let result = self.without_attempt(outcome, error, job);
        Step::Store(Box::new(self.ending(&result, job)), None)
    }

    /// The result of a job that ends without another attempt.
    fn without_attempt(&self, outcome: Outcome, error: ErrorInfo, job: Option<&Job>) -> JobResult {
        let past = self.past;
        let mut result = crate::finish::result::without_attempt(
            outcome,
            error,
            job,
            self.queue.priority(),
            past.history.clone(),
            past.attempts,
            self.arrived.delivery.stored_at,
        );
        // It says who signs it: the last attempt may have been another agent's.
        result.ended_by = Some(self.core.id.clone()).filter(|agent| result.agent_id.as_ref() != Some(agent));
        result
    }

    /// A result, ready to be sent.
    fn ending(&self, result: &JobResult, job: Option<&Job>) -> Ending {
        let ttl = job.map_or(topology::RESULT_TTL, Job::result_ttl).as_secs();
        let headers = self.arrived.message.headers.as_ref();
        let reply_to = headers.and_then(|headers| headers.get(headers::REPLY_TO)).map(|value| value.as_str());
        Ending::new(self.id.clone(), self.core.pool.clone(), &self.arrived.reply, result, ttl, self.trace.to_header(), reply_to)
    }

    /// Where a job that ran here is in its queue, and on which connection, if its ack may wait there.
    fn place(&self, job: &Job) -> Option<(Place, u64)> {
        let may_wait = self.core.acks.may_wait() && job.result_ttl() >= KEPT_LONG;
        self.arrived.connection.filter(|_| may_wait).map(|connection| (self.arrived.delivery.place(), connection))
    }
}
