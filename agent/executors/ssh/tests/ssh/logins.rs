//! Who is let in where: credentials and host keys.

use std::fs;

use muster_schemas::{code::Code, result::Outcome};
use serde_json::{Value, json};

use crate::{
    bench::{Bench, LONG, connection, error, stdout},
    sshd::{self, User},
};

async fn whoami(bench: &Bench, settings: Value, credentials: &[(&str, &str)]) -> Result<String, (Code, String)> {
    let done = bench.run_with("run", json!({"command": "id -un"}), connection(settings, credentials), LONG).await;
    if done.outcome == Outcome::Succeeded { Ok(stdout(&done)) } else { Err(error(&done)) }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_usual_kind_of_key_lets_in_encrypted_ones_with_their_passphrase() {
    let bench = Bench::new();
    for (name, kind) in
        [("e", &["ed25519"][..]), ("r", &["rsa", "-b", "2048"]), ("c", &["ecdsa"]), ("p", &["rsa", "-b", "2048", "-m", "PEM"])]
    {
        let path = sshd::key(bench.dir.path(), name, kind, "");
        bench.sshd.authorize(&path);
        let key = fs::read_to_string(path).unwrap();
        let user = whoami(&bench, bench.settings(), &[("private_key", &key)]).await;
        assert_eq!(user.unwrap_or_else(|error| panic!("{kind:?}: {error:?}")), format!("{}\n", crate::bench::me()));
    }
    // Few rounds, as they are slow on purpose.
    let path = sshd::key(bench.dir.path(), "locked", &["ed25519", "-a", "1"], "open sesame");
    bench.sshd.authorize(&path);
    let key = fs::read_to_string(path).unwrap();
    whoami(&bench, bench.settings(), &[("private_key", &key), ("passphrase", "open sesame")]).await.unwrap();
    for credentials in [&[("private_key", key.as_str())][..], &[("private_key", &key), ("passphrase", "wrong")]] {
        let (code, message) = whoami(&bench, bench.settings(), credentials).await.unwrap_err();
        assert!(code == Code::CredentialsInvalid && message.contains("passphrase"), "{message}");
    }
    let (code, message) = whoami(&bench, bench.settings(), &[("private_key", "c2VjcmV0IGtleQ==")]).await.unwrap_err();
    assert!(code == Code::CredentialsInvalid && !message.contains("c2VjcmV0"), "{message}");
    assert_eq!(whoami(&bench, bench.settings(), &[]).await.unwrap_err().0, Code::CredentialsInvalid);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_not_known_there_and_a_wrong_password_are_refused() {
    let bench = Bench::new();
    let other = fs::read_to_string(sshd::key(bench.dir.path(), "other", &["ed25519"], "")).unwrap();
    let (code, message) = whoami(&bench, bench.settings(), &[("private_key", &other)]).await.unwrap_err();
    assert!(code == Code::LoginRefused && message.contains("publickey"), "{message}");
    let (code, message) = whoami(&bench, bench.settings(), &[("private_key", &other), ("password", "wrong-wrong")]).await.unwrap_err();
    assert!(code == Code::LoginRefused && message.contains("the private key and the password"), "{message}");
    assert!(!message.contains("wrong-wrong"));
    // Only root can make somebody with a password.
    if sshd::is_root() {
        let user = User::new("hunter2-hunter2");
        let mut settings = bench.settings();
        settings["user"] = json!(user.name);
        let name = whoami(&bench, settings.clone(), &[("password", "hunter2-hunter2")]).await.unwrap();
        assert_eq!(name.trim(), user.name);
        assert_eq!(whoami(&bench, settings, &[("password", "hunter3-hunter3")]).await.unwrap_err().0, Code::LoginRefused);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_nobody_vouches_for_is_refused_before_anything_is_sent() {
    let bench = Bench::new();
    let mut settings = bench.settings();
    settings.as_object_mut().unwrap().remove("host_keys");
    let key = fs::read_to_string(&bench.key).unwrap();
    let (code, message) = whoami(&bench, settings.clone(), &[("private_key", &key)]).await.unwrap_err();
    let fingerprint = sshd::run("ssh-keygen", &["-lf", bench.sshd.dir.join("host.pub").to_str().unwrap()]);
    let fingerprint = fingerprint.split(' ').nth(1).unwrap();
    assert!(code == Code::HostKeyUnknown && message.contains(fingerprint) && message.contains("first_use"), "{message}");
    settings["first_use"] = json!(true);
    whoami(&bench, settings.clone(), &[("private_key", &key)]).await.unwrap();
    let pinned = fs::read_to_string(bench.known_hosts()).unwrap();
    assert_eq!(pinned, format!("[127.0.0.1]:{} {}\n", bench.sshd.port, bench.sshd.host_key()));
    whoami(&bench, settings.clone(), &[("private_key", &key)]).await.unwrap();
    bench.sshd.change_host_key();
    let (code, message) = whoami(&bench, settings, &[("private_key", &key)]).await.unwrap_err();
    assert!(code == Code::HostKeyChanged && message.contains(fingerprint), "{message}");
    assert_eq!(fs::read_to_string(bench.known_hosts()).unwrap(), pinned);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_machine_with_several_keys_the_known_one_is_asked_for() {
    let bench = Bench::new();
    let key = fs::read_to_string(&bench.key).unwrap();
    let mut settings = bench.settings();
    let rsa = fs::read_to_string(bench.sshd.dir.join("host_rsa.pub")).unwrap();
    settings["host_keys"] = json!([rsa]);
    whoami(&bench, settings.clone(), &[("private_key", &key)]).await.unwrap();
    let stranger = sshd::key(bench.dir.path(), "stranger", &["ed25519"], "");
    settings["host_keys"] = json!([fs::read_to_string(stranger.with_extension("pub")).unwrap()]);
    settings["first_use"] = json!(true);
    assert_eq!(whoami(&bench, settings, &[("private_key", &key)]).await.unwrap_err().0, Code::HostKeyChanged);
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_that_do_not_fit_are_refused_by_their_field() {
    let bench = Bench::new();
    for (field, value) in [
        ("host", json!("")),
        ("host", json!("a b")),
        ("host", json!(null)),
        ("port", json!(0)),
        ("port", json!(65536)),
        ("user", json!(null)),
        ("host_keys", json!(["ssh-ed25519 nonsense"])),
        ("host_keys", json!("ssh-ed25519")),
        ("first_use", json!("yes")),
        ("agent_forward", json!(true)),
    ] {
        let mut settings = bench.settings();
        settings[field] = value.clone();
        let (code, message) = whoami(&bench, settings, &[("password", "x")]).await.unwrap_err();
        assert!(code == Code::SettingsInvalid && message.contains(field) && message.contains("`box`"), "{field} {value}: {message}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_probe_connects_and_logs_in() {
    let bench = Bench::new();
    let done = bench.run("probe", json!({})).await;
    assert_eq!(done.outcome, Outcome::Succeeded, "{:?}", done.error);
    let done = bench.run_with("probe", json!({}), connection(bench.settings(), &[("password", "wrong-wrong")]), LONG).await;
    assert_eq!(error(&done).0, Code::LoginRefused);
}
