//! `muster jobs`: the list of jobs, once or again and again.

use std::{
    collections::BTreeMap,
    io::{self, IsTerminal as _, Write as _},
    time::Duration,
};

use muster_schemas::{
    api::{AgentView, JobRow, JobState},
    names::AgentId,
    signature::Mark,
    time::Timestamp,
};

use super::agents;
use crate::{api::Api, args::JobsArgs, failure, output, text};

/// How many jobs are listed when nobody says.
const LIMIT: u32 = 50;
/// As many fit on a terminal.
const LIMIT_WATCHED: u32 = 20;
/// How often the list is fetched again: the history is a fraction of a second behind anyway, and a page costs the dispatcher some 10 ms.
const REFRESH: Duration = Duration::from_secs(2);
/// To the upper left corner; and: clear the rest of the line, and of the screen.
const HOME: &str = "\u{1b}[H";
const REST_OF_LINE: &str = "\u{1b}[K\n";
const REST_OF_SCREEN: &str = "\u{1b}[J";

pub(crate) async fn run(api: &Api, args: JobsArgs, json: bool) -> anyhow::Result<()> {
    let agent = match &args.agent {
        Some(agent) => Some(agents::id(api, agent).await?),
        None => None,
    };
    let mut names = Names::default();
    if args.watch {
        return watch(api, &args, agent.as_ref(), &mut names, json).await;
    }
    let rows = fetch(api, &args, agent.as_ref()).await?;
    if json {
        return output::json(&rows);
    }
    names.learn(api, &rows).await;
    Ok(output::line(&table(&rows, &names, Timestamp::now()))?)
}

/// Shows the list until Ctrl-C: on a terminal in place, elsewhere each time something has changed. Never returns without an error.
async fn watch(api: &Api, args: &JobsArgs, agent: Option<&AgentId>, names: &mut Names, json: bool) -> anyhow::Result<()> {
    let in_place = io::stdout().is_terminal() && !json;
    let (mut shown, mut away) = (None, false);
    loop {
        match fetch(api, args, agent).await {
            Ok(rows) => {
                away = false;
                names.learn(api, &rows).await;
                let changed = shown.as_ref() != Some(&rows);
                if in_place {
                    draw(&table(&rows, names, Timestamp::now()), shown.is_none())?;
                } else if changed && json {
                    output::json(&rows)?;
                } else if changed {
                    output::line(&format!("{}\n", table(&rows, names, Timestamp::now())))?;
                }
                shown = Some(rows);
            }
            // What was there once may come back; said once.
            Err(error) if shown.is_some() && failure::may_pass(&error) => {
                if !std::mem::replace(&mut away, true) {
                    output::warn(&format!("{error}; trying again"));
                }
            }
            Err(error) => return Err(error),
        }
        tokio::time::sleep(REFRESH).await;
    }
}

/// Draws over what was drawn before, so that nothing flickers.
fn draw(table: &str, first: bool) -> io::Result<()> {
    let clear = if first { REST_OF_SCREEN } else { "" };
    let lines: String = table.lines().flat_map(|line| [line, REST_OF_LINE]).collect();
    let mut out = io::stdout().lock();
    out.write_all(format!("{HOME}{clear}{lines}{REST_OF_SCREEN}").as_bytes())?;
    out.flush()
}

async fn fetch(api: &Api, args: &JobsArgs, agent: Option<&AgentId>) -> anyhow::Result<Vec<JobRow>> {
    let limit = args.limit.unwrap_or(if args.watch { LIMIT_WATCHED } else { LIMIT });
    api.first("/jobs", &query(args, agent, Timestamp::now()), limit).await
}

/// The filters as the gateway takes them.
fn query(args: &JobsArgs, agent: Option<&AgentId>, now: Timestamp) -> Vec<(&'static str, String)> {
    let filters = [
        ("pool", args.pool.as_ref().map(ToString::to_string)),
        ("agent", agent.map(ToString::to_string)),
        ("type", args.job_type.as_ref().map(ToString::to_string)),
        ("status", args.status.map(|state| state.as_str().to_owned())),
        ("signature", args.signature.map(|mark| mark.as_str().to_owned())),
        ("label", args.label.as_ref().map(|(key, value)| format!("{key}:{value}"))),
        ("since", args.since.map(|moment| moment.at(now).to_string())),
        ("until", args.until.map(|moment| moment.at(now).to_string())),
    ];
    filters.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
}

/// Names of agents.
#[derive(Debug, Default)]
struct Names(BTreeMap<AgentId, String>);

impl Names {
    /// Looks up those of the rows that are not known yet. An agent that is gone has its id for a name, and so have all when they can't be had.
    async fn learn(&mut self, api: &Api, rows: &[JobRow]) {
        let unknown: Vec<_> = rows.iter().filter_map(|row| row.agent_id.clone()).filter(|id| !self.0.contains_key(id)).collect();
        if unknown.is_empty() {
            return;
        }
        let agents: Vec<AgentView> = api.list("/agents", &[]).await.unwrap_or_default();
        self.0.extend(agents.into_iter().map(|agent| (agent.id, agent.name.to_string())));
        for id in unknown {
            self.0.entry(id.clone()).or_insert_with(|| id.to_string());
        }
    }

    fn of(&self, id: &AgentId) -> String {
        self.0.get(id).cloned().unwrap_or_else(|| id.to_string())
    }
}

/// How long the last attempt took, or has taken until now.
pub(super) fn took(row: &JobRow, now: Timestamp) -> Option<Duration> {
    let until = row.finished_at.or((row.state == JobState::Running).then_some(now))?;
    Some(until.since(row.started_at?))
}

/// Where a job is, and whether to believe how it ended.
pub(super) fn state(row: &JobRow, now: Timestamp) -> String {
    let doubt = match row.signature {
        Some(Mark::Missing) => ", NOT SIGNED",
        Some(Mark::Wrong) => ", WRONG SIGNATURE",
        Some(Mark::Valid) | None => "",
    };
    outcome(row, now) + doubt
}

fn outcome(row: &JobRow, now: Timestamp) -> String {
    match (row.exit_code.filter(|code| *code != 0), row.next_at.filter(|at| *at > now)) {
        (Some(code), _) => format!("{}, exit {code}", row.state.as_str()),
        (None, Some(at)) => format!("{}, in {}", row.state.as_str(), text::duration(at.since(now))),
        (None, None) => row.state.as_str().to_owned(),
    }
}

fn table(rows: &[JobRow], names: &Names, now: Timestamp) -> String {
    let row = |row: &JobRow| {
        [
            row.id.to_string(),
            row.job_type.as_ref().map(ToString::to_string).unwrap_or_default(),
            row.pool.to_string(),
            state(row, now),
            row.agent_id.as_ref().map(|id| names.of(id)).unwrap_or_default(),
            text::ago(row.queued_at, now),
            took(row, now).map(text::duration).unwrap_or_default(),
        ]
    };
    let head = ["id", "type", "pool", "state", "agent", "queued", "took"];
    output::table(head, rows.iter().map(row).collect(), "There are no such jobs.")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests fail by panicking")]
    use clap::Parser as _;
    use serde_json::json;

    use super::*;
    use crate::args::{Cli, Command};

    fn parsed(line: &[&str]) -> Result<JobsArgs, String> {
        let cli = Cli::try_parse_from(["muster", "jobs"].iter().chain(line)).map_err(|error| error.to_string())?;
        let Command::Jobs(args) = cli.command else { unreachable!("the command is jobs") };
        Ok(*args)
    }

    #[test]
    fn filters_are_sent_as_the_gateway_takes_them() {
        let now = Timestamp::from_secs(1_800_000_000);
        let args = parsed(&[
            "--pool",
            "p",
            "--type",
            "shell.run",
            "--status",
            "timed_out",
            "--signature",
            "wrong",
            "--label",
            "team=a=b",
            "--since",
            "1h",
        ])
        .unwrap();
        let sent: Vec<_> = query(&args, None, now).into_iter().map(|(name, value)| format!("{name}={value}")).collect();
        assert_eq!(
            sent,
            ["pool=p", "type=shell.run", "status=timed_out", "signature=wrong", "label=team:a=b", "since=2027-01-15T07:00:00Z"]
        );
        assert!(query(&parsed(&[]).unwrap(), None, now).is_empty());
    }

    #[test]
    fn a_wrong_filter_is_refused_with_what_it_takes() {
        assert!(parsed(&["--status", "done"]).unwrap_err().contains("succeeded"));
        assert!(parsed(&["--since", "yesterday"]).unwrap_err().contains("7d"));
        assert!(parsed(&["--label", "team"]).unwrap_err().contains("key=value"));
        assert!(parsed(&["--type", "shell"]).unwrap_err().contains("shell.run"));
        assert!(parsed(&["--limit", "0"]).is_err());
    }

    #[test]
    fn a_row_says_who_ran_it_and_how_long() {
        let now = Timestamp::from_secs(1_800_000_000);
        let agent: AgentId = "agt_01JZZZZZZZZZZZZZZZZZZZZZZZ".parse().unwrap();
        let rows: Vec<JobRow> = serde_json::from_value(json!([
            {"id": "a", "pool": "p", "type": "shell.run", "priority": "normal", "state": "failed", "queued_at": now, "agent_id": agent,
             "started_at": now, "finished_at": now + Duration::from_millis(1500), "exit_code": 3},
            {"id": "b", "pool": "p", "priority": "normal", "state": "running", "queued_at": now, "started_at": now},
            {"id": "c", "pool": "p", "priority": "normal", "state": "scheduled", "queued_at": now, "next_at": now + Duration::from_secs(98)},
        ]))
        .unwrap();
        let names = Names([(agent, "agent-1".to_owned())].into());
        let shown = table(&rows, &names, now + Duration::from_secs(8));
        let lines: Vec<_> = shown.lines().collect();
        for part in ["shell.run", "failed, exit 3", "agent-1", "8.0 s ago", "1.5 s"] {
            assert!(lines[1].contains(part), "{part} in {shown}");
        }
        assert!(lines[2].ends_with("8.0 s") && lines[3].contains("scheduled, in 1 min 30 s"), "{shown}");
    }
}
