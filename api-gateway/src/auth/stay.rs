//! Requests that stay open after they were let in: waits (`?wait=`) and streams of events. Each has a place at the door, and ends with
//! its key: at once when the key is revoked at any gateway, and when it expires.
//!
//! A wait that is cut short is answered like any request with such a key. A stream says why as a last comment; whoever comes back to it
//! is refused. Which requests these are is seen from the request and the answer, so that a new endpoint can't forget it.

use std::{borrow::Cow, sync::Arc};

use axum::{
    body::Body,
    extract::Request,
    http::{Uri, header},
    middleware::Next,
    response::Response,
};
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, stream};
use muster_schemas::code::Code;
use percent_encoding::percent_decode_str;

use super::{Refusal, life::Life};
use crate::{app::App, audit::Noted, door::Place, problem::ApiError};

/// The query parameter that makes a request wait.
const WAIT: &str = "wait";

/// What is to be known of a wait that its key's end cut short.
const CUT_SHORT: &str = "while this request waited; what it asked for may have been begun";

/// Whether a request's key is still good. Every request behind a key has it.
#[derive(Clone)]
pub(crate) struct Alive(Arc<Life>);

impl Alive {
    /// # Errors
    /// `unauthenticated`.
    pub(crate) fn check(&self) -> Result<(), ApiError> {
        self.0.check()
    }
}

/// Runs a request for as long as its key lives.
pub(super) async fn run(app: &App, key_id: &str, life: Life, mut request: Request, next: Next) -> Result<Response, ApiError> {
    let life = Arc::new(life);
    request.extensions_mut().insert(Alive(Arc::clone(&life)));
    let response = if waits(request.uri()) {
        let _place = app.door.open(key_id)?;
        let noted = request.extensions().get::<Noted>().cloned();
        tokio::select! {
            biased;
            refusal = life.ended() => {
                noted.inspect(|noted| noted.detail(CUT_SHORT));
                return Err(cut_short(app.auth.refused(refusal)));
            }
            response = next.run(request) => response,
        }
    } else {
        next.run(request).await
    };
    if !streams(&response) {
        return Ok(response);
    }
    let place = app.door.open(key_id)?;
    Ok(response.map(|body| Body::from_stream(until_ended(body, life, place))))
}

fn cut_short(mut error: ApiError) -> ApiError {
    error.detail.push(' ');
    error.detail.push_str(CUT_SHORT);
    error
}

/// Whether the request asks to wait, however the parameter's name is written.
fn waits(uri: &Uri) -> bool {
    let mut names = uri.query().unwrap_or_default().split('&').map(|pair| pair.split('=').next().unwrap_or_default());
    names.any(|name| percent_decode_str(name).decode_utf8().unwrap_or(Cow::Borrowed("")) == WAIT)
}

fn streams(response: &Response) -> bool {
    let content = response.headers().get(header::CONTENT_TYPE);
    content.is_some_and(|content| content.as_bytes().starts_with(b"text/event-stream"))
}

/// The body, up to the end of the key, and then a comment that says so.
fn until_ended(body: Body, life: Arc<Life>, place: Place) -> impl Stream<Item = Result<Bytes, axum::Error>> + Send {
    stream::unfold(Some((body.into_data_stream(), life, place)), async |open| {
        let (mut parts, life, place) = open?;
        tokio::select! {
            biased;
            refusal = life.ended() => Some((Ok(Bytes::from(format!(": {refusal}\n\n"))), None)),
            part = parts.next() => part.map(|part| (part, Some((parts, life, place)))),
        }
    })
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> Self {
        Self::new(Code::Unauthenticated, refusal.to_string())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;

    #[test]
    fn a_wait_is_seen_however_it_is_written() {
        for waiting in ["/?wait=3", "/?a=b&wait=3", "/?%77ait=3", "/?w%61%69t", "/?wait=&x=1"] {
            assert!(waits(&waiting.parse().unwrap()), "{waiting}");
        }
        for other in ["/", "/wait=3", "/?awaits=3", "/?x=wait", "/?Wait=3", "/?%ff=1"] {
            assert!(!waits(&other.parse().unwrap()), "{other}");
        }
    }
}
