//! Tests of [`super`]: what is refused, and firings around changes of the clock.
#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

use super::*;

fn when(cron: &str, zone: &str) -> When {
    When { cron: Some(cron.into()), time_zone: (!zone.is_empty()).then(|| zone.into()), ..When::default() }
}

fn cron(cron: &str, zone: &str) -> Timing {
    when(cron, zone).try_into().unwrap()
}

fn every(text: &str) -> Result<Timing, TimingError> {
    When { every: Some(text.into()), ..When::default() }.try_into()
}

fn time(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn shows(timing: &Timing, after: &str, firings: &[&str]) {
    let upcoming = timing.upcoming(time(after), time(after), firings.len());
    assert_eq!(upcoming.iter().map(ToString::to_string).collect::<Vec<_>>(), firings);
    // Backwards it finds the same ones.
    for pair in upcoming.windows(2) {
        let &[first, second] = pair else { continue };
        assert_eq!(timing.until(second - Duration::from_secs(1), time(after)), Some(first));
        assert_eq!(timing.until(second, time(after)), Some(second));
    }
}

#[test]
fn exactly_one_of_cron_every_and_at_is_taken() {
    let both = When { every: Some("10s".into()), ..when("* * * * *", "") };
    assert_eq!(Timing::try_from(both).unwrap_err(), TimingError::Which);
    assert_eq!(Timing::try_from(When::default()).unwrap_err(), TimingError::Which);
    for (timing, zone) in [(every("10s").unwrap(), "Europe/Berlin"), (Timing::At(time("2027-01-01T00:00:00Z")), "UTC")] {
        let zoned = When { time_zone: Some(zone.into()), ..timing.into() };
        assert!(matches!(Timing::try_from(zoned).unwrap_err(), TimingError::Zone(_)), "only a calendar has a time zone");
    }
}

#[test]
fn what_is_no_time_zone_interval_or_date_is_refused() {
    for zone in ["Mars/Olympus", "Etc/Unknown", "+02:00", "../etc/passwd", "Local", "CET+1"] {
        assert!(matches!(Timing::try_from(when("* * * * *", zone)).unwrap_err(), TimingError::Zone(_)), "{zone}");
    }
    for text in ["", "10", "s", "0s", "-1s", "1.5h", "366d", "10w", "1s ", "99999999999999999999s", "9999999999999999999d", "1é"] {
        assert!(matches!(every(text).unwrap_err(), TimingError::Every(_)), "{text}");
    }

    for (text, fits) in [("2199-12-31T23:59:59Z", true), ("2200-01-01T00:00:00Z", false), ("9999-01-01T00:00:00Z", false)] {
        let at = Timing::try_from(When { at: Some(text.into()), ..When::default() });
        assert_eq!(at.is_ok(), fits, "{text}: {at:?}");
    }
    for text in ["0 0 30 2 *", "0 0 0 31 4,6,9,11 *"] {
        assert_eq!(Timing::try_from(when(text, "")).unwrap_err(), TimingError::Never, "{text}");
    }
    assert_eq!(every("1h30m").unwrap(), Timing::Every(5400));
    assert_eq!(every("7d1s").unwrap().pattern().0, "@every 604801s");
    assert_eq!(cron("0 2 * * *", "europe/berlin").pattern(), ("0 0 2 * * *".into(), Some("Europe/Berlin")));
    assert_eq!(cron("0 2 * * *", "").pattern(), ("0 0 2 * * *".into(), None));
}

#[test]
fn an_interval_is_counted_from_its_last_firing() {
    let (ten, from) = (every("10s").unwrap(), "2027-01-01T00:00:03Z");
    shows(&ten, from, &["2027-01-01T00:00:13Z", "2027-01-01T00:00:23Z"]);
    assert_eq!(ten.after(time("2027-01-01T00:00:13Z"), time(from)), Some(time("2027-01-01T00:00:23Z")));
    assert_eq!(ten.until(time("2027-01-01T00:00:12Z"), time(from)), None);
    assert_eq!(ten.until(time("2027-01-01T00:01:59Z"), time(from)), Some(time("2027-01-01T00:01:53Z")));
    assert_eq!(ten.fired(time("2027-01-01T00:00:13.2Z"), Some(time("2027-01-01T00:00:23Z"))), time("2027-01-01T00:00:13Z"));
}

#[test]
fn a_point_in_time_fires_once() {
    let at = Timing::At(time("2027-01-01T00:00:00.5Z"));
    assert_eq!(at.upcoming(time("2026-01-01T00:00:00Z"), time("2026-01-01T00:00:00Z"), 5).len(), 1);
    assert_eq!(at.after(time("2027-01-01T00:00:01Z"), time("2026-01-01T00:00:00Z")), None);
    assert_eq!(at.until(time("2027-01-01T00:00:00.6Z"), time("2026-01-01T00:00:00Z")), Some(time("2027-01-01T00:00:00.5Z")));
}

#[test]
fn a_late_firing_of_a_calendar_belongs_to_the_last_time_that_matches() {
    let hourly = cron("0 * * * *", "");
    assert_eq!(hourly.fired(time("2027-01-01T05:00:00.249Z"), None), time("2027-01-01T05:00:00Z"));
    assert_eq!(hourly.fired(time("2027-01-01T05:42:07Z"), None), time("2027-01-01T05:00:00Z"));
}

#[test]
fn a_time_that_the_clock_leaves_out_does_not_fire_that_day() {
    // On 28 March 2027 Berlin goes from 02:00 to 03:00.
    let berlin = cron("30 2 * * *", "Europe/Berlin");
    shows(&berlin, "2027-03-26T12:00:00Z", &["2027-03-27T01:30:00Z", "2027-03-29T00:30:00Z"]);
    shows(&cron("*/30 * * * *", "Europe/Berlin"), "2027-03-28T00:29:59Z", &["2027-03-28T00:30:00Z", "2027-03-28T01:00:00Z"]);
}

#[test]
fn a_time_that_comes_twice_fires_twice() {
    // On 31 October 2027 Berlin goes from 03:00 back to 02:00.
    let berlin = cron("30 2 * * *", "Europe/Berlin");
    shows(&berlin, "2027-10-30T12:00:00Z", &["2027-10-31T00:30:00Z", "2027-10-31T01:30:00Z", "2027-11-01T01:30:00Z"]);
    // Half an hour is set back on Lord Howe: 01:45 comes twice, half an hour apart.
    shows(&cron("45 1 * * *", "Australia/Lord_Howe"), "2027-04-03T00:00:00Z", &["2027-04-03T14:45:00Z", "2027-04-03T15:15:00Z"]);
}

#[test]
fn midnight_may_be_left_out() {
    // On 30 April 2027 Cairo goes from 00:00 to 01:00.
    shows(&cron("0 0 * * *", "Africa/Cairo"), "2027-04-28T22:00:00Z", &["2027-04-30T21:00:00Z"]);
    shows(&cron("0 12 * * *", "Africa/Cairo"), "2027-04-29T12:00:00Z", &["2027-04-30T09:00:00Z"]);
}
