//! Asks an agent itself whether it is there. What the dispatcher thinks of it is its health.

use std::time::Duration;

use async_nats::{Message, Request, RequestError, RequestErrorKind};
use axum::{Json as Answer, extract::State};
use muster_schemas::{
    api::{One, PongView},
    code::Code,
    control::{PING, Pong},
    names::AgentId,
    subjects, wire,
};
use tokio::time::Instant;

use crate::{app::App, extract::Path, problem::ApiError};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(5);

pub(super) async fn ping(State(app): State<App>, Path(id): Path<AgentId>) -> Result<Answer<One<PongView>>, ApiError> {
    let agent = super::read(&app, &id).await?;
    let silent = |why: &str| ApiError::new(Code::AgentSilent, format!("agent {} ({id}) {why}", agent.name));
    let began = Instant::now();
    let answer = ask(&app, &id, PATIENCE).await.map_err(|error| match error.kind() {
        RequestErrorKind::NoResponders => silent("is not connected"),
        RequestErrorKind::TimedOut => silent(&format!("did not answer within {} s", PATIENCE.as_secs())),
        _ => ApiError::broker("ask the agent", error),
    })?;
    let pong: Pong = wire::decode(&answer.payload).map_err(|error| ApiError::internal("read the agent's answer", error))?;
    let ms = began.elapsed().as_secs_f64() * 1e3;
    Ok(Answer(One { data: PongView { agent_id: pong.agent_id, instance: pong.instance, ms } }))
}

/// Asks an agent for a sign of life. By the time it answers it has obeyed all orders that were published before.
pub(crate) async fn ask(app: &App, id: &AgentId, patience: Duration) -> Result<Message, RequestError> {
    let request = Request::new().payload("".into()).timeout(Some(patience));
    app.nats.send_request(subjects::rpc(id, PING), request).await
}
