//! The wire of Muster: every type that crosses a process, every subject, and every stream, consumer and bucket as a plain value.
//!
//! It never does IO, has no async and knows no NATS client. A type belongs here only if two processes must agree on it.
//!
//! | to find | look in |
//! |---|---|
//! | names and ids that become subject tokens | [`names`] |
//! | lanes and priorities | [`lane`] |
//! | where a job waits | [`queue`] |
//! | subjects, built and parsed in pairs | [`subjects`] |
//! | streams, consumers, buckets and their limits | [`topology`] |
//! | decoding bytes from outside | [`wire`] |
//! | bodies of messages | [`job`], [`result`], [`event`], [`log`], [`heartbeat`], [`standing`], [`control`] |
//! | connections, and sealing their credentials to agents | [`connection`], [`sealed`] |
//! | what executors take | [`describe`] |
//! | questions about the history of jobs | [`history`] |
//! | signatures, and the list of whose count | [`signature`] |
//! | the audit trail | [`audit`] |
//! | groups: one job for each of many agents | [`group`] |
//! | schedules, cron expressions, firings | [`schedule`] |
//! | records in key-value buckets | [`records`] |
//! | bodies of the REST interface | [`api`] |
//! | the agent's own executors and their verbs | [`builtin`] |
//! | stable error codes | [`code`] |
//! | message headers | [`headers`] |
//! | JSON Schemas of all of it | [`json`] |

pub mod api;
pub mod audit;
pub mod builtin;
pub mod code;
pub mod connection;
pub mod control;
pub mod describe;
pub mod event;
pub mod group;
pub mod headers;
pub mod heartbeat;
pub mod history;
pub mod job;
pub mod json;
pub mod lane;
pub mod log;
pub mod names;
pub mod queue;
pub mod records;
pub mod result;
pub mod schedule;
pub mod sealed;
pub mod signature;
pub mod standing;
pub mod subjects;
pub mod time;
pub mod topology;
pub mod wire;
