//! The list of jobs: what is asked of a dispatcher, and what without one. A whole one answers in the dispatcher's own tests.

use futures_util::StreamExt as _;
use muster_schemas::{
    api::{JobRow, JobState, PoolStats},
    history::{JobsAnswer, JobsQuestion, PoolAnswer, PoolQuestion},
    lane::Priority,
    signature::Mark,
    subjects::History,
    time::Timestamp,
    wire::{self, V},
};

use crate::world::{World, pool};

#[tokio::test(flavor = "multi_thread")]
async fn without_a_dispatcher_the_list_says_so() {
    let world = World::start().await;
    for path in ["/jobs", "/jobs?status=failed&limit=5", "/pools/default/stats"] {
        let answer = world.rest().get(path).await;
        assert_eq!(answer.code(503), "history_unavailable");
        assert!(answer.body["detail"].as_str().unwrap().contains("no dispatcher"), "{}", answer.body);
        assert!(answer.headers.contains_key("retry-after"));
    }
    assert_eq!(world.rest().get("/pools/none/stats").await.code(404), "pool_not_found");
    assert_eq!(world.rest().get("/jobs?colour=red").await.code(400), "query_invalid");
    assert_eq!(world.rest().get("/jobs?status=done").await.code(400), "query_invalid");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_filter_reaches_the_dispatcher_and_its_page_comes_back() {
    let world = World::start().await;
    let dispatcher = world.dispatcher().await;
    let mut asked = dispatcher.subscribe(History::Jobs.subject()).await.unwrap();
    dispatcher.flush().await.unwrap();
    let at = Timestamp::from_secs(1_800_000_000);
    let row = JobRow {
        id: "j".parse().unwrap(),
        pool: pool("default"),
        job_type: Some("shell.run".parse().unwrap()),
        priority: Priority::Normal,
        state: JobState::Failed,
        labels: [("team".into(), "a".into())].into(),
        attempt: 1,
        agent_id: None,
        target_agent: None,
        queued_at: at,
        started_at: None,
        finished_at: Some(at),
        exit_code: Some(3),
        error: None,
        reason: None,
        next_at: None,
        parent: None,
        signature: None,
    };
    let answer = JobsAnswer { v: V, rows: vec![row], cursor: Some("1.0".into()), error: None };
    let agent = "agt_01ARZ3NDEKTSV4RRFFQ69G5FAV";
    let path = format!(
        "/jobs?pool=default&agent={agent}&type=shell.run&status=failed&signature=wrong&label=team:a&since=2026-01-01T00:00:00Z&until=2027-01-01T00:00:00Z&limit=1"
    );
    let answers = async {
        let question = asked.next().await.unwrap();
        dispatcher.publish(question.reply.unwrap(), wire::encode(&answer).into()).await.unwrap();
        wire::decode::<JobsQuestion>(&question.payload).unwrap()
    };
    let (page, question) = tokio::join!(world.rest().get(&path), answers);
    assert_eq!(page.body["data"][0]["state"], "failed");
    assert_eq!(page.body["data"][0]["labels"]["team"], "a");
    let wanted = JobsQuestion {
        v: V,
        pool: Some(pool("default")),
        agent: Some(agent.parse().unwrap()),
        target_agent: None,
        job_type: Some("shell.run".parse().unwrap()),
        state: Some(JobState::Failed),
        signature: Some(Mark::Wrong),
        label: Some(("team".into(), "a".into())),
        since: Some("2026-01-01T00:00:00Z".parse().unwrap()),
        until: Some("2027-01-01T00:00:00Z".parse().unwrap()),
        limit: 1,
        cursor: None,
    };
    assert_eq!(question, wanted);
    // The cursor comes back to the dispatcher as it was.
    let cursor = page.body["meta"]["page"]["cursor"].as_str().unwrap().to_owned();
    let answers = async {
        let question = asked.next().await.unwrap();
        let end = JobsAnswer { v: V, rows: Vec::new(), cursor: None, error: None };
        dispatcher.publish(question.reply.unwrap(), wire::encode(&end).into()).await.unwrap();
        wire::decode::<JobsQuestion>(&question.payload).unwrap().cursor
    };
    let path = format!("/jobs?cursor={cursor}");
    let (page, sent) = tokio::join!(world.rest().get(&path), answers);
    assert_eq!((sent.as_deref(), page.body["meta"]["page"].get("cursor")), (Some("1.0"), None));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_figures_of_a_pool_come_from_a_dispatcher() {
    let world = World::start().await;
    let dispatcher = world.dispatcher().await;
    let mut asked = dispatcher.subscribe(History::Pool.subject()).await.unwrap();
    dispatcher.flush().await.unwrap();
    let answers = async {
        let question = asked.next().await.unwrap();
        let pool = wire::decode::<PoolQuestion>(&question.payload).unwrap().pool;
        let stats = PoolStats {
            pool,
            counts: [("failed".into(), 2)].into(),
            oldest_pending_at: None,
            oldest_pending_s: None,
            finished_last_hour: 2,
            waiting_s: None,
            running_s: None,
        };
        let answer = PoolAnswer { v: V, stats: Some(stats), error: None };
        dispatcher.publish(question.reply.unwrap(), wire::encode(&answer).into()).await.unwrap();
    };
    let (stats, ()) = tokio::join!(world.rest().get("/pools/other/stats"), answers);
    let stats = stats.data(200);
    assert_eq!((stats["pool"].as_str(), stats["counts"]["failed"].as_u64()), (Some("other"), Some(2)));
}
