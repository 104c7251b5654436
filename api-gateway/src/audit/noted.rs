//! What gate and handler tell the trail of a request while it is answered. The layer around them reads it afterwards.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex, PoisonError},
};

use axum::{
    extract::FromRequestParts,
    http::{Extensions, request::Parts},
};
use muster_schemas::audit::Actor;

/// Notes of one request; clones share them. Handlers can ask for it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Noted(Arc<Mutex<Notes>>);

/// What was noted.
#[derive(Debug, Clone, Default)]
pub(super) struct Notes {
    pub(super) actor: Option<Actor>,
    pub(super) action: Option<&'static str>,
    pub(super) target: Option<String>,
    pub(super) detail: Option<String>,
}

impl Noted {
    /// Who acts. The gate says so as soon as it knows, before it decides whether they may.
    pub(crate) fn actor(extensions: &Extensions, actor: Actor) {
        // A request that is not audited has no notes.
        if let Some(noted) = extensions.get::<Self>() {
            noted.change(|notes| notes.actor = Some(actor));
        }
    }

    /// What it is after all, where an endpoint does several things or only some of what it does is audited. Before it is done.
    pub(crate) fn act(&self, action: &'static str) {
        self.change(|notes| notes.action = Some(action));
    }

    /// To whom or what it is done, where neither path nor answer says so: an id or a name.
    pub(crate) fn target(&self, target: impl Into<String>) {
        self.change(|notes| notes.target = Some(target.into()));
    }

    /// A few words of our own, behind those that are there. Never what a caller wrote.
    pub(crate) fn detail(&self, detail: impl Into<String>) {
        self.change(|notes| {
            let detail = detail.into();
            notes.detail = Some(notes.detail.take().map_or(detail.clone(), |before| format!("{before}; {detail}")));
        });
    }

    pub(super) fn read(&self) -> Notes {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn change(&self, change: impl FnOnce(&mut Notes)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl<S: Sync> FromRequestParts<S> for Noted {
    type Rejection = Infallible;
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(parts.extensions.get::<Self>().cloned().unwrap_or_default())
    }
}
