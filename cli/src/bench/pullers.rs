//! The bare broker's side of a job: agents that only pull, publish a result, wait until it is stored, and ack.

use anyhow::{Context, Result};
use async_nats::{Client, HeaderMap, Message, StatusCode, jetstream};
use bytes::Bytes;
use futures_util::StreamExt;
use muster_runtime::tasks::Group;
use muster_schemas::{
    lane::Lane,
    names::{JobId, PoolName},
    subjects::{self, About, js},
    topology,
};

/// Pulls jobs of `lane` with `slots` at once, until its task group is ended.
///
/// # Errors
/// When the connection ends.
pub(super) async fn pull(nats: Client, pool: PoolName, lane: Lane, slots: usize, group: Group) -> Result<()> {
    let context = jetstream::new(nats.clone());
    let next = js::next(&topology::jobs_stream(&pool), &lane.consumer());
    let inbox = nats.new_inbox();
    let mut arrivals = nats.subscribe(inbox.clone()).await?;
    let (freed, mut free) = tokio::sync::mpsc::channel::<()>(slots.max(1));
    ask(&nats, &next, &inbox, slots).await?;
    loop {
        tokio::select! {
            message = arrivals.next() => {
                let message = message.context("the floor's agent lost its connection")?;
                match message.status {
                    None => {}
                    // A pull request ran out, which it does after a minute: ask again for all that is free.
                    Some(StatusCode::TIMEOUT) => {
                        ask(&nats, &next, &inbox, freed.capacity().min(slots)).await?;
                        continue;
                    }
                    // Such as that a request has been filled.
                    Some(_) => continue,
                }
                let (nats, context, pool, freed) = (nats.clone(), context.clone(), pool.clone(), freed.clone());
                group.spawn(async move {
                    finish(&nats, &context, &pool, message).await?;
                    freed.send(()).await.context("the floor's agent has ended")
                });
            }
            Some(()) = free.recv() => {
                let mut batch = 1;
                while free.try_recv().is_ok() {
                    batch += 1;
                }
                ask(&nats, &next, &inbox, batch).await?;
            }
        }
    }
}

async fn ask(nats: &Client, next: &str, inbox: &str, batch: usize) -> Result<()> {
    let request = format!(r#"{{"batch":{batch},"expires":60000000000,"group":"{}","priority":0}}"#, topology::PRIORITY_GROUP);
    Ok(nats.publish_with_reply(next.to_owned(), inbox.to_owned(), Bytes::from(request)).await?)
}

/// The job's own bytes are its result, of the same size.
async fn finish(nats: &Client, context: &jetstream::Context, pool: &PoolName, message: Message) -> Result<()> {
    let id: JobId = subjects::parse_job(&message.subject).context("no job's subject")?.id.parse()?;
    context.publish_with_headers(About::Result.job(pool, &id), HeaderMap::new(), message.payload).await?.await?;
    let reply = message.reply.context("a job without an ack subject")?;
    Ok(nats.publish(reply, Bytes::from_static(b"+ACK")).await?)
}
