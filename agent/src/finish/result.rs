//! What goes into a result, and how one that is too large is cut: output first, then data, then the history.

use muster_schemas::{
    code::Code,
    job::Job,
    lane::Priority,
    names::AgentId,
    result::{ATTEMPT_TAIL_LIMIT, AttemptRecord, ErrorInfo, JobResult, LIMIT, Outcome, Output},
    time::Timestamp,
    wire::{self, V},
};

use crate::executors::Execution;

/// What of each output stream survives in a result that would be too large.
const CUT_TAIL: usize = 4 * 1024;

/// The result of an attempt that ran.
pub(crate) struct Ran<'a> {
    pub(crate) job: &'a Job,
    pub(crate) priority: Priority,
    pub(crate) agent: &'a AgentId,
    pub(crate) attempt: u32,
    pub(crate) history: Vec<AttemptRecord>,
    pub(crate) queued_at: Timestamp,
    pub(crate) started_at: Timestamp,
    pub(crate) finished_at: Timestamp,
}

impl Ran<'_> {
    /// With what the executor gave back.
    pub(crate) fn ended(self, execution: Execution) -> JobResult {
        JobResult {
            v: V,
            outcome: execution.outcome,
            job_type: Some(self.job.job_type.clone()),
            exit_code: execution.exit_code,
            stdout: execution.stdout,
            stderr: execution.stderr,
            truncated: execution.truncated,
            data: execution.data,
            error: execution.error,
            agent_id: Some(self.agent.clone()),
            ended_by: None,
            attempt: self.attempt,
            queued_at: self.queued_at,
            started_at: Some(self.started_at),
            finished_at: self.finished_at,
            history: bare(self.history),
            priority: self.priority,
            labels: self.job.labels.clone(),
            log_chunks: execution.log_chunks,
        }
    }

    /// The record of this attempt, for the history.
    pub(crate) fn record(&self, execution: &Execution) -> AttemptRecord {
        AttemptRecord {
            attempt: self.attempt,
            agent_id: Some(self.agent.clone()),
            started_at: Some(self.started_at),
            finished_at: Some(self.finished_at),
            outcome: Some(execution.outcome),
            exit_code: execution.exit_code,
            error: execution.error.clone(),
            tail: tail_of(execution),
        }
    }
}

/// The result of a job that ends without another attempt.
pub(crate) fn without_attempt(
    outcome: Outcome,
    error: ErrorInfo,
    job: Option<&Job>,
    priority: Priority,
    history: Vec<AttemptRecord>,
    attempts: u32,
    queued_at: Timestamp,
) -> JobResult {
    let last = history.last();
    let (agent_id, started_at) = (last.and_then(|record| record.agent_id.clone()), last.and_then(|record| record.started_at));
    JobResult {
        job_type: job.map(|job| job.job_type.clone()),
        labels: job.map(|job| job.labels.clone()).unwrap_or_default(),
        priority,
        agent_id,
        started_at,
        attempt: attempts,
        history: bare(history),
        ..JobResult::never_ran(outcome, error, queued_at, Timestamp::now())
    }
}

/// The history without the ends of outputs: a result has its own output, and room for little else.
fn bare(mut history: Vec<AttemptRecord>) -> Vec<AttemptRecord> {
    history.iter_mut().for_each(|record| record.tail = None);
    history
}

/// The end of both outputs for the record of an attempt: standard output, then standard error, which has at least half of the room.
fn tail_of(execution: &Execution) -> Option<Output> {
    let (out, err) = (execution.stdout.as_bytes(), execution.stderr.as_bytes());
    let half = ATTEMPT_TAIL_LIMIT / 2;
    let of_err = err.len().min(ATTEMPT_TAIL_LIMIT - out.len().min(half));
    let of_out = out.len().min(ATTEMPT_TAIL_LIMIT - of_err);
    let tail = [end_of(out, of_out), end_of(err, of_err)].concat();
    (!tail.is_empty()).then(|| Output::from(tail))
}

/// The last bytes, at most `most`, that do not begin within a character.
fn end_of(bytes: &[u8], most: usize) -> &[u8] {
    let end = bytes.get(bytes.len().saturating_sub(most)..).unwrap_or_default();
    if end.len() == bytes.len() {
        return end;
    }
    let within = end.iter().take(3).take_while(|byte| **byte & 0b1100_0000 == 0b1000_0000).count();
    end.get(within..).unwrap_or_default()
}

/// Encodes a result within its cap.
pub(crate) fn encode(result: &JobResult) -> Vec<u8> {
    let bytes = wire::encode(result);
    if bytes.len() <= LIMIT {
        return bytes;
    }
    let mut cut = result.clone();
    let noted = ErrorInfo::new(Code::ResultTooLarge, format!("the result had {} bytes of at most {LIMIT} and was cut", bytes.len()));
    cut.error.get_or_insert(noted);
    cut.truncated = true;
    let steps: [fn(&mut JobResult); 3] = [
        |cut| {
            cut.stdout = tail(&cut.stdout);
            cut.stderr = tail(&cut.stderr);
        },
        |cut| cut.data = None,
        |cut| cut.history.clear(),
    ];
    let mut bytes = bytes;
    for step in steps {
        step(&mut cut);
        bytes = wire::encode(&cut);
        if bytes.len() <= LIMIT {
            break;
        }
    }
    bytes
}

fn tail(output: &Output) -> Output {
    let bytes = output.as_bytes();
    Output::from(bytes.get(bytes.len().saturating_sub(CUT_TAIL)..).unwrap_or_default().to_vec())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;

    fn huge(outcome: Outcome) -> JobResult {
        let at = Timestamp::from_secs(1_800_000_000);
        let mut result = JobResult::never_ran(outcome, ErrorInfo::new(Code::ExitNonzero, "exit status 3"), at, at);
        result.stdout = Output::from(vec![0xff; 64 * 1024]);
        result.stderr = Output::from(vec![b'x'; 64 * 1024]);
        result
    }

    #[test]
    fn output_is_cut_first_and_data_stays_while_it_fits() {
        let mut result = huge(Outcome::Succeeded);
        result.error = None;
        result.data = Some(serde_json::json!("d".repeat(200 * 1024)));
        let cut: JobResult = wire::decode(&encode(&result)).unwrap();
        assert_eq!((cut.stdout.as_bytes().len(), cut.truncated), (CUT_TAIL, true));
        assert!(cut.data.is_some());
        assert_eq!((cut.outcome, cut.error.unwrap().code), (Outcome::Succeeded, Code::ResultTooLarge));
    }

    #[test]
    fn a_real_error_is_not_replaced_and_everything_else_goes_if_it_must() {
        let mut result = huge(Outcome::Failed);
        result.data = Some(serde_json::json!("d".repeat(300 * 1024)));
        let bytes = encode(&result);
        assert!(bytes.len() <= LIMIT);
        let cut: JobResult = wire::decode(&bytes).unwrap();
        assert_eq!((cut.error.unwrap().code, cut.data), (Code::ExitNonzero, None));
    }

    #[test]
    fn an_attempts_record_keeps_the_end_of_its_output_at_a_character() {
        let execution = |out: &str, err: &str| Execution {
            outcome: Outcome::Failed,
            exit_code: None,
            stdout: Output::from(out.as_bytes().to_vec()),
            stderr: Output::from(err.as_bytes().to_vec()),
            truncated: false,
            data: None,
            error: None,
            afterwards: None,
            log_chunks: 0,
        };
        assert_eq!(tail_of(&execution("", "")), None);
        assert_eq!(tail_of(&execution("out ", "err")).unwrap().to_text(), "out err");
        let (out, err) = ("o".repeat(9_000), "é".repeat(9_000));
        let tail = tail_of(&execution(&out, &err)).unwrap();
        assert!(tail.as_bytes().len() <= ATTEMPT_TAIL_LIMIT && tail.as_bytes().len() > ATTEMPT_TAIL_LIMIT - 4);
        let text = String::from_utf8(tail.as_bytes().to_vec()).unwrap();
        assert_eq!((text.matches('o').count(), text.matches('é').count()), (2048, 1024));
        let odd = tail_of(&execution("", &format!("x{}", "é".repeat(2_048)))).unwrap();
        assert!(std::str::from_utf8(odd.as_bytes()).is_ok(), "it does not begin within a character");
        assert_eq!(tail_of(&execution("short", &err)).unwrap().as_bytes().len(), ATTEMPT_TAIL_LIMIT - 1);
        assert_eq!(tail_of(&execution(&out, "short")).unwrap().as_bytes().len(), ATTEMPT_TAIL_LIMIT);
    }

    #[test]
    fn a_result_that_fits_is_not_touched() {
        let result = huge(Outcome::Failed);
        assert_eq!(wire::decode::<JobResult>(&encode(&result)).unwrap(), result);
    }
}
