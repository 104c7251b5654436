//! Subjects of the broker's own interface, and the patterns that only permissions and account exports name.
//!
//! Everything here is built for `broker-config`; messages are addressed with the builders of [`super`].

use super::About;
use crate::names::{AgentId, PoolName};

/// Every inbox of services and agents.
pub const INBOXES: &str = "_INBOX.>";
/// Reply subjects as the broker maps them between accounts: random, and gone once answered.
pub const MAPPED_REPLIES: &str = "_R_.>";
/// Every inbox of a gateway. Not below `_INBOX`, so that services, which may subscribe to all of that, cannot listen in.
pub const GATEWAY_INBOXES: &str = "_GW.>";
/// Every inbox of a process that speaks to the system account.
pub const SYSTEM_INBOXES: &str = "_SYS_INBOX.>";
/// Every inbox of a dispatcher; see [`GATEWAY_INBOXES`].
pub const DISPATCHER_INBOXES: &str = "_DISP.>";
/// Everything: only ever denied.
pub const EVERYTHING: &str = ">";
/// All jobs of all pools.
pub const JOBS: &str = "jobs.>";
/// All commands to all agents.
pub const COMMANDS: &str = "commands.*.*.*";
/// The timers of all schedules.
pub const SCHEDULES: &str = "schedules.*";
/// The firings of all schedules. Only the broker itself publishes them.
pub const DUE: &str = "due.*";
/// All orders to all agents.
pub const CONTROLS: &str = "control.*";
/// All requests to all agents.
pub const RPCS: &str = "rpc.*.*";
/// All questions about the history.
pub const HISTORY: &str = "history.*";
/// All entries of the audit trail.
pub const AUDIT: &str = "audit.*.*";
/// All that agents ask of their identity.
pub const IDENTITIES: &str = "identity.*.*";
/// All requests of the system account.
pub const SYSTEM: &str = "$SYS.REQ.>";
/// Replaces an account's JWT. The body is the JWT.
pub const CLAIMS_UPDATE: &str = "$SYS.REQ.CLAIMS.UPDATE";
/// All pull requests, one token each for stream and consumer.
pub const PULLS: &str = "$JS.API.CONSUMER.MSG.NEXT.*.*";
/// All acknowledgements.
pub const ACKS: &str = "$JS.ACK.>";
/// Flow control of push consumers, which ordered consumers use.
pub const FLOW_CONTROL: &str = "$JS.FC.>";

/// Asks what the server goes by for an account, its JWT included: it stores one that it does not trust, and does not go by it.
pub fn account_in_force(account: &str) -> String {
    format!("$SYS.REQ.ACCOUNT.{account}.INFO")
}

/// Asks that of any account, as a permission.
pub const ACCOUNTS_IN_FORCE: &str = "$SYS.REQ.ACCOUNT.*.INFO";

/// Figures and limits of the account.
pub const ACCOUNT_INFO: &str = "$JS.API.INFO";

/// The inbox prefix of one gateway. `instance` is one token.
pub fn gateway_inbox(instance: &str) -> String {
    format!("_GW.{instance}")
}

/// The inbox prefix of one dispatcher. `instance` is one token.
pub fn dispatcher_inbox(instance: &str) -> String {
    format!("_DISP.{instance}")
}

/// The inbox prefix of one process in the system account. `instance` is one token.
pub fn system_inbox(instance: &str) -> String {
    format!("_SYS_INBOX.{instance}")
}

/// Everything below one agent's inbox prefix.
pub fn agent_inboxes(agent: &AgentId) -> String {
    format!("{}.>", super::agent_inbox(agent))
}

/// An operation of the stream interface on one stream, or on any (`*`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamApi {
    /// Makes it.
    Create,
    /// Changes its settings.
    Update,
    /// Reads its settings and state.
    Info,
    /// Removes it.
    Delete,
    /// Removes messages by subject or sequence.
    Purge,
    /// Reads one message by sequence or subject.
    MessageGet,
    /// Removes one message by sequence.
    MessageDelete,
}

impl StreamApi {
    fn verb(self) -> &'static str {
        match self {
            Self::Create => "CREATE",
            Self::Update => "UPDATE",
            Self::Info => "INFO",
            Self::Delete => "DELETE",
            Self::Purge => "PURGE",
            Self::MessageGet => "MSG.GET",
            Self::MessageDelete => "MSG.DELETE",
        }
    }

    /// The subject of the request.
    pub fn subject(self, stream: &str) -> String {
        format!("$JS.API.STREAM.{}.{stream}", self.verb())
    }

    /// The request on any stream, as a permission.
    pub fn any(self) -> String {
        self.subject("*")
    }
}

/// Lists the names of streams, all or by a subject in the body.
pub const STREAM_NAMES: &str = "$JS.API.STREAM.NAMES";

/// An operation of the consumer interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConsumerApi {
    /// Makes or changes it.
    Create,
    /// Reads its settings and state.
    Info,
    /// Removes it.
    Delete,
    /// Asks it for messages.
    Next,
    /// Stops it from giving out messages until a time, or lets it go on.
    Pause,
}

impl ConsumerApi {
    fn verb(self) -> &'static str {
        match self {
            Self::Create => "CREATE",
            Self::Info => "INFO",
            Self::Delete => "DELETE",
            Self::Next => "MSG.NEXT",
            Self::Pause => "PAUSE",
        }
    }

    /// The subject of the request on one consumer.
    pub fn subject(self, stream: &str, consumer: &str) -> String {
        format!("$JS.API.CONSUMER.{}.{stream}.{consumer}", self.verb())
    }

    /// The request on any consumer of a stream, or of any stream (`*`), as a permission.
    ///
    /// A create request may have the filter, of any number of tokens, after the consumer's name.
    pub fn any(self, stream: &str) -> String {
        self.subject(stream, if self == Self::Create { ">" } else { "*" })
    }
}

/// Makes a consumer whose filter is part of the subject, as the broker demands of newer clients.
pub fn consumer_create(stream: &str, consumer: &str, filter: &str) -> String {
    format!("{}.{filter}", ConsumerApi::Create.subject(stream, consumer))
}

/// Makes a consumer that the broker names, as client libraries do to watch a bucket or read a stream in order.
pub fn consumer_create_unnamed(stream: &str) -> String {
    format!("$JS.API.CONSUMER.CREATE.{stream}")
}

/// Lists the names of a stream's consumers, from an `offset` in the body on.
pub fn consumer_names(stream: &str) -> String {
    format!("$JS.API.CONSUMER.NAMES.{stream}")
}

/// All pull requests to the consumers of a stream.
pub fn pulls_of(stream: &str) -> String {
    ConsumerApi::Next.any(stream)
}

/// All acknowledgements of a stream's messages, as a permission. The second form names domain and account before the stream.
///
/// The domain is `_` where there is none, as here. It must not be a wildcard: `$JS.ACK.*.*.JOBS_p.>` would also match the short form
/// `$JS.ACK.JOBS_q.<consumer>.JOBS_p.…`, an acknowledgement of another pool's jobs.
pub fn acks_of(stream: &str) -> [String; 2] {
    [format!("$JS.ACK.{stream}.>"), format!("$JS.ACK._.*.{stream}.>")]
}

/// All acknowledgements of one consumer's messages, as a permission. Forms as in [`acks_of`].
pub fn acks_of_consumer(stream: &str, consumer: &str) -> [String; 2] {
    [format!("$JS.ACK.{stream}.{consumer}.>"), format!("$JS.ACK._.*.{stream}.{consumer}.>")]
}

/// Direct gets of the last message of any subject of a stream, as an export.
pub fn direct_gets(stream: &str) -> String {
    super::js::direct_get(stream, ">")
}

/// Direct gets of any kind from any stream, as a permission.
pub const DIRECT_GETS: &str = "$JS.API.DIRECT.GET.>";

/// Direct gets of what is stored about the jobs of one pool.
pub fn direct_gets_about(stream: &str, about: About, pool: &PoolName) -> String {
    super::js::direct_get(stream, &about.pool(pool))
}

/// All keys of a bucket.
pub fn keys_of(bucket: &str) -> String {
    super::js::key(bucket, ">")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_create_request_may_have_a_filter_of_any_length() {
        assert_eq!(ConsumerApi::Create.any("*"), "$JS.API.CONSUMER.CREATE.*.>");
        assert_eq!(consumer_create("S", "c", "a.*"), "$JS.API.CONSUMER.CREATE.S.c.a.*");
        assert_eq!(StreamApi::MessageGet.subject("S"), "$JS.API.STREAM.MSG.GET.S");
    }

    #[test]
    fn the_domain_of_an_acknowledgement_is_no_wildcard() {
        assert!(acks_of("S").iter().all(|subject| !subject.starts_with("$JS.ACK.*")));
    }
}
