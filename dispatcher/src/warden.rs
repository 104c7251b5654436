//! The warden: sees to it that who may not any longer, cannot any longer. Revoked keys are put into the agents' account on the broker, and agents
//! that are being removed leave nothing behind.
//!
//! A reconciler: what the buckets say is made so, again at every start, take-over and minute, in steps that may each be repeated. Only the
//! active dispatcher does; a gateway that has stored a decision asks it to act at once, and is answered when all of it is done. Who is revoked
//! or removed is never decided here, but for ephemeral agents that stay away ([`crate::state::roster`]).
//!
//! | to find | look in |
//! |---|---|
//! | which files it needs | [`means`] |
//! | the agents' account on the broker | [`account`] |
//! | keeping its revocations in step | [`revocations`] |
//! | what a gateway left unfinished that died while it ended an identity | [`unfinished`] |
//! | the steps of a removal | [`removal`] |
//! | which agents are to be removed, and when | [`agenda`] |
//! | answering gateways | [`settle`] |
//! | what it tells people, one function for each event | [`told`] |

mod account;
pub(crate) mod agenda;
mod commands;
pub(crate) mod means;
mod removal;
mod revocations;
mod settle;
pub(crate) mod told;
mod unfinished;

use muster_runtime::{nats::Broker, tasks::Tasks};
use muster_schemas::{
    subjects::broker::keys_of,
    topology::{REVOCATIONS, bucket_stream},
};

use crate::{
    broker::BrokerError,
    intake::follow::{Follower, Range, Source},
    keyring::Keyring,
    lease::keeper::Leadership,
    signing::Signing,
};
use account::Account;
use agenda::{Agenda, Removals};
use means::{Means, Missing};
use removal::Remover;
use revocations::{Hints, Revocations};
use settle::Settler;
use unfinished::Mender;

/// Why something is not done yet.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WardenError {
    /// It was not given what it needs.
    #[error("the dispatcher cannot have keys refused by the broker: {0}")]
    Missing(#[from] Missing),
    /// Another dispatcher is the active one now, and will do it.
    #[error("this dispatcher is not the active one")]
    NotActive,
    /// The broker did not do it, or did not answer.
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// The system account did not do it, or did not answer.
    #[error("the agents' account on the broker, {0}")]
    Account(String),
    /// A stream or consumer could not be changed.
    #[error(transparent)]
    Provision(#[from] muster_broker_config::provision::Error),
    /// A record is not what it should be, and is left as it is.
    #[error("the record of {0} can't be read")]
    Unreadable(String),
    /// Somebody changes the same thing all the time.
    #[error("{0} changes all the time")]
    Restless(&'static str),
}

/// Starts all of it. `system` is a connection to the system account, there when the means are.
pub(crate) fn start(
    tasks: &Tasks,
    source: &Source,
    leadership: &Leadership,
    agenda: &Agenda,
    (signing, keyring): (&Signing, &Keyring),
    means: Result<(Means, Broker), Missing>,
) {
    if let Err(missing) = &means {
        tracing::warn!("revoked agents stay connected until their credentials run out, and none can be removed: {missing}");
    }
    let (broker, shutdown) = (source.broker.clone(), tasks.shutdown());
    let account = means.map(|(means, system)| Account::new(system, means));
    let revocations = Revocations::new(broker.clone(), leadership.clone(), account, source.trail.clone());
    let remover = Remover::new(broker.clone(), leadership.clone(), revocations.clone(), signing.clone(), source.trail.clone());

    let hints = Hints::default();
    let (follower, until) =
        (Follower::new(source.clone(), bucket_stream(REVOCATIONS), keys_of(REVOCATIONS), Range::Everything), shutdown.clone());
    let listener = hints.clone();
    tasks.essential("revoked_keys", async move {
        tokio::select! {
            () = follower.run(listener) => {}
            () = until.requested() => {}
        }
        Ok(())
    });
    tasks.essential("revocations", revocations.clone().run(hints, shutdown.clone()));
    let removals = Removals { agenda: agenda.clone(), remover: remover.clone(), leadership: leadership.clone() };
    tasks.essential("removals", removals.run(shutdown.clone()));
    let mender = Mender::new(broker.clone(), leadership.clone(), revocations.clone(), keyring.clone());
    tasks.essential("unfinished", mender.clone().run(shutdown.clone()));
    let settler = Settler { broker, leadership: leadership.clone(), revocations, remover, mender };
    tasks.essential("settle", settler.run(shutdown.clone()));
}
