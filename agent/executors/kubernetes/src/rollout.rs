//! When a rollout is done, has failed, or how far it is: from the object's own status, by the rules of `kubectl rollout status`.
//!
//! [`look`] is a pure function; [`follow`] waits by it and reports progress.

use muster_executor::Scope;
use muster_schemas::code::Code;
use serde_json::{Value, json};

use crate::{
    cluster::Cluster,
    kinds::Kind,
    object::{Place, count, text},
    problem::{Problem, cut},
    wait,
};

/// How far a rollout is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Rollout {
    /// So many replicas are new, so many of these are available, of so many.
    Going { updated: i64, available: i64, wanted: i64 },
    /// It is done.
    Done { wanted: i64 },
    /// It will not be done.
    Failed(String),
}

/// Whether objects of this kind roll out.
pub(crate) fn rolls_out(kind: &Kind) -> bool {
    ["Deployment", "StatefulSet", "DaemonSet"].iter().any(|name| kind.is("apps", name))
}

/// How far the rollout of an object of this kind is. The object is none of a kind that does not roll out.
pub(crate) fn look(kind: &str, object: &Value) -> Rollout {
    let status = |field: &str| count(object, &format!("/status/{field}"));
    let seen = status("observedGeneration") >= count(object, "/metadata/generation");
    let replicas = object.pointer("/spec/replicas").and_then(Value::as_i64).unwrap_or(1);
    match kind {
        "Deployment" => {
            let going = Rollout::Going { updated: status("updatedReplicas"), available: status("availableReplicas"), wanted: replicas };
            if !seen {
                return Rollout::Going { updated: 0, available: 0, wanted: replicas };
            }
            if let Some(why) = failure(object) {
                return Rollout::Failed(why);
            }
            let (updated, available, all) = (status("updatedReplicas"), status("availableReplicas"), status("replicas"));
            // Old pods that are still there count in `replicas` only.
            let done = updated >= replicas && all <= updated && available >= updated;
            if done { Rollout::Done { wanted: replicas } } else { going }
        }
        "DaemonSet" => {
            let wanted = status("desiredNumberScheduled");
            let (updated, available) = (status("updatedNumberScheduled"), status("numberAvailable"));
            match seen {
                true if updated >= wanted && available >= wanted => Rollout::Done { wanted },
                true => Rollout::Going { updated, available, wanted },
                false => Rollout::Going { updated: 0, available: 0, wanted },
            }
        }
        _ => {
            let (updated, ready) = (status("updatedReplicas"), status("readyReplicas"));
            // Of the pods below the partition nobody wants that they are new.
            let partition = count(object, "/spec/updateStrategy/rollingUpdate/partition");
            let fresh = updated >= replicas - partition
                && (partition > 0 || text(object, "/status/updateRevision") == text(object, "/status/currentRevision"));
            match seen {
                true if ready >= replicas && fresh => Rollout::Done { wanted: replicas },
                true => Rollout::Going { updated, available: ready, wanted: replicas },
                false => Rollout::Going { updated: 0, available: 0, wanted: replicas },
            }
        }
    }
}

/// Why a deployment does not get on, in its conditions' words.
fn failure(object: &Value) -> Option<String> {
    let conditions = object.pointer("/status/conditions").and_then(Value::as_array)?;
    let holds = |condition: &&Value| match (text(condition, "/type"), text(condition, "/status"), text(condition, "/reason")) {
        ("Progressing", _, "ProgressDeadlineExceeded") => true,
        // Quotas and admission: the pods can't even be made.
        ("ReplicaFailure", "True", _) => true,
        _ => false,
    };
    // ReplicaFailure says why, ProgressDeadlineExceeded only that.
    let found = conditions.iter().filter(holds).max_by_key(|condition| text(condition, "/type") == "ReplicaFailure")?;
    Some(cut(&format!("{}: {}", text(found, "/reason"), text(found, "/message")), 500))
}

/// How far it is, for people.
fn said(called: &str, rollout: &Rollout) -> (u8, String) {
    match rollout {
        Rollout::Going { updated, available, wanted } => {
            let part = if *wanted > 0 { (updated + available).clamp(0, 2 * wanted) * 99 / (2 * wanted) } else { 0 };
            (u8::try_from(part).unwrap_or(0), format!("{called}: {updated} of {wanted} updated, {available} available"))
        }
        Rollout::Done { wanted } => (100, format!("{called}: rolled out, {wanted} of {wanted} available")),
        Rollout::Failed(why) => (99, format!("{called}: {why}")),
    }
}

/// Waits until the rollout is done. Gives how many replicas there are to be.
///
/// # Errors
/// `rollout_failed` when it will not get done, or the object has gone.
pub(crate) async fn follow(cluster: &Cluster, place: &Place, scope: &Scope) -> Result<i64, Problem> {
    let failed = |message: String| Problem { code: Code::RolloutFailed, message, status: None };
    let mut last = None;
    let mut judge = |object: Option<&Value>| {
        let Some(object) = object else {
            return Some(Err(failed(format!("{}: it was deleted while its rollout was waited for", place.called))));
        };
        let strategy = ["/spec/updateStrategy/type", "/spec/strategy/type"].map(|pointer| text(object, pointer));
        if strategy.contains(&"OnDelete") {
            return Some(Err(failed(format!(
                "{}: with the strategy OnDelete, its pods are replaced only when somebody deletes them",
                place.called
            ))));
        }
        if object.pointer("/spec/paused") == Some(&json!(true)) {
            return Some(Err(failed(format!("{}: its rollout is paused", place.called))));
        }
        let rollout = look(&place.kind.resource.kind, object);
        if last.as_ref() != Some(&rollout) {
            let (percent, message) = said(&place.called, &rollout);
            scope.recorder.progress(percent, &message);
            last = Some(rollout.clone());
        }
        match rollout {
            Rollout::Going { .. } => None,
            Rollout::Done { wanted } => Some(Ok(wanted)),
            Rollout::Failed(why) => Some(Err(failed(format!("{}: {why}", place.called)))),
        }
    };
    wait::until(cluster, place, &mut judge).await?
}

#[cfg(test)]
mod tests {
    #![allow(clippy::indexing_slicing, reason = "tests fail by panicking")]
    use super::*;

    fn deployment(status: Value) -> Value {
        json!({"metadata": {"generation": 4}, "spec": {"replicas": 3}, "status": status})
    }

    #[test]
    fn a_deployment_is_done_when_all_its_pods_are_new_and_available_and_no_old_one_is_left() {
        let at = |seen: i64, all: i64, updated: i64, available: i64| {
            look(
                "Deployment",
                &deployment(
                    json!({"observedGeneration": seen, "replicas": all, "updatedReplicas": updated, "availableReplicas": available}),
                ),
            )
        };
        let going = |updated, available| Rollout::Going { updated, available, wanted: 3 };
        assert_eq!(at(3, 3, 3, 3), going(0, 0), "its controller has not seen the change yet");
        assert_eq!(at(4, 4, 1, 3), going(1, 3));
        assert_eq!(at(4, 4, 3, 3), going(3, 3), "an old pod is left");
        assert_eq!(at(4, 3, 3, 2), going(3, 2));
        assert_eq!(at(4, 3, 3, 3), Rollout::Done { wanted: 3 });
        assert_eq!(look("Deployment", &json!({"spec": {"replicas": 0}, "status": {}})), Rollout::Done { wanted: 0 });
    }

    #[test]
    fn a_deployment_that_does_not_get_on_says_why() {
        let late = json!({"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded", "message": "it took too long"});
        let quota = json!({"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": "exceeded quota"});
        let with = |conditions: Value| look("Deployment", &deployment(json!({"observedGeneration": 4, "conditions": conditions})));
        assert_eq!(with(json!([late])), Rollout::Failed("ProgressDeadlineExceeded: it took too long".into()));
        assert_eq!(with(json!([quota, late])), Rollout::Failed("FailedCreate: exceeded quota".into()));
        assert_eq!(
            with(json!([{"type": "Progressing", "status": "True", "reason": "ReplicaSetUpdated"}])),
            Rollout::Going { updated: 0, available: 0, wanted: 3 }
        );
    }

    #[test]
    fn sets_count_in_their_own_ways() {
        let daemon = |updated: i64, available: i64| {
            let status = json!({"observedGeneration": 4, "desiredNumberScheduled": 2, "updatedNumberScheduled": updated, "numberAvailable": available});
            look("DaemonSet", &deployment(status))
        };
        assert_eq!(daemon(1, 2), Rollout::Going { updated: 1, available: 2, wanted: 2 });
        assert_eq!(daemon(2, 2), Rollout::Done { wanted: 2 });
        let stateful = |updated: i64, ready: i64, revision: &str| {
            let status = json!({"observedGeneration": 4, "updatedReplicas": updated, "readyReplicas": ready, "updateRevision": "b", "currentRevision": revision});
            look("StatefulSet", &deployment(status))
        };
        assert_eq!(stateful(2, 3, "a"), Rollout::Going { updated: 2, available: 3, wanted: 3 });
        assert_eq!(stateful(3, 3, "a"), Rollout::Going { updated: 3, available: 3, wanted: 3 });
        assert_eq!(stateful(3, 3, "b"), Rollout::Done { wanted: 3 });
        let mut parted = deployment(
            json!({"observedGeneration": 4, "updatedReplicas": 1, "readyReplicas": 3, "updateRevision": "b", "currentRevision": "a"}),
        );
        parted["spec"]["updateStrategy"] = json!({"rollingUpdate": {"partition": 2}});
        assert_eq!(look("StatefulSet", &parted), Rollout::Done { wanted: 3 });
    }
}
