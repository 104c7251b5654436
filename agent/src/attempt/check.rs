//! Whether a delivery is a job that this agent can run: pure checks, in a fixed order, each refusal with its code.

use muster_schemas::{
    code::Code,
    job::{Job, PUT_OFF_MAX},
    queue::Queue,
    result::{ErrorInfo, Outcome},
    time::Timestamp,
};

use super::defaults::Defaults;
use crate::executors::{Prepared, Registry};

/// What is to be done with a delivery.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// Run it.
    Run(Box<Job>, Prepared),
    /// Its time has not come.
    Later(Box<Job>, Timestamp),
    /// It ends here and now, without an attempt.
    End(Outcome, ErrorInfo, Option<Box<Job>>),
}

/// Where a delivery waited.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place<'a> {
    pub(crate) queue: &'a Queue,
    /// Since when.
    pub(crate) stored_at: Timestamp,
}

/// Checks a body that came through a lane, or to this agent alone: then the type alone says which executor runs it.
pub(crate) fn check(body: &[u8], place: Place<'_>, registry: &Registry, defaults: &Defaults, now: Timestamp) -> Verdict {
    let job = match defaults.decode(body) {
        Ok(job) => Box::new(job),
        Err(error) => return Verdict::End(Outcome::Rejected, ErrorInfo::new(error.code(), error.to_string()), None),
    };
    let reject = |code, message: String, job| Verdict::End(Outcome::Rejected, ErrorInfo::new(code, message), Some(job));
    if let Some(lane) = place.queue.lane()
        && job.job_type.executor() != lane.executor
    {
        let message = format!("the subject names the executor `{}`, the type is `{}`", lane.executor, job.job_type);
        return reject(Code::ExecutorMismatch, message, job);
    }
    if let Some(connection) = &job.connection {
        let shown: String = connection.chars().take(64).flat_map(char::escape_debug).collect();
        return reject(Code::FieldInvalid, format!("field `connection`: this agent holds no secrets of `{shown}`"), job);
    }
    let prepared = match registry.check(job.job_type.as_str(), &job.params) {
        Ok(prepared) => prepared,
        Err(rejection) => return Verdict::End(Outcome::Rejected, rejection.into(), Some(job)),
    };
    if let Some(end) = place.queue.expires_at(job.expires_at, job.not_before, place.stored_at)
        && end <= now
    {
        return Verdict::End(Outcome::Expired, ErrorInfo::new(Code::Expired, format!("it was to start before {end}")), Some(job));
    }
    match job.not_before {
        Some(start) if start.since(now) > PUT_OFF_MAX => {
            let days = PUT_OFF_MAX.as_secs() / 86_400;
            reject(Code::TimeInvalid, format!("field `not_before`: {start} is more than {days} days away"), job)
        }
        Some(start) if start > now => Verdict::Later(job, start),
        _ => Verdict::Run(job, prepared),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking")]
    use muster_schemas::{
        lane::{Lane, Priority},
        names::AgentId,
    };

    use super::*;
    use crate::executors::Settings;

    const NOW: i64 = 1_800_000_000;

    fn verdict(body: &str) -> Verdict {
        let lane = Lane { priority: Priority::Normal, executor: "probe".parse().unwrap() };
        verdict_in(&Queue::Lane(lane), NOW, body)
    }

    /// Of a command that was stored then.
    fn of_command(stored_at: i64, body: &str) -> Verdict {
        verdict_in(&Queue::Agent(AgentId::generate()), stored_at, body)
    }

    fn verdict_in(queue: &Queue, stored_at: i64, body: &str) -> Verdict {
        let registry = Registry::new(&["shell"], Settings::default()).unwrap();
        let place = Place { queue, stored_at: Timestamp::from_secs(stored_at) };
        check(body.as_bytes(), place, &registry, &Defaults::default(), Timestamp::from_secs(NOW))
    }

    #[test]
    fn each_bad_body_is_rejected_with_its_code() {
        for (body, code) in [
            ("hello", Code::BodyMalformed),
            (r#"{"type":"probe.ping"} x"#, Code::BodyMalformed),
            (r#"{"v":2,"type":"probe.ping"}"#, Code::VersionUnknown),
            (r#"{"type":7}"#, Code::FieldInvalid),
            (r#"{"type":"probe"}"#, Code::TypeUnknown),
            (r#"{"type":"probe.unheard-of"}"#, Code::TypeUnknown),
            (r#"{"type":"shell.run","params":{"command":"date"}}"#, Code::ExecutorMismatch),
            (r#"{"type":"probe.sleep","params":{"ms":"x"}}"#, Code::ParamsInvalid),
            (r#"{"type":"probe.ping","timeout_s":-1}"#, Code::TimeoutInvalid),
            (r#"{"type":"probe.ping","retry":{"max_attempts":0}}"#, Code::RetryInvalid),
            (r#"{"type":"probe.ping","connection":"db"}"#, Code::FieldInvalid),
        ] {
            let Verdict::End(Outcome::Rejected, error, _) = verdict(body) else { panic!("{body} was not rejected") };
            assert_eq!(error.code, code, "{body}: {}", error.message);
        }
        let large = format!(r#"{{"type":"probe.ping","labels":{{"a":"{}"}}}}"#, "x".repeat(300_000));
        assert!(matches!(verdict(&large), Verdict::End(Outcome::Rejected, ErrorInfo { code: Code::BodyTooLarge, .. }, None)));
        let deep = format!(r#"{{"type":"probe.ping","params":{}{}}}"#, r#"{"a":"#.repeat(40), "}".repeat(40));
        assert!(matches!(verdict(&deep), Verdict::End(Outcome::Rejected, ErrorInfo { code: Code::BodyTooDeep, .. }, None)));
    }

    #[test]
    fn a_job_runs_within_its_time_only() {
        let at = |secs: i64| Timestamp::from_secs(NOW + secs);
        let body = |start: i64, end: i64| format!(r#"{{"type":"probe.ping","not_before":"{}","expires_at":"{}"}}"#, at(start), at(end));
        assert!(matches!(verdict(&body(0, 1)), Verdict::Run(..)));
        assert!(matches!(verdict(&body(5, 9)), Verdict::Later(_, until) if until == at(5)));
        assert!(matches!(verdict(&body(-5, 0)), Verdict::End(Outcome::Expired, ErrorInfo { code: Code::Expired, .. }, Some(_))));
    }

    #[test]
    fn a_command_runs_on_the_executor_of_its_type_and_is_rejected_where_there_is_none() {
        for body in [r#"{"type":"probe.ping"}"#, r#"{"type":"shell.run","params":{"command":"date"}}"#] {
            assert!(matches!(of_command(NOW, body), Verdict::Run(..)), "{body}");
        }
        let off = of_command(NOW, r#"{"type":"http.request","params":{"url":"http://h/"}}"#);
        assert!(matches!(off, Verdict::End(Outcome::Rejected, ErrorInfo { code: Code::TypeUnknown, .. }, Some(_))), "{off:?}");
    }

    #[test]
    fn a_command_that_does_not_say_when_it_expires_does_so_a_day_after_it_could_first_start() {
        let day = 24 * 3600;
        let expired = |verdict: &Verdict| matches!(verdict, Verdict::End(Outcome::Expired, ..));
        let ping = r#"{"type":"probe.ping"}"#;
        assert!(matches!(of_command(NOW - day + 1, ping), Verdict::Run(..)));
        assert!(expired(&of_command(NOW - day, ping)));
        let at = |secs: i64| Timestamp::from_secs(NOW + secs);
        let put_off = |start: i64| format!(r#"{{"type":"probe.ping","not_before":"{}"}}"#, at(start));
        assert!(matches!(of_command(NOW - 3 * day, &put_off(1 - day)), Verdict::Run(..)));
        assert!(expired(&of_command(NOW - 3 * day, &put_off(-day))));
        assert!(matches!(of_command(NOW - day + 1, &put_off(-3 * day)), Verdict::Run(..)), "it could not start before it was sent");
        let own = format!(r#"{{"type":"probe.ping","expires_at":"{}"}}"#, at(1));
        assert!(matches!(of_command(NOW - 3 * day, &own), Verdict::Run(..)));
        let lane = Lane { priority: Priority::High, executor: "probe".parse().unwrap() };
        assert!(matches!(verdict_in(&Queue::Lane(lane), NOW - 3 * day, ping), Verdict::Run(..)), "a job of the pool waits for ever");
    }
}
