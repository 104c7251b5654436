//! What jobs of a pool get that say nothing themselves. The gateway replaces them as a whole; here, what is not named stays.

use std::time::Duration;

use muster_runtime::config::Period;
use muster_schemas::{api::PoolView, code::Code, job::DraftRetry, names::PoolName, records::PoolDefaults};

use crate::{
    api::Api,
    args::DefaultsArgs,
    commands::work::whole_seconds,
    failure::{Failure, Refused},
    text,
};

/// The defaults to send; nothing when none is named.
pub(super) async fn request(api: &Api, pool: &PoolName, args: DefaultsArgs) -> anyhow::Result<Option<PoolDefaults>> {
    if args.no_defaults {
        return Ok(Some(PoolDefaults::default()));
    }
    let DefaultsArgs { timeout, retry, backoff, backoff_max, factor, jitter, .. } = &args;
    let retries = retry.is_some() || backoff.is_some() || backoff_max.is_some() || factor.is_some() || jitter.is_some();
    if timeout.is_none() && !retries {
        return Ok(None);
    }
    let held = match api.get::<PoolView>(&format!("/pools/{pool}"), &[]).await {
        Ok(view) => view.defaults,
        Err(error) if is_new(&error) => PoolDefaults::default(),
        Err(error) => return Err(error),
    };
    changed(held, &args, retries).map(Some)
}

fn is_new(error: &anyhow::Error) -> bool {
    error.downcast_ref::<Refused>().is_some_and(|refused| refused.problem.code == Code::PoolNotFound)
}

fn changed(held: PoolDefaults, args: &DefaultsArgs, retries: bool) -> anyhow::Result<PoolDefaults> {
    let retry = match (retries, held.retry, args.retry) {
        (false, held, _) => held,
        (true, None, None) => {
            let failure = Failure::new("a backoff needs retries, and the pool has none by default");
            return Err(failure.hint("say how many attempts, such as --default-retry 3").into());
        }
        (true, held, attempts) => {
            let held = held.unwrap_or_default();
            Some(DraftRetry {
                max_attempts: attempts.unwrap_or(held.max_attempts),
                initial_ms: args.backoff.map(millis).or(held.initial_ms),
                multiplier: args.factor.or(held.multiplier),
                max_ms: args.backoff_max.map(millis).or(held.max_ms),
                jitter: args.jitter.or(held.jitter),
            })
        }
    };
    Ok(PoolDefaults { timeout_s: args.timeout.map(whole_seconds).or(held.timeout_s), retry })
}

fn millis(period: Period) -> i64 {
    i64::try_from(period.get().as_millis()).unwrap_or(i64::MAX)
}

/// In one line; empty when there are none.
pub(super) fn show(defaults: &PoolDefaults) -> String {
    let duration = |millis: i64| text::duration(Duration::from_millis(u64::try_from(millis).unwrap_or(0)));
    let retry = defaults.retry.as_ref();
    let parts = [
        defaults.timeout_s.map(|seconds| format!("time-out {}", duration(seconds.saturating_mul(1000)))),
        retry.map(|retry| format!("{} attempts", retry.max_attempts)),
        retry.and_then(|retry| retry.initial_ms).map(|millis| format!("first backoff {}", duration(millis))),
        retry.and_then(|retry| retry.multiplier).map(|factor| format!("times {factor}")),
        retry.and_then(|retry| retry.max_ms).map(|millis| format!("at most {}", duration(millis))),
        retry.and_then(|retry| retry.jitter).map(|jitter| format!("jitter {jitter}")),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use clap::Parser as _;

    use super::*;
    use crate::args::{Cli, Command, PoolsCommand};

    fn parsed(line: &[&str]) -> Result<DefaultsArgs, String> {
        // `pool` is the same as `pools`.
        let cli = Cli::try_parse_from(["muster", "pool", "put", "p"].iter().chain(line)).map_err(|error| error.to_string())?;
        let Command::Pools { command: Some(PoolsCommand::Put(args)) } = cli.command else { unreachable!("the command is put") };
        Ok(args.defaults)
    }

    #[test]
    fn a_default_that_is_not_named_stays() {
        let args = parsed(&["--default-retry", "3", "--default-backoff", "5s", "--default-jitter", "0.5"]).unwrap();
        let first = changed(PoolDefaults::default(), &args, true).unwrap();
        assert_eq!(show(&first), "3 attempts, first backoff 5.0 s, jitter 0.5");
        let second = changed(first.clone(), &parsed(&["--default-timeout", "1500ms"]).unwrap(), false).unwrap();
        assert_eq!(second, PoolDefaults { timeout_s: Some(2), ..first });
        let third = changed(second, &parsed(&["--default-backoff-max", "2m"]).unwrap(), true).unwrap();
        assert_eq!(show(&third), "time-out 2.0 s, 3 attempts, first backoff 5.0 s, at most 2 min 0 s, jitter 0.5");
    }

    #[test]
    fn a_backoff_without_retries_is_an_error_that_says_what_is_missing() {
        let error = changed(PoolDefaults::default(), &parsed(&["--default-backoff", "5s"]).unwrap(), true).unwrap_err();
        assert!(error.downcast_ref::<Failure>().unwrap().hint.as_ref().unwrap().contains("--default-retry"));
        assert!(parsed(&["--no-defaults", "--default-retry", "3"]).is_err());
    }
}
