//! A command as a caller wrote it, checked: it becomes an order for one agent. Pure: the clock is an argument.

use muster_schemas::{
    api::{Command, Submit},
    code::Code,
    names::{AgentId, PoolName},
    time::Timestamp,
};
use serde_json::Value;

use crate::{jobs::order::Order, problem::ApiError};

/// The verb of a type without one.
const VERB: &str = "run";

/// Checks a command to this agent of this pool.
pub(super) fn order(command: Command, pool: &PoolName, agent: &AgentId, key: Option<&str>, now: Timestamp) -> Result<Order, ApiError> {
    if let Some(at) = command.expires_at.filter(|at| *at <= now) {
        return Err(ApiError::new(Code::TimeInvalid, format!("field `expires_at`: {at} has passed, so the command could never run")));
    }
    Order::command(&submit(command, pool)?, agent, key, now)
}

fn submit(command: Command, pool: &PoolName) -> Result<Submit, ApiError> {
    let Command { job_type, mut params, mut timeout_s, retry, connection, labels, not_before, expires_at, result_ttl_s, id } = command;
    if timeout_s.is_none() {
        timeout_s = timeout_of(&mut params)?;
    }
    let job_type = if job_type.contains('.') { job_type } else { format!("{job_type}.{VERB}") };
    Ok(Submit {
        pool: pool.to_string(),
        job_type,
        params,
        timeout_s,
        retry,
        connection,
        labels,
        not_before,
        expires_at,
        result_ttl_s,
        id,
        ..Submit::default()
    })
}

/// Takes a number `timeout` that stands beside a `command` out of the params.
fn timeout_of(params: &mut Value) -> Result<Option<i64>, ApiError> {
    let Some(map) = params.as_object_mut().filter(|map| map.contains_key("command")) else { return Ok(None) };
    let Some(Value::Number(given)) = map.get("timeout") else { return Ok(None) };
    let Some(seconds) = given.as_i64() else {
        return Err(ApiError::new(Code::TimeoutInvalid, format!("field `params.timeout`: it takes whole seconds, and got {given}")));
    };
    map.remove("timeout");
    Ok(Some(seconds))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests fail by panicking")]
    use std::time::Duration;

    use muster_schemas::{queue::Queue, topology::COMMAND_EXPIRES};
    use serde_json::json;

    use super::*;

    const NOW: i64 = 1_800_000_000;

    fn checked(body: Value, key: Option<&str>) -> Result<Order, ApiError> {
        let agent = "agt_01ARZ3NDEKTSV4RRFFQ69G5FAV".parse().unwrap();
        order(serde_json::from_value(body).unwrap(), &"p".parse().unwrap(), &agent, key, Timestamp::from_secs(NOW))
    }

    #[test]
    fn the_short_form_is_a_shell_job_with_a_time_out() {
        let order = checked(json!({"type": "shell", "params": {"command": "date", "timeout": 7}}), None).unwrap();
        assert_eq!((order.job.job_type.as_str(), order.job.timeout), ("shell.run", Some(Duration::from_secs(7))));
        assert_eq!(
            (&order.job.params, order.job.expires_at),
            (&json!({"command": "date"}), Some(Timestamp::from_secs(NOW) + COMMAND_EXPIRES))
        );
        assert!(matches!(order.queue, Queue::Agent(_)));
    }

    #[test]
    fn a_timeout_that_is_not_the_jobs_stays_among_the_params() {
        for body in [
            json!({"type": "shell", "params": {"command": "date", "timeout": 7}, "timeout_s": 9}),
            json!({"type": "shell", "params": {"command": "date", "timeout": "7"}}),
            json!({"type": "http.request", "params": {"url": "x", "timeout": 7}}),
        ] {
            let order = checked(body.clone(), None).unwrap();
            assert_eq!(
                (order.job.params, order.job.timeout),
                (body["params"].clone(), body["timeout_s"].as_u64().map(Duration::from_secs))
            );
        }
    }

    #[test]
    fn one_that_starts_later_expires_a_day_after_that() {
        let later = Timestamp::from_secs(NOW + 3600);
        let order = checked(json!({"type": "shell", "not_before": later}), None).unwrap();
        assert_eq!(order.job.expires_at, Some(later + COMMAND_EXPIRES));
        let given = checked(json!({"type": "shell", "expires_at": later}), None).unwrap();
        assert_eq!(given.job.expires_at, Some(later));
    }

    #[test]
    fn each_wrong_field_has_its_own_code() {
        let command = |key: &str, value: Value| {
            let mut body = json!({"type": "shell", "params": {"command": "x"}});
            body[key] = value;
            checked(body, None).unwrap_err().code
        };
        assert_eq!(command("type", json!("")), Code::TypeUnknown);
        assert_eq!(command("type", json!("shell.")), Code::TypeUnknown);
        assert_eq!(command("type", json!("http")), Code::TypeUnknown);
        assert_eq!(command("params", json!({"command": "x", "timeout": 1.5})), Code::TimeoutInvalid);
        assert_eq!(command("params", json!({"command": "x", "timeout": 0})), Code::TimeoutInvalid);
        assert_eq!(command("params", json!({"command": "x", "timeout": u64::MAX})), Code::TimeoutInvalid);
        assert_eq!(command("params", json!([1])), Code::ParamsInvalid);
        assert_eq!(command("expires_at", json!(Timestamp::from_secs(NOW))), Code::TimeInvalid);
        assert_eq!(command("not_before", json!("9999-01-01T00:00:00Z")), Code::TimeInvalid);
        assert_eq!(command("id", json!("a.*")), Code::NameInvalid);
    }

    #[test]
    fn a_key_names_the_same_command_to_one_agent_and_no_job_of_its_pool() {
        let of = |key| checked(json!({"type": "shell"}), Some(key)).unwrap().id;
        assert_eq!(of("k"), of("k"));
        assert_ne!(of("k"), of("l"));
        let job = Submit { pool: "p".into(), job_type: "shell.run".into(), ..Submit::default() };
        assert_ne!(of("k"), Order::check(&job, Some("k"), Timestamp::from_secs(NOW)).unwrap().id);
    }
}
