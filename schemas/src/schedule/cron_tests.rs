//! Tests of [`super`]: the rules for days, the grammar, and that both directions agree.
#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

use proptest::prelude::*;

use super::*;

fn cron(text: &str) -> Cron {
    text.parse().unwrap()
}

/// The next firings as local dates in UTC.
fn days(text: &str, after: &str, count: usize) -> Vec<String> {
    let after = after.parse::<jiff::Timestamp>().unwrap().as_second();
    let next = |second: &i64| cron(text).after(*second, &TimeZone::UTC);
    let all = std::iter::successors(next(&after), next).take(count);
    all.map(|second| jiff::Timestamp::from_second(second).unwrap().strftime("%m-%d").to_string()).collect()
}

#[test]
fn of_two_restricted_days_either_is_enough_and_beside_a_star_both_must_match() {
    // 1 January 2027 is a Friday.
    assert_eq!(days("0 0 13 * 5", "2027-01-01T12:00:00Z", 4), ["01-08", "01-13", "01-15", "01-22"]);
    assert_eq!(days("0 0 * * 5", "2027-01-01T12:00:00Z", 2), ["01-08", "01-15"]);
    assert_eq!(days("0 0 13 * *", "2027-01-01T12:00:00Z", 2), ["01-13", "02-13"]);
    assert_eq!(days("0 0 13 * ?", "2027-01-01T12:00:00Z", 2), ["01-13", "02-13"]);
    // A step is a restriction: the 13th, and every second day of the week besides.
    assert_eq!(days("0 0 13 * */2", "2027-01-10T12:00:00Z", 4), ["01-12", "01-13", "01-14", "01-16"]);
    assert_eq!(days("0 0 13 * */1", "2027-01-10T12:00:00Z", 2), ["01-13", "02-13"]);
}

#[test]
fn five_fields_are_six_with_second_zero() {
    assert_eq!(Cron { text: "0 30 2 * * 1-5".into(), ..cron("30 2 * * mon-FRI") }, cron("0 30 2 * * 1-5"));
    assert_eq!(cron(" 1  2 3 4\t5 ").as_str(), "0 1 2 3 4 5");
    assert_eq!(days("0 0 29 2 *", "2027-01-01T00:00:00Z", 2), ["02-29", "02-29"]);
    assert_eq!(days("0 0 1 jan,JUL *", "2027-01-01T00:00:00Z", 2), ["07-01", "01-01"]);
}

#[test]
fn what_the_broker_would_refuse_is_refused_with_its_field() {
    for text in ["", "* * * *", "* * * * * * *", "@daily"] {
        assert!(matches!(text.parse::<Cron>().unwrap_err(), CronError::Fields(_)), "{text}");
    }
    for (text, name) in [
        ("60 * * * * *", "second"),
        ("* 60 * * * *", "minute"),
        ("* * 24 * * *", "hour"),
        ("* * * 0 * *", "day of the month"),
        ("* * * * 13 *", "month"),
        ("* * * * * 7", "day of the week"),
        ("* * * * * mon-sun", "day of the week"),
        ("5-1 * * * * *", "second"),
        ("*/0 * * * * *", "second"),
        ("1/2/3 * * * * *", "second"),
        ("1-2-3 * * * * *", "second"),
        ("1,, * * * * *", "second"),
        ("-1 * * * * *", "second"),
        ("+1 * * * * *", "second"),
        ("* * * * foo *", "month"),
        ("99999999999 * * * * *", "second"),
    ] {
        let error = text.parse::<Cron>().unwrap_err();
        assert!(matches!(&error, CronError::Field { field, .. } if *field == name), "{text}: {error}");
    }
}

proptest! {
    #[test]
    fn no_text_makes_the_parser_panic(text in "[-*/,?0-9a-zA-Z é\u{0}]{0,40}") {
        let _ = text.parse::<Cron>();
    }

    #[test]
    fn what_comes_after_is_found_again_from_behind(
        second in 0_i64..60, hour in 0_i64..24, day in 1_i64..29, start in 1_700_000_000_i64..2_000_000_000, zone in 0_usize..4,
    ) {
        let zone = ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu"].get(zone).copied().unwrap();
        let zone = jiff::tz::db().get(zone).unwrap();
        let cron = cron(&format!("{second} */7 {hour} {day} * *"));
        let next = cron.after(start, &zone).unwrap();
        prop_assert!(next > start);
        prop_assert_eq!(cron.until(next, &zone), Some(next));
        let before = cron.until(next - 1, &zone).unwrap();
        prop_assert!(before <= start);
        prop_assert_eq!(cron.after(before, &zone), Some(next));
    }
}
