//! `kubernetes.logs`: what pods have logged, and go on to log, as the job's output. Of several pods each line begins with the pod's name.

use futures_util::future::join_all;
use kube::{
    api::{ListParams, LogParams},
    core::ApiResource,
};
use muster_executor::{BoxFuture, Finish, Rejection, Scope, Stream, fields::Fields, schema};
use serde_json::{Value, json};

use crate::{
    Action,
    cluster::{Cluster, built},
    fields,
    object::text,
    problem::Problem,
};

/// The most pods whose logs are read at once.
const PODS_MAX: u32 = 20;

/// The most bytes of one pod's log, unless it is followed. The job's own log takes 5 MiB; its result has the end.
const LOG_BYTES: u64 = 8 * 1024 * 1024;

/// The longest line that is kept whole, where lines of several pods are kept apart.
const LINE_BYTES: usize = 1024 * 1024;

/// The params.
#[derive(Debug)]
pub(crate) struct Logs {
    which: Which,
    namespace: Option<String>,
    params: LogParams,
}

#[derive(Debug)]
enum Which {
    Pod(String),
    Selector(String),
}

/// The params' schema.
pub(crate) fn schema() -> Value {
    schema::object(
        &[],
        [
            ("pod", schema::text("The pod's name.")),
            ("selector", schema::text("A label selector instead; at most 20 pods.")),
            ("namespace", fields::namespace_schema()),
            ("container", schema::text("The container, where a pod has several.")),
            ("tail", schema::integer("Only so many lines of each, from the end.", 0..=1_000_000)),
            ("since_s", schema::integer("Only what is no older than so many seconds.", 1..=31_536_000)),
            ("follow", schema::flag("Goes on until the containers end, or the job does.")),
            ("previous", schema::flag("The log of the container before its last restart.")),
        ],
    )
}

impl Logs {
    pub(crate) fn parse(params: &Value) -> Result<Self, Rejection> {
        let mut fields = Fields::of(params)?;
        let (pod, selector) = (fields::name(&mut fields, "pod")?, fields::selector(&mut fields)?);
        let namespace = fields::namespace(&mut fields)?;
        let container = fields::name(&mut fields, "container")?;
        let tail_lines = fields::integer(&mut fields, "tail", 0..=1_000_000)?;
        let since_seconds = fields::integer(&mut fields, "since_s", 1..=31_536_000)?;
        let (follow, previous) = (fields.flag("follow")?.unwrap_or(false), fields.flag("previous")?.unwrap_or(false));
        fields.end()?;
        let which = match (pod, selector) {
            (Some(pod), None) => Which::Pod(pod),
            (None, Some(selector)) => Which::Selector(selector),
            _ => return Err(Rejection::field("pod", "give one of `pod` and `selector`")),
        };
        if follow && previous {
            return Err(Rejection::field("previous", "a container that has ended can't be followed"));
        }
        Ok(Self { which, namespace, params: LogParams { container, follow, previous, since_seconds, tail_lines, ..LogParams::default() } })
    }

    async fn pods(&self, path: &kube::core::Request, cluster: &Cluster) -> Result<(Vec<String>, bool), Problem> {
        let selector = match &self.which {
            Which::Pod(pod) => return Ok((vec![pod.clone()], false)),
            Which::Selector(selector) => selector,
        };
        let request = path.list(&ListParams::default().labels(selector).limit(PODS_MAX)).map_err(|error| built(&error))?;
        let list = cluster.read(request, "pods").await?;
        let items = list.get("items").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        let names: Vec<_> = items.iter().map(|pod| text(pod, "/metadata/name").to_owned()).filter(|name| fields::is_name(name)).collect();
        let more = names.len() > PODS_MAX as usize || !text(&list, "/metadata/continue").is_empty();
        match names.is_empty() {
            true => Err(Problem::absent(format!("no pod has the labels `{selector}`"))),
            false => Ok((names.into_iter().take(PODS_MAX as usize).collect(), more)),
        }
    }

    /// Prints one pod's log. Gives its bytes, and whether there was more.
    async fn print(
        &self,
        cluster: &Cluster,
        request: crate::cluster::Request,
        pod: &str,
        prefix: &str,
        scope: &Scope,
    ) -> Result<(u64, bool), Problem> {
        let mut stream = cluster.stream(request, &format!("the log of pod {pod}")).await?;
        let most = if self.params.follow { u64::MAX } else { LOG_BYTES };
        let mut bytes: u64 = 0;
        loop {
            let piece = if prefix.is_empty() {
                stream.next().await?.map(|piece| piece.to_vec())
            } else {
                stream.line(LINE_BYTES).await?.map(|line| [prefix.as_bytes(), &line, b"\n"].concat())
            };
            let Some(piece) = piece else { return Ok((bytes, false)) };
            bytes += piece.len() as u64;
            scope.recorder.write(Stream::Stdout, &piece).await;
            if bytes > most {
                return Ok((bytes, true));
            }
        }
    }
}

impl Action for Logs {
    fn act<'a>(&'a self, cluster: &'a Cluster, scope: &'a Scope) -> BoxFuture<'a, Result<Finish, Problem>> {
        Box::pin(async move {
            let kind = ApiResource {
                group: String::new(),
                version: "v1".into(),
                api_version: "v1".into(),
                kind: "Pod".into(),
                plural: "pods".into(),
            };
            let path = Cluster::path(&kind, Some(self.namespace.as_deref().unwrap_or(&cluster.namespace)));
            let (pods, more) = self.pods(&path, cluster).await?;
            let several = pods.len() > 1;
            scope.recorder.progress(0, &format!("reading the logs of {} pods", pods.len()));
            let one = |pod: String| {
                let request = path.logs(&pod, &self.params).map_err(|error| built(&error));
                let prefix = if several { format!("[{pod}] ") } else { String::new() };
                async move {
                    (self.print(cluster, request?, &pod, &prefix, scope).await)
                        .map(|(bytes, cut)| json!({"pod": pod, "bytes": bytes, "truncated": cut}))
                }
            };
            let mut said = Vec::new();
            let mut failed = None;
            // Followed logs have to be read side by side; others come one after the other, so that their lines are not mixed.
            let answers = if self.params.follow {
                join_all(pods.into_iter().map(one)).await
            } else {
                let mut answers = Vec::new();
                for pod in pods {
                    answers.push(one(pod).await);
                }
                answers
            };
            for answer in answers {
                match answer {
                    Ok(facts) => said.push(facts),
                    Err(problem) => failed = failed.or(Some(problem)),
                }
            }
            let data = json!({"pods": said, "more": more});
            Ok(match failed {
                Some(problem) => problem.finish().with_data(data),
                None => Finish::succeeded(Some(data)),
            })
        })
    }
}
