//! Whether a delivery is a job that this agent can run: pure checks, in a fixed order, each refusal with its code.

use muster_schemas::{
    code::Code,
    job::{Job, PUT_OFF_MAX},
    queue::Queue,
    result::{ErrorInfo, Outcome},
    time::Timestamp,
};

use super::defaults::Defaults;
use crate::{
    clock::Now,
    executors::{Prepared, Registry},
};

/// What is to be done with a delivery.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// Run it.
    Run(Box<Job>, Prepared),
    /// Its time has not come.
    Later(Box<Job>, Timestamp),
    /// Whether its time has come, or is over, can't be told before this agent knows how far its clock is off.
    Unsure(Box<Job>),
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
pub(crate) fn check(body: &[u8], place: Place<'_>, registry: &Registry, defaults: &Defaults, now: Now) -> Verdict {
    let now = now.not_before(place.stored_at);
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
    let prepared = match registry.check(job.job_type.as_str(), &job.params, job.connection.as_ref()) {
        Ok(prepared) => prepared,
        Err(rejection) => return Verdict::End(Outcome::Rejected, rejection.into(), Some(job)),
    };
    let end = place.queue.expires_at(job.expires_at, job.not_before, place.stored_at);
    // What was over when it was stored needs no clock.
    if end.into_iter().chain(job.not_before).any(|time| time > place.stored_at && now.is_doubtful(time)) {
        return Verdict::Unsure(job);
    }
    if let Some(end) = end.filter(|end| *end <= now.at) {
        return Verdict::End(Outcome::Expired, ErrorInfo::new(Code::Expired, format!("it was to start before {end}")), Some(job));
    }
    match job.not_before {
        Some(start) if start.since(now.at) > PUT_OFF_MAX => {
            let days = PUT_OFF_MAX.as_secs() / 86_400;
            reject(Code::TimeInvalid, format!("field `not_before`: {start} is more than {days} days away"), job)
        }
        Some(start) if start > now.at => Verdict::Later(job, start),
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
    use crate::{
        clock::{Clock, Reading},
        executors::Options,
    };

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
        verdict_at(Now { at: Timestamp::from_secs(NOW), measured: true }, queue, stored_at, body)
    }

    fn verdict_at(now: Now, queue: &Queue, stored_at: i64, body: &str) -> Verdict {
        let registry = Registry::new(&["shell"], &Options::default()).unwrap();
        let place = Place { queue, stored_at: Timestamp::from_secs(stored_at) };
        check(body.as_bytes(), place, &registry, &Defaults::default(), now)
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
            (r#"{"type":"probe.ping","connection":"no name"}"#, Code::FieldInvalid),
            (r#"{"type":"probe.ping","connection":"db"}"#, Code::ConnectionMismatch),
            (r#"{"type":"probe.connection"}"#, Code::ConnectionMismatch),
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
    fn a_clock_that_is_five_minutes_off_neither_ends_a_job_nor_starts_one_that_is_over_or_has_not_begun() {
        let at = |secs: i64| Timestamp::from_secs(NOW + secs);
        let lane = Queue::Lane(Lane { priority: Priority::Normal, executor: "probe".parse().unwrap() });
        let body = |key: &str, secs: i64| format!(r#"{{"type":"probe.ping","{key}":"{}"}}"#, at(secs));
        for ahead in [-300, 300] {
            let clock = Clock::default();
            let judge = |body: &str| verdict_at(clock.now(at(ahead)), &lane, NOW - 900, body);
            for secs in [-60, 60] {
                assert!(matches!(judge(&body("expires_at", secs)), Verdict::Unsure(_)), "{ahead} {secs}");
                assert!(matches!(judge(&body("not_before", secs)), Verdict::Unsure(_)), "{ahead} {secs}");
            }
            assert!(matches!(judge(r#"{"type":"probe.ping"}"#), Verdict::Run(..)), "what has no times needs no clock");
            assert!(matches!(judge(&body("expires_at", 3600)), Verdict::Run(..)));
            assert!(matches!(judge(&body("not_before", 3600)), Verdict::Later(..)));
            assert!(matches!(judge(&body("expires_at", -900)), Verdict::End(Outcome::Expired, ..)), "it was over when it was stored");
            clock.read(Reading::at_once(at(ahead), at(0)));
            let judge = |body: &str| verdict_at(clock.now(at(ahead)), &lane, NOW - 900, body);
            assert!(matches!(judge(&body("expires_at", 1)), Verdict::Run(..)), "{ahead}");
            assert!(matches!(judge(&body("expires_at", 0)), Verdict::End(Outcome::Expired, ..)), "{ahead}");
            assert!(matches!(judge(&body("not_before", 1)), Verdict::Later(_, until) if until == at(1)), "{ahead}");
            assert!(matches!(judge(&body("not_before", 0)), Verdict::Run(..)), "{ahead}");
        }
    }

    #[test]
    fn it_is_later_than_when_the_job_was_stored_whatever_a_clock_says() {
        let late = Now { at: Timestamp::from_secs(NOW - 300), measured: false };
        let lane = Queue::Lane(Lane { priority: Priority::Normal, executor: "probe".parse().unwrap() });
        let body = format!(r#"{{"type":"probe.ping","not_before":"{}"}}"#, Timestamp::from_secs(NOW));
        assert!(matches!(verdict_at(late, &lane, NOW, &body), Verdict::Run(..)));
        let most = Timestamp::from_secs(NOW) + PUT_OFF_MAX;
        let body = format!(r#"{{"type":"probe.ping","not_before":"{most}"}}"#);
        assert!(matches!(verdict_at(late, &lane, NOW, &body), Verdict::Later(..)));
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
