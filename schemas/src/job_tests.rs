//! Tests of [`super`].
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking")]

use proptest::prelude::*;

use super::*;

fn code(json: &str) -> Code {
    match Job::decode(json.as_bytes()) {
        Ok(job) => panic!("{json} was accepted: {job:?}"),
        Err(error) => error.code(),
    }
}

#[test]
fn the_shortest_job_is_a_type() {
    let job = Job::decode(br#"{"type":"probe.ping"}"#).unwrap();
    assert_eq!(job.timeout(), TIMEOUT_DEFAULT);
    assert_eq!(job.params, serde_json::json!({}));
    assert_eq!(job.retry, None);
}

#[test]
fn each_bad_field_is_refused_by_its_own_code() {
    for (json, expected) in [
        (r#"{}"#, Code::FieldInvalid),
        (r#"{"type":"nothing"}"#, Code::TypeUnknown),
        (r#"{"type":"a.b.c"}"#, Code::TypeUnknown),
        (r#"{"v":9,"type":"a.b"}"#, Code::VersionUnknown),
        (r#"{"type":"a.b","params":[1]}"#, Code::ParamsInvalid),
        (r#"{"type":"a.b","timeout_s":0}"#, Code::TimeoutInvalid),
        (r#"{"type":"a.b","timeout_s":-5}"#, Code::TimeoutInvalid),
        (r#"{"type":"a.b","timeout_s":9000000000}"#, Code::TimeoutInvalid),
        (r#"{"type":"a.b","retry":{"max_attempts":0}}"#, Code::RetryInvalid),
        (r#"{"type":"a.b","retry":{"max_attempts":1000000000}}"#, Code::RetryInvalid),
        (r#"{"type":"a.b","retry":{"max_attempts":2,"jitter":1.5}}"#, Code::RetryInvalid),
        (r#"{"type":"a.b","retry":{"max_attempts":2,"initial_ms":-1}}"#, Code::RetryInvalid),
        (r#"{"type":"a.b","result_ttl_s":0}"#, Code::FieldInvalid),
        (r#"{"type":"a.b","labels":{"":"x"}}"#, Code::LabelsInvalid),
        (r#"{"type":"a.b","not_before":"2026-01-02T00:00:00Z","expires_at":"2026-01-01T00:00:00Z"}"#, Code::TimeInvalid),
        (r#"{"type":"a.b","not_before":"tomorrow"}"#, Code::FieldInvalid),
    ] {
        assert_eq!(code(json), expected, "{json}");
    }
}

#[test]
fn a_retry_that_is_not_a_number_is_refused() {
    let retry = DraftRetry { max_attempts: 2, multiplier: Some(f64::NAN), ..Default::default() };
    let draft = Draft { job_type: "a.b".into(), retry: Some(retry), ..Default::default() };
    assert_eq!(Job::decode(&wire::encode(&draft)).unwrap_err().code(), Code::RetryInvalid);
}

#[test]
fn a_backoff_doubles_up_to_its_limit_and_varies_by_its_jitter() {
    let retry = Retry { max_attempts: 9, initial: Duration::from_secs(1), multiplier: 2.0, max: Duration::from_secs(5), jitter: 0.5 };
    let waits: Vec<u64> = (1..=5).map(|n| retry.backoff(n, 0.5).as_secs()).collect();
    assert_eq!(waits, [1, 2, 4, 5, 5]);
    assert_eq!(retry.backoff(1, 0.0), Duration::from_millis(500));
    assert_eq!(retry.backoff(1, 1.0), Duration::from_millis(1500));
}

prop_compose! {
    fn any_draft()(
        verb in "[a-z]{1,8}", key in "[a-z]{1,8}", value in ".{0,20}", n in any::<i32>(),
        timeout_s in prop::option::of(1..=TIMEOUT_MAX_S),
        retry in prop::option::of((1..=ATTEMPTS_MAX, 0..=BACKOFF_MAX_MS, 1.0..=10.0_f64, 0.0..=1.0_f64)),
        at in prop::option::of(0..4_000_000_000_i64), result_ttl_s in prop::option::of(1..=2_592_000_i64),
    ) -> Draft {
        Draft {
            v: V,
            job_type: format!("probe.{verb}"),
            params: serde_json::json!({ key: [value, n] }),
            timeout_s,
            retry: retry.map(|(max_attempts, ms, multiplier, jitter)| DraftRetry {
                max_attempts, initial_ms: Some(ms), multiplier: Some(multiplier), max_ms: Some(ms), jitter: Some(jitter),
            }),
            connection: None,
            labels: [("team".to_string(), "ops".to_string())].into(),
            not_before: None,
            expires_at: at.map(Timestamp::from_secs),
            result_ttl_s,
            parent: None,
        }
    }
}

proptest! {
    #[test]
    fn every_good_job_round_trips_in_both_encodings(draft in any_draft()) {
        let job = Job::try_from(draft).unwrap();
        prop_assert_eq!(&Job::decode(&wire::encode(&job)).unwrap(), &job);
        prop_assert_eq!(&Job::decode(&serde_json::to_vec(&job).unwrap()).unwrap(), &job);
    }

    #[test]
    fn no_bytes_make_the_parser_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), text in "\\{\"type\":\"[a-z.]{0,9}\",\"[a-z_]{1,12}\":.{0,30}\\}") {
        let _ = Job::decode(&bytes);
        let _ = Job::decode(text.as_bytes());
    }

    #[test]
    fn no_backoff_overflows(attempts in 1u32..=100, random in 0.0..1.0_f64, initial in 0..=BACKOFF_MAX_MS, multiplier in 1.0..=10.0_f64) {
        let initial = Duration::from_millis(initial.unsigned_abs());
        let retry = Retry { max_attempts: 100, initial, multiplier, max: Duration::from_secs(60), jitter: 1.0 };
        prop_assert!(retry.backoff(attempts, random) <= Duration::from_secs(120));
    }
}
