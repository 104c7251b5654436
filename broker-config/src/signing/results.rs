//! What is known of a stored result's signature. Gateway and dispatcher both say it, so it is said here, in one way; looking up what is not known
//! is left to them.

use muster_schemas::{
    names::AgentId,
    records::SigningKeys,
    signature::{Mark, Signature, Signed},
    time::Timestamp,
};

use super::Signing;

/// A stored result, as far as its mark depends on it.
#[derive(Debug, Clone, Copy)]
pub struct StoredResult<'a> {
    /// The header with its signature.
    pub header: Option<&'a str>,
    /// Where it is stored.
    pub subject: &'a str,
    /// Byte for byte.
    pub body: &'a [u8],
    /// When the broker stored it, by the broker's clock.
    pub stored_at: Timestamp,
    /// Who it says has ended its job.
    pub named: Option<&'a AgentId>,
}

/// What can be said of a result by what is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Judgement {
    /// This. Looking up more would not change it.
    Final(Mark),
    /// Its key is nobody's who may have signed it, as far as is known. Once that is all there is, it is [`Mark::Wrong`].
    Stranger,
}

impl Signing {
    /// Judges a result by the list of signers and the keys of the agent that it names.
    pub fn judge(&self, result: &StoredResult<'_>, keys: Option<&SigningKeys>) -> Judgement {
        let Some(header) = result.header else { return Judgement::Final(Mark::Missing) };
        let Ok(signature) = Signature::parse(header) else { return Judgement::Final(Mark::Wrong) };
        let key = &signature.key;
        let keys = keys.filter(|keys| keys.knows(key));
        if keys.is_none() && !self.knows(key) {
            return Judgement::Stranger;
        }
        let trusted =
            self.signs_with(key, result.stored_at) || keys.is_some_and(|keys| keys.signs_with(key, signature.at, result.stored_at));
        let holds = trusted && signature.verify(Signed::Result, result.subject, result.body).is_ok();
        Judgement::Final(if holds { Mark::Valid } else { Mark::Wrong })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use std::time::Duration;

    use muster_schemas::{
        signature::{Scope, Signed, Signer, Signers, TrustedSigner},
        wire::{self, V},
    };

    use super::*;
    use crate::signing::{ControlPlane, Retired};

    const HOUR: Duration = Duration::from_secs(3600);

    fn at() -> Timestamp {
        Timestamp::from_secs(1_800_000_000)
    }

    fn list(serial: u64, signer: &Signer) -> Vec<u8> {
        let (key, name) = (signer.public_key().to_owned(), "gateway".to_owned());
        let trusted = TrustedSigner { key, name, scope: Scope::ControlPlane, added_at: at() };
        wire::encode(&Signers { v: V, serial, signers: vec![trusted] }.sign(signer, at()))
    }

    fn judged(signing: &Signing, signer: &Signer, stored_at: Timestamp, keys: Option<&SigningKeys>) -> Judgement {
        let header = signer.sign(Signed::Result, "s", b"body", at()).to_string();
        signing.judge(&StoredResult { header: Some(&header), subject: "s", body: b"body", stored_at, named: None }, keys)
    }

    #[test]
    fn what_a_dropped_key_of_the_control_plane_had_signed_by_then_stays_signed() {
        let (new, old) = (Signer::generate(), Signer::generate());
        let control_plane = ControlPlane {
            present: [(new.public_key().to_owned(), "gateway".to_owned())].into(),
            retired: [(old.public_key().to_owned(), Retired { until: at() + HOUR, lists: false })].into(),
        };
        let signing = Signing::new(Vec::new(), control_plane);
        assert_eq!(judged(&signing, &new, at(), None), Judgement::Stranger, "the list is not known");
        assert!(signing.take(&list(1, &old)).is_err(), "it signs no lists");
        signing.take(&list(2, &new)).unwrap();
        for (signer, stored_at, mark) in
            [(&new, at() + HOUR * 9, Mark::Valid), (&old, at() + HOUR, Mark::Valid), (&old, at() + HOUR * 2, Mark::Wrong)]
        {
            assert_eq!(judged(&signing, signer, stored_at, None), Judgement::Final(mark), "{stored_at}");
        }
    }

    #[test]
    fn a_process_that_runs_while_a_key_is_dropped_goes_on_as_one_that_starts_then() {
        let (new, old) = (Signer::generate(), Signer::generate());
        let both = [&new, &old].map(|key| (key.public_key().to_owned(), "gateway".to_owned()));
        let signing = Signing::new(Vec::new(), ControlPlane::from(std::collections::BTreeMap::from(both)));
        signing.take(&list(1, &old)).unwrap();
        signing.take(&list(2, &new)).unwrap();
        assert_eq!(judged(&signing, &old, at(), None), Judgement::Final(Mark::Valid));
        assert_eq!(judged(&signing, &old, at() + HOUR, None), Judgement::Final(Mark::Wrong));
    }

    #[test]
    fn a_result_is_its_agents_own_or_a_strangers() {
        let (agent, stranger) = (Signer::generate(), Signer::generate());
        let signing = Signing::new(Vec::new(), ControlPlane::default());
        let keys = SigningKeys { public_key: Some(agent.public_key().to_owned()), ..SigningKeys::default() };
        assert_eq!(judged(&signing, &agent, at(), Some(&keys)), Judgement::Final(Mark::Valid));
        assert_eq!(judged(&signing, &agent, at(), None), Judgement::Stranger);
        assert_eq!(judged(&signing, &stranger, at(), Some(&keys)), Judgement::Stranger);
        let unsigned = StoredResult { header: None, subject: "s", body: b"", stored_at: at(), named: None };
        assert_eq!(signing.judge(&unsigned, Some(&keys)), Judgement::Final(Mark::Missing));
        let garbage = StoredResult { header: Some("U.1.x"), ..unsigned };
        assert_eq!(signing.judge(&garbage, Some(&keys)), Judgement::Final(Mark::Wrong));
        let header = agent.sign(Signed::Result, "results.p.j", b"r", at()).to_string();
        for (subject, mark) in [("results.p.j", Mark::Valid), ("results.p.k", Mark::Wrong)] {
            let result = StoredResult { header: Some(&header), subject, body: b"r", ..unsigned };
            assert_eq!(signing.judge(&result, Some(&keys)), Judgement::Final(mark), "{subject}");
        }
    }
}
