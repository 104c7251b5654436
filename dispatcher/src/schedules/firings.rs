//! Takes firings from the consumer that all dispatchers share, and settles each before it is acked.

use std::{sync::Arc, time::Duration};

use async_nats::jetstream::{self, AckKind, consumer::pull};
use futures_util::StreamExt as _;
use muster_runtime::shutdown::Shutdown;
use muster_schemas::{
    headers::SCHEDULE_NEXT,
    subjects,
    topology::{DUE_CONSUMER, SCHEDULES},
};

use super::{decide::Firing, desk::Desk};
use crate::{broker::place, fixed::Fixed};

/// How long a pull waits in the broker.
const EXPIRES: Duration = Duration::from_secs(30);
/// How long to wait before trying again after an error.
const AGAIN_AFTER: Duration = Duration::from_millis(250);
/// How long one firing may take. Below the time after which the broker gives it to somebody else.
const PATIENCE: Duration = Duration::from_secs(8);

/// Settles firings until the shutdown.
pub(super) async fn run(desk: Desk, fixed: Arc<Fixed>, shutdown: Shutdown) -> anyhow::Result<()> {
    while !shutdown.is_requested() {
        let worked = tokio::select! {
            worked = work(&desk, &shutdown) => worked,
            () = shutdown.requested() => break,
        };
        if let Err(error) = worked {
            tracing::debug!(error = %format!("{error:#}"), "reading firings was interrupted; beginning again");
            fixed.ensure(&desk.broker).await;
            tokio::select! {
                () = tokio::time::sleep(AGAIN_AFTER) => {}
                () = shutdown.requested() => {}
            }
        }
    }
    Ok(())
}

/// Reads firings until something goes wrong.
async fn work(desk: &Desk, shutdown: &Shutdown) -> anyhow::Result<()> {
    desk.broker.connected().await;
    let context = jetstream::new(desk.broker.client().clone());
    let consumer: jetstream::consumer::Consumer<pull::Config> = context.get_consumer_from_stream(DUE_CONSUMER, SCHEDULES).await?;
    let connects = desk.broker.status().connects;
    loop {
        // Without the broker's idle heartbeats: after one of them the library's stream does not wake again before its own end (async-nats 0.51).
        let mut messages = consumer.batch().max_messages(1).expires(EXPIRES).messages().await?;
        loop {
            let message = tokio::select! {
                message = messages.next() => message,
                // A pull is forgotten by a broker that was away.
                _ = desk.broker.wait_for(|status| status.connects != connects) => return Ok(()),
            };
            let Some(message) = message else { break };
            settle(desk, &message.map_err(anyhow::Error::from_boxed)?).await?;
            if shutdown.is_requested() {
                return Ok(());
            }
        }
    }
}

/// Settles one firing. One that is none is acked and forgotten: nobody else could do more with it.
async fn settle(desk: &Desk, message: &jetstream::Message) -> anyhow::Result<()> {
    let (Some(name), Some(place)) = (subjects::parse_due(&message.subject), place(message)) else {
        tracing::warn!(subject = %message.subject, "a firing that is none");
        return ack(message, AckKind::Term).await;
    };
    let header = message.headers.as_ref().and_then(|headers| headers.get(SCHEDULE_NEXT));
    // `purge` where there is no next one.
    let next = header.and_then(|text| text.as_str().parse().ok());
    let token = String::from_utf8_lossy(&message.payload).into_owned();
    let settled = desk.settle(&name, |record| Firing { at: record.timing.fired(place.stored, next), token: token.clone() });
    match tokio::time::timeout(PATIENCE, settled).await {
        Ok(Ok(())) => ack(message, AckKind::Ack).await,
        Ok(Err(error)) => {
            tracing::warn!(schedule = %name, error = &error as &dyn std::error::Error, "could not settle a firing; trying again");
            ack(message, AckKind::Nak(Some(AGAIN_AFTER))).await
        }
        Err(_) => {
            tracing::warn!(schedule = %name, patience = ?PATIENCE, "settling a firing took too long; trying again");
            ack(message, AckKind::Nak(Some(AGAIN_AFTER))).await
        }
    }
}

async fn ack(message: &jetstream::Message, kind: AckKind) -> anyhow::Result<()> {
    message.ack_with(kind).await.map_err(anyhow::Error::from_boxed)
}
