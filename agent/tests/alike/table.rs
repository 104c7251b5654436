//! What is looked at in each row, and how: jobs run as an agent runs them, without a broker.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use muster_executor::{
    Attempt, Connection, Context, Execution, Executor, Mask, Progress, Settings, Update,
    runner::{self, Start},
};
use muster_schemas::{code::Code, log::CHUNK_LIMIT, result::Outcome};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::rows::Row;

/// The secret of every row; the name of a unit of systemd holds it as well.
pub(crate) const SECRET: &str = "s3cret-in-its-name";

pub(crate) const LONG: Duration = Duration::from_secs(60);

/// What is kept of the end of a stream.
const TAIL: usize = 64 * 1024;

/// One job: its type's verb, and its params.
pub(crate) type Job = (&'static str, Value);

/// What came of a job.
pub(crate) struct Ran {
    pub(crate) execution: Execution,
    /// All that was passed on of its output.
    log: Vec<u8>,
    progress: Vec<Progress>,
    took: Duration,
}

pub(crate) async fn run(
    executor: &Arc<dyn Executor>,
    connection: Option<Connection>,
    job: &Job,
    timeout: Duration,
    cancelled: CancellationToken,
) -> Ran {
    let work = executor.check(job.0, &job.1).unwrap_or_else(|refused| panic!("{job:?}: {refused}")).unwrap();
    let (agent_id, job_id) = ("agt_01ARZ3NDEKTSV4RRFFQ69G5FAV".parse().unwrap(), "job-1".parse().unwrap());
    let attempt = Attempt { agent_id, job_id, number: 1, timeout };
    let settings = Arc::new(Settings { kill_grace: Duration::from_secs(2), ..Settings::default() });
    let secrets: Vec<String> = connection.iter().flat_map(|connection| connection.credentials.secrets()).map(str::to_owned).collect();
    let mask = Mask::of(secrets.iter().map(String::as_str).chain([SECRET]));
    let (context, mut feed) = Context::new(cancelled);
    let began = Instant::now();
    let (mut log, mut progress) = (Vec::new(), Vec::new());
    let listen = async {
        while let Some(update) = feed.next().await {
            match update {
                Update::Output(chunk) => {
                    assert!(chunk.bytes.len() <= CHUNK_LIMIT);
                    log.extend_from_slice(&chunk.bytes);
                }
                Update::Progress(news) => progress.push(news),
            }
        }
    };
    let (execution, ()) = tokio::join!(runner::run(work, Start { attempt, settings, connection, mask }, context), listen);
    Ran { execution, log, progress, took: began.elapsed() }
}

impl Row {
    async fn job(&self, job: &Job) -> Ran {
        run(&self.executor, self.connection.clone(), job, LONG, CancellationToken::new()).await
    }

    /// A good run says so, and a bad one says why.
    async fn ends_as_it_should(&self) {
        let good = self.job(&self.good).await.execution;
        assert_eq!((good.outcome, &good.error), (Outcome::Succeeded, &None), "{}: {good:?}", self.name);
        let bad = self.job(&self.bad).await.execution;
        let error = bad.error.unwrap_or_else(|| panic!("{}: it succeeded", self.name));
        assert!(bad.outcome == Outcome::Failed && !error.message.is_empty(), "{}: {error:?}", self.name);
    }

    /// A job that takes too long, or that is cancelled, ends soon after, and as what it is.
    async fn is_stopped(&self) {
        let Some(long) = &self.long else { return };
        let late = run(&self.executor, self.connection.clone(), long, Duration::from_secs(2), CancellationToken::new()).await;
        let code = late.execution.error.as_ref().map(|error| error.code);
        assert_eq!((late.execution.outcome, code), (Outcome::TimedOut, Some(Code::TimedOut)), "{}: {:?}", self.name, late.execution);
        assert!(late.took < Duration::from_secs(16), "{}: {:?}", self.name, late.took);
        (self.reset)().await;
        let cancelled = CancellationToken::new();
        let cancel = async {
            tokio::time::sleep(Duration::from_secs(1)).await; // stuck on purpose
            cancelled.cancel();
        };
        let (ran, ()) = tokio::join!(run(&self.executor, self.connection.clone(), long, LONG, cancelled.clone()), cancel);
        let code = ran.execution.error.as_ref().map(|error| error.code);
        assert_eq!((ran.execution.outcome, code), (Outcome::Cancelled, Some(Code::Cancelled)), "{}: {:?}", self.name, ran.execution);
        assert!(ran.took < Duration::from_secs(15), "{}: {:?}", self.name, ran.took);
        (self.reset)().await;
        let before = CancellationToken::new();
        before.cancel();
        let none = run(&self.executor, self.connection.clone(), long, LONG, before).await;
        assert_eq!((none.execution.outcome, none.log.len()), (Outcome::Cancelled, 0), "{}", self.name);
    }

    /// Of much output the end is kept, and that it was cut is said.
    async fn is_capped(&self) {
        let Some(flood) = &self.flood else { return };
        let ran = self.job(flood).await;
        let kept = [&ran.execution.stdout, &ran.execution.stderr].map(|output| output.as_bytes().len());
        assert!(ran.execution.truncated && kept.contains(&TAIL) && kept.iter().all(|kept| *kept <= TAIL), "{}: {kept:?}", self.name);
        assert!(ran.log.len() > TAIL, "{}: {} bytes of log", self.name, ran.log.len());
    }

    /// A secret gets out in no way.
    async fn masks(&self) {
        for job in &self.secrets {
            let ran = self.job(job).await;
            let execution = &ran.execution;
            let texts = [String::from_utf8_lossy(&ran.log).into_owned(), format!("{:?} {:?}", execution.data, execution.error)];
            let outputs = [&execution.stdout, &execution.stderr].map(|output| output.to_text().into_owned());
            let said = format!("{texts:?} {outputs:?} {:?}", ran.progress);
            assert!(said.contains("***") && !said.contains(SECRET), "{} {job:?}: {said}", self.name);
        }
    }

    /// Who takes long says how far it is.
    async fn reports(&self) {
        let Some(long) = self.long.as_ref().filter(|_| self.tells) else { return };
        let ran = run(&self.executor, self.connection.clone(), long, Duration::from_secs(3), CancellationToken::new()).await;
        let well = |progress: &Progress| progress.percent <= 100 && progress.message.len() <= 512;
        assert!(!ran.progress.is_empty() && ran.progress.iter().all(well), "{}: {:?}", self.name, ran.progress);
        (self.reset)().await;
    }
}

pub(crate) async fn check(row: Row) {
    row.ends_as_it_should().await;
    row.is_stopped().await;
    row.is_capped().await;
    row.masks().await;
    row.reports().await;
}
