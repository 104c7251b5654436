//! Which settings and credentials fit, and that the page for people says the same.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail by panicking")]

use std::fmt::Write as _;

use proptest::prelude::*;
use serde_json::json;

use super::*;

const PEM: &str = "-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----\n";
const KEY: &str = "-----BEGIN PRIVATE KEY-----\nx\n-----END PRIVATE KEY-----\n";

fn good(kind: ConnectionKind) -> Value {
    match kind {
        ConnectionKind::Http => json!({"base_url": "https://api.example.com/v1", "auth": "basic", "header": "x-key", "ca": PEM}),
        ConnectionKind::Ssh => {
            json!({"host": "db-1.lan", "port": 22, "user": "root", "host_keys": ["ssh-ed25519 AAAAC3Nz"], "first_use": false})
        }
        ConnectionKind::Registry => json!({"registry": "registry.lan:5000"}),
        ConnectionKind::Kubernetes => json!({"server": "https://[::1]:6443", "ca": PEM, "namespace": "web", "context": "prod"}),
        ConnectionKind::Secret => json!({"anything": {"goes": [1]}}),
    }
}

fn fields(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// What is wrong with these credentials.
fn misfit(kind: ConnectionKind, settings: &Value, pairs: &[(&str, &str)]) -> Option<String> {
    let misfit = credentials(kind, settings, &fields(pairs)).err()?;
    assert_eq!(misfit.code(), Code::CredentialsInvalid);
    Some(misfit.to_string())
}

#[test]
fn each_kind_takes_its_settings_and_refuses_them_wrong_missing_or_with_another() {
    for kind in ConnectionKind::ALL {
        settings(kind, &good(kind)).unwrap();
        assert!(settings(kind, &json!([])).is_err() && settings(kind, &json!("x")).is_err());
        for Setting { name, required, .. } in kind.settings().into_iter().flatten() {
            for wrong in [json!({}), json!([]), json!(""), json!(1.5), json!("a\nb"), json!([""]), json!(0), json!("x".repeat(5000))] {
                let mut given = good(kind);
                given[*name] = wrong.clone();
                let misfit = settings(kind, &given).unwrap_err();
                assert_eq!(
                    (misfit.code(), misfit.to_string().contains(&format!("`{name}`"))),
                    (Code::SettingsInvalid, true),
                    "{wrong}: {misfit}"
                );
            }
            let mut given = good(kind);
            given[*name] = Value::Null;
            assert_eq!(settings(kind, &given).is_err(), *required, "{name}");
        }
        let mut given = good(kind);
        given["pasword"] = json!("x");
        assert_eq!(settings(kind, &given).is_err(), kind != ConnectionKind::Secret);
    }
    assert!(settings(ConnectionKind::Secret, &json!({"a": "x".repeat(SETTINGS_LIMIT)})).is_err());
    assert!(settings(ConnectionKind::Secret, &Value::Null).is_ok());
}

#[test]
fn a_url_or_a_host_smuggles_nothing() {
    for wrong in [
        "ftp://a",
        "http://",
        "https://user:hunter2@a/",
        "https://a?x=1",
        "https://a#x",
        "https://a b",
        "//a",
        "a",
        "https://a:0/",
        "https://a:99999",
        "https://a\\@b",
        "https://[::1",
        "https://-a",
    ] {
        assert!(!Form::Url.fits(&json!(wrong)), "{wrong}");
    }
    for right in ["http://a", "https://a.b:8443/x/y", "http://[::1]:80/", "http://10.0.0.1"] {
        assert!(Form::Url.fits(&json!(right)), "{right}");
    }
    for wrong in ["a:22", "-oProxyCommand=x", "a b", "", "a/b", "a@b"] {
        assert!(!Form::Host.fits(&json!(wrong)), "{wrong}");
    }
    assert!(Form::Host.fits(&json!("::1")) && Form::Host.fits(&json!("db-1.lan")));
}

#[test]
fn the_settings_say_which_credentials_there_must_be() {
    let http = |auth: &str| json!({"base_url": "https://a", "auth": auth});
    let kind = ConnectionKind::Http;
    assert_eq!(misfit(kind, &http("basic"), &[("username", "u"), ("password", "p")]), None);
    assert_eq!(misfit(kind, &http("mtls"), &[("certificate", PEM), ("private_key", KEY)]), None);
    for (auth, given, names) in [
        ("basic", &[("username", "u")][..], "`password`: missing"),
        ("bearer", &[("password", "p")], "`password`: unknown"),
        ("bearer", &[("token", "")], "`token`: it is empty"),
        ("header", &[("value", "a\r\nb: c")], "`value`: it is text of one line"),
        ("mtls", &[("certificate", "x"), ("private_key", KEY)], "`certificate`: it is no certificate"),
        ("mtls", &[("certificate", PEM), ("private_key", "hunter2hunter2")], "`private_key`: it is no private key"),
    ] {
        let said = misfit(kind, &http(auth), given).unwrap();
        assert!(said.contains(names) && !said.contains("hunter2"), "{said}");
    }
    let ssh = good(ConnectionKind::Ssh);
    assert_eq!(misfit(ConnectionKind::Ssh, &ssh, &[("private_key", KEY), ("passphrase", "p")]), None);
    assert!(misfit(ConnectionKind::Ssh, &ssh, &[("passphrase", "p")]).unwrap().contains("`private_key`: missing"));
    assert!(
        misfit(ConnectionKind::Ssh, &ssh, &[("password", "p"), ("passphrase", "p")]).unwrap().contains("`passphrase`: goes with another")
    );
    assert!(misfit(ConnectionKind::Ssh, &ssh, &[]).unwrap().contains("there is none"));
    assert!(misfit(ConnectionKind::Kubernetes, &json!({}), &[("token", "t")]).unwrap().contains("`token`: unknown; it takes kubeconfig"));
    assert_eq!(misfit(ConnectionKind::Kubernetes, &good(ConnectionKind::Kubernetes), &[("token", "t")]), None);
}

#[test]
fn a_secret_has_any_fields_within_bounds() {
    let kind = ConnectionKind::Secret;
    assert_eq!(misfit(kind, &Value::Null, &[("api.key-2_x", "v\nw")]), None);
    for name in ["", "a b", "ü", &"a".repeat(65)] {
        assert!(misfit(kind, &Value::Null, &[(name, "v")]).is_some(), "{name}");
    }
    assert!(misfit(kind, &Value::Null, &[("a", "\0")]).unwrap().contains("NUL"));
    assert!(misfit(kind, &Value::Null, &[("a", &"x".repeat(CREDENTIALS_LIMIT))]).unwrap().contains("at most"));
    let many: Vec<String> = (0..=FIELDS_MAX).map(|n| format!("f{n}")).collect();
    assert!(misfit(kind, &Value::Null, &many.iter().map(|name| (name.as_str(), "v")).collect::<Vec<_>>()).unwrap().contains("33 fields"));
}

#[test]
fn every_way_has_only_fields_that_its_kind_knows() {
    for kind in ConnectionKind::ALL {
        for name in kind.ways().iter().flat_map(|way| way.required.iter().chain(way.optional)) {
            assert!(kind.credential_fields().contains(name), "{name} of {}", kind.as_str());
        }
        for name in kind.credential_fields() {
            assert!(kind.ways().iter().any(|way| way.takes(name)), "{name} of {}", kind.as_str());
        }
    }
}

#[test]
fn the_page_about_connections_has_every_setting_and_every_way() {
    let page = include_str!("../../../../docs/connections.md");
    for kind in ConnectionKind::ALL {
        let mut rows = String::new();
        for Setting { name, required, form, about } in kind.settings().into_iter().flatten() {
            let required = if *required { "yes" } else { "no" };
            writeln!(rows, "| `{name}` | {required} | {} | {about} |", form.describe()).unwrap();
        }
        let section = page.split("\n### ").find(|section| section.starts_with(&format!("{}\n", kind.as_str())));
        let section = section.unwrap_or_else(|| panic!("docs/connections.md has no section `### {}`", kind.as_str()));
        assert!(section.contains(&rows), "docs/connections.md, {}: its settings are to be\n{rows}", kind.as_str());
        for Way { when, required, optional, settings } in kind.ways() {
            let mut row = format!("- `{}`", required.join("`, `"));
            optional.iter().for_each(|name| write!(row, ", `{name}` if it has one").unwrap());
            when.iter().for_each(|(name, value)| write!(row, " with the {name} `{value}`").unwrap());
            settings.iter().for_each(|name| write!(row, " with a `{name}`").unwrap());
            assert!(section.contains(&format!("{row}\n")), "docs/connections.md, {}: it lacks\n{row}", kind.as_str());
        }
    }
}

proptest! {
    #[test]
    fn no_settings_and_no_credentials_make_the_checks_panic(text in ".{0,80}", name in ".{0,20}", value in ".{0,60}") {
        for kind in ConnectionKind::ALL {
            for setting in kind.settings().into_iter().flatten() {
                let mut given = good(kind);
                given[setting.name] = json!(text);
                let _ = settings(kind, &given);
            }
            if let Err(misfit) = credentials(kind, &good(kind), &fields(&[(&name, &value)])) {
                prop_assert!(value.len() < 16 || !misfit.to_string().contains(&value));
            }
        }
    }
}
