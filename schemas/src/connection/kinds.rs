//! What each kind of connection takes: its settings, and the credentials that go with them. One table, for whoever checks and for whoever asks.
//!
//! `docs/connections.md` shows it to people; a test keeps the two in step.

use super::ConnectionKind;

/// What a setting's value has to look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Text of one line.
    Line,
    /// Certificates, PEM.
    Certificates,
    /// An `http` or `https` URL without user, query and fragment.
    Url,
    /// A host name or address, without a port.
    Host,
    /// A host name or address, with a port or without.
    HostAndPort,
    /// A TCP port.
    Port,
    /// The name of a header.
    HeaderName,
    /// One of these words.
    OneOf(&'static [&'static str]),
    /// Public keys of SSH hosts, each as `ssh-ed25519 AAAA…`.
    HostKeys,
    /// True or false.
    Flag,
}

/// A setting of a kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Setting {
    /// Its name.
    pub name: &'static str,
    /// Whether it has to be there.
    pub required: bool,
    /// What its value looks like.
    pub form: Form,
    /// What it means, for people.
    pub about: &'static str,
}

/// One way to prove who connects: the fields that the credentials then have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Way {
    /// The setting and its value with which this is the way; none is whichever way the fields fit.
    pub when: Option<(&'static str, &'static str)>,
    /// Fields that have to be there.
    pub required: &'static [&'static str],
    /// Fields that may be there.
    pub optional: &'static [&'static str],
    /// Settings that have to be there with it.
    pub settings: &'static [&'static str],
}

const fn setting(name: &'static str, required: bool, form: Form, about: &'static str) -> Setting {
    Setting { name, required, form, about }
}

const fn way(required: &'static [&'static str]) -> Way {
    Way { when: None, required, optional: &[], settings: &[] }
}

const fn when(setting: &'static str, value: &'static str, required: &'static [&'static str]) -> Way {
    Way { when: Some((setting, value)), required, optional: &[], settings: &[] }
}

const HTTP: &[Setting] = &[
    setting("base_url", true, Form::Url, "where the service is; jobs may ask for URLs below it, and for no others"),
    setting("auth", true, Form::OneOf(&["basic", "bearer", "header", "mtls"]), "how the service knows who asks"),
    setting("header", false, Form::HeaderName, "the header that carries the secret, with the auth `header`; `authorization` if absent"),
    setting("ca", false, Form::Certificates, "what the service's certificate has to be signed by; the system's authorities if absent"),
];

const SSH: &[Setting] = &[
    setting("host", true, Form::Host, "the machine"),
    setting("port", false, Form::Port, "its port; 22 if absent"),
    setting("user", true, Form::Line, "the user there"),
    setting("host_keys", false, Form::HostKeys, "its public keys: another one is refused"),
    setting("first_use", false, Form::Flag, "whether to trust, and to remember, the key that it shows first"),
];

const REGISTRY: &[Setting] = &[setting("registry", true, Form::HostAndPort, "the registry, such as `ghcr.io` or `registry.lan:5000`")];

const KUBERNETES: &[Setting] = &[
    setting("server", false, Form::Url, "the API server; needed unless the credentials are a kubeconfig"),
    setting("ca", false, Form::Certificates, "what the server's certificate has to be signed by"),
    setting("namespace", false, Form::Line, "the namespace of jobs that name none"),
    setting("context", false, Form::Line, "which context of a kubeconfig; its current one if absent"),
];

const HTTP_WAYS: &[Way] = &[
    when("auth", "basic", &["username", "password"]),
    when("auth", "bearer", &["token"]),
    when("auth", "header", &["value"]),
    when("auth", "mtls", &["certificate", "private_key"]),
];

const SSH_WAYS: &[Way] = &[Way { optional: &["passphrase"], ..way(&["private_key"]) }, way(&["password"])];

const REGISTRY_WAYS: &[Way] = &[way(&["username", "password"])];

const KUBERNETES_WAYS: &[Way] = &[
    way(&["kubeconfig"]),
    Way { settings: &["server"], ..way(&["token"]) },
    Way { settings: &["server"], ..way(&["certificate", "private_key"]) },
];

impl ConnectionKind {
    /// The settings that it takes; `None` is any.
    pub fn settings(self) -> Option<&'static [Setting]> {
        match self {
            Self::Http => Some(HTTP),
            Self::Ssh => Some(SSH),
            Self::Registry => Some(REGISTRY),
            Self::Kubernetes => Some(KUBERNETES),
            Self::Secret => None,
        }
    }

    /// The credentials that it takes, one of these; empty is any fields.
    pub fn ways(self) -> &'static [Way] {
        match self {
            Self::Http => HTTP_WAYS,
            Self::Ssh => SSH_WAYS,
            Self::Registry => REGISTRY_WAYS,
            Self::Kubernetes => KUBERNETES_WAYS,
            Self::Secret => &[],
        }
    }
}

impl Form {
    /// What a value of it is, for people.
    pub fn describe(self) -> String {
        match self {
            Self::Line => "text of one line".into(),
            Self::Certificates => "certificates, PEM".into(),
            Self::Url => "a URL with http or https".into(),
            Self::Host => "a host name or address".into(),
            Self::HostAndPort => "a host name, with a port or without".into(),
            Self::Port => "a whole number, 1 to 65535".into(),
            Self::HeaderName => "the name of a header".into(),
            Self::OneOf(words) => words.join(", "),
            Self::HostKeys => "a list of public keys, such as `ssh-ed25519 AAAA…`".into(),
            Self::Flag => "true or false".into(),
        }
    }
}
