//! Which gateway, with which key: flags and environment, then a named profile, then the one that `muster up` left.
//!
//! A key goes only where it belongs: with an address of the caller's own, a profile's key is used only if the address is the profile's.

use std::path::PathBuf;

use anyhow::bail;

use crate::{
    args::Global,
    failure::Failure,
    profile::{self, LOCAL, Profile, Profiles},
};

/// A gateway and the key for it.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Target {
    /// Without a slash at its end.
    pub(crate) url: String,
    /// The key, if there is one.
    pub(crate) api_key: Option<String>,
    /// Certificates that its one must be signed by, if not the system's.
    pub(crate) ca: Option<PathBuf>,
}

impl std::fmt::Debug for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Target").field("url", &self.url).finish_non_exhaustive()
    }
}

/// Finds the gateway.
pub(crate) fn find(global: &Global) -> anyhow::Result<Target> {
    let profiles = profile::path().and_then(|path| {
        if profile::is_open_to_others(&path) {
            crate::output::warn(&format!("others can read the keys in {}; run: chmod 600 {0}", path.display()));
        }
        Profiles::load(&path)
    });
    // Profiles that cannot be read matter only to whoever needs one.
    match (&global.url, &global.profile) {
        (Some(_), None) => choose(global, &profiles.unwrap_or_default()),
        _ => choose(global, &profiles?),
    }
}

fn choose(global: &Global, profiles: &Profiles) -> anyhow::Result<Target> {
    let flag = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    let (url, key) = (flag(&global.url), flag(&global.api_key));
    let ca = global.ca.clone().filter(|path| !path.as_os_str().is_empty());
    let name = flag(&global.profile);
    let profile = match &name {
        Some(name) => match profiles.profiles.get(name) {
            Some(profile) => Some(profile),
            None => bail!(unknown_profile(name, profiles)),
        },
        None => match &url {
            Some(url) => profiles.profiles.values().find(|profile| same(&profile.url, url)),
            None => profiles.profiles.get(LOCAL),
        },
    };
    let of_profile = |profile: &Profile| profile.api_key.clone();
    match (url, profile) {
        (Some(url), profile) => {
            let fitting = profile.filter(|profile| same(&profile.url, &url));
            let ca = ca.or_else(|| fitting.and_then(|profile| profile.ca.clone()));
            Ok(Target { api_key: key.or_else(|| fitting.and_then(of_profile)), ca, url: trimmed(&url)? })
        }
        (None, Some(profile)) => {
            let ca = ca.or_else(|| profile.ca.clone());
            Ok(Target { api_key: key.or_else(|| of_profile(profile)), ca, url: trimmed(&profile.url)? })
        }
        (None, None) => bail!(
            Failure::new("no gateway is given")
                .hint("start one here with `muster up`, or say which: --url and --api-key, MUSTER_URL and MUSTER_API_KEY, or a --profile")
        ),
    }
}

fn unknown_profile(name: &str, profiles: &Profiles) -> Failure {
    let known = profiles.profiles.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
    let hint = if known.is_empty() { "there are none yet".to_owned() } else { format!("there are: {known}") };
    Failure::new(format!("there is no profile `{name}`")).hint(hint)
}

fn same(one: &str, other: &str) -> bool {
    one.trim_end_matches('/') == other.trim_end_matches('/')
}

fn trimmed(url: &str) -> anyhow::Result<String> {
    let lower = url.to_ascii_lowercase();
    if !lower.starts_with("http://") && !lower.starts_with("https://") {
        bail!(Failure::new(format!("`{url}` is not the address of a gateway")).hint("write it as http://host:port or https://host"));
    }
    Ok(url.trim_end_matches('/').to_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;

    fn profiles() -> Profiles {
        let profile = |url: &str, key: &str| Profile { url: url.into(), api_key: Some(key.into()), ca: None, data_dir: None };
        Profiles {
            profiles: [(LOCAL.to_owned(), profile("http://l:1", "local-key")), ("prod".to_owned(), profile("https://p", "prod-key"))]
                .into(),
        }
    }

    fn found(url: Option<&str>, key: Option<&str>, name: Option<&str>) -> (String, Option<String>) {
        let own = |text: Option<&str>| text.map(str::to_owned);
        let global = Global { url: own(url), api_key: own(key), profile: own(name), ..Global::default() };
        let target = choose(&global, &profiles()).unwrap();
        (target.url, target.api_key)
    }

    #[test]
    fn without_a_word_it_is_what_up_left() {
        assert_eq!(found(None, None, None), ("http://l:1".into(), Some("local-key".into())));
        // docker-compose passes what is unset as empty.
        assert_eq!(found(Some(""), Some(""), Some("")), ("http://l:1".into(), Some("local-key".into())));
    }

    #[test]
    fn flags_win_over_profiles() {
        assert_eq!(found(Some("http://x/"), Some("k"), Some("prod")), ("http://x".into(), Some("k".into())));
        assert_eq!(found(None, Some("k"), Some("prod")), ("https://p".into(), Some("k".into())));
    }

    #[test]
    fn a_key_is_never_sent_to_an_address_it_is_not_for() {
        assert_eq!(found(Some("http://evil"), None, None).1, None);
        assert_eq!(found(Some("http://evil"), None, Some("prod")).1, None);
        assert_eq!(found(Some("https://p/"), None, None).1, Some("prod-key".into()));
    }

    #[test]
    fn an_unknown_profile_or_no_gateway_says_what_to_do() {
        let unknown = Global { profile: Some("dev".into()), ..Global::default() };
        let failure = |error: anyhow::Error| error.downcast::<Failure>().unwrap();
        let failed = failure(choose(&unknown, &profiles()).unwrap_err());
        assert!(failed.message.contains("dev") && failed.hint.as_ref().unwrap().contains("local, prod"), "{failed:?}");
        let failed = failure(choose(&Global::default(), &Profiles::default()).unwrap_err());
        assert!(failed.hint.as_ref().unwrap().contains("muster up"), "{failed:?}");
        assert!(choose(&Global { url: Some("l:1".into()), ..Global::default() }, &profiles()).is_err());
    }
}
