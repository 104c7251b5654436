//! What a direct get tells of the newest message on a subject, on a real broker.

use async_nats::{Message, RequestErrorKind};
use muster_client::last::{self, Unread};

use crate::{
    atomic::{JOBS, header, job},
    stage::Stage,
};

#[tokio::test]
async fn the_newest_message_on_a_subject_is_found_by_its_name_and_by_wildcards_and_none_is_no_error() {
    let stage = Stage::set(10).await;
    let nats = stage.gateway().await;
    for id in ["a", "b"] {
        let job = job(id, &[("Which", id)]);
        nats.request_with_headers(job.subject, job.headers, job.payload).await.unwrap();
    }
    let (a, all) = (job("a", &[]).subject, "jobs.p.>");
    let which = |found: Result<Option<Message>, Unread>| header(&found.unwrap().unwrap(), "Which").unwrap();
    assert_eq!(which(last::on(&nats, JOBS, &a).await), "a");
    assert_eq!(which(last::matching(&nats, JOBS, &a).await), "a");
    assert_eq!(which(last::matching(&nats, JOBS, all).await), "b");
    let none = job("none", &[]).subject;
    assert!(last::on(&nats, JOBS, &none).await.unwrap().is_none() && last::matching(&nats, JOBS, &none).await.unwrap().is_none());
}

#[tokio::test]
async fn a_stream_that_is_not_there_and_a_question_that_is_none_are_told_from_a_subject_without_a_message() {
    let stage = Stage::set(10).await;
    let nats = stage.gateway().await;
    for answer in [last::on(&nats, "JOBS_none", "jobs.none.x").await, last::matching(&nats, "JOBS_none", "jobs.none.>").await] {
        let Err(Unread::Unanswered(error)) = answer else { panic!("{answer:?}") };
        assert_eq!(error.kind(), RequestErrorKind::NoResponders);
    }
    let Err(Unread::Refused(why)) = last::matching(&nats, JOBS, "").await else { panic!("not refused") };
    assert!(why.starts_with("408 "), "{why}");
}
