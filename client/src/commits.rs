//! Group commit: messages for one stream that come at the same time share a commit of the broker's, and so its flush to disk.
//!
//! For processes with the control plane's permissions and for agents, as [`crate::atomic`], which does the storing: each message gets an answer of its
//! own, as if it had been published alone. A lone message goes at once, so nothing is slower where little happens. What comes while a group
//! is under way goes with the next one (`driver`).
//!
//! **Bounds.** At most [`WAITING_BYTES`] bytes wait or are under way, where a message counts for [`WAITING_MIN`] at least, so at most
//! [`WAITING_MAX`] messages; more are refused at once ([`Refusal::Busy`]), which is how a caller sees that the broker does not keep up. A group has at most a thousand messages and 4 MiB. A message that has
//! waited for [`PATIENCE`] without being sent is not sent any more ([`Refusal::NotSent`]).
//!
//! Why it is so: `docs/decisions/0044-group-commit.md`.

mod driver;

use std::{sync::Arc, time::Duration};

use async_nats::Client;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
    time::Instant,
};

use crate::atomic::{self, Answer, Outgoing, Refusal};
pub use driver::Driver;

/// Bytes of bodies that may wait or be under way at once.
pub const WAITING_BYTES: usize = 64 << 20;
/// For so many bytes each message counts at least.
pub const WAITING_MIN: usize = 8 << 10;
/// Messages that may wait or be under way at once: a few commits' worth.
pub const WAITING_MAX: usize = WAITING_BYTES / WAITING_MIN;
/// How long a message may wait to be sent, while the broker is away for example.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// So many messages may be under way alone where they come from callers who wait for an answer before they send more. With as many of them groups lose: a
/// commit takes 3 ms and more whatever it holds, and between two of them all have to be answered and to come back (32 callers on two cores:
/// 3 300 submits a second alone, 2 800 where no more than 16 go alone and the others wait for their turn).
pub const CALLERS: usize = 32;
/// The same where they come by themselves, as results do: what a commit costs in messages that go alone.
pub const FLOW: usize = atomic::FEW;

/// Stores messages in one stream; clones share its groups.
#[derive(Debug, Clone)]
pub struct Commits {
    queue: mpsc::Sender<Waiting>,
    bytes: Arc<Semaphore>,
}

/// A message and who waits for its answer.
#[derive(Debug)]
struct Waiting {
    message: Outgoing,
    /// The one connection that it may go over.
    connection: Option<u64>,
    since: Instant,
    answer: oneshot::Sender<Answer>,
    /// Given back when the message is answered.
    _room: OwnedSemaphorePermit,
}

impl Commits {
    /// Commits to `stream` over this connection, and what has to run for that: spawn [`Driver::run`], which ends when the last clone is gone.
    /// As long as no more than `alone_max` are under way, [`CALLERS`] or [`FLOW`], each goes alone.
    pub fn new(client: Client, stream: impl Into<String>, alone_max: usize) -> (Self, Driver) {
        let (queue, waiting) = mpsc::channel(WAITING_MAX);
        let bytes = Arc::new(Semaphore::new(WAITING_BYTES));
        (Self { queue, bytes }, Driver::new(client, stream.into(), alone_max, waiting))
    }

    /// Stores a message. It returns once the broker has it on disk, or has said why not. Should its caller go away, the message is stored
    /// all the same.
    ///
    /// # Errors
    /// See [`Refusal`].
    pub async fn store(&self, message: Outgoing) -> Answer {
        self.submit(message, None).await
    }

    /// As [`Commits::store`], for a message that is true on one connection only, by how often it had come up
    /// ([`connects`](async_nats::Statistics::connects)): should it have changed before the message is sent, it is not
    /// ([`Refusal::NotSent`]).
    ///
    /// # Errors
    /// See [`Refusal`].
    pub async fn store_over(&self, connection: u64, message: Outgoing) -> Answer {
        self.submit(message, Some(connection)).await
    }

    async fn submit(&self, message: Outgoing, connection: Option<u64>) -> Answer {
        let bytes = message.payload.len().clamp(WAITING_MIN, WAITING_BYTES);
        let room = Arc::clone(&self.bytes).try_acquire_many_owned(u32::try_from(bytes).unwrap_or(u32::MAX)).map_err(|_| Refusal::Busy)?;
        let (answer, answered) = oneshot::channel();
        let waiting = Waiting { message, connection, since: Instant::now(), answer, _room: room };
        self.queue.try_send(waiting).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => Refusal::Busy,
            mpsc::error::TrySendError::Closed(_) => Refusal::NotSent,
        })?;
        answered.await.unwrap_or_else(|_| Err(Refusal::Unknown("the process ends".into())))
    }
}
