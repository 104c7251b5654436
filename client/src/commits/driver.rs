//! What carries messages from the queue to the broker, and answers to who waits for them.

use std::{collections::VecDeque, pin::pin, sync::Arc};

use async_nats::{Client, connection::State};
use futures_util::{
    StreamExt as _,
    future::{BoxFuture, FutureExt as _},
    stream::FuturesUnordered,
};
use muster_schemas::{
    headers,
    signature::{Signed, Signer},
    time::Timestamp,
};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};

use super::{PATIENCE, Waiting};
use crate::atomic::{self, BrokerTime, FEW, Outgoing, Refusal};

/// How often to look whether a lost connection is back.
const LOOK: std::time::Duration = std::time::Duration::from_millis(20);

/// Carries messages to one stream.
pub struct Driver {
    client: Client,
    stream: String,
    alone_max: usize,
    /// Who signs what is not signed yet, and as what.
    signer: Option<(Arc<Signer>, Signed)>,
    time: BrokerTime,
    queue: mpsc::Receiver<Waiting>,
    waiting: VecDeque<Waiting>,
    alone: FuturesUnordered<BoxFuture<'static, ()>>,
    group: Option<BoxFuture<'static, ()>>,
    /// The connection at the last look.
    connection: u64,
}

impl Driver {
    pub(super) fn new(client: Client, stream: String, alone_max: usize, queue: mpsc::Receiver<Waiting>) -> Self {
        let connection = atomic::connection(&client);
        let (waiting, alone) = (VecDeque::new(), FuturesUnordered::new());
        Self { client, stream, alone_max, signer: None, time: BrokerTime::default(), queue, waiting, alone, group: None, connection }
    }

    /// Signs messages that come without a signature when it sends them, so that those of a group share one.
    #[must_use]
    pub fn signing(self, signer: Arc<Signer>, signed: Signed) -> Self {
        Self { signer: Some((signer, signed)), ..self }
    }

    /// Runs until nobody can submit any more and all is answered.
    pub async fn run(mut self) {
        let mut open = true;
        while open || !self.is_idle() {
            let wake = self.send();
            let group = &mut self.group;
            let group = pin!(async {
                match group {
                    Some(group) => group.await,
                    None => std::future::pending().await,
                }
            });
            tokio::select! {
                next = self.queue.recv(), if open => {
                    match next {
                        Some(next) => self.admit(next),
                        None => open = false,
                    }
                    // Whatever else is there by now is one decision with it.
                    while let Ok(next) = self.queue.try_recv() {
                        self.admit(next);
                    }
                }
                Some(()) = self.alone.next() => {}
                () = group => self.group = None,
                () = due(wake) => {}
            }
        }
    }

    fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.alone.is_empty() && self.group.is_none()
    }

    /// Sends what is to be sent now, and says when to look again should nothing happen before.
    fn send(&mut self) -> Option<Instant> {
        self.forget_overdue();
        self.forget_stale();
        if self.waiting.is_empty() {
            return None;
        }
        if self.client.connection_state() != State::Connected {
            // The client library would keep what it is given now, and send it whenever the broker is back.
            return Some(Instant::now() + LOOK);
        }
        match step(self.alone_max, self.alone.len(), self.group.is_some(), self.waiting.len()) {
            Step::Rest => {}
            Step::Alone => self.send_alone(),
            Step::Group => self.send_group(),
        }
        self.waiting.front().map(|oldest| oldest.since + PATIENCE)
    }

    fn send_alone(&mut self) {
        for Waiting { mut message, answer, _room, .. } in self.waiting.drain(..) {
            sign(self.signer.as_ref(), std::slice::from_mut(&mut message));
            let (client, stream) = (self.client.clone(), self.stream.clone());
            let stored = async move {
                // Who asked may have gone.
                let _ = answer.send(atomic::publish_known(&client, &stream, &message).await);
                drop(_room);
            };
            self.alone.push(stored.boxed());
        }
    }

    fn send_group(&mut self) {
        let count = self.waiting.len().min(atomic::COMMIT_MESSAGES);
        let (mut messages, mut asked) = (Vec::with_capacity(count), Vec::with_capacity(count));
        for Waiting { message, answer, _room, .. } in self.waiting.drain(..count) {
            messages.push(message);
            asked.push((answer, _room));
        }
        sign(self.signer.as_ref(), &mut messages);
        let (client, stream, time) = (self.client.clone(), self.stream.clone(), self.time.clone());
        let stored = async move {
            let answers = atomic::publish_all_at(&client, &stream, &messages, &time).await;
            for (answer, (asked, _room)) in answers.into_iter().zip(asked) {
                let _ = asked.send(answer);
            }
        };
        self.group = Some(stored.boxed());
    }

    /// Takes in what was submitted.
    fn admit(&mut self, next: Waiting) {
        if next.connection.is_some_and(|connection| connection != atomic::connection(&self.client)) {
            // Who asked may have gone.
            let _ = next.answer.send(Err(Refusal::NotSent));
        } else {
            self.waiting.push_back(next);
        }
    }

    /// Answers what was to go over a connection that has gone since.
    fn forget_stale(&mut self) {
        let now = atomic::connection(&self.client);
        if std::mem::replace(&mut self.connection, now) != now {
            for next in std::mem::take(&mut self.waiting) {
                self.admit(next);
            }
        }
    }

    /// Answers what has waited too long. The oldest come first.
    fn forget_overdue(&mut self) {
        let now = Instant::now();
        while let Some(next) = self.waiting.pop_front_if(|next| next.since + PATIENCE <= now) {
            let _ = next.answer.send(Err(Refusal::NotSent));
        }
    }
}

fn sign(signer: Option<&(Arc<Signer>, Signed)>, messages: &mut [Outgoing]) {
    let Some((signer, signed)) = signer else { return };
    let is_unsigned = |message: &Outgoing| message.headers.get(headers::SIGNATURE).is_none();
    let unsigned: Vec<_> = messages.iter().filter(|message| is_unsigned(message)).map(|message| message.unsigned(*signed)).collect();
    let signatures = signer.sign_all(&unsigned, Timestamp::now());
    for (message, signature) in messages.iter_mut().filter(|message| is_unsigned(message)).zip(signatures) {
        message.headers.insert(headers::SIGNATURE, signature.to_string());
    }
}

/// What to do with what waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Let it wait for what is under way.
    Rest,
    /// Send each of them alone, all at once.
    Alone,
    /// Send it as one group.
    Group,
}

/// Each message goes at once while few are under way. When they are too many, those are let come home, and then all that waits goes as a group, if
/// it is worth one; what comes while that is under way is the next one. Waiting any longer for company loses more than it gains: in a
/// model of 16 to 128 callers that submit all the time, no pause made more jobs a second.
fn step(alone_max: usize, alone: usize, group: bool, waiting: usize) -> Step {
    match () {
        () if waiting == 0 || group => Step::Rest,
        () if alone > 0 && alone + waiting <= alone_max => Step::Alone,
        () if alone > 0 => Step::Rest,
        () if waiting <= FEW => Step::Alone,
        () => Step::Group,
    }
}

async fn due(wake: Option<Instant>) {
    match wake {
        None => std::future::pending().await,
        Some(at) => sleep_until(at).await,
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{CALLERS, FLOW},
        *,
    };

    #[test]
    fn few_go_at_once_and_never_wait_for_each_other() {
        for most in [FLOW, CALLERS] {
            for alone in 1..most {
                assert_eq!(step(most, alone, false, most - alone), Step::Alone);
            }
            assert_eq!([step(most, 0, false, 1), step(most, 0, false, FEW)], [Step::Alone; 2]);
            assert_eq!(step(most, 3, false, 0), Step::Rest);
        }
    }

    #[test]
    fn many_go_together_once_nothing_is_under_way() {
        for most in [FLOW, CALLERS] {
            assert_eq!(step(most, 0, false, FEW + 1), Step::Group);
            assert_eq!([step(most, 1, false, most), step(most, 0, true, 1), step(most, 0, true, 1000)], [Step::Rest; 3]);
        }
    }
}
