//! Answers gateways' questions about the history. Every dispatcher does, active or not, once it has read its streams; the broker gives each
//! question to one of them.

use std::{collections::BTreeMap, sync::Arc};

use async_nats::{Client, Message};
use futures_util::{StreamExt as _, stream};
use muster_runtime::nats::Broker;
use muster_schemas::{
    code::Code,
    history::{GroupAnswer, GroupQuestion, JobsAnswer, JobsQuestion, PoolAnswer, PoolQuestion},
    result::ErrorInfo,
    subjects::{History, broker::GATEWAY_INBOXES},
    time::Timestamp,
    wire::{self, V},
};
use tokio::sync::watch;

use super::{
    blocking, members, page, stats,
    store::{HistoryError, Store},
};

/// The dispatchers among which questions are shared out.
const QUEUE: &str = "dispatcher";
/// Questions answered at once; more wait. Each is a pass over the catalogue, on a core of its own.
const AT_ONCE: usize = 4;

/// The task that answers.
pub(crate) struct Answers {
    pub(crate) store: Arc<Store>,
    pub(crate) broker: Broker,
}

impl Answers {
    /// Answers for ever. Begins once the history is read, so that nobody is told half of it.
    pub(crate) async fn run(self, mut caught_up: watch::Receiver<bool>) -> anyhow::Result<()> {
        caught_up.wait_for(|done| *done).await?;
        let client = self.broker.client();
        let mut asked = Vec::new();
        for verb in History::ALL {
            let questions = client.queue_subscribe(verb.subject(), QUEUE.into()).await?;
            asked.push(questions.map(move |message| (verb, message)));
        }
        let answers = stream::select_all(asked).for_each_concurrent(AT_ONCE, |(verb, message)| self.answer(client, verb, message));
        answers.await;
        anyhow::bail!("the subscription to questions about the history ended")
    }

    async fn answer(&self, client: &Client, verb: History, message: Message) {
        let Some(reply) = message.reply.filter(|reply| reply.starts_with(GATEWAY_INBOXES.trim_end_matches('>'))) else { return };
        let body = match verb {
            History::Jobs => wire::encode(&self.jobs(&message.payload).await),
            History::Pool => wire::encode(&self.pool(&message.payload).await),
            History::Group => wire::encode(&self.group(&message.payload).await),
        };
        if let Err(error) = client.publish(reply, body.into()).await {
            tracing::warn!(%error, "cannot answer a question about the history");
        }
    }

    async fn jobs(&self, payload: &[u8]) -> JobsAnswer {
        let refuse = |error| JobsAnswer { v: V, rows: Vec::new(), cursor: None, error: Some(error) };
        let question: JobsQuestion = match wire::decode(payload) {
            Ok(question) => question,
            Err(error) => return refuse(ErrorInfo::new(error.code(), error.to_string())),
        };
        let from = match question.cursor.as_deref().map(|cursor| page::spot(cursor).ok_or(())).transpose() {
            Ok(from) => from,
            Err(()) => return refuse(ErrorInfo::new(Code::QueryInvalid, "the cursor is none of this list")),
        };
        let store = Arc::clone(&self.store);
        let page = blocking(move || {
            let load = |key| store.row(key);
            page::page(&store.catalogue(), store.hashes(), &question, from, Timestamp::now(), load)
        });
        match page.await {
            Ok(page) => JobsAnswer { v: V, rows: page.rows, cursor: page.next.map(page::cursor), error: None },
            Err(error) => refuse(unreadable(&error)),
        }
    }

    async fn group(&self, payload: &[u8]) -> GroupAnswer {
        let refuse = |error| GroupAnswer { v: V, counts: BTreeMap::new(), rows: Vec::new(), next: 0, error: Some(error) };
        let question: GroupQuestion = match wire::decode(payload) {
            Ok(question) => question,
            Err(error) => return refuse(ErrorInfo::new(error.code(), error.to_string())),
        };
        let store = Arc::clone(&self.store);
        let answer = blocking(move || {
            let load = |key| store.row(key);
            members::answer(&store.catalogue(), store.hashes(), &question, Timestamp::now(), load)
        });
        answer.await.unwrap_or_else(|error| refuse(unreadable(&error)))
    }

    async fn pool(&self, payload: &[u8]) -> PoolAnswer {
        let question: PoolQuestion = match wire::decode(payload) {
            Ok(question) => question,
            Err(error) => return PoolAnswer { v: V, stats: None, error: Some(ErrorInfo::new(error.code(), error.to_string())) },
        };
        let store = Arc::clone(&self.store);
        let stats = blocking(move || Ok(stats::of(&store.catalogue(), store.hashes(), &question.pool, Timestamp::now())));
        match stats.await {
            Ok(stats) => PoolAnswer { v: V, stats: Some(stats), error: None },
            Err(error) => PoolAnswer { v: V, stats: None, error: Some(unreadable(&error)) },
        }
    }
}

fn unreadable(error: &HistoryError) -> ErrorInfo {
    tracing::error!(error = error as &dyn std::error::Error, "cannot read the history");
    ErrorInfo::new(Code::HistoryUnavailable, "the dispatcher cannot read its history; its log says why")
}
