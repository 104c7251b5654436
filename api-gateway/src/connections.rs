//! Connections over REST: where jobs may go with a secret, and how the secret gets to the agents. The gateway never sees one: what is delivered
//! is sealed to each agent by the caller, and nothing hands it out again.
//!
//! | to find | look in |
//! |---|---|
//! | endpoints and their handlers | [`handlers`] |
//! | records, and names that are unique | [`store`] |
//! | which agents have the credentials | [`recipients`] |
//! | what lies ready for an agent | [`mailbox`] |
//! | delivering | [`deliver`] |
//! | jobs that name a connection | [`named`] |
//! | trying one | [`trial`] |

mod deliver;
mod handlers;
pub(crate) mod mailbox;
pub(crate) mod named;
pub(crate) mod recipients;
mod store;
mod trial;

pub(crate) use handlers::endpoints;
pub(crate) use store::known;
