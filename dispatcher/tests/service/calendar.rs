//! The broker's calendar against ours: what people are shown is what its timer does, around changes of the clock too.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail by panicking")]

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use async_nats::{Client, HeaderMap};
use jiff::tz::TimeZone;
use muster_broker_config::{
    provision,
    server::{Places, Server, Start, find_binary},
};
use muster_schemas::{
    headers::{SCHEDULE, SCHEDULE_NEXT, SCHEDULE_TARGET, SCHEDULE_TIME_ZONE},
    schedule::Cron,
    subjects,
    time::Timestamp,
    topology::{self, SCHEDULES},
};
use serde_json::Value;
use tempfile::TempDir;

use crate::support::{SOON, eventually};

/// A bare broker with the stream of schedules, and time zones of the test's own.
struct Bare {
    server: Server,
    client: Client,
    dir: TempDir,
}

impl Bare {
    async fn start(zones: &[(&str, Vec<u8>)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("server.conf");
        let store = dir.path().join("store");
        std::fs::write(&config, format!("listen: \"127.0.0.1:-1\"\njetstream: {{ store_dir: \"{}\" }}\n", store.display())).unwrap();
        let zoneinfo = dir.path().join("zoneinfo");
        for (name, bytes) in zones {
            let path = zoneinfo.join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, bytes).unwrap();
        }
        let mut start = Start::new(find_binary(&Places::from_env()).await.unwrap(), config, dir.path().join("run"));
        start.env.push(("ZONEINFO".into(), zoneinfo.into()));
        let server = Server::start(start).await.unwrap();
        let client = async_nats::connect(server.url()).await.unwrap();
        let stream = topology::fixed_streams().into_iter().find(|stream| stream.name == SCHEDULES).unwrap();
        provision::ensure_stream(&client, &stream).await.unwrap();
        Self { server, client, dir }
    }

    /// Sets a timer. Answers whether the broker takes it.
    async fn arm(&self, name: &str, cron: &str, zone: &str) -> bool {
        let name = name.parse().unwrap();
        let mut headers = HeaderMap::new();
        headers.insert(SCHEDULE, cron);
        headers.insert(SCHEDULE_TARGET, subjects::due(&name));
        headers.insert(SCHEDULE_TIME_ZONE, zone);
        let answer = self.client.request_with_headers(subjects::schedule(&name), headers, "".into()).await.unwrap();
        serde_json::from_slice::<Value>(&answer.payload).unwrap().get("error").is_none()
    }

    /// The first firing of a schedule: its whole second, and when the broker says that the next one is.
    async fn fires(&self, name: &str) -> (i64, i64) {
        let stream = async_nats::jetstream::new(self.client.clone()).get_stream_no_info(SCHEDULES).await.unwrap();
        let due = subjects::due(&name.parse().unwrap());
        let fired = eventually(&format!("{name} fires"), Duration::from_secs(90), async || {
            stream.direct_get_first_for_subject(due.clone()).await.ok()
        })
        .await;
        let next: jiff::Timestamp = fired.headers.get(SCHEDULE_NEXT).unwrap().as_str().parse().unwrap();
        (fired.time.unix_timestamp(), next.as_second())
    }

    /// Ends the broker, and reads what it has written down of its timers: the next firing of each.
    async fn timers(mut self) -> BTreeMap<String, i64> {
        self.server.stop().await.unwrap();
        let file = find(self.dir.path(), "sched.db").expect("the broker wrote down its timers");
        read(&std::fs::read(file).unwrap())
    }
}

fn find(dir: &Path, name: &str) -> Option<PathBuf> {
    std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find_map(|path| if path.is_dir() { find(&path, name) } else { path.ends_with(name).then_some(path) })
}

/// The broker's file of timers: 17 bytes of head, then subject with its length, time as a signed and sequence as an unsigned varint.
fn read(bytes: &[u8]) -> BTreeMap<String, i64> {
    fn varint(rest: &mut &[u8]) -> u64 {
        let mut value = 0;
        for shift in (0..).step_by(7) {
            let (byte, behind) = rest.split_first().unwrap();
            *rest = behind;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                break;
            }
        }
        value
    }
    let (mut rest, mut timers) = (&bytes[17..], BTreeMap::new());
    while !rest.is_empty() {
        let length = usize::from(u16::from_le_bytes([rest[0], rest[1]]));
        let subject = std::str::from_utf8(&rest[2..2 + length]).unwrap();
        let name = subjects::parse_schedule(subject).unwrap().to_string();
        rest = &rest[2 + length..];
        let zigzag = varint(&mut rest);
        let nanos = i64::try_from(zigzag >> 1).unwrap() ^ -i64::try_from(zigzag & 1).unwrap();
        varint(&mut rest);
        timers.insert(name, nanos.div_euclid(1_000_000_000));
    }
    timers
}

/// A time zone whose clock is changed once, in the format of the IANA's compiler.
fn zone(change: i64, before: i64, after: i64) -> Vec<u8> {
    let head = |changes: u32, types: u32| {
        let mut head = b"TZif2".to_vec();
        head.extend([0; 15]);
        for count in [0, 0, 0, changes, types, 4] {
            head.extend(count.to_be_bytes());
        }
        head
    };
    let kind = |offset: i64| [&i32::try_from(offset).unwrap().to_be_bytes()[..], &[0, 0]].concat();
    let mut file = [head(0, 1), kind(before), b"TST\0".to_vec()].concat();
    file.extend([head(1, 2), change.to_be_bytes().to_vec(), vec![1], kind(before), kind(after), b"TST\0".to_vec()].concat());
    file.extend(b"\n\n");
    file
}

/// The offset at which a clock shows `hour` at that second.
fn offset(second: i64, hour: i64) -> i64 {
    (hour * 3600 - second.rem_euclid(86_400) + 43_200).rem_euclid(86_400) - 43_200
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_clock_is_changed_left_out_times_do_not_fire_and_repeated_ones_do_twice() {
    // At a whole minute, since no zone has an offset with seconds, and the broker does not expect one.
    let change = (Timestamp::now().secs() + 66).div_euclid(60) * 60;
    let (gap, fold) = (offset(change, 2), offset(change, 3));
    let zones = [("Test/Gap", zone(change, gap, gap + 3600)), ("Test/Fold", zone(change, fold, fold - 3600))];
    let ours = zones.clone().map(|(name, bytes)| TimeZone::tzif(name, &bytes).unwrap());
    let bare = Bare::start(&zones).await;
    let fires = [
        // Just before the change, and just after it: 03:00:01 follows on 01:59:59, and 02:00:00 on 02:59:59.
        ("gap-before", "58 59 1 * * *", 0, change - 2),
        ("gap-after", "1 0 3 * * *", 0, change + 1),
        ("fold-first", "58 59 2 * * *", 1, change - 2),
        ("fold-again", "1 0 2 * * *", 1, change + 1),
    ];
    for (name, cron, zone, _) in fires {
        assert!(bare.arm(name, cron, zones[zone].0).await, "{name}");
    }
    assert!(bare.arm("left-out", "1 0 2 * * *", "Test/Gap").await);
    for (name, cron, zone, at) in fires {
        let (fired, next) = bare.fires(name).await;
        let cron: Cron = cron.parse().unwrap();
        assert_eq!(fired, at, "{name}");
        assert_eq!(cron.after(change - 6, &ours[zone]), Some(at), "{name}: ours");
        assert_eq!(cron.after(at, &ours[zone]), Some(next), "{name}: the next one");
        if name == "fold-first" {
            assert_eq!(next, at + 3600, "02:59:58 comes twice");
        }
    }
    let left_out = bare.timers().await["left-out"];
    let cron: Cron = "1 0 2 * * *".parse().unwrap();
    assert_eq!(cron.after(change - 6, &ours[0]), Some(left_out));
    assert!(left_out > change + 80_000, "not today");
}

/// Times around real changes of the clock: Berlin 28 March and 31 October, New York 14 March and 7 November, Lord Howe 4 April and
/// 3 October 2027. Beside them, what is easily read otherwise.
const CASES: [(&str, &str); 22] = [
    ("0 30 2 28 3 *", "Europe/Berlin"),
    ("0 0 2 28 3 *", "Europe/Berlin"),
    ("0 0 3 28 3 *", "Europe/Berlin"),
    ("59 59 1 28 3 *", "Europe/Berlin"),
    ("0 30 2 31 10 *", "Europe/Berlin"),
    ("0 0 12 31 10 *", "Europe/Berlin"),
    ("0 */7 2,3 28 3 *", "Europe/Berlin"),
    ("0 30 2 14 3 *", "America/New_York"),
    ("0 30 1 7 11 *", "America/New_York"),
    ("0 0 2 14 3 *", "America/New_York"),
    ("0 45 1 4 4 *", "Australia/Lord_Howe"),
    ("0 15 2 3 10 *", "Australia/Lord_Howe"),
    ("0 45 2 3 10 *", "Australia/Lord_Howe"),
    ("0 0 0 13 * 5", "UTC"),
    ("0 0 0 13 * *", "UTC"),
    ("0 0 0 * * 5", "UTC"),
    ("0 0 0 13 * */2", "UTC"),
    ("0 0 0 */2 * 5", "UTC"),
    ("0 0 0 31 * ?", "Asia/Kathmandu"),
    ("0 0 0 29 2 *", "Pacific/Kiritimati"),
    ("7/9 8/11 3/5 1-31/10 jan-dec/2 mon-fri", "America/St_Johns"),
    ("0 0 0 1 1 sun", "Asia/Tokyo"),
];

#[tokio::test(flavor = "multi_thread")]
async fn the_brokers_timer_and_our_calendar_agree() {
    let bare = Bare::start(&[]).await;
    let mut cases: Vec<(String, &str)> = CASES.iter().map(|(cron, zone)| ((*cron).to_owned(), *zone)).collect();
    // Some hundred more, always the same ones: a plain generator is enough.
    let mut seed = 1_u64;
    let mut pick = |most: usize| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(seed >> 33).unwrap() % most
    };
    for _ in 0..300 {
        let second = ["0", "30", "*/20", "5-9", "59"][pick(5)];
        let minute = ["0", "30", "*/7", "1,2,58", "59"][pick(5)];
        let hour = ["0", "1", "2", "3", "*/5", "22-23"][pick(6)];
        let day = ["*", "1", "28", "31", "*/3", "8-14", "29,30", "?"][pick(8)];
        let month = ["*", "3", "4", "10,11", "*/2", "feb"][pick(6)];
        let weekday = ["*", "0", "6", "mon-fri", "*/2", "?"][pick(6)];
        let zone = ["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu", "America/Sao_Paulo"][pick(6)];
        cases.push((format!("{second} {minute} {hour} {day} {month} {weekday}"), zone));
    }
    let began = Timestamp::now().secs();
    for (number, (cron, zone)) in cases.iter().enumerate() {
        let rules = jiff::tz::db().get(zone).unwrap();
        let fires = cron.parse::<Cron>().unwrap().after(began, &rules).is_some();
        assert_eq!(bare.arm(&format!("c{number}"), cron, zone).await, fires, "{cron} in {zone}");
    }
    assert!(Timestamp::now().secs() - began < i64::try_from(SOON.as_secs()).unwrap(), "this machine is too slow");
    for refused in ["* * * * *", "0 0 0 * * 7", "60 * * * * *", "0 0 0 30 2 *", "5-1 * * * * *", "*/0 * * * * *"] {
        assert!(!bare.arm("x", refused, "UTC").await, "{refused}");
    }
    let ended = Timestamp::now().secs();
    let timers = bare.timers().await;
    for (number, (cron, zone)) in cases.iter().enumerate() {
        let rules = jiff::tz::db().get(zone).unwrap();
        let parsed: Cron = cron.parse().unwrap();
        let Some(theirs) = timers.get(&format!("c{number}")) else { continue };
        // It was reckoned from some second in between, rounded.
        let ours: Vec<_> = (began - 1..=ended + 1).filter_map(|from| parsed.after(from, &rules)).collect();
        let shown = |second: &i64| Timestamp::from_secs(*second).to_string();
        assert!(ours.contains(theirs), "{cron} in {zone}: the broker says {}, we say {}", shown(theirs), shown(&ours[0]));
    }
    assert!(timers.len() > 290, "{}", timers.len());
}
