//! Tests of [`super`].
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests fail by panicking")]

use std::os::unix::fs::PermissionsExt;

use super::*;

const ONE: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ";
const TWO: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILM+rvN+ot98qgEN796jTiQfZfG1KaT0PtFDJ/XFSqti";

fn key(text: &str) -> PublicKey {
    PublicKey::from_openssh(text).unwrap()
}

fn target(port: u16, host_keys: &[&str], first_use: bool) -> Target {
    Target { host: "box".into(), port, user: "me".into(), host_keys: host_keys.iter().map(|text| key(text)).collect(), first_use }
}

fn code(judged: Result<(), Problem>) -> Code {
    judged.unwrap_err().code
}

#[test]
fn the_settings_have_the_last_word_and_without_them_nobody_is_trusted() {
    let dir = tempfile::tempdir().unwrap();
    let keys = HostKeys::new(dir.path().join("known_hosts"));
    keys.judge(&target(22, &[TWO, ONE], false), &key(ONE)).unwrap();
    assert_eq!(code(keys.judge(&target(22, &[TWO], true), &key(ONE))), Code::HostKeyChanged);
    let unknown = keys.judge(&target(22, &[], false), &key(ONE)).unwrap_err();
    assert_eq!(unknown.code, Code::HostKeyUnknown);
    assert!(unknown.message.contains(&key(ONE).fingerprint(Default::default()).to_string()), "{}", unknown.message);
    assert!(!dir.path().join("known_hosts").exists());
}

#[test]
fn the_key_of_the_first_use_is_kept_for_its_machine_and_port() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("known_hosts");
    HostKeys::new(path.clone()).judge(&target(2222, &[], true), &key(ONE)).unwrap();
    let keys = HostKeys::new(path.clone());
    keys.judge(&target(2222, &[], true), &key(ONE)).unwrap();
    let problem = keys.judge(&target(2222, &[], true), &key(TWO)).unwrap_err();
    assert_eq!(problem.code, Code::HostKeyChanged);
    for word in [fingerprint(&key(ONE)), fingerprint(&key(TWO)), path.display().to_string()] {
        assert!(problem.message.contains(&word), "{} lacks {word}", problem.message);
    }
    keys.judge(&target(22, &[], true), &key(TWO)).unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), format!("[box]:2222 {ONE}\nbox {TWO}\n"));
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "no temporary file is left");
}

#[test]
fn of_two_first_uses_at_once_one_is_the_first() {
    for _ in 0..50 {
        let dir = tempfile::tempdir().unwrap();
        let keys = HostKeys::new(dir.path().join("known_hosts"));
        let outcomes: Vec<bool> = std::thread::scope(|scope| {
            let both = [ONE, TWO].map(|text| scope.spawn(|| keys.judge(&target(22, &[], true), &key(text)).is_ok()));
            both.into_iter().map(|one| one.join().unwrap()).collect()
        });
        assert_eq!(outcomes.iter().filter(|taken| **taken).count(), 1);
        assert_eq!(fs::read_to_string(dir.path().join("known_hosts")).unwrap().lines().count(), 1);
    }
}

#[test]
fn a_file_that_cannot_be_read_or_written_trusts_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("known_hosts");
    for broken in ["box\n", "box ssh-ed25519 AAAA\n", "box \u{0}\n"] {
        fs::write(&path, broken).unwrap();
        assert_eq!(code(HostKeys::new(path.clone()).judge(&target(22, &[], true), &key(ONE))), Code::Internal, "{broken:?}");
    }
    let nowhere = HostKeys::new(dir.path().join("none/known_hosts"));
    assert_eq!(code(nowhere.judge(&target(22, &[], true), &key(ONE))), Code::Internal);
}
