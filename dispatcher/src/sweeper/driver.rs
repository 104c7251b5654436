//! Asks the broker what [`super::decide`] wants to know. Only while this is the active dispatcher, and never on another connection than the
//! one on which what is known was heard.

use std::time::Instant;

use futures_util::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use muster_runtime::{nats::Broker, shutdown::Shutdown};
use tokio::sync::mpsc;

use super::{
    Finished,
    decide::{Answer, Asked, Event, Question, Sweeper},
};
use crate::{
    broker::{self, BrokerError},
    channel,
    figures::Figures,
    held,
    lease::keeper::Leadership,
};

/// Places taken in at once.
const BATCH: usize = 512;

/// The task that sweeps.
pub(super) struct Driver {
    broker: Broker,
    leadership: Leadership,
    figures: Figures,
    heard: mpsc::Receiver<Finished>,
    sweeper: Sweeper,
    asked: FuturesUnordered<BoxFuture<'static, Event>>,
}

impl Driver {
    pub(super) fn new(broker: Broker, leadership: Leadership, figures: Figures, heard: mpsc::Receiver<Finished>) -> Self {
        Self { broker, leadership, figures, heard, sweeper: Sweeper::default(), asked: FuturesUnordered::new() }
    }

    /// Runs until the shutdown.
    pub(super) async fn run(mut self, shutdown: Shutdown) -> anyhow::Result<()> {
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            let wake = self.sweeper.next();
            let mut event = None;
            tokio::select! {
                () = shutdown.requested() => return Ok(()),
                () = self.leadership.changed() => {}
                Some(answered) = self.asked.next() => event = Some(answered),
                taken = channel::take(&mut self.heard, &mut batch, BATCH, &shutdown) => taken?,
                () = until(wake) => event = Some(Event::Tick),
            }
            self.apply(Event::Active(self.leadership.connection()));
            for event in batch.drain(..).map(Event::Finished).chain(event) {
                self.apply(event);
            }
        }
    }

    fn apply(&mut self, event: Event) {
        for asked in self.sweeper.apply(event, Instant::now()) {
            let (broker, leadership, figures) = (self.broker.clone(), self.leadership.clone(), self.figures.clone());
            let ask = async move {
                let answer = answer(&broker, &leadership, &figures, &asked).await.unwrap_or_else(|error| {
                    let error = &error as &dyn std::error::Error;
                    tracing::debug!(pool = %asked.pool, error, "could not remove finished jobs together; each leaves its queue by its ack");
                    Answer::Nothing
                });
                tracing::trace!(pool = %asked.pool, question = ?asked.question, ?answer);
                Event::Answered(asked, answer)
            };
            self.asked.push(ask.boxed());
        }
    }
}

async fn answer(broker: &Broker, leadership: &Leadership, figures: &Figures, asked: &Asked) -> Result<Answer, BrokerError> {
    // The client would send it after a reconnect, when it means nothing any longer.
    if leadership.connection() != Some(asked.connection) {
        return Ok(Answer::Nothing);
    }
    let (client, began) = (broker.client(), Instant::now());
    Ok(match asked.question {
        Question::Facts => Answer::Facts(broker::queue::facts(client, &asked.pool).await?),
        Question::Next(sequence) => Answer::Next(held::next_queued(client, &asked.pool, sequence).await?),
        Question::Purge { until, .. } if began >= until => Answer::Nothing,
        Question::Purge { below, .. } => {
            let (count, took) = (broker::queue::purge(client, &asked.pool, below).await?, began.elapsed());
            figures.swept(count, took);
            Answer::Purged(took)
        }
    })
}

async fn until(wake: Option<Instant>) {
    match wake {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
