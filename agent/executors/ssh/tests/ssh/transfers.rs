//! Files to and from a real sshd.

use std::{fs, os::unix::fs::PermissionsExt, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use flate2::{Compression, write::GzEncoder};
use muster_schemas::{code::Code, result::Outcome};
use serde_json::json;

use crate::bench::{Bench, error, stdout};

impl Bench {
    /// A folder on the other machine.
    fn there(&self) -> String {
        let there = self.dir.path().join("there");
        fs::create_dir_all(&there).unwrap();
        there.display().to_string()
    }
}

fn mode(path: &str) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[tokio::test(flavor = "multi_thread")]
async fn contents_and_files_arrive_whole_with_their_permissions() {
    let bench = Bench::new();
    let there = bench.there();
    let done = bench.run("upload", json!({"content": "hello\n", "to": format!("{there}/a.txt")})).await;
    assert_eq!(done.outcome, Outcome::Succeeded, "{:?}", done.error);
    assert_eq!((fs::read_to_string(format!("{there}/a.txt")).unwrap().as_str(), mode(&format!("{there}/a.txt"))), ("hello\n", 0o644));
    let done = bench.run("upload", json!({"content_base64": "AP8=", "to": format!("{there}/a.txt"), "mode": "600"})).await;
    assert_eq!(done.data.unwrap()["bytes"], 2);
    assert_eq!((fs::read(format!("{there}/a.txt")).unwrap(), mode(&format!("{there}/a.txt"))), (vec![0, 0xff], 0o600));
    let big: Vec<u8> = (0..5_000_000_u32).flat_map(u32::to_le_bytes).collect();
    let from = format!("{}/big", bench.files);
    fs::write(&from, &big).unwrap();
    fs::set_permissions(&from, fs::Permissions::from_mode(0o750)).unwrap();
    let done = bench.run("upload", json!({"from": from, "to": format!("{there}/big")})).await;
    assert_eq!(done.outcome, Outcome::Succeeded, "{:?}", done.error);
    assert!(fs::read(format!("{there}/big")).unwrap() == big);
    assert_eq!(mode(&format!("{there}/big")), 0o750);
    let done = bench.run("upload", json!({"content": "", "to": format!("{there}/empty")})).await;
    assert_eq!(done.outcome, Outcome::Succeeded, "{:?}", done.error);
    let to = format!("{}/back", bench.files);
    let done = bench.run("download", json!({"path": format!("{there}/big"), "to": to})).await;
    assert_eq!(done.outcome, Outcome::Succeeded, "{:?}", done.error);
    assert!(fs::read(&to).unwrap() == big);
    assert_eq!(mode(&to), 0o700);
    assert_eq!(fs::read_dir(&there).unwrap().count(), 3, "no temporary file is left");
}

#[tokio::test(flavor = "multi_thread")]
async fn small_files_come_back_in_the_result_and_others_only_with_a_place_to_go() {
    let bench = Bench::new();
    let there = bench.there();
    fs::write(format!("{there}/text"), "häh\n").unwrap();
    fs::write(format!("{there}/bytes"), [0xff, 0]).unwrap();
    fs::write(format!("{there}/large"), vec![b'x'; 65 * 1024]).unwrap();
    fs::write(format!("{there}/most"), vec![0xff; 64 * 1024]).unwrap();
    let get = |name: &str| bench.run("download", json!({"path": format!("{there}/{name}")}));
    assert_eq!(get("text").await.data.unwrap()["content"], "häh\n");
    assert_eq!(get("bytes").await.data.unwrap()["content_base64"], "/wA=");
    assert_eq!(get("most").await.data.unwrap()["content_base64"], STANDARD.encode(vec![0xff; 64 * 1024]));
    let (code, message) = error(&get("large").await);
    assert!(code == Code::ResultTooLarge && message.contains("`to`"), "{message}");
    assert_eq!(error(&get("none").await).0, Code::TransferFailed);
    // A file that says that it is empty, and is not.
    let done = bench.run("download", json!({"path": "/proc/version"})).await;
    assert_eq!(done.data.unwrap()["content"], fs::read_to_string("/proc/version").unwrap());
    // One without end.
    let done = bench.run("download", json!({"path": "/dev/zero"})).await;
    assert_eq!(error(&done).0, Code::TransferFailed);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_comes_with_all_that_is_in_it_but_links() {
    let bench = Bench::new();
    let there = bench.there();
    fs::create_dir_all(format!("{there}/d/e/f")).unwrap();
    fs::write(format!("{there}/d/a"), "a").unwrap();
    fs::write(format!("{there}/d/e/b"), "b").unwrap();
    std::os::unix::fs::symlink("/etc", format!("{there}/d/etc")).unwrap();
    let to = format!("{}/got", bench.files);
    let done = bench.run("download", json!({"path": format!("{there}/d"), "to": to, "recursive": true})).await;
    assert_eq!(done.outcome, Outcome::Succeeded, "{:?}", done.error);
    let data = done.data.clone().unwrap();
    assert_eq!((&data["files"], &data["bytes"], &data["skipped"]), (&json!(2), &json!(2), &json!(1)));
    assert_eq!(
        (fs::read_to_string(format!("{to}/a")).unwrap(), fs::read_to_string(format!("{to}/e/b")).unwrap()),
        ("a".into(), "b".into())
    );
    assert!(fs::exists(format!("{to}/e/f")).unwrap() && !fs::exists(format!("{to}/etc")).unwrap());
    assert!(stdout(&done).contains("e/b\n"));
    for params in
        [json!({"path": there}), json!({"path": there, "to": to}), json!({"path": format!("{there}/d/a"), "to": to, "recursive": true})]
    {
        assert_eq!(error(&bench.run("download", params).await).0, Code::TransferFailed);
    }
}

fn archive(entries: &[(&str, &str)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
    for (name, content) in entries {
        let mut header = tar::Header::new_ustar();
        header.set_size(content.len() as u64);
        header.set_mode(0o754);
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        header.set_cksum();
        builder.append(&header, content.as_bytes()).unwrap();
    }
    builder.into_inner().unwrap().finish().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_is_unpacked_there_or_not_touched_at_all() {
    let bench = Bench::new();
    let there = bench.there();
    let from = format!("{}/a.tgz", bench.files);
    fs::write(&from, archive(&[("a", "one"), ("d/e/b", "two")])).unwrap();
    let to = format!("{there}/new");
    let done = bench.run("upload", json!({"from": from, "to": to, "unpack": true})).await;
    assert_eq!(done.outcome, Outcome::Succeeded, "{:?}", done.error);
    assert_eq!(
        (fs::read_to_string(format!("{to}/a")).unwrap(), fs::read_to_string(format!("{to}/d/e/b")).unwrap()),
        ("one".into(), "two".into())
    );
    assert_eq!((mode(&format!("{to}/a")), done.data.unwrap()["files"].clone()), (0o754, json!(2)));
    // The last entry is bad: the first is not written either.
    fs::write(&from, archive(&[("x", "one"), ("../evil", "two")])).unwrap();
    let done = bench.run("upload", json!({"from": from, "to": to, "unpack": true})).await;
    assert_eq!((done.outcome, error(&done).0), (Outcome::Rejected, Code::ArchiveRefused));
    assert!(error(&done).1.contains("../evil") && !fs::exists(format!("{to}/x")).unwrap());
    // A link that lies there already does not lead the files elsewhere.
    fs::write(&from, archive(&[("link/file", "x")])).unwrap();
    fs::create_dir(format!("{there}/elsewhere")).unwrap();
    std::os::unix::fs::symlink(format!("{there}/elsewhere"), format!("{to}/link")).unwrap();
    let done = bench.run("upload", json!({"from": from, "to": to, "unpack": true})).await;
    assert_eq!(error(&done).0, Code::TransferFailed);
    assert_eq!(fs::read_dir(format!("{there}/elsewhere")).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_work_there_says_why_and_leaves_nothing() {
    let bench = Bench::new();
    let there = bench.there();
    for to in [there.clone(), format!("{there}/none/a"), "/proc/version".to_owned()] {
        let done = bench.run("upload", json!({"content": "x", "to": to})).await;
        assert_eq!((done.outcome, error(&done).0), (Outcome::Failed, Code::TransferFailed), "{to}");
    }
    assert_eq!(fs::read_dir(&there).unwrap().count(), 0);
    // Stopped halfway: a FIFO's other end never comes, so a regular file that is too large to be done in time has to do.
    let from = format!("{}/huge", bench.files);
    fs::File::create(&from).unwrap().set_len(20 << 30).unwrap();
    let params = json!({"from": from, "to": format!("{there}/huge")});
    let done = bench.run_with("upload", params, bench.connection(), Duration::from_secs(3)).await;
    assert_eq!(done.outcome, Outcome::TimedOut);
    assert_eq!(fs::read_dir(&there).unwrap().count(), 0, "the half of it was removed");
    let huge = format!("{there}/huge");
    fs::File::create(&huge).unwrap().set_len(10 << 30).unwrap();
    let to = format!("{}/got", bench.files);
    let done = bench.run_with("download", json!({"path": huge, "to": to}), bench.connection(), Duration::from_secs(2)).await;
    assert_eq!(done.outcome, Outcome::TimedOut);
    crate::bench::eventually("the half of it is removed", || fs::read_dir(&bench.files).unwrap().count() == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn params_that_do_not_fit_are_refused_by_their_field() {
    let bench = Bench::new();
    let beneath = format!("{}/a", bench.files);
    for (verb, params, code, word) in [
        ("upload", json!({"content": "x"}), Code::ParamsInvalid, "params.to"),
        ("upload", json!({"to": "x"}), Code::ParamsInvalid, "params.from"),
        ("upload", json!({"to": "x", "content": "x", "from": beneath}), Code::ParamsInvalid, "params.from"),
        ("upload", json!({"to": "x", "content_base64": "?"}), Code::ParamsInvalid, "params.content_base64"),
        ("upload", json!({"to": "x", "content": "x", "unpack": true}), Code::ParamsInvalid, "params.unpack"),
        ("upload", json!({"to": "x", "from": beneath, "unpack": true, "mode": "644"}), Code::ParamsInvalid, "params.mode"),
        ("upload", json!({"to": "x", "content": "x", "mode": "4755"}), Code::ParamsInvalid, "params.mode"),
        ("upload", json!({"to": "x", "content": "x", "mode": "+6"}), Code::ParamsInvalid, "params.mode"),
        ("upload", json!({"to": "", "content": "x"}), Code::ParamsInvalid, "params.to"),
        ("upload", json!({"to": "x", "from": "/etc/shadow"}), Code::SettingForbids, "FILES_ROOTS"),
        ("upload", json!({"to": "x", "from": "/proc/self/environ"}), Code::SettingForbids, "FILES_ROOTS"),
        ("upload", json!({"to": "x", "from": format!("{beneath}/../../key")}), Code::ParamsInvalid, "params.from"),
        ("download", json!({}), Code::ParamsInvalid, "params.path"),
        ("download", json!({"path": "x", "recursive": true}), Code::ParamsInvalid, "params.recursive"),
        ("download", json!({"path": "x", "to": "/etc/passwd"}), Code::SettingForbids, "FILES_ROOTS"),
        ("download", json!({"path": "x", "to": "a"}), Code::SettingForbids, "FILES_ROOTS"),
        ("download", json!({"path": "x", "follow": true}), Code::ParamsInvalid, "params.follow"),
    ] {
        let (refused, message) = bench.refusal(verb, params.clone());
        assert!(refused == code && message.contains(word), "{params}: {message}");
    }
}
