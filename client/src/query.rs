//! What a gateway is asked about a job: its stored result, and to cancel it. Any gateway answers.

use std::time::Duration;

use async_nats::{Request, RequestErrorKind};
use muster_schemas::{
    code::Code,
    control::QueryAnswer,
    names::{JobId, PoolName},
    result::JobResult,
    subjects::Query,
    wire,
};

use crate::{Client, Error};

/// How long a gateway has for a look-up.
const RESULT_TIMEOUT: Duration = Duration::from_secs(3);
/// How long a gateway has for a cancel, which writes to three streams.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(10);

impl Client {
    /// The stored result of a job; `None` while it is queued or running.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::NoGateway`], [`Error::Forbidden`], or what the gateway refuses.
    pub async fn result(&self, pool: &PoolName, id: &JobId) -> Result<Option<JobResult>, Error> {
        match self.ask(pool, id).await? {
            QueryAnswer { result: None, queued: false, .. } => Err(Error::NotFound { pool: pool.clone(), id: id.clone() }),
            answer => Ok(answer.result),
        }
    }

    /// Cancels a job: a queued one never runs, a running one is stopped. Returns the result that says so.
    ///
    /// # Errors
    /// [`Error::AlreadyFinished`] with how it ended, [`Error::NotFound`], [`Error::NoGateway`], [`Error::Forbidden`], or what the gateway refuses.
    pub async fn cancel(&self, pool: &PoolName, id: &JobId) -> Result<JobResult, Error> {
        let answer = self.query(Query::Cancel, pool, id, CANCEL_TIMEOUT).await?;
        match (answer.error, answer.result) {
            (Some(error), result) if error.code == Code::JobFinished => match result.or(self.ask(pool, id).await?.result) {
                Some(result) => Err(Error::AlreadyFinished { id: id.clone(), result: Box::new(result) }),
                None => Err(Error::Gateway { code: error.code, message: error.message }),
            },
            (Some(error), _) if error.code == Code::JobNotFound => Err(Error::NotFound { pool: pool.clone(), id: id.clone() }),
            (Some(error), _) => Err(Error::Gateway { code: error.code, message: error.message }),
            (None, Some(result)) => Ok(result),
            (None, None) => Err(Error::NotFound { pool: pool.clone(), id: id.clone() }),
        }
    }

    /// Looks a job up. That nobody knows it is an answer, not an error.
    pub(crate) async fn ask(&self, pool: &PoolName, id: &JobId) -> Result<QueryAnswer, Error> {
        let answer = self.query(Query::Result, pool, id, RESULT_TIMEOUT).await?;
        match &answer.error {
            Some(error) if error.code != Code::JobNotFound => Err(Error::Gateway { code: error.code, message: error.message.clone() }),
            _ => Ok(answer),
        }
    }

    async fn query(&self, query: Query, pool: &PoolName, id: &JobId, timeout: Duration) -> Result<QueryAnswer, Error> {
        let subject = query.subject(pool, id);
        let mut denials = self.listen();
        let request = Request::new().timeout(Some(timeout));
        let answer = tokio::select! {
            answer = self.nats.send_request(subject.clone(), request) => answer,
            denied = denials.of([&subject]) => return Err(denied),
        };
        let message = answer.map_err(|error| match error.kind() {
            RequestErrorKind::NoResponders | RequestErrorKind::TimedOut => Error::NoGateway,
            _ => Error::Closed(error.to_string()),
        })?;
        wire::decode(&message.payload).map_err(Error::Malformed)
    }
}
