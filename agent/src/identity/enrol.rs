//! Registering over REST: the first time with a join token, later with the agent's API key.

use std::{path::PathBuf, time::Duration};

use muster_runtime::config::Secret;
use muster_schemas::{
    api::{self, One, Problem, Register, Registered},
    code::Code,
    time::Timestamp,
};
use reqwest::StatusCode;

use super::{
    certificate::Certificates,
    registration::{Registration, Skew},
};
use crate::{
    clock::{Clock, Reading},
    trust::Trust,
};

/// How long the gateway may take to answer.
const TIMEOUT: Duration = Duration::from_secs(15);
/// The most bytes of an answer that are read: nearly all of them are the list of signers, whose quotes are escaped.
const ANSWER_LIMIT: usize = 1024 * 1024;

/// What the agent proves its right to register with.
#[derive(Debug, Clone)]
pub(crate) enum Proof {
    /// A join token.
    Token(Secret),
    /// Its API key.
    Key(Secret),
}

impl Proof {
    fn text(&self) -> &str {
        let (Self::Token(secret) | Self::Key(secret)) = self;
        secret.expose().trim()
    }
}

/// What came of a registration.
pub(crate) struct Answer {
    pub(crate) registered: Registered,
    /// What the gateway was told.
    pub(crate) told: Register,
    /// Set when our clock is too far off to be of use.
    pub(crate) skew: Option<Skew>,
}

/// A registration that came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    /// The gateway says no, and will say so again.
    #[error("the gateway at {url} refuses this agent (HTTP {status}, {code}): {detail}", code = code.map_or("no code", Code::as_str))]
    Refused {
        /// Where.
        url: String,
        /// The HTTP status.
        status: u16,
        /// The stable code, if the answer has one.
        code: Option<Code>,
        /// What was wrong.
        detail: String,
    },
    /// The gateway can't be reached, or has trouble of its own; later it may work.
    #[error("the gateway at {url} can't register this agent now: {problem}")]
    Later {
        /// Where.
        url: String,
        /// What was wrong.
        problem: String,
    },
}

impl EnrolError {
    /// The gateway's code, if it says no.
    pub(crate) fn refusal(&self) -> Option<(Code, &str)> {
        match self {
            Self::Refused { code: Some(code), detail, .. } => Some((*code, detail)),
            Self::Refused { .. } | Self::Later { .. } => None,
        }
    }
}

/// Whether to register for the sake of the agent's certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CertificateWanted {
    /// There is a good one, or none is to be had.
    No,
    /// There is none, and the broker may ask for one.
    MayBe,
    /// Without a new one the broker lets nobody in.
    Needed,
}

/// Where the gateway is, with a client made on demand: its certificates cost memory that a running agent does not need.
#[derive(Debug, Clone)]
pub(crate) struct Gateway {
    base: String,
    /// Certificates that the gateway's one must be signed by; `None` trusts the system's.
    authority: Option<PathBuf>,
    certificates: Certificates,
    trust: Trust,
    clock: Clock,
}

impl Gateway {
    pub(crate) fn new(api_url: &str, authority: Option<PathBuf>, certificates: Certificates, trust: Trust, clock: Clock) -> Self {
        Self { base: api_url.trim_end_matches('/').to_owned(), authority, certificates, trust, clock }
    }

    /// Whether to ask for the agent's certificate now: it has expired, or there is none although the gateway speaks TLS.
    pub(crate) fn certificate_wanted(&self, now: Timestamp) -> CertificateWanted {
        match self.certificates.is_expired(now) {
            true => CertificateWanted::Needed,
            false if self.certificates.is_missing() && self.base.starts_with("https://") => CertificateWanted::MayBe,
            false => CertificateWanted::No,
        }
    }

    /// Registers the public key of this seed, once.
    pub(crate) async fn register(&self, proof: &Proof, seed: &str, registration: &Registration) -> Result<Answer, EnrolError> {
        let sent = Timestamp::now();
        let mut told = registration.prove(seed, proof.text(), sent).ok_or_else(|| self.later("the seed is none of a user".to_owned()))?;
        told.csr = self.certificates.request();
        let registered = self.send(proof, &told).await?;
        self.certificates.keep(registered.certificate.as_ref());
        self.trust.pin(&registered.agent_id, registered.signers.as_ref());
        let reading = Reading::between(sent, Timestamp::now(), registered.now);
        self.clock.read(reading);
        Ok(Answer { registered, told, skew: reading.skew() })
    }

    fn later(&self, problem: String) -> EnrolError {
        EnrolError::Later { url: self.base.clone(), problem }
    }

    async fn send(&self, proof: &Proof, register: &Register) -> Result<Registered, EnrolError> {
        let url = format!("{}{}/agents/register", self.base, api::BASE);
        let later = |problem: String| self.later(problem);
        let client = self.client().map_err(later)?;
        let request = client.post(url).json(register);
        let request = match proof {
            Proof::Token(_) => request.header(api::JOIN_TOKEN_HEADER, proof.text()),
            Proof::Key(_) => request.bearer_auth(proof.text()),
        };
        let mut answer = request.send().await.map_err(|error| later(error_chain(&error)))?;
        let status = answer.status();
        let mut bytes = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(|error| later(error_chain(&error)))? {
            bytes.extend_from_slice(&chunk);
            if bytes.len() > ANSWER_LIMIT {
                return Err(later("its answer is too long".to_owned()));
            }
        }
        if status.is_success() {
            return parse(&bytes).map_err(|error| later(format!("its answer can't be understood: {error}")));
        }
        let problem = serde_json::from_slice::<Problem>(&bytes).ok();
        let code = problem.as_ref().map(|problem| problem.code);
        let detail = problem.map_or_else(|| "no explanation".to_owned(), |problem| problem.detail);
        // A 404 is final only when it is the gateway's own; a proxy says so too, while the gateway starts.
        if is_final(status) || code == Some(Code::AgentNotFound) {
            return Err(EnrolError::Refused { url: self.base.clone(), status: status.as_u16(), code, detail });
        }
        Err(later(format!("HTTP {status}: {detail}")))
    }

    fn client(&self) -> Result<reqwest::Client, String> {
        muster_runtime::tls::install_provider();
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("muster-agent/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .timeout(TIMEOUT);
        if self.base.starts_with("http://") {
            builder = builder.tls_certs_only([]);
        } else if let Some(path) = &self.authority {
            let unfit = |problem: &dyn std::fmt::Display| format!("can't use the certificates in {}: {problem}", path.display());
            let pem = std::fs::read(path).map_err(|error| unfit(&error))?;
            builder = builder.tls_certs_only(reqwest::Certificate::from_pem_bundle(&pem).map_err(|error| unfit(&error))?);
        }
        builder.build().map_err(|error| error_chain(&error))
    }
}

/// Answers that another try will not change. Anything else (5xx, 429, a proxy's 404 while the gateway starts) may pass.
fn is_final(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::BAD_REQUEST
            | StatusCode::UNAUTHORIZED
            | StatusCode::FORBIDDEN
            | StatusCode::CONFLICT
            | StatusCode::UNPROCESSABLE_ENTITY
    )
}

/// `{"data": …}`, as every answer of the REST interface, or the bare object.
fn parse(bytes: &[u8]) -> serde_json::Result<Registered> {
    serde_json::from_slice::<One<Registered>>(bytes).map(|one| one.data).or_else(|_| serde_json::from_slice(bytes))
}

fn error_chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}
