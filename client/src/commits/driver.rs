//! What carries messages from the queue to the broker, and answers to who waits for them.

use std::{collections::VecDeque, pin::pin};

use async_nats::{Client, connection::State};
use futures_util::{
    StreamExt as _,
    future::{BoxFuture, FutureExt as _},
    stream::FuturesUnordered,
};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};

use super::{
    PATIENCE, WAITING_MAX, Waiting,
    pace::{Pace, Step},
};
use crate::atomic::{self, BrokerTime, Refusal};

/// How often to look whether a lost connection is back.
const LOOK: std::time::Duration = std::time::Duration::from_millis(20);

/// Carries messages to one stream.
pub struct Driver {
    client: Client,
    stream: String,
    time: BrokerTime,
    queue: mpsc::Receiver<Waiting>,
    waiting: VecDeque<Waiting>,
    pace: Pace,
    alone: FuturesUnordered<BoxFuture<'static, ()>>,
    group: Option<BoxFuture<'static, usize>>,
}

impl Driver {
    pub(super) fn new(client: Client, stream: String, queue: mpsc::Receiver<Waiting>) -> Self {
        Self {
            client,
            stream,
            time: BrokerTime::default(),
            queue,
            waiting: VecDeque::new(),
            pace: Pace::default(),
            alone: FuturesUnordered::new(),
            group: None,
        }
    }

    /// Runs until nobody can submit any more and all is answered.
    pub async fn run(mut self) {
        let mut open = true;
        while open || !self.is_idle() {
            let wake = self.send();
            let room = open && self.waiting.len() < WAITING_MAX;
            let group = &mut self.group;
            let group = pin!(async {
                match group {
                    Some(group) => group.await,
                    None => std::future::pending().await,
                }
            });
            tokio::select! {
                next = self.queue.recv(), if room => {
                    match next {
                        Some(next) => self.waiting.push_back(next),
                        None => open = false,
                    }
                    // Whatever else is there by now is one decision with it.
                    while self.waiting.len() < WAITING_MAX && let Ok(next) = self.queue.try_recv() {
                        self.waiting.push_back(next);
                    }
                }
                Some(()) = self.alone.next() => self.pace.answered(self.waiting.len()),
                sent = group => {
                    self.group = None;
                    self.pace.group_answered(sent, self.waiting.len());
                }
                () = due(wake) => {}
            }
        }
    }

    fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.alone.is_empty() && self.group.is_none()
    }

    /// Sends what is to be sent now, and says when to look again.
    fn send(&mut self) -> Wake {
        if self.waiting.is_empty() {
            return Wake::Never;
        }
        self.forget_overdue();
        if self.client.connection_state() != State::Connected {
            // The client library would keep what it is given now, and send it whenever the broker is back.
            return Wake::At(Instant::now() + LOOK);
        }
        match self.pace.step(self.waiting.len(), Instant::now().into_std()) {
            Step::Rest => Wake::Never,
            Step::Linger(until) => Wake::At(until.into()),
            Step::Alone(count) => {
                self.pace.sent_alone(count);
                for next in self.waiting.drain(..count) {
                    let (client, stream) = (self.client.clone(), self.stream.clone());
                    let stored = async move {
                        let Waiting { message, answer, _room, .. } = next;
                        let _ = answer.send(atomic::publish_known(&client, &stream, &message).await);
                    };
                    self.alone.push(stored.boxed());
                }
                Wake::Never
            }
            Step::Group => {
                let count = self.waiting.len().min(atomic::COMMIT_MESSAGES);
                self.pace.sent_group(count);
                let (mut messages, mut asked) = (Vec::with_capacity(count), Vec::with_capacity(count));
                for Waiting { message, answer, _room, .. } in self.waiting.drain(..count) {
                    messages.push(message);
                    asked.push((answer, _room));
                }
                let (client, stream, time) = (self.client.clone(), self.stream.clone(), self.time.clone());
                let stored = async move {
                    for (answer, (asked, _room)) in atomic::publish_all_at(&client, &stream, &messages, &time).await.into_iter().zip(asked)
                    {
                        let _ = asked.send(answer);
                    }
                    count
                };
                self.group = Some(stored.boxed());
                Wake::Never
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

/// When to look again, should nothing happen before.
#[derive(Debug, Clone, Copy)]
enum Wake {
    Never,
    At(Instant),
}

async fn due(wake: Wake) {
    match wake {
        Wake::Never => std::future::pending().await,
        Wake::At(at) => sleep_until(at).await,
    }
}
