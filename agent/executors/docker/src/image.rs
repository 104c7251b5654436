//! Names of images: which registry one is from, and whether it is a name at all. It becomes part of paths of the engine's API, so nothing odd gets through.

use std::{fmt, str::FromStr};

/// The registry of names that name none.
const HUB: &str = "docker.io";

/// Names by which people know that registry.
const HUB_NAMES: [&str; 4] = [HUB, "index.docker.io", "registry-1.docker.io", "hub.docker.com"];

/// Longest name.
const NAME_BYTES: usize = 512;

/// `[registry[:port]/]path[:tag][@digest]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Image {
    text: String,
    registry: Registry,
    has_version: bool,
}

impl Image {
    /// The name as the engine's API takes it: with a tag or a digest, since without one it would pull every tag that there is.
    pub(crate) fn full(&self) -> String {
        if self.has_version { self.text.clone() } else { format!("{}:latest", self.text) }
    }

    /// Where it is pulled from.
    pub(crate) fn registry(&self) -> &Registry {
        &self.registry
    }
}

impl fmt::Display for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for Image {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{}` is not the name of an image, such as `registry.example.com/team/app:1.2`", shown(text));
        if text.is_empty() || text.len() > NAME_BYTES {
            return Err(wrong());
        }
        let (rest, digest) = text.split_once('@').map_or((text, None), |(rest, digest)| (rest, Some(digest)));
        if digest.is_some_and(|digest| !is_digest(digest)) {
            return Err(wrong());
        }
        let (host, path) = match rest.split_once('/') {
            Some((host, path)) if host.contains(['.', ':']) || host == "localhost" => (Some(host), path),
            _ => (None, rest),
        };
        let (path, tag) = path.split_once(':').map_or((path, None), |(path, tag)| (path, Some(tag)));
        if !path.split('/').all(is_component) || tag.is_some_and(|tag| !is_tag(tag)) {
            return Err(wrong());
        }
        let registry = host.unwrap_or(HUB).parse().map_err(|_| wrong())?;
        Ok(Self { text: text.to_owned(), registry, has_version: tag.is_some() || digest.is_some() })
    }
}

/// A registry: host, and port if any; names of Docker's own one are all the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Registry(String);

impl Registry {
    /// What the engine calls it where it is given credentials.
    pub(crate) fn address(&self) -> &str {
        if self.0 == HUB { "https://index.docker.io/v1/" } else { &self.0 }
    }
}

impl fmt::Display for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Registry {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (host, port) = text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port)));
        let label = |label: &str| {
            let fits = label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
            !label.is_empty() && fits && !label.starts_with('-') && !label.ends_with('-')
        };
        if !host.split('.').all(label) || port.is_some_and(|port| port.parse::<u16>().is_err()) {
            return Err(format!("`{}` is not a registry: a host, and `:port` where it needs one", shown(text)));
        }
        let text = text.to_ascii_lowercase();
        Ok(Self(if HUB_NAMES.contains(&text.as_str()) { HUB.to_owned() } else { text }))
    }
}

/// Lower case letters and digits, with `.`, `_`, `__` or any number of `-` between.
fn is_component(text: &str) -> bool {
    let separators = text.split(|letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit());
    let ends_well = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    ends_well(text.bytes().next())
        && ends_well(text.bytes().last())
        && separators.into_iter().all(|separator| matches!(separator, "" | "." | "_" | "__") || separator.bytes().all(|byte| byte == b'-'))
}

fn is_tag(text: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    (1..=128).contains(&text.len()) && text.bytes().all(fits) && !text.starts_with(['.', '-'])
}

fn is_digest(text: &str) -> bool {
    text.strip_prefix("sha256:").is_some_and(|hex| hex.len() == 64 && hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')))
}

fn shown(text: &str) -> String {
    muster_executor::fields::shown(text)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_name_says_its_registry_and_its_version() {
        let digest = format!("app@sha256:{}", "0a".repeat(32));
        for (text, registry, full) in [
            ("debian", "docker.io", "debian:latest"),
            ("library/debian:12", "docker.io", "library/debian:12"),
            ("registry-1.docker.io/a/b:c", "docker.io", "registry-1.docker.io/a/b:c"),
            ("localhost/app", "localhost", "localhost/app:latest"),
            ("127.0.0.1:5000/app:1", "127.0.0.1:5000", "127.0.0.1:5000/app:1"),
            ("Reg.Example.com/a__b/c-d", "reg.example.com", "Reg.Example.com/a__b/c-d:latest"),
            (&digest, "docker.io", &digest),
        ] {
            let image: Image = text.parse().unwrap();
            assert_eq!((image.registry().to_string().as_str(), image.full().as_str()), (registry, full), "{text}");
        }
    }

    #[test]
    fn what_is_no_name_of_an_image_is_refused() {
        for text in [
            "",
            "App",
            "a//b",
            "../x",
            "a/../b",
            "a?x=1",
            "a b",
            "a:",
            "a:-x",
            "a@sha256:zz",
            "-a",
            "a-",
            "a..b",
            "a___b",
            "h.x:99999/a",
            "https://h.x/a",
            "a\n",
            "a:b:c",
            "h.x/",
        ] {
            assert!(text.parse::<Image>().is_err(), "{text:?}");
        }
    }

    proptest! {
        /// It becomes part of a path of the engine's API.
        #[test]
        fn no_name_of_an_image_leaves_its_place_in_a_path(text in "[a-z0-9./:@?#%_-]{1,24}") {
            if text.parse::<Image>().is_ok() {
                prop_assert!(!text.contains(['?', '#', '%']) && !text.split('/').any(|part| part.is_empty() || part == ".."), "{}", text);
            }
        }
    }
}
