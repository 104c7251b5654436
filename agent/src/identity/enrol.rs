//! Registering over REST: the first time with a join token, later with the agent's API key.

use std::time::Duration;

use muster_runtime::config::Secret;
use muster_schemas::{
    api::{self, One, Problem, Register, Registered},
    code::Code,
};
use reqwest::StatusCode;

/// How long the gateway may take to answer.
const TIMEOUT: Duration = Duration::from_secs(15);
/// The most bytes of an answer that are read.
const ANSWER_LIMIT: usize = 256 * 1024;

/// What the agent proves its right to register with.
#[derive(Debug, Clone)]
pub(crate) enum Proof {
    /// A join token.
    Token(Secret),
    /// Its API key.
    Key(Secret),
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

/// Where the gateway is, with a client made on demand: its certificates cost memory that a running agent does not need.
#[derive(Debug, Clone)]
pub(crate) struct Gateway {
    base: String,
}

impl Gateway {
    pub(crate) fn new(api_url: &str) -> Self {
        Self { base: api_url.trim_end_matches('/').to_owned() }
    }

    /// Registers, once.
    pub(crate) async fn register(&self, proof: &Proof, register: &Register) -> Result<Registered, EnrolError> {
        let url = format!("{}{}/agents/register", self.base, api::BASE);
        let later = |problem: String| EnrolError::Later { url: self.base.clone(), problem };
        let client = self.client().map_err(|error| later(error_chain(&error)))?;
        let request = client.post(url).json(register);
        let request = match proof {
            Proof::Token(token) => request.header(api::JOIN_TOKEN_HEADER, token.expose().trim()),
            Proof::Key(key) => request.bearer_auth(key.expose().trim()),
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
        if is_final(status) {
            return Err(EnrolError::Refused { url: self.base.clone(), status: status.as_u16(), code, detail });
        }
        Err(later(format!("HTTP {status}: {detail}")))
    }

    fn client(&self) -> Result<reqwest::Client, reqwest::Error> {
        // An error means that the process has a provider already, which does as well.
        let _already_set = rustls::crypto::ring::default_provider().install_default();
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("muster-agent/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .timeout(TIMEOUT);
        if self.base.starts_with("http://") {
            builder = builder.tls_certs_only([]);
        }
        builder.build()
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
