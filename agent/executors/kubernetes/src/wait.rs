//! Waits for what the cluster is to make of an object: looks, and watches it for changes. A cluster that does not answer for a while, ends the
//! watch, has forgotten where it began or allows none is looked at again.

use std::time::Duration;

use kube::api::WatchParams;
use serde_json::Value;
use tokio::time::Instant;

use crate::{
    cluster::{Cluster, built},
    object::{Place, text},
    problem::Problem,
};

/// How long one watch lasts before the object is looked at again, in seconds. Whatever a watch missed is seen then.
const WATCH_S: u32 = 30;

/// Between looks, where watching does not work.
const PAUSE: Duration = Duration::from_secs(1);

/// How long the cluster may be away while something is waited for: a control plane of one node restarts in that time.
const PATIENCE: Duration = Duration::from_secs(60);

/// The largest object that is watched. The API server's own limit is 1.5 MiB, and 3 MiB over the wire.
const LINE_BYTES: usize = 8 * 1024 * 1024;

/// What is to be said of an object, given as it is now; `None` is that it is not there.
pub(crate) type Judge<'a, T> = &'a mut (dyn FnMut(Option<&Value>) -> Option<T> + Send);

/// Waits until the judge says something.
///
/// # Errors
/// When the cluster refuses to show the object, or does not answer for a minute.
pub(crate) async fn until<T>(cluster: &Cluster, place: &Place, judge: Judge<'_, T>) -> Result<T, Problem> {
    let mut good = Instant::now();
    loop {
        let object = match place.find(cluster).await {
            Err(problem) if problem.passes() && good.elapsed() < PATIENCE => {
                tokio::time::sleep(PAUSE).await;
                continue;
            }
            answer => answer?,
        };
        good = Instant::now();
        if let Some(verdict) = judge(object.as_ref()) {
            return Ok(verdict);
        }
        let version = object.as_ref().map_or("", |object| text(object, "/metadata/resourceVersion"));
        let watched = match version {
            "" => None,
            version => watch(cluster, place, version, judge).await?,
        };
        if let Some(verdict) = watched {
            return Ok(verdict);
        }
        if version.is_empty() || good.elapsed() < PAUSE {
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// Watches until the judge says something, or the watch ends.
async fn watch<T>(cluster: &Cluster, place: &Place, version: &str, judge: Judge<'_, T>) -> Result<Option<T>, Problem> {
    let params = WatchParams::default().fields(&format!("metadata.name={}", place.name)).timeout(WATCH_S).disable_bookmarks();
    let request = place.path().watch(&params, version).map_err(|error| built(&error))?;
    // Whatever is wrong with a watch, looking goes on.
    let Ok(mut stream) = cluster.stream(request, &place.called).await else { return Ok(None) };
    let end = tokio::time::sleep(Duration::from_secs(u64::from(WATCH_S) * 2));
    tokio::pin!(end);
    loop {
        let line = tokio::select! {
            line = stream.line(LINE_BYTES) => line,
            () = &mut end => return Ok(None),
        };
        let Ok(Some(line)) = line else { return Ok(None) };
        let Ok(event) = serde_json::from_slice::<Value>(&line) else { return Ok(None) };
        let verdict = match text(&event, "/type") {
            "ADDED" | "MODIFIED" => judge(event.get("object")),
            "DELETED" => judge(None),
            _ => return Ok(None),
        };
        if verdict.is_some() {
            return Ok(verdict);
        }
    }
}
