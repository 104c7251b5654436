//! Removes finished jobs from the fronts of their queues, many at a time: an ack costs the broker a flush, and so does a purge of hundreds.
//!
//! Agents hold back the acks of jobs whose results are stored, and say in each result where its job was. What the active dispatcher hears of
//! them it keeps here, and when a queue begins with finished jobs only, they go by one purge. Their acks come all the same, later, and cost
//! nothing any more, so that nothing depends on this: it may fail, stop, or forget all it knows at any time.
//!
//! The one thing that must never happen is that a job goes that is not finished. Why it does not: `docs/decisions/0046-finished-jobs-leave-together.md`.
//!
//! | to find | look in |
//! |---|---|
//! | what is known of one queue, and how far its front is finished | [`known`] |
//! | when to look and when to purge | [`decide`] |
//! | asking the broker | [`driver`] |

mod decide;
mod driver;
mod known;
#[cfg(test)]
mod tests;

use muster_runtime::tasks::Tasks;
use muster_schemas::{names::PoolName, queue::Place};
use tokio::sync::mpsc;

use crate::{intake::follow::Source, lease::keeper::Leadership};
use driver::Driver;
pub(crate) use known::Facts;

/// For how many milliseconds agents hold back acks: the dispatcher learns of a result within 100 ms, and purges every [`decide::EVERY`].
pub(crate) const ACK_DELAY_MS: u32 = 400;

/// Places that may wait to be taken in. Those that find no room are left to their acks.
const WAITING: usize = 8192;

/// A job whose result is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Finished {
    pub(crate) pool: PoolName,
    /// Where it was in its queue, as its agent says.
    pub(crate) place: Place,
    /// The connection to the broker on which the result was stored and read, by its number.
    pub(crate) connection: u64,
}

/// Where finished jobs are told; clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Broom {
    places: mpsc::Sender<Finished>,
}

impl Broom {
    /// A job of a pool is finished.
    pub(crate) fn finished(&self, finished: Finished) {
        // Without room it leaves its queue by its ack.
        let _ = self.places.try_send(finished);
    }
}

/// Starts the task.
pub(crate) fn start(tasks: &Tasks, source: &Source, leadership: &Leadership) -> Broom {
    let (places, heard) = mpsc::channel(WAITING);
    let driver = Driver::new(source.broker.clone(), leadership.clone(), source.figures.clone(), heard);
    tasks.essential("sweeper", driver.run(tasks.shutdown().clone()));
    Broom { places }
}
