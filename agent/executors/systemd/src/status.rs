//! `service.status`: the state of a unit, and nothing is changed.

use muster_executor::{BoxFuture, Finish, Scope, Stream, Work};
use serde_json::json;

use crate::bus::{Address, BusError, State};

#[derive(Debug)]
pub(crate) struct Status {
    pub(crate) bus: Address,
    pub(crate) unit: String,
}

impl Work for Status {
    fn run<'a>(self: Box<Self>, scope: &'a Scope) -> BoxFuture<'a, Finish> {
        Box::pin(async move {
            match self.state().await {
                Ok(state) => {
                    scope.recorder.write(Stream::Stdout, format!("{}: {state}\n", self.unit).as_bytes()).await;
                    Finish::succeeded(Some(json!({"unit": self.unit, "state": state.data()})))
                }
                Err(error) => error.into(),
            }
        })
    }
}

impl Status {
    async fn state(&self) -> Result<State, BusError> {
        self.bus.systemd().await?.state(&self.unit).await
    }
}
