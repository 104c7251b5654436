//! What is done with one container: made, started, watched to its end, stopped, removed; and its output, carried to the attempt's.

use std::{path::PathBuf, time::Duration};

use bollard::{
    Docker,
    container::LogOutput,
    errors::Error,
    models::{ContainerInspectResponse, ContainerState, NetworkConnectRequest},
    query_parameters::{
        CreateContainerOptionsBuilder, LogsOptionsBuilder, RemoveContainerOptionsBuilder, StopContainerOptionsBuilder,
        WaitContainerOptionsBuilder,
    },
};
use futures_util::{Stream, StreamExt as _};
use muster_executor::{Finish, Recorder};
use muster_schemas::code::Code;
use tokio_util::sync::CancellationToken;

use crate::{
    failure::{Failure, is_missing},
    spec::{Spec, endpoint},
};

/// How much of an id people need.
const SHORT: usize = 12;

/// Makes it, in all its networks; gives its id. Nothing is left where a network can't be joined.
pub(crate) async fn create(client: &Docker, name: Option<&str>, spec: &Spec, roots: &[PathBuf]) -> Result<String, Failure> {
    refuse_host_network(client, spec).await?;
    let body = spec.body(roots).await?;
    let options = name.map(|name| CreateContainerOptionsBuilder::default().name(name).build());
    let id = client.create_container(options, body).await?.id;
    for (network, aliases) in spec.networks.iter().skip(1) {
        let request = NetworkConnectRequest { container: id.clone(), endpoint_config: Some(endpoint(aliases)) };
        if let Err(error) = client.connect_network(network, request).await {
            remove(client, &id, true).await?;
            return Err(Failure::from(error).of(&format!("network `{network}`")));
        }
    }
    Ok(id)
}

/// A network can be named by its id, too: what counts is what it is.
async fn refuse_host_network(client: &Docker, spec: &Spec) -> Result<(), Failure> {
    for name in spec.networks.keys() {
        // One that is not there is for the engine to complain about.
        let driver = client.inspect_network(name, None).await.ok().and_then(|network| network.driver);
        if driver.as_deref() == Some("host") {
            let message = format!("network `{name}` is the host's; containers of jobs have a network namespace of their own");
            return Err(Failure { is_final: true, ..Failure::new(Code::ParamsInvalid, message) });
        }
    }
    Ok(())
}

/// Starts it.
pub(crate) async fn start(client: &Docker, id: &str) -> Result<(), Failure> {
    client.start_container(id, None).await.map_err(Failure::of_start)
}

/// How it is.
pub(crate) async fn inspect(client: &Docker, container: &str) -> Result<ContainerInspectResponse, Failure> {
    Ok(client.inspect_container(container, None).await?)
}

/// Waits for its end, and gives its last state.
pub(crate) async fn ended(client: &Docker, id: &str) -> Result<ContainerState, Failure> {
    let options = WaitContainerOptionsBuilder::default().condition("not-running").build();
    match client.wait_container(id, Some(options)).next().await {
        // The client takes a status other than 0 for an error; the state below has it, too.
        Some(Ok(_) | Err(Error::DockerContainerWaitError { .. })) | None => {}
        Some(Err(error)) => return Err(error.into()),
    }
    Ok(inspect(client, id).await?.state.unwrap_or_default())
}

/// Has it end: its stop signal, then KILL after `grace` seconds, or after its own time.
pub(crate) async fn stop(client: &Docker, container: &str, grace: Option<i64>) -> Result<(), Failure> {
    let mut options = StopContainerOptionsBuilder::default();
    if let Some(grace) = grace {
        options = options.t(i32::try_from(grace).unwrap_or(i32::MAX));
    }
    Ok(client.stop_container(container, Some(options.build())).await?)
}

/// Removes it, running or not, with its anonymous volumes. One that is gone is as good as removed.
pub(crate) async fn remove(client: &Docker, container: &str, with_volumes: bool) -> Result<(), Failure> {
    let options = RemoveContainerOptionsBuilder::default().force(true).v(with_volumes).build();
    match client.remove_container(container, Some(options)).await {
        Err(error) if !is_missing(&error) && !is_being_removed(&error) => Err(error.into()),
        _ => Ok(()),
    }
}

fn is_being_removed(error: &Error) -> bool {
    matches!(error, Error::DockerResponseServerError { status_code: 409, message } if message.contains("already in progress"))
}

/// Stops it within `grace`, which may be less than the engine can count, and removes it.
pub(crate) async fn end(client: &Docker, id: &str, grace: Duration) -> Result<(), Failure> {
    let seconds = i64::try_from(grace.as_secs()).unwrap_or(i64::MAX).saturating_add(1);
    tokio::select! {
        _stopped = stop(client, id, Some(seconds)) => {}
        () = tokio::time::sleep(grace) => {}
    }
    remove(client, id, true).await
}

/// Carries output to the attempt's until it ends.
pub(crate) async fn pump(mut output: impl Stream<Item = Result<LogOutput, Error>> + Unpin, recorder: &Recorder) -> Result<(), Failure> {
    use muster_executor::Stream::{Stderr, Stdout};
    while let Some(piece) = output.next().await {
        match piece? {
            LogOutput::StdErr { message } => recorder.write(Stderr, &message).await,
            LogOutput::StdOut { message } | LogOutput::Console { message } => recorder.write(Stdout, &message).await,
            LogOutput::StdIn { .. } => {}
        }
    }
    Ok(())
}

/// Writes the last lines of its log.
pub(crate) async fn last_words(client: &Docker, id: &str, lines: u32, recorder: &Recorder) -> Result<(), Failure> {
    let options = LogsOptionsBuilder::default().stdout(true).stderr(true).tail(&lines.to_string()).build();
    pump(client.logs(id, Some(options)), recorder).await
}

/// What of its id people need.
pub(crate) fn short(id: &str) -> &str {
    id.strip_prefix("sha256:").unwrap_or(id).get(..SHORT).unwrap_or(id)
}

/// The result, unless the attempt has to end first.
pub(crate) async fn unless_stopped<T>(stop: &CancellationToken, work: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        biased;
        () = stop.cancelled() => None,
        done = work => Some(done),
    }
}

/// It ended because it had to.
pub(crate) fn stopped() -> Finish {
    Finish { stopped: true, ..Finish::succeeded(None) }
}
