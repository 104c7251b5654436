//! `muster schedules list|get|put|delete|pause|resume|trigger`.

use std::time::Duration;

use muster_schemas::{
    api::{JobView, PutSchedule, ScheduleView},
    names::ScheduleName,
    schedule::{Became, Missed, Overlap},
    time::Timestamp,
};
use reqwest::Method;
use serde_json::json;

use super::work::{self, whole_seconds};
use crate::{
    api::Api,
    args::{SchedulePutArgs, SchedulesCommand},
    output, text,
};

pub(crate) async fn run(api: &Api, command: Option<SchedulesCommand>, json: bool) -> anyhow::Result<()> {
    let path = |name: &ScheduleName| format!("/schedules/{name}");
    match command.unwrap_or(SchedulesCommand::List) {
        SchedulesCommand::List => {
            let schedules: Vec<ScheduleView> = api.list("/schedules", &[]).await?;
            if json { output::json(&schedules)? } else { output::line(&table(&schedules, Timestamp::now()))? }
        }
        SchedulesCommand::Get { name } => tell(&api.get(&path(&name), &[]).await?, json)?,
        SchedulesCommand::Put(args) => {
            let path = path(&args.name);
            tell(&api.send(Method::PUT, &path, &request(*args)?, Duration::ZERO).await?, json)?;
        }
        SchedulesCommand::Delete { name } => {
            api.delete(&path(&name)).await?;
            if json { output::json(&json!({"deleted": name}))? } else { output::line(&format!("schedule {name} is deleted"))? }
        }
        SchedulesCommand::Pause { name } => tell(&api.act(&format!("{}/pause", path(&name)), &[]).await?, json)?,
        SchedulesCommand::Resume { name } => tell(&api.act(&format!("{}/resume", path(&name)), &[]).await?, json)?,
        SchedulesCommand::Trigger { name } => {
            let job: JobView = api.act(&format!("{}/trigger", path(&name)), &[]).await?;
            if json { output::json(&job)? } else { output::line(job.id.as_str())? }
        }
    }
    Ok(())
}

fn request(args: SchedulePutArgs) -> anyhow::Result<PutSchedule> {
    Ok(PutSchedule {
        cron: args.cron,
        time_zone: args.time_zone,
        every: args.every,
        at: args.at,
        job: work::submit(args.work)?,
        overlap: args.overlap,
        missed: args.missed,
        grace_s: args.grace.map(whole_seconds),
        paused: args.paused,
        description: args.description,
    })
}

fn tell(schedule: &ScheduleView, json: bool) -> anyhow::Result<()> {
    if json { output::json(schedule) } else { Ok(output::line(&show(schedule, Timestamp::now()))?) }
}

/// When it fires, in the words of the flags.
fn when(schedule: &ScheduleView) -> String {
    let when = &schedule.when;
    match (&when.cron, &when.every, &when.at) {
        (Some(cron), ..) => format!("{cron} ({})", when.time_zone.as_deref().unwrap_or("UTC")),
        (_, Some(every), _) => format!("every {every}"),
        (.., Some(at)) => format!("at {at}"),
        _ => String::new(),
    }
}

fn status(schedule: &ScheduleView) -> &'static str {
    match (schedule.paused, schedule.armed, schedule.next.is_empty()) {
        (true, ..) => "paused",
        (false, true, _) => "active",
        (false, false, true) => "over",
        (false, false, false) => "not armed yet",
    }
}

fn last(schedule: &ScheduleView, now: Timestamp) -> Option<String> {
    let last = schedule.last.as_ref()?;
    let ago = text::ago(last.fired_at, now);
    Some(match (last.became, &last.job, &last.detail) {
        (Became::Job, Some(job), _) => format!("{ago}: job {}", job.id),
        (_, _, Some(detail)) => format!("{ago}: no job, {}", text::safe(detail)),
        _ => format!("{ago}: no job"),
    })
}

fn table(schedules: &[ScheduleView], now: Timestamp) -> String {
    let row = |schedule: &ScheduleView| {
        let next = schedule.next.first().map(ToString::to_string).unwrap_or_default();
        let pool = schedule.pool.to_string();
        [schedule.name.to_string(), when(schedule), pool, status(schedule).to_owned(), next, last(schedule, now).unwrap_or_default()]
    };
    let head = ["name", "fires", "pool", "status", "next", "last"];
    output::table(head, schedules.iter().map(row).collect(), "There are no schedules. `muster schedules put NAME` makes one.")
}

fn show(schedule: &ScheduleView, now: Timestamp) -> String {
    let overlap = match schedule.overlap {
        Overlap::Skip => "skip",
        Overlap::Queue => "queue",
        Overlap::Replace => "replace",
    };
    let missed = match schedule.missed {
        Missed::RunOnce => "run_once",
        Missed::Skip => "skip",
    };
    let next: Vec<_> = schedule.next.iter().map(ToString::to_string).collect();
    output::fields(vec![
        ("name", Some(schedule.name.to_string())),
        ("description", schedule.description.clone()),
        ("fires", Some(when(schedule))),
        ("status", Some(status(schedule).to_owned())),
        ("job", Some(format!("{} in pool {}, priority {}", schedule.job.job_type, schedule.pool, schedule.priority))),
        ("overlap", Some(overlap.to_owned())),
        ("missed", Some(format!("{missed}, after {} s", schedule.grace_s))),
        ("last", last(schedule, now)),
        ("next", (!next.is_empty()).then(|| next.join("\n"))),
        ("changed", Some(format!("{} ({})", schedule.changed_at, text::ago(schedule.changed_at, now)))),
    ])
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;

    #[test]
    fn a_schedule_shows_its_last_firing_and_its_next_ones() {
        let now = Timestamp::from_secs(1_800_000_000);
        let schedule: ScheduleView = serde_json::from_value(json!({
            "name": "s", "cron": "0 30 2 * * *", "time_zone": "Europe/Berlin", "pool": "p", "priority": "normal",
            "job": {"type": "shell.run"}, "overlap": "skip", "missed": "run_once", "grace_s": 60, "paused": false, "armed": true,
            "created_at": now, "changed_at": now, "next": [now + Duration::from_secs(9), now + Duration::from_secs(19)],
            "last": {"fired_at": now, "became": "job", "job": {"id": "s-1", "pool": "p", "fired_at": now}},
        }))
        .unwrap();
        let shown = show(&schedule, now + Duration::from_secs(3));
        for part in ["0 30 2 * * * (Europe/Berlin)", "3.0 s ago: job s-1", "2027-01-15T08:00:09Z", "2027-01-15T08:00:19Z", "active"] {
            assert!(shown.contains(part), "{part} in {shown}");
        }
        assert!(table(&[schedule], now).contains("Europe/Berlin") && table(&[], now).contains("schedules put"));
    }
}
