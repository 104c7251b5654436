//! `muster audit`: the audit trail, once or as it grows.

use std::time::Duration;

use muster_schemas::{api::AuditView, time::Timestamp};

use crate::{api::Api, args::AuditArgs, failure, output, text};

/// How many are listed when nobody says.
const LIMIT: u32 = 50;
/// How many are shown before those that come.
const LIMIT_FOLLOWED: u32 = 10;
/// The most that are fetched of what came since the last look.
const NEW_MAX: u32 = 100_000;
/// How often it is looked for more.
const REFRESH: Duration = Duration::from_secs(2);

pub(crate) async fn run(api: &Api, args: AuditArgs, json: bool) -> anyhow::Result<()> {
    let query = query(&args, Timestamp::now());
    if args.follow {
        return follow(api, &query, args.limit.unwrap_or(LIMIT_FOLLOWED), json).await;
    }
    let entries: Vec<AuditView> = api.first("/audit", &query, args.limit.unwrap_or(LIMIT)).await?;
    if json { output::json(&entries) } else { Ok(output::line(&table(&entries))?) }
}

/// Shows what is there and then what comes. Never returns without an error.
async fn follow(api: &Api, query: &[(&'static str, String)], limit: u32, json: bool) -> anyhow::Result<()> {
    let (mut entries, mut away): (Vec<AuditView>, _) = (api.first("/audit", query, limit).await?, false);
    let mut seen: Option<AuditView> = None;
    loop {
        for entry in entries.drain(..).rev() {
            if json {
                output::json(&entry)?
            } else {
                output::line(&text::safe(&cells(&entry).join("  ")))?
            }
            seen = Some(entry);
        }
        tokio::time::sleep(REFRESH).await;
        // From the last one on, which is left out again.
        let mut more = query.to_vec();
        if let Some(seen) = &seen {
            more.retain(|(name, _)| *name != "since");
            more.push(("since", seen.stored_at.to_string()));
        }
        match api.first::<AuditView>("/audit", &more, NEW_MAX).await {
            Ok(found) => {
                away = false;
                entries = found;
                entries.retain(|entry| seen.as_ref().is_none_or(|seen| entry.sequence > seen.sequence));
            }
            // What was there once may come back; said once.
            Err(error) if failure::may_pass(&error) => {
                if !std::mem::replace(&mut away, true) {
                    output::warn(&format!("{error}; trying again"));
                }
            }
            Err(error) => return Err(error),
        }
    }
}

/// The filters as the gateway takes them.
fn query(args: &AuditArgs, now: Timestamp) -> Vec<(&'static str, String)> {
    let filters = [
        ("action", args.action.clone()),
        ("actor", args.actor.clone()),
        ("target", args.target.clone()),
        ("outcome", args.outcome.map(|outcome| outcome.as_str().to_owned())),
        ("address", args.address.clone()),
        ("since", args.since.map(|moment| moment.at(now).to_string())),
        ("until", args.until.map(|moment| moment.at(now).to_string())),
    ];
    filters.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
}

/// What is shown of an entry: when, who, what, to whom, from where, and what came of it.
fn cells(view: &AuditView) -> [String; 6] {
    let entry = &view.entry;
    let kind = entry.actor.kind.as_str().replace('_', " ");
    let who = match entry.actor.name.as_ref().or(entry.actor.id.as_ref()) {
        Some(name) => format!("{kind} {name}"),
        None => kind,
    };
    let mut outcome = entry.outcome.as_str().to_owned();
    if let Some(code) = entry.code {
        outcome.push_str(&format!(" ({code})"));
    }
    if let Some(count) = entry.count {
        outcome.push_str(&format!(" × {count}"));
    }
    if let Some(detail) = &entry.detail {
        outcome.push_str(&format!(": {detail}"));
    }
    [
        text::second(entry.at).to_string(),
        who,
        entry.action.clone(),
        entry.target.clone().unwrap_or_default(),
        entry.address.clone().unwrap_or_default(),
        outcome,
    ]
}

fn table(entries: &[AuditView]) -> String {
    let head = ["time", "who", "what", "to whom", "from", "outcome"];
    output::table(head, entries.iter().map(cells).collect(), "There are no such entries.")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests fail by panicking")]
    use clap::Parser as _;
    use serde_json::json;

    use super::*;
    use crate::args::{Cli, Command};

    fn parsed(line: &[&str]) -> Result<AuditArgs, String> {
        let cli = Cli::try_parse_from(["muster", "audit"].iter().chain(line)).map_err(|error| error.to_string())?;
        let Command::Audit(args) = cli.command else { unreachable!("the command is audit") };
        Ok(*args)
    }

    #[test]
    fn filters_are_sent_as_the_gateway_takes_them() {
        let now = Timestamp::from_secs(1_800_000_000);
        let line = ["--action", "agents.*", "--actor", "ops", "--target", "a", "--outcome", "refused", "--address", "::1", "--since", "1h"];
        let sent: Vec<_> = query(&parsed(&line).unwrap(), now).into_iter().map(|(name, value)| format!("{name}={value}")).collect();
        assert_eq!(sent, ["action=agents.*", "actor=ops", "target=a", "outcome=refused", "address=::1", "since=2027-01-15T07:00:00Z"]);
        assert!(query(&parsed(&[]).unwrap(), now).is_empty());
        assert!(parsed(&["--outcome", "maybe"]).unwrap_err().contains("refused"));
        assert!(parsed(&["--follow", "--until", "1h"]).is_err(), "what comes is behind every time that has passed");
    }

    #[test]
    fn an_entry_says_who_did_what_to_whom_and_what_came_of_it() {
        let entries: Vec<AuditView> = serde_json::from_value(json!([
            {"sequence": 2, "stored_at": "2027-01-15T08:00:00.5Z", "v": 1, "at": "2027-01-15T08:00:00.25Z", "action": "agents.revoke",
             "actor": {"kind": "key", "id": "key_1", "name": "ops"}, "address": "10.0.0.1", "target": "agt_1", "outcome": "done"},
            {"sequence": 1, "stored_at": "2027-01-15T08:00:00Z", "v": 1, "at": "2027-01-15T08:00:00Z", "action": "agents.read",
             "actor": {"kind": "nobody"}, "address": "10.0.0.9", "outcome": "refused", "code": "unauthenticated", "count": 41},
        ]))
        .unwrap();
        let shown = table(&entries);
        let lines: Vec<_> = shown.lines().collect();
        for part in ["2027-01-15T08:00:00Z", "key ops", "agents.revoke", "agt_1", "10.0.0.1", "done"] {
            assert!(lines[1].contains(part), "{part} in {shown}");
        }
        assert!(lines[2].contains("nobody") && lines[2].ends_with("refused (unauthenticated) × 41"), "{shown}");
    }
}
