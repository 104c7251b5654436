//! Whether a delivery is a job that this agent can run: pure checks, in a fixed order, each refusal with its code.

use muster_schemas::{
    code::Code,
    job::{Job, PUT_OFF_MAX},
    lane::Lane,
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

/// Checks a body that came through a lane.
pub(crate) fn check(body: &[u8], lane: &Lane, registry: &Registry, defaults: &Defaults, now: Timestamp) -> Verdict {
    let job = match defaults.decode(body) {
        Ok(job) => Box::new(job),
        Err(error) => return Verdict::End(Outcome::Rejected, ErrorInfo::new(error.code(), error.to_string()), None),
    };
    let reject = |code, message: String, job| Verdict::End(Outcome::Rejected, ErrorInfo::new(code, message), Some(job));
    if job.job_type.executor() != lane.executor {
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
    if let Some(end) = job.expires_at
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
    use muster_schemas::lane::Priority;

    use super::*;
    use crate::executors::Settings;

    const NOW: i64 = 1_800_000_000;

    fn verdict(body: &str) -> Verdict {
        let registry = Registry::new(&["shell"], Settings::default()).unwrap();
        let lane = Lane { priority: Priority::Normal, executor: "probe".parse().unwrap() };
        check(body.as_bytes(), &lane, &registry, &Defaults::default(), Timestamp::from_secs(NOW))
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
}
