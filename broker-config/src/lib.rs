//! The broker's side of Muster: keys and JWTs, the permissions of each role, the server's config, the streams, and the server itself.
//!
//! It never talks to agents and holds no job logic. Names of subjects and streams come from `muster_schemas`; what may be done with them
//! is decided here, in one table.
//!
//! | to find | look in |
//! |---|---|
//! | who may publish and subscribe what | [`permissions`] |
//! | what `CORE` and `FLEET` offer each other | [`accounts`] |
//! | JWTs: encoding, claims, reading an expiry | [`jwt`] |
//! | credentials files, and minting them for agents and services | [`creds`] |
//! | where a deployment keeps which file | [`layout`] |
//! | making a deployment (`muster init`) | [`init`] |
//! | certificates, and requests for them | [`tls`] |
//! | making the streams on a server | [`provision`] |
//! | what gateway and dispatcher sign with | [`signing`] |
//! | finding, fetching, starting a `nats-server` | [`server`] |

pub mod accounts;
pub mod creds;
mod files;
pub mod init;
pub mod jwt;
pub mod layout;
pub mod permissions;
pub mod provision;
pub mod server;
pub mod signing;
pub mod tls;
