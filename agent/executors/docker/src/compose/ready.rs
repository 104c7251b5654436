//! Whether a service is as far as somebody waits for it to be.

use std::time::Duration;

use bollard::{
    Docker,
    models::{ContainerState, ContainerStateStatusEnum as Status, HealthStatusEnum},
};
use muster_executor::Recorder;
use muster_schemas::code::Code;
use tokio::time::Instant;

use crate::{
    container::{inspect, last_words},
    failure::Failure,
};

/// Between two looks at a container.
const LOOK: Duration = Duration::from_millis(200);

/// Lines of the output of one that failed that are told.
const LAST_LINES: u32 = 20;

/// What is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Want {
    /// That it runs, and is healthy where it has a check.
    Up,
    /// That its check says so.
    Healthy,
    /// That it has ended, well.
    Completed,
}

/// How far it is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Stage {
    Ready,
    Waiting,
    Failed(String),
}

/// Waits until the service's container is as far as that.
///
/// # Errors
/// `project_unready` when it never will be, or not by then; the end of its output is written.
pub(super) async fn wait(
    client: &Docker,
    service: &str,
    id: &str,
    want: Want,
    deadline: Instant,
    recorder: &Recorder,
) -> Result<(), Failure> {
    let problem = loop {
        let container = inspect(client, id).await?;
        let restarts = container.host_config.and_then(|host| host.restart_policy).and_then(|policy| policy.name);
        let comes_back = restarts.is_some_and(|name| !matches!(name.to_string().as_str(), "" | "no"));
        match stage(&container.state.unwrap_or_default(), comes_back, want) {
            Stage::Ready => return Ok(()),
            Stage::Failed(problem) => break problem,
            Stage::Waiting if Instant::now() >= deadline => break "is not ready in time".to_owned(),
            Stage::Waiting => tokio::time::sleep_until(deadline.min(Instant::now() + LOOK)).await,
        }
    };
    if let Err(error) = last_words(client, id, LAST_LINES, recorder).await {
        tracing::debug!(service, error = error.message, "the end of its output can't be read");
    }
    Err(Failure::new(Code::ProjectUnready, format!("service `{service}` {problem}")))
}

fn stage(state: &ContainerState, comes_back: bool, want: Want) -> Stage {
    let status = state.exit_code.unwrap_or(0);
    let has_ended = matches!(state.status, Some(Status::EXITED | Status::DEAD));
    if has_ended {
        return match want {
            Want::Completed if status == 0 => Stage::Ready,
            _ if comes_back && want != Want::Completed => Stage::Waiting,
            _ => Stage::Failed(format!("has ended with exit status {status}")),
        };
    }
    let health = state
        .health
        .as_ref()
        .and_then(|health| health.status)
        .filter(|health| !matches!(health, HealthStatusEnum::NONE | HealthStatusEnum::EMPTY));
    match (want, state.status, health) {
        (Want::Completed, ..) => Stage::Waiting,
        (_, _, Some(HealthStatusEnum::UNHEALTHY)) => Stage::Failed("is unhealthy".to_owned()),
        (_, Some(Status::RUNNING), Some(HealthStatusEnum::HEALTHY)) => Stage::Ready,
        (Want::Up, Some(Status::RUNNING), None) => Stage::Ready,
        (Want::Healthy, Some(Status::RUNNING), None) => Stage::Failed("has no health check to wait for".to_owned()),
        _ => Stage::Waiting,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bollard::models::Health;

    fn state(status: Status, exit_code: i64, health: Option<HealthStatusEnum>) -> ContainerState {
        let health = health.map(|status| Health { status: Some(status), ..Health::default() });
        ContainerState { status: Some(status), exit_code: Some(exit_code), health, ..ContainerState::default() }
    }

    #[test]
    fn a_service_is_ready_when_it_is_what_one_waits_for() {
        let running = |health| state(Status::RUNNING, 0, health);
        let failed = |problem: &str| Stage::Failed(problem.to_owned());
        for (state, comes_back, want, expected) in [
            (running(None), false, Want::Up, Stage::Ready),
            (running(Some(HealthStatusEnum::STARTING)), false, Want::Up, Stage::Waiting),
            (running(Some(HealthStatusEnum::HEALTHY)), false, Want::Up, Stage::Ready),
            (running(Some(HealthStatusEnum::NONE)), false, Want::Up, Stage::Ready),
            (running(Some(HealthStatusEnum::UNHEALTHY)), true, Want::Up, failed("is unhealthy")),
            (running(None), false, Want::Healthy, failed("has no health check to wait for")),
            (running(None), false, Want::Completed, Stage::Waiting),
            (state(Status::EXITED, 0, None), false, Want::Completed, Stage::Ready),
            (state(Status::EXITED, 3, None), true, Want::Completed, failed("has ended with exit status 3")),
            (state(Status::EXITED, 0, None), false, Want::Up, failed("has ended with exit status 0")),
            (state(Status::EXITED, 1, None), true, Want::Up, Stage::Waiting),
            (state(Status::RESTARTING, 1, None), true, Want::Up, Stage::Waiting),
            (state(Status::CREATED, 0, None), false, Want::Up, Stage::Waiting),
        ] {
            assert_eq!(stage(&state, comes_back, want), expected, "{state:?} {want:?}");
        }
    }
}
