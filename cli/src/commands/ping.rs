//! `muster ping`: small jobs through a pool, or questions to one agent, one after the other, and how long each takes.

use std::time::Duration;

use muster_schemas::{
    api::{JobState, JobView, PongView, Submit, WAIT_MAX},
    names::{AgentId, PoolName},
    time::Timestamp,
};
use reqwest::Method;
use serde::Serialize;
use tokio::time::Instant;

use super::agents;
use crate::{
    api::Api,
    args::PingArgs,
    failure::{EXIT_TIMED_OUT, Failure},
    output, text,
};

/// How one job went.
#[derive(Debug, Clone, Serialize)]
struct Pong {
    seq: u32,
    ms: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    agent_id: Option<AgentId>,
}

pub(crate) async fn run(api: &Api, args: PingArgs, json: bool) -> anyhow::Result<()> {
    match &args.agent {
        Some(agent) => ask(api, agent, &args, json).await,
        None => jobs(api, &args, json).await,
    }
}

async fn jobs(api: &Api, args: &PingArgs, json: bool) -> anyhow::Result<()> {
    let mut pongs = Vec::new();
    for seq in 1..=args.count {
        let pong = job(api, &args.pool, args.timeout.get(), seq).await?;
        if json {
            output::json(&pong)?;
        } else {
            let from = pong.agent_id.as_ref().map(|agent| format!(" from {agent}")).unwrap_or_default();
            output::line(&format!("pong {seq}{from}: {}", shown(pong.ms)))?;
        }
        pongs.push(pong.ms);
    }
    if !json {
        output::line(&summary(pongs))?;
    }
    Ok(())
}

async fn job(api: &Api, pool: &PoolName, timeout: Duration, seq: u32) -> anyhow::Result<Pong> {
    let submit = Submit {
        pool: pool.to_string(),
        job_type: "probe.ping".into(),
        // Nobody wants to find these next week.
        result_ttl_s: Some(300),
        // A ping that nobody waits for any more should not run.
        expires_at: Some(Timestamp::now() + timeout + Duration::from_secs(5)),
        ..Submit::default()
    };
    let began = Instant::now();
    let job: JobView = api.send(Method::POST, "/jobs", &submit, timeout.min(WAIT_MAX)).await?;
    let took = began.elapsed();
    match job.state {
        JobState::Succeeded => {
            let agent_id = job.result.and_then(|result| result.agent_id);
            Ok(Pong { seq, ms: took.as_secs_f64() * 1e3, agent_id })
        }
        state if state.is_final() => {
            let why = job.result.and_then(|result| result.error).map(|error| error.message).unwrap_or_else(|| state.as_str().to_owned());
            Err(Failure::new(format!("the ping to pool `{pool}` did not succeed: {why}")).into())
        }
        _ => Err(Failure::new(format!("no agent of pool `{pool}` answered within {}", text::duration(timeout)))
            .hint(format!("`muster pools health {pool}` says why jobs wait"))
            .exit(EXIT_TIMED_OUT)
            .into()),
    }
}

/// Asks one agent itself, as often as is wanted. Jobs go to pools, so none is sent.
async fn ask(api: &Api, given: &str, args: &PingArgs, json: bool) -> anyhow::Result<()> {
    let id = agents::id(api, given).await?;
    let mut took = Vec::new();
    for seq in 1..=args.count {
        let path = format!("/agents/{id}/ping");
        let pong: PongView = api.send(Method::POST, &path, &serde_json::json!({}), args.timeout.get()).await?;
        if json {
            output::json(&Pong { seq, ms: pong.ms, agent_id: Some(pong.agent_id) })?;
        } else {
            output::line(&format!("pong {seq} from {given}: {}", shown(pong.ms)))?;
        }
        took.push(pong.ms);
    }
    if !json {
        output::line(&summary(took))?;
    }
    Ok(())
}

fn shown(ms: f64) -> String {
    text::duration(Duration::try_from_secs_f64(ms / 1e3).unwrap_or_default())
}

fn summary(mut ms: Vec<f64>) -> String {
    ms.sort_by(f64::total_cmp);
    let at = |share: f64| {
        let last = ms.len().saturating_sub(1);
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "at most 10 000 pings")]
        let index = (share * last as f64).round() as usize;
        ms.get(index).copied().map(shown).unwrap_or_default()
    };
    format!("{} pings: fastest {}, median {}, slowest {}", ms.len(), at(0.0), at(0.5), at(1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_names_fastest_median_and_slowest() {
        assert_eq!(summary(vec![3.0, 1.0, 2.0]), "3 pings: fastest 1.0 ms, median 2.0 ms, slowest 3.0 ms");
        assert_eq!(summary(vec![0.5]), "1 pings: fastest 500 µs, median 500 µs, slowest 500 µs");
    }
}
