//! Shutdown: one request that every part of a process can see and wait for.
//!
//! Owns the signals TERM and INT. The order in which parts drain belongs to each service.

use std::{
    fmt, io,
    sync::{Arc, OnceLock},
    thread,
};

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// What a process still does when a second signal ends it at once.
struct LastAct(Box<dyn Fn() + Send + Sync>);

impl fmt::Debug for LastAct {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LastAct")
    }
}

/// A handle on the process's shutdown; clones share it.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    token: CancellationToken,
    reason: Arc<OnceLock<String>>,
    last_act: Arc<OnceLock<LastAct>>,
    parent: Option<Box<Shutdown>>,
}

impl Shutdown {
    /// A shutdown that only [`Shutdown::trigger`] requests. For tests, and for services inside another process.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Requests the shutdown at the first TERM or INT. A second one ends the process at once, with
    /// code 143 or 130.
    ///
    /// Signals are watched on a thread of its own, so that the second one works even when every
    /// worker thread of the runtime is stuck.
    ///
    /// # Errors
    /// When the thread or the signal handlers can't be set up.
    pub fn on_signals() -> io::Result<Self> {
        let shutdown = Self::new();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
        let (mut term, mut int) = {
            let _guard = runtime.enter();
            (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?)
        };
        let watched = shutdown.clone();
        thread::Builder::new().name("signals".to_owned()).spawn(move || {
            runtime.block_on(async {
                loop {
                    let (name, code) = tokio::select! {
                        Some(()) = term.recv() => ("TERM", 143),
                        Some(()) = int.recv() => ("INT", 130),
                        else => return,
                    };
                    if watched.is_requested() {
                        tracing::warn!(signal = name, "exiting at once");
                        if let Some(LastAct(act)) = watched.last_act.get() {
                            act();
                        }
                        std::process::exit(code);
                    }
                    watched.trigger(format!("signal {name}"));
                }
            });
        })?;
        Ok(shutdown)
    }

    /// What to do still when a second signal ends the process at once, in milliseconds and without the runtime. The first one given
    /// counts; later calls change nothing.
    pub fn before_exit(&self, act: impl Fn() + Send + Sync + 'static) {
        // Set before: that one stays.
        let _ = self.last_act.set(LastAct(Box::new(act)));
    }

    /// Requests the shutdown. The first reason is kept and logged; later calls change nothing.
    pub fn trigger(&self, reason: impl Into<String>) {
        let reason = reason.into();
        if self.reason.set(reason.clone()).is_ok() && !self.token.is_cancelled() {
            tracing::info!(reason, "shutting down");
        }
        self.token.cancel();
    }

    /// As [`Shutdown::trigger`], for a part whose end is not the process's: nothing is logged.
    pub fn trigger_quietly(&self, reason: impl Into<String>) {
        // Set before: that one stays.
        let _ = self.reason.set(reason.into());
        self.token.cancel();
    }

    /// Whether it was requested.
    #[must_use]
    pub fn is_requested(&self) -> bool {
        self.token.is_cancelled()
    }

    /// Waits until it is requested. Safe to cancel.
    pub async fn requested(&self) {
        self.token.cancelled().await;
    }

    /// As [`Shutdown::requested`], but not bound to this handle's lifetime.
    pub fn requested_owned(&self) -> impl Future<Output = ()> + Send + 'static {
        self.token.clone().cancelled_owned()
    }

    /// Why it was requested; `None` before.
    #[must_use]
    pub fn reason(&self) -> Option<&str> {
        self.reason.get().map(String::as_str).or_else(|| self.parent.as_ref()?.reason())
    }

    /// A shutdown of one part: it follows this one, and can be requested alone.
    #[must_use]
    pub fn child(&self) -> Self {
        Self { token: self.token.child_token(), reason: Arc::default(), last_act: Arc::default(), parent: Some(Box::new(self.clone())) }
    }

    /// The token behind it, for libraries that take one.
    #[must_use]
    pub fn token(&self) -> &CancellationToken {
        &self.token
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_trigger_reaches_every_clone_and_keeps_the_first_reason() {
        let shutdown = Shutdown::new();
        let clone = shutdown.clone();
        assert!(!clone.is_requested());
        assert_eq!(clone.reason(), None);
        shutdown.trigger("first");
        shutdown.trigger("second");
        clone.requested().await;
        clone.requested_owned().await;
        assert_eq!(clone.reason(), Some("first"));
    }

    #[tokio::test]
    async fn a_child_follows_its_parent_but_not_the_other_way() {
        let parent = Shutdown::new();
        let (one, two) = (parent.child(), parent.child());
        one.trigger("one is done");
        assert!(one.is_requested() && !parent.is_requested() && !two.is_requested());
        parent.trigger("all");
        two.requested().await;
        assert_eq!(two.reason(), Some("all"));
        assert_eq!(one.reason(), Some("one is done"));
    }
}
