//! Signatures of results: which the history marks how, and which count in a score.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail by panicking")]

use std::time::Duration;

use muster_schemas::{
    api::JobState,
    headers,
    history::JobsQuestion,
    names::{AgentId, JobId},
    records::{AgentRecord, AgentState, keys},
    result::{JobResult, Outcome},
    signature::{Mark, Signed, Signer},
    standing::Status,
    subjects::{self, About, js},
    time::Timestamp,
    topology::{AGENTS, RESULT_AGE_MAX},
    wire,
};

use super::history::{all, dispatcher_in, pool, starts};
use crate::support::{Agent, POOL, SOON, Stack, eventually, ran_by};

const HOUR: Duration = Duration::from_secs(3600);

fn job(id: &str) -> JobId {
    id.parse().unwrap()
}

impl Stack {
    async fn mark(&self, id: &str) -> Mark {
        self.row(id, |row| row.signature.is_some()).await.signature.unwrap()
    }

    /// An agent that is online.
    async fn online(&self) -> Agent {
        let mut agent = self.agent(POOL).await;
        agent.beats(|_| {}).await;
        self.standing(&agent, "online", |standing| standing.status == Status::Online).await;
        agent
    }
}

impl Agent {
    async fn puts(&self, id: &str, result: &JobResult, signature: Option<&str>) {
        let answer = self.publishes(&job(id), &wire::encode(result), signature).await.unwrap();
        assert!(!answer.contains("error"), "{answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_in_another_agents_name_is_marked_and_changes_nobodys_score() {
    let stack = Stack::start().await;
    let dispatcher = stack.dispatcher().await;
    dispatcher.becomes_active().await;
    let (victim, liar) = (stack.online().await, stack.online().await);
    victim.stores(&job("true"), &ran_by(&victim.id, Outcome::Succeeded)).await;

    let of_victim = ran_by(&victim.id, Outcome::Failed);
    let body = wire::encode(&of_victim);
    let now = Timestamp::now();
    let by = |agent: &Agent, id: &str| agent.signs(&job(id), &body, now);
    liar.puts("signed-by-the-liar", &of_victim, Some(&by(&liar, "signed-by-the-liar"))).await;
    liar.puts("unsigned", &of_victim, None).await;
    liar.puts("of-another-job", &of_victim, Some(&by(&victim, "some-other-job"))).await;
    liar.puts("garbage", &of_victim, Some("U.1.x")).await;
    let stranger = Signer::generate();
    let subject = About::Result.job(&pool(), &job("by-a-stranger"));
    liar.puts("by-a-stranger", &of_victim, Some(&stranger.sign(Signed::Result, &subject, &body, now).to_string())).await;
    // The same values in other bytes.
    let again = serde_json::to_vec(&of_victim).unwrap();
    let answer = liar.publishes(&job("re-encoded"), &again, Some(&by(&victim, "re-encoded"))).await.unwrap();
    assert!(!answer.contains("error"), "{answer}");
    let renamed = JobResult { agent_id: Some(victim.id.clone()), ..ran_by(&liar.id, Outcome::Failed) };
    let own = wire::encode(&ran_by(&liar.id, Outcome::Failed));
    liar.puts("renamed", &renamed, Some(&liar.signs(&job("renamed"), &own, now))).await;
    let nobody = JobResult { agent_id: None, ..of_victim.clone() };
    liar.puts("of-nobody", &nobody, Some(&liar.signs(&job("of-nobody"), &wire::encode(&nobody), now))).await;
    // That the victim was lost is for others to say; it counts for nobody.
    liar.stores(&job("lost"), &JobResult { ended_by: Some(liar.id.clone()), ..of_victim.clone() }).await;

    let wrong = ["signed-by-the-liar", "of-another-job", "garbage", "by-a-stranger", "re-encoded", "renamed", "of-nobody"];
    for id in wrong {
        assert_eq!(stack.mark(id).await, Mark::Wrong, "{id}");
    }
    assert_eq!(
        (stack.mark("unsigned").await, stack.mark("lost").await, stack.mark("true").await),
        (Mark::Missing, Mark::Valid, Mark::Valid)
    );
    let listed = stack.rows(JobsQuestion { signature: Some(Mark::Wrong), ..all() }).await;
    assert_eq!(listed.len(), wrong.len());
    assert!(listed.iter().all(|row| wrong.contains(&row.id.as_str())));

    // Once one of its own is counted, so would be all that came before.
    victim.stores(&job("last"), &ran_by(&victim.id, Outcome::Failed)).await;
    let standing = stack.standing(&victim, "its own results count", |standing| standing.success_part < 50.0).await;
    assert_eq!(standing.success_part, 25.0, "one of two succeeded");
    let counted = async |mark: &str| dispatcher.figure(&format!("muster_results_signed_total{{signature=\"{mark}\"}}")).await;
    assert_eq!((counted("wrong").await, counted("missing").await, counted("valid").await), (7.0, 1.0, 3.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_from_the_spool_of_an_agent_that_has_enrolled_again_is_still_its_own() {
    let stack = Stack::start().await;
    let _dispatcher = stack.dispatcher().await;
    let agent = stack.online().await;
    let (result, now) = (ran_by(&agent.id, Outcome::Succeeded), Timestamp::now());
    let body = wire::encode(&result);
    let new = Signer::generate();
    stack.record(POOL, &agent.id, |record| record.replace_key(Some(new.public_key().into()), now)).await;

    agent.puts("spooled", &result, Some(&agent.signs(&job("spooled"), &body, now - HOUR))).await;
    agent.puts("clock-ahead", &result, Some(&agent.signs(&job("clock-ahead"), &body, now + Duration::from_secs(300)))).await;
    agent.puts("by-the-old-key", &result, Some(&agent.signs(&job("by-the-old-key"), &body, now + HOUR))).await;
    let subject = About::Result.job(&pool(), &job("by-the-new-key"));
    agent.puts("by-the-new-key", &result, Some(&new.sign(Signed::Result, &subject, &body, now).to_string())).await;
    for (id, mark) in
        [("spooled", Mark::Valid), ("clock-ahead", Mark::Valid), ("by-the-old-key", Mark::Wrong), ("by-the-new-key", Mark::Valid)]
    {
        assert_eq!(stack.mark(id).await, mark, "{id}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_key_signs_nothing_more_and_the_results_of_a_removed_agent_stay_its_own() {
    let stack = Stack::start().await;
    let dispatcher = stack.dispatcher().await;
    dispatcher.becomes_active().await;
    let (agent, helper) = (stack.online().await, stack.online().await);
    let (result, now) = (ran_by(&agent.id, Outcome::Succeeded), Timestamp::now());
    let body = wire::encode(&result);
    agent.stores(&job("early"), &result).await;
    assert_eq!(stack.mark("early").await, Mark::Valid);

    let revoked_at = Timestamp::now();
    stack.record(POOL, &agent.id, |record| record.replace_key(None, revoked_at)).await;
    // Whoever has the key may say that it signed at any time.
    helper.puts("backdated", &result, Some(&agent.signs(&job("backdated"), &body, now - HOUR))).await;
    assert_eq!(stack.mark("backdated").await, Mark::Wrong);

    // Removed, which leaves its keys behind.
    let deleting = |record: &mut AgentRecord| {
        record.replace_key(None, revoked_at);
        record.state = AgentState::Deleting;
    };
    stack.record(POOL, &agent.id, deleting).await;
    let agents = stack.bucket(AGENTS).await;
    eventually("it is removed", Duration::from_secs(30), async || {
        agents.get(keys::agent(&agent.id)).await.unwrap().is_none().then_some(())
    })
    .await;
    let left = agents.stream.direct_get_last_for_subject(js::key(AGENTS, &keys::agent(&agent.id))).await.unwrap();
    let lives = left.headers.get(headers::TTL).map(|ttl| ttl.as_str().to_owned());
    assert_eq!(lives, Some(format!("{}s", RESULT_AGE_MAX.as_secs())), "its keys vanish with the last of its results");
    helper.puts("too-late", &result, Some(&agent.signs(&job("too-late"), &body, now - HOUR))).await;
    helper.stores(&job("of-a-stranger"), &ran_by(&AgentId::generate(), Outcome::Failed)).await;
    let marks = [("early", Mark::Valid), ("backdated", Mark::Wrong), ("too-late", Mark::Wrong), ("of-a-stranger", Mark::Wrong)];
    for (id, mark) in marks {
        assert_eq!(stack.mark(id).await, mark, "{id}");
    }
    // A history that is read anew marks as the first one did.
    dispatcher.stop().await;
    let _other = stack.dispatcher().await;
    for (id, mark) in marks {
        assert_eq!(stack.mark(id).await, mark, "{id}, read anew");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_control_plane_ends_is_signed_by_it() {
    let stack = Stack::start().await;
    let folder = tempfile::tempdir().unwrap();
    let dispatcher = dispatcher_in(&stack, folder.path(), &[("expire_after", "1s".to_owned())]).await;
    dispatcher.becomes_active().await;
    let expires_at = Timestamp::now() + Duration::from_millis(500);
    stack.queue("normal.shell", "late", &format!(r#"{{"type":"shell.run","expires_at":"{expires_at}"}}"#)).await;
    let row = stack.row("late", |row| row.signature.is_some()).await;
    assert_eq!((row.state, row.signature), (JobState::Expired, Some(Mark::Valid)));
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_attempts_the_result_that_is_stored_first_counts_for_its_own_agent() {
    let stack = Stack::start().await;
    let _dispatcher = stack.dispatcher().await;
    let (first, second) = (stack.online().await, stack.online().await);
    stack.queue("normal.shell", "twice", r#"{"type":"shell.run","params":{"command":"true"}}"#).await;
    starts(&first, "twice").await;
    starts(&second, "twice").await;
    // The first agent was cut off, not lost: what it has done is done, and the second one's result is refused.
    first.stores(&job("twice"), &ran_by(&first.id, Outcome::Succeeded)).await;
    let late = wire::encode(&JobResult { attempt: 2, ..ran_by(&second.id, Outcome::Failed) });
    let answer = second.publishes(&job("twice"), &late, Some(&second.signs(&job("twice"), &late, Timestamp::now()))).await.unwrap();
    assert!(answer.contains("per subject"), "{answer}");
    let row = stack.row("twice", |row| row.signature.is_some()).await;
    assert_eq!((row.agent_id, row.attempt, row.signature), (Some(first.id.clone()), 1, Some(Mark::Valid)));
    stack.standing(&first, "its result counts", |standing| standing.success_part > 0.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_heartbeat_that_is_sent_again_changes_nothing() {
    let stack = Stack::start().await;
    let dispatcher = stack.dispatcher().await;
    let mut agent = stack.online().await;
    let mut old = agent.beat.clone();
    agent.beats(|beat| beat.fault = Some("disk full".into())).await;
    let standing = stack.standing(&agent, "it has a fault", |standing| standing.status == Status::Degraded).await;
    for seq in [old.seq, 0] {
        old.seq = seq;
        agent.says(subjects::heartbeat(&agent.pool, &agent.id), wire::encode(&old)).await;
    }
    let replayed = async || dispatcher.figure("muster_inputs_ignored_total{why=\"heartbeat_replayed\"}").await;
    eventually("both are told apart", SOON, async || (replayed().await == 2.0).then_some(())).await;
    let after = stack.standing(&agent, "there is one", |_| true).await;
    assert_eq!((after.status, after.reason), (Status::Degraded, standing.reason));
}
