//! What the dispatcher writes into the audit trail: what it does to agents, and what it finds out about them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail by panicking")]

use async_nats::jetstream;
use muster_schemas::{
    audit::{Actor, ActorKind, AuditEntry, AuditOutcome},
    records::AgentState,
    result::Outcome,
    standing::Status,
    subjects,
    time::Timestamp,
    topology::AUDIT,
    wire,
};

use crate::support::{POOL, SOON, Stack, eventually, ran_by};

impl Stack {
    /// The newest entry of an action, and how many there are.
    pub(crate) async fn audited(&self, action: &str) -> (AuditEntry, usize) {
        let subject = subjects::audit(action).unwrap();
        eventually(action, SOON, async || {
            let stream = jetstream::new(self.gateway.clone()).get_stream(AUDIT).await.ok()?;
            let last = stream.get_last_raw_message_by_subject(&subject).await.ok()?;
            let count = self.subjects(AUDIT).await.remove(&subject)?;
            Some((wire::decode(&last.payload).unwrap(), usize::try_from(count).unwrap()))
        })
        .await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_dispatcher_does_to_agents_and_finds_out_about_them_is_in_the_trail() {
    let stack = Stack::start().await;
    let dispatcher = stack.dispatcher().await;
    dispatcher.becomes_active().await;
    let (mut twin, liar, revoked) = (stack.agent(POOL).await, stack.agent(POOL).await, stack.agent(POOL).await);
    let is = |entry: &AuditEntry, id: &str| assert_eq!(entry.target.as_deref(), Some(id), "{entry:?}");

    stack.revoke(&revoked).await;
    stack.settled(&revoked.id).await;
    let (cut_off, _) = stack.audited("agents.cut_off").await;
    is(&cut_off, revoked.id.as_str());
    assert_eq!((cut_off.actor.kind, cut_off.outcome), (ActorKind::Muster, AuditOutcome::Done));
    assert!(cut_off.detail.unwrap().contains(&revoked.public_key));
    stack.record(POOL, &revoked.id, |record| record.state = AgentState::Deleting).await;
    stack.settled(&revoked.id).await;
    is(&stack.audited("agents.remove").await.0, revoked.id.as_str());

    for job in ["forged-1", "forged-2"] {
        let (job, body) = (job.parse().unwrap(), wire::encode(&ran_by(&twin.id, Outcome::Succeeded)));
        liar.publishes(&job, &body, Some(&liar.signs(&job, &body, Timestamp::now()))).await.unwrap();
    }
    let (forged, count) = stack.audited("results.forged").await;
    is(&forged, "forged-1");
    assert_eq!((forged.actor.kind, forged.actor.id.as_deref()), (ActorKind::Agent, Some(liar.id.as_str())), "not the one it names");
    assert_eq!((forged.outcome, count), (AuditOutcome::Refused, 1));
    let detail = forged.detail.unwrap();
    assert!(detail.contains(twin.id.as_str()) && detail.contains(&liar.public_key), "{detail}");
    // Whoever only writes somebody's key into a signature that does not hold accuses nobody.
    let (job, body) = ("forged-3".parse().unwrap(), wire::encode(&ran_by(&twin.id, Outcome::Succeeded)));
    let other = twin.signs(&"another".parse().unwrap(), &body, Timestamp::now());
    liar.publishes(&job, &body, Some(&other)).await.unwrap();
    eventually("it is told", SOON, async || {
        let (forged, _) = stack.audited("results.forged").await;
        (forged.target.as_deref() == Some("forged-3")).then(|| assert_eq!(forged.actor, Actor::nobody()))
    })
    .await;

    eventually("both are seen", SOON, async || {
        twin.beats(|_| {}).await;
        twin.beats(|beat| beat.instance = "second".into()).await;
        let (standing, _) = stack.entry(twin.pool.as_str(), &twin.id).await?;
        (standing.status == Status::Degraded).then_some(())
    })
    .await;
    let (found, count) = stack.audited("agents.twin").await;
    is(&found, twin.id.as_str());
    assert_eq!((found.actor.kind, count), (ActorKind::Agent, 1));
}
