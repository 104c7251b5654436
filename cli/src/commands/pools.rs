//! `muster pools list|get|put|delete|pause|resume|health|stats`.

mod defaults;

use std::time::Duration;

use muster_schemas::{
    api::{PausePool, Percentiles, PoolHealth, PoolStats, PoolStatus, PoolView, PutLimits, PutPool, QueueView},
    time::Timestamp,
};
use reqwest::Method;
use serde_json::json;

use crate::{
    api::Api,
    args::{PoolPutArgs, PoolsCommand},
    output, text,
};

pub(crate) async fn run(api: &Api, command: Option<PoolsCommand>, json: bool) -> anyhow::Result<()> {
    match command.unwrap_or(PoolsCommand::List) {
        PoolsCommand::List => {
            let pools: Vec<PoolView> = api.list("/pools", &[]).await?;
            if json { output::json(&pools)? } else { output::line(&table(&pools, Timestamp::now()))? }
        }
        PoolsCommand::Get { pool } => {
            tell(&api.get(&format!("/pools/{pool}"), &[]).await?, json)?;
        }
        PoolsCommand::Put(args) => {
            let path = format!("/pools/{}", args.pool);
            let put = request(api, *args).await?;
            tell(&api.send(Method::PUT, &path, &put, Duration::ZERO).await?, json)?;
        }
        PoolsCommand::Pause { pool, note } => {
            let path = format!("/pools/{pool}/pause");
            tell(&api.send(Method::POST, &path, &PausePool { note }, Duration::ZERO).await?, json)?;
        }
        PoolsCommand::Resume { pool } => tell(&api.act(&format!("/pools/{pool}/resume"), &[]).await?, json)?,
        PoolsCommand::Delete { pool, force } => {
            let query: Vec<_> = force.then(|| ("force", "true".to_owned())).into_iter().collect();
            api.delete_with(&format!("/pools/{pool}"), &query).await?;
            if json { output::json(&json!({"deleted": pool}))? } else { output::line(&format!("pool {pool} is deleted"))? }
        }
        PoolsCommand::Health { pool } => {
            let health: PoolHealth = api.get(&format!("/pools/{pool}/health"), &[]).await?;
            if json { output::json(&health)? } else { output::line(&show_health(&health, Timestamp::now()))? }
        }
        PoolsCommand::Stats { pool } => {
            let stats: PoolStats = api.get(&format!("/pools/{pool}/stats"), &[]).await?;
            if json { output::json(&stats)? } else { output::line(&show_stats(&stats))? }
        }
    }
    Ok(())
}

/// What is named, and nothing else.
async fn request(api: &Api, args: PoolPutArgs) -> anyhow::Result<PutPool> {
    let PoolPutArgs { pool, description, executors, max_queued, max_running, defaults } = args;
    Ok(PutPool {
        description,
        executors: (!executors.is_empty()).then(|| executors.into_iter().collect()),
        limits: (max_queued.is_some() || max_running.is_some()).then_some(PutLimits { max_queued, max_running }),
        defaults: defaults::request(api, &pool, defaults).await?,
    })
}

fn tell(pool: &PoolView, json: bool) -> anyhow::Result<()> {
    if json { output::json(pool) } else { Ok(output::line(&show(pool, Timestamp::now()))?) }
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
            pool.paused.as_ref().map(|paused| format!("by {}", paused.by)).unwrap_or_default(),
            executors(pool),
            pool.description.clone().unwrap_or_default(),
        ]
    };
    let head = ["name", "waiting", "running", "oldest", "paused", "executors", "description"];
    output::table(head, pools.iter().map(row).collect(), "There are no pools. `muster pools put NAME` makes one.")
}

/// `5 of at most 9: 4 wait, 1 runs`. The broker holds a job until it has ended, so those that run count in the limit.
fn in_queue(queue: &QueueView, most: impl std::fmt::Display) -> String {
    let QueueView { pending, running, .. } = queue;
    let (wait, run) = (if *pending == 1 { "waits" } else { "wait" }, if *running == 1 { "runs" } else { "run" });
    format!("{} of at most {most}: {pending} {wait}, {running} {run}", pending + running)
}

fn show(pool: &PoolView, now: Timestamp) -> String {
    output::fields(vec![
        ("name", Some(pool.name.to_string())),
        ("description", pool.description.clone()),
        ("executors", Some(executors(pool))),
        ("in the queue", Some(in_queue(&pool.queue, pool.limits.max_queued))),
        ("running", Some(format!("{} of at most {}", pool.queue.running, pool.limits.max_running))),
        ("oldest", oldest(&pool.queue, now)),
        ("state", pool.paused.as_ref().map(ToString::to_string)),
        ("defaults", Some(defaults::show(&pool.defaults))),
        ("created", Some(format!("{} ({})", pool.created_at, text::ago(pool.created_at, now)))),
    ])
}

fn show_health(health: &PoolHealth, now: Timestamp) -> String {
    let status = match health.status {
        PoolStatus::Healthy => "healthy",
        PoolStatus::Degraded => "degraded",
        PoolStatus::Stalled => "stalled",
        PoolStatus::Paused => "paused",
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

fn show_stats(stats: &PoolStats) -> String {
    let seconds = |seconds: f64| text::duration(Duration::try_from_secs_f64(seconds).unwrap_or_default());
    let percentiles = |of: Percentiles| {
        let [p50, p90, p99] = [of.p50, of.p90, of.p99].map(seconds);
        format!("half within {p50}, 90 % within {p90}, 99 % within {p99}")
    };
    output::fields(vec![
        ("pool", Some(stats.pool.to_string())),
        ("jobs", Some(stats.counts.iter().map(|(state, count)| format!("{count} {state}")).collect::<Vec<_>>().join(", "))),
        ("oldest waits", stats.oldest_pending_s.map(seconds)),
        ("last hour", Some(format!("{} ended", stats.finished_last_hour))),
        ("waited", stats.waiting_s.map(percentiles)),
        ("ran", stats.running_s.map(percentiles)),
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
        for part in ["in the queue  9 of at most 9: 7 wait, 2 run\n", "2 of at most 4", "3.0 s ago", "probe shell"] {
            assert!(shown.contains(part), "{part:?} in {shown}");
        }
        assert!(in_queue(&QueueView { pending: 1, running: 1, oldest_at: None }, 5).ends_with("1 waits, 1 runs"));
        assert!(table(&[pool], now).contains("probe shell"));
        assert!(table(&[], now).contains("pools put"));
    }

    #[test]
    fn a_paused_pool_says_who_paused_it_and_why() {
        let now = Timestamp::from_secs(1_800_000_000);
        let pool: PoolView = serde_json::from_value(serde_json::json!({
            "name": "p", "executors": [], "limits": {"max_queued": 9, "max_running": 4}, "created_at": now, "queue": {"pending": 0, "running": 0},
            "paused": {"by": "ci", "key_id": "k", "note": "the disk is full", "at": now}, "defaults": {"timeout_s": 90, "retry": {"max_attempts": 3}},
        }))
        .unwrap();
        let shown = show(&pool, now);
        assert!(shown.contains("paused by ci") && shown.contains("the disk is full") && shown.contains("3 attempts"), "{shown}");
        assert!(table(&[pool], now).contains("by ci"));
    }

    #[test]
    fn figures_are_durations_that_people_read() {
        let stats = serde_json::json!({
            "pool": "p", "counts": {"failed": 1, "succeeded": 20}, "finished_last_hour": 21, "oldest_pending_s": 65.2,
            "waiting_s": {"p50": 0.002, "p90": 0.25, "p99": 3.0},
        });
        let shown = show_stats(&serde_json::from_value(stats).unwrap());
        for part in ["1 failed, 20 succeeded", "1 min 5 s", "21 ended", "half within 2.0 ms, 90 % within 250 ms, 99 % within 3.0 s"] {
            assert!(shown.contains(part), "{part} in {shown}");
        }
    }
}
