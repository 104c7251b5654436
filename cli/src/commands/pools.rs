//! `muster pools list|get|put|delete|health`.

use std::time::Duration;

use muster_schemas::{
    api::{PoolHealth, PoolStatus, PoolView, PutLimits, PutPool, QueueView},
    time::Timestamp,
};
use reqwest::Method;
use serde_json::json;

use crate::{api::Api, args::PoolsCommand, output, text};

pub(crate) async fn run(api: &Api, command: Option<PoolsCommand>, json: bool) -> anyhow::Result<()> {
    match command.unwrap_or(PoolsCommand::List) {
        PoolsCommand::List => {
            let pools: Vec<PoolView> = api.list("/pools", &[]).await?;
            if json { output::json(&pools)? } else { output::line(&table(&pools, Timestamp::now()))? }
        }
        PoolsCommand::Get { pool } => {
            let pool: PoolView = api.get(&format!("/pools/{pool}"), &[]).await?;
            if json { output::json(&pool)? } else { output::line(&show(&pool, Timestamp::now()))? }
        }
        PoolsCommand::Put { pool, description, executors, max_queued, max_running } => {
            let limits = (max_queued.is_some() || max_running.is_some()).then_some(PutLimits { max_queued, max_running });
            let executors = (!executors.is_empty()).then(|| executors.into_iter().collect());
            let put = PutPool { description, executors, limits };
            let pool: PoolView = api.send(Method::PUT, &format!("/pools/{pool}"), &put, Duration::ZERO).await?;
            if json { output::json(&pool)? } else { output::line(&show(&pool, Timestamp::now()))? }
        }
        PoolsCommand::Delete { pool } => {
            api.delete(&format!("/pools/{pool}")).await?;
            if json { output::json(&json!({"deleted": pool}))? } else { output::line(&format!("pool {pool} is deleted"))? }
        }
        PoolsCommand::Health { pool } => {
            let health: PoolHealth = api.get(&format!("/pools/{pool}/health"), &[]).await?;
            if json { output::json(&health)? } else { output::line(&show_health(&health, Timestamp::now()))? }
        }
    }
    Ok(())
}

fn executors(pool: &PoolView) -> String {
    pool.executors.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

fn oldest(queue: &QueueView, now: Timestamp) -> Option<String> {
    queue.oldest_at.map(|at| text::ago(at, now))
}

fn table(pools: &[PoolView], now: Timestamp) -> String {
    let row = |pool: &PoolView| {
        let queue = &pool.queue;
        [
            pool.name.to_string(),
            queue.pending.to_string(),
            queue.running.to_string(),
            oldest(queue, now).unwrap_or_default(),
            executors(pool),
            pool.description.clone().unwrap_or_default(),
        ]
    };
    let head = ["name", "waiting", "running", "oldest", "executors", "description"];
    output::table(head, pools.iter().map(row).collect(), "There are no pools. `muster pools put NAME` makes one.")
}

fn show(pool: &PoolView, now: Timestamp) -> String {
    output::fields(vec![
        ("name", Some(pool.name.to_string())),
        ("description", pool.description.clone()),
        ("executors", Some(executors(pool))),
        ("waiting", Some(format!("{} of at most {}", pool.queue.pending, pool.limits.max_queued))),
        ("running", Some(format!("{} of at most {} in a lane", pool.queue.running, pool.limits.max_running))),
        ("oldest", oldest(&pool.queue, now)),
        ("created", Some(format!("{} ({})", pool.created_at, text::ago(pool.created_at, now)))),
    ])
}

fn show_health(health: &PoolHealth, now: Timestamp) -> String {
    let status = match health.status {
        PoolStatus::Healthy => "healthy",
        PoolStatus::Degraded => "degraded",
        PoolStatus::Stalled => "stalled",
    };
    let agents = &health.agents;
    output::fields(vec![
        ("pool", Some(health.pool.to_string())),
        ("status", Some(status.to_owned())),
        ("detail", Some(health.detail.clone())),
        ("waiting", Some(health.queue.pending.to_string())),
        ("running", Some(health.queue.running.to_string())),
        ("oldest", oldest(&health.queue, now)),
        (
            "agents",
            Some(format!(
                "{} online, {} degraded, {} offline; {} accept jobs",
                agents.online, agents.degraded, agents.offline, agents.accepting
            )),
        ),
    ])
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;

    #[test]
    fn a_pool_shows_its_queue_beside_its_limits() {
        let now = Timestamp::from_secs(1_800_000_000);
        let pool: PoolView = serde_json::from_value(serde_json::json!({
            "name": "p", "executors": ["probe", "shell"], "limits": {"max_queued": 9, "max_running": 4}, "created_at": now,
            "queue": {"pending": 7, "running": 2, "oldest_at": now},
        }))
        .unwrap();
        let shown = show(&pool, now + Duration::from_secs(3));
        assert!(shown.contains("7 of at most 9") && shown.contains("3.0 s ago") && shown.contains("probe shell"), "{shown}");
        assert!(table(&[pool], now).contains("probe shell"));
        assert!(table(&[], now).contains("pools put"));
    }
}
