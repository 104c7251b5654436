//! What an agent says when it registers, checked: its fields, that its key is its own, and its clock. Pure.

use std::collections::{BTreeMap, BTreeSet};

use muster_schemas::{
    api::Register,
    code::Code,
    names::{AgentName, ExecutorName},
    signature::{SKEW_MAX, SignatureError},
    time::Timestamp,
};

use super::super::said;
use crate::{identity, problem::ApiError};

/// What the agent said, checked.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) name: AgentName,
    pub(super) capabilities: BTreeSet<ExecutorName>,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) version: String,
    pub(super) os: String,
    pub(super) arch: String,
    pub(super) hostname: String,
    pub(super) public_key: String,
    pub(super) ephemeral: bool,
    /// Looked at where the deployment has TLS on: see `certificates`.
    pub(super) csr: Option<String>,
}

impl Asked {
    /// Checks what was said with this join token or API key.
    ///
    /// # Errors
    /// `field_invalid`, `key_revoked`, `clock_skewed`, `name_invalid`, `labels_invalid`.
    pub(super) fn new(given: Register, credential: &str, now: Timestamp) -> Result<Self, ApiError> {
        identity::check_public_key(&given.public_key)?;
        let at = given.proven(credential).map_err(unproven)?;
        if now.apart(at) > SKEW_MAX {
            let most = SKEW_MAX.as_secs() / 60;
            let detail = format!(
                "the agent's clock says {at} and the gateway's {now}; they may differ by {most} minutes. Set the clock that is wrong"
            );
            return Err(ApiError::new(Code::ClockSkewed, detail));
        }
        Ok(Self {
            name: given.name.parse()?,
            capabilities: said::executors(given.capabilities.iter())?,
            labels: said::labels(given.labels)?,
            version: said::plain("version", given.version, 64)?,
            os: said::plain("os", given.os, 64)?,
            arch: said::plain("arch", given.arch, 64)?,
            hostname: said::plain("hostname", given.hostname, 255)?,
            public_key: given.public_key,
            ephemeral: given.ephemeral,
            csr: given.csr,
        })
    }
}

fn unproven(error: SignatureError) -> ApiError {
    let detail = match error {
        SignatureError::Malformed => {
            "the field `proof` is missing or malformed: a registration has to prove that the public key is the agent's own"
        }
        SignatureError::Wrong => "the field `proof` does not prove that the public key is the agent's own, for this join token or API key",
    };
    ApiError::new(Code::KeyRevoked, detail)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use std::time::Duration;

    use muster_schemas::{
        records::secret::{Kind, PREFIX_LEN, Parts, SECRET_LEN},
        signature::{Signed, Signer},
    };
    use nkeys::KeyPair;

    use super::*;

    fn now() -> Timestamp {
        Timestamp::from_secs(1_800_000_000)
    }

    fn credential(seed: u8) -> String {
        Parts::from_random(Kind::Join, &[seed; PREFIX_LEN + SECRET_LEN]).reveal()
    }

    fn body() -> Register {
        let mut register = Register { name: "web-1".into(), ..Register::default() };
        register.prove(&Signer::generate(), &credential(1), now());
        register
    }

    fn code(body: Register) -> Code {
        Asked::new(body, &credential(1), now()).unwrap_err().code
    }

    #[test]
    fn a_public_key_of_another_kind_or_damaged_is_refused() {
        assert!(Asked::new(body(), &credential(1), now()).is_ok());
        let damaged = body().public_key.replacen(|c: char| c.is_ascii_digit(), "A", 1);
        for key in [String::new(), "U".into(), KeyPair::new_account().public_key(), KeyPair::new_user().seed().unwrap(), damaged + "A"] {
            assert_eq!(code(Register { public_key: key, ..body() }), Code::FieldInvalid);
        }
    }

    #[test]
    fn a_key_has_to_be_proven_for_itself_and_for_the_secret_it_comes_with() {
        let (other, signer) = (body(), Signer::generate());
        let elsewhere = signer.sign(Signed::Result, "", signer.public_key().as_bytes(), now()).to_string();
        for proof in [String::new(), "x".into(), other.proof.clone(), elsewhere] {
            assert_eq!(code(Register { proof, public_key: signer.public_key().into(), ..body() }), Code::KeyRevoked);
        }
        // The proof of another registration goes with its own key only.
        assert_eq!(code(Register { public_key: other.public_key, ..body() }), Code::KeyRevoked);
        assert_eq!(Asked::new(body(), &credential(2), now()).unwrap_err().code, Code::KeyRevoked, "with another token");
    }

    #[test]
    fn a_clock_may_be_minutes_off_and_not_a_day_and_both_times_are_told() {
        let day = Duration::from_secs(24 * 3600);
        for off in [Duration::ZERO, Duration::from_secs(300), SKEW_MAX] {
            assert!(Asked::new(body(), &credential(1), now() + off).is_ok() && Asked::new(body(), &credential(1), now() - off).is_ok());
        }
        for off in [SKEW_MAX + Duration::from_secs(1), day] {
            for gateway in [now() + off, now() - off] {
                let refused = Asked::new(body(), &credential(1), gateway).unwrap_err();
                assert_eq!(refused.code, Code::ClockSkewed);
                assert!(refused.detail.contains(&now().to_string()) && refused.detail.contains(&gateway.to_string()), "{refused}");
            }
        }
    }

    #[test]
    fn what_the_agent_says_of_itself_is_bounded() {
        let many: Vec<String> = (0..=said::EXECUTORS_MAX).map(|n| format!("e{n}")).collect();
        assert_eq!(code(Register { capabilities: many, ..body() }), Code::FieldInvalid);
        assert_eq!(code(Register { capabilities: vec!["a.b".into()], ..body() }), Code::NameInvalid);
        assert_eq!(code(Register { hostname: "h".repeat(256), ..body() }), Code::FieldInvalid);
        assert_eq!(code(Register { os: "a\r\nb".into(), ..body() }), Code::FieldInvalid);
        assert_eq!(code(Register { labels: [(String::new(), "x".into())].into(), ..body() }), Code::LabelsInvalid);
        for name in ["", "*", "a.b", "A", "a b", "a\u{0}", "％"] {
            assert_eq!(code(Register { name: name.into(), ..body() }), Code::NameInvalid, "{name}");
        }
    }
}
