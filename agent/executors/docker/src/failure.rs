//! What went wrong, as a code and a message for the result. Never holds a secret: the engine does not repeat credentials, and headers are not shown.

use bollard::errors::Error;
use muster_executor::{Finish, Rejection, finish::chain};
use muster_schemas::code::Code;

/// Most bytes of a message that is somebody else's.
const MESSAGE_BYTES: usize = 2048;

/// An attempt that did not do what it was to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) code: Code,
    pub(crate) message: String,
    /// No other attempt can end otherwise.
    pub(crate) is_final: bool,
}

impl Failure {
    /// One that may be other next time.
    pub(crate) fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), is_final: false }
    }

    /// What a registry said to a pull of this image.
    pub(crate) fn of_pull(image: &str, error: Error) -> Self {
        let failure = Self::from(error);
        if failure.code == Code::ExecutorUnavailable {
            return failure;
        }
        let said = failure.message.to_ascii_lowercase();
        let has = |words: &[&str]| words.iter().any(|word| said.contains(word));
        // In this order: a registry that hides what there is says "denied … does not exist or may require".
        let code = if has(&["not found", "unknown", "does not exist", "no matching manifest"]) {
            Code::ImageNotFound
        } else if has(&["unauthorized", "denied", "no basic auth", "authentication required", "forbidden"]) {
            Code::RegistryRefused
        } else {
            Code::EngineFailed
        };
        Self::new(code, format!("pull of `{image}`: {}", failure.message))
    }

    /// The same, said of something.
    #[must_use]
    pub(crate) fn of(self, what: &str) -> Self {
        Self { message: format!("{what}: {}", self.message), ..self }
    }

    /// A container that could not be started.
    pub(crate) fn of_start(error: Error) -> Self {
        let failure = Self::from(error);
        match failure.code {
            Code::ExecutorUnavailable => failure,
            _ => Self { code: Code::SpawnFailed, ..failure },
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::DockerResponseServerError { status_code, message } => {
                let code = match status_code {
                    404 if message.starts_with("No such container") || message.starts_with("No such exec") => Code::ContainerNotFound,
                    404 if message.starts_with("No such image") => Code::ImageNotFound,
                    _ => Code::EngineFailed,
                };
                Self::new(code, cut(&message))
            }
            Error::DockerStreamError { error } => Self::new(Code::EngineFailed, cut(&error)),
            Error::SocketNotFoundError(path) => Self::new(Code::ExecutorUnavailable, format!("no container engine listens at {path}")),
            Error::IOError { .. } | Error::HyperLegacyError { .. } | Error::HyperResponseError { .. } | Error::RequestTimeoutError => {
                Self::new(Code::ExecutorUnavailable, format!("the container engine does not answer: {}", cut(&chain(&error))))
            }
            other => Self::new(Code::EngineFailed, format!("the container engine's answer can't be read: {}", cut(&chain(&other)))),
        }
    }
}

impl From<Rejection> for Failure {
    fn from(rejection: Rejection) -> Self {
        Self { code: rejection.code, message: rejection.message, is_final: true }
    }
}

impl From<Failure> for Finish {
    fn from(failure: Failure) -> Self {
        match failure.is_final {
            true => Self::rejected(failure.code, failure.message),
            false => Self::failed(failure.code, failure.message),
        }
    }
}

/// Says whether the engine has no such thing.
pub(crate) fn is_missing(error: &Error) -> bool {
    matches!(error, Error::DockerResponseServerError { status_code: 404, .. })
}

/// A text that somebody else wrote, at a bearable length.
pub(crate) fn cut(text: &str) -> String {
    let text = text.trim();
    text.get(..text.floor_char_boundary(MESSAGE_BYTES)).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pull(message: &str) -> Code {
        Failure::of_pull("app", Error::DockerResponseServerError { status_code: 500, message: message.to_owned() }).code
    }

    #[test]
    fn what_registries_say_is_told_apart() {
        for (said, code) in [
            ("manifest for app:2 not found: manifest unknown: manifest unknown", Code::ImageNotFound),
            ("pull access denied for app, repository does not exist or may require 'docker login': denied", Code::ImageNotFound),
            ("Head \"http://127.0.0.1:5000/v2/app/manifests/1\": no basic auth credentials", Code::RegistryRefused),
            ("unauthorized: authentication required", Code::RegistryRefused),
            ("dial tcp 127.0.0.1:1: connect: connection refused", Code::EngineFailed),
        ] {
            assert_eq!(pull(said), code, "{said}");
        }
    }

    #[test]
    fn what_is_not_there_is_told_apart_by_what_it_is() {
        let code = |message: &str| Failure::from(Error::DockerResponseServerError { status_code: 404, message: message.to_owned() }).code;
        assert_eq!(code("No such container: web"), Code::ContainerNotFound);
        assert_eq!(code("No such image: web:latest"), Code::ImageNotFound);
        assert_eq!(code("network web not found"), Code::EngineFailed);
    }

    #[test]
    fn a_long_message_is_cut_between_characters() {
        let message = "ü".repeat(MESSAGE_BYTES);
        let failure = Failure::from(Error::DockerStreamError { error: message });
        assert!(failure.message.len() <= MESSAGE_BYTES && failure.message.ends_with('ü'));
    }
}
