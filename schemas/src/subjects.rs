//! Every subject of Muster, built and parsed in pairs. No subject is written by hand anywhere else.
//!
//! The address is in the subject, the work is in the body: pool, priority, executor and id are not repeated inside.

use crate::{
    lane::{Lane, Priority},
    names::{AgentId, ExecutorName, JobId, PoolName, ScheduleName},
    queue::Queue,
};

pub mod broker;

/// Where a job waits: `jobs.<pool>.<priority>.<executor>.<job_id>`.
pub fn job(pool: &PoolName, lane: &Lane, id: &JobId) -> String {
    format!("jobs.{pool}.{}.{}.{id}", lane.priority, lane.executor)
}

/// All jobs of a lane.
pub fn lane(pool: &PoolName, lane: &Lane) -> String {
    format!("jobs.{pool}.{}.{}.*", lane.priority, lane.executor)
}

/// All jobs of a pool, as a permission or filter.
pub fn jobs_of(pool: &PoolName) -> String {
    format!("jobs.{pool}.>")
}

/// A job of any lane of a pool.
pub fn job_in_any_lane(pool: &PoolName, id: &JobId) -> String {
    format!("jobs.{pool}.*.*.{id}")
}

/// A job's address as its subject says it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobAddress<'a> {
    /// The pool.
    pub pool: PoolName,
    /// Where it waits.
    pub queue: Queue,
    /// The last token, which a publisher chose: a [`JobId`] if it parses.
    pub id: &'a str,
}

/// Parses the subject of a job, in a lane or for one agent. `None` when it is neither.
pub fn parse_job(subject: &str) -> Option<JobAddress<'_>> {
    let mut tokens = subject.split('.');
    let kind = tokens.next()?;
    let pool = tokens.next()?.parse().ok()?;
    let queue = match kind {
        "jobs" => {
            let (priority, executor) = (tokens.next()?, tokens.next()?);
            let executor: ExecutorName = executor.parse().ok()?;
            Queue::Lane(Lane { priority: priority.parse::<Priority>().ok()?, executor })
        }
        "commands" => Queue::Agent(tokens.next()?.parse().ok()?),
        _ => return None,
    };
    let id = tokens.next().filter(|id| !id.is_empty())?;
    tokens.next().is_none().then_some(JobAddress { pool, queue, id })
}

/// Where the broker's timer of a schedule lies: `schedules.<name>`.
pub fn schedule(name: &ScheduleName) -> String {
    format!("schedules.{name}")
}

/// Parses a schedule's subject.
pub fn parse_schedule(subject: &str) -> Option<ScheduleName> {
    subject.strip_prefix("schedules.")?.parse().ok()
}

/// Where the broker puts a schedule's firings: `due.<name>`.
pub fn due(name: &ScheduleName) -> String {
    format!("due.{name}")
}

/// Parses a firing's subject.
pub fn parse_due(subject: &str) -> Option<ScheduleName> {
    subject.strip_prefix("due.")?.parse().ok()
}

/// Where a command to one agent waits: `commands.<pool>.<agent_id>.<job_id>`.
pub fn command(pool: &PoolName, agent: &AgentId, id: &JobId) -> String {
    format!("commands.{pool}.{agent}.{id}")
}

/// All commands to one agent.
pub fn commands_to(pool: &PoolName, agent: &AgentId) -> String {
    format!("commands.{pool}.{agent}.*")
}

/// All commands to one agent, whatever pool it was in when they were sent.
pub fn commands_anywhere_to(agent: &AgentId) -> String {
    format!("commands.*.{agent}.*")
}

/// A command of a pool, whichever agent it is for.
pub fn command_to_any_agent(pool: &PoolName, id: &JobId) -> String {
    format!("commands.{pool}.*.{id}")
}

/// A command whose pool and agent are not known.
pub fn command_anywhere(id: &JobId) -> String {
    format!("commands.*.*.{id}")
}

/// All commands to agents of a pool.
pub fn commands_of(pool: &PoolName) -> String {
    format!("commands.{pool}.*.*")
}

/// What `<kind>.<pool>.<job_id>` subjects are about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum About {
    /// A result on its way into the stream; the first one stored wins. Only publishers use it.
    Result,
    /// A result once stored, republished by the broker. What waits for a result listens here.
    Done,
    /// State changes.
    Event,
    /// Output while the job runs.
    Log,
    /// Dead letters.
    Dead,
}

impl About {
    fn token(self) -> &'static str {
        match self {
            Self::Result => "results",
            Self::Done => "done",
            Self::Event => "events",
            Self::Log => "logs",
            Self::Dead => "dead",
        }
    }

    /// The subject of one job of a pool.
    pub fn job(self, pool: &PoolName, id: &JobId) -> String {
        format!("{}.{pool}.{id}", self.token())
    }

    /// All jobs of a pool.
    pub fn pool(self, pool: &PoolName) -> String {
        format!("{}.{pool}.*", self.token())
    }

    /// A job whose pool is not known.
    pub fn any_pool(self, id: &JobId) -> String {
        format!("{}.*.{id}", self.token())
    }

    /// All of this kind.
    pub fn all(self) -> String {
        format!("{}.*.*", self.token())
    }

    /// Parses a subject of this kind. `None` when it is not one.
    pub fn parse(self, subject: &str) -> Option<(PoolName, JobId)> {
        let mut tokens = subject.split('.');
        let (kind, pool, id) = (tokens.next()?, tokens.next()?, tokens.next()?);
        (kind == self.token() && tokens.next().is_none()).then_some(())?;
        Some((pool.parse().ok()?, id.parse().ok()?))
    }
}

/// An agent's heartbeat: `heartbeats.<pool>.<agent_id>`.
pub fn heartbeat(pool: &PoolName, agent: &AgentId) -> String {
    format!("heartbeats.{pool}.{agent}")
}

/// All heartbeats.
pub fn heartbeats() -> String {
    "heartbeats.*.*".into()
}

/// Parses a heartbeat's subject.
pub fn parse_heartbeat(subject: &str) -> Option<(PoolName, AgentId)> {
    let (pool, agent) = subject.strip_prefix("heartbeats.")?.split_once('.')?;
    Some((pool.parse().ok()?, agent.parse().ok()?))
}

/// Orders to one agent that expect no answer: `control.<agent_id>`.
pub fn control(agent: &AgentId) -> String {
    format!("control.{agent}")
}

/// Requests to one agent: `rpc.<agent_id>.<verb>`.
pub fn rpc(agent: &AgentId, verb: &str) -> String {
    format!("rpc.{agent}.{verb}")
}

/// All requests to one agent.
pub fn rpc_of(agent: &AgentId) -> String {
    format!("rpc.{agent}.*")
}

/// An agent's request for a fresh JWT: `identity.renew.<agent_id>`.
pub fn renew(agent: &AgentId) -> String {
    format!("identity.renew.{agent}")
}

/// All requests for a fresh JWT.
pub fn renewals() -> String {
    "identity.renew.*".into()
}

/// An ephemeral agent's word that it leaves for good: `identity.leave.<agent_id>`.
pub fn leave(agent: &AgentId) -> String {
    format!("identity.leave.{agent}")
}

/// All words of agents that leave for good.
pub fn leavings() -> String {
    "identity.leave.*".into()
}

/// Parses the subject of an agent's word that it leaves for good.
pub fn parse_leave(subject: &str) -> Option<AgentId> {
    subject.strip_prefix("identity.leave.")?.parse().ok()
}

/// Parses the subject of a request for a fresh JWT.
pub fn parse_renew(subject: &str) -> Option<AgentId> {
    subject.strip_prefix("identity.renew.")?.parse().ok()
}

/// What a service may ask any gateway about a job of a pool: `query.<verb>.<pool>.<job_id>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Query {
    /// The stored result, if any.
    Result,
    /// Cancel it.
    Cancel,
}

impl Query {
    /// Every verb.
    pub const ALL: [Self; 2] = [Self::Result, Self::Cancel];

    fn token(self) -> &'static str {
        match self {
            Self::Result => "result",
            Self::Cancel => "cancel",
        }
    }

    /// The subject of the request.
    pub fn subject(self, pool: &PoolName, id: &JobId) -> String {
        format!("query.{}.{pool}.{id}", self.token())
    }

    /// All requests with this verb.
    pub fn all(self) -> String {
        format!("query.{}.*.*", self.token())
    }

    /// All requests with this verb about a pool, as a permission.
    pub fn about(self, pool: &PoolName) -> String {
        format!("query.{}.{pool}.*", self.token())
    }

    /// All requests about a pool, as a permission.
    pub fn any_about(pool: &PoolName) -> String {
        format!("query.*.{pool}.*")
    }

    /// Parses the subject of a request with this verb.
    pub fn parse(self, subject: &str) -> Option<(PoolName, JobId)> {
        let rest = subject.strip_prefix("query.")?.strip_prefix(self.token())?.strip_prefix('.')?;
        let (pool, id) = rest.split_once('.')?;
        Some((pool.parse().ok()?, id.parse().ok()?))
    }
}

/// What a gateway may ask any dispatcher about the history: `history.<verb>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum History {
    /// A page of jobs.
    Jobs,
    /// How a pool is doing.
    Pool,
    /// The jobs of a group.
    Group,
}

impl History {
    /// Every verb.
    pub const ALL: [Self; 3] = [Self::Jobs, Self::Pool, Self::Group];

    /// The subject of the request.
    pub fn subject(self) -> &'static str {
        match self {
            Self::Jobs => "history.jobs",
            Self::Pool => "history.pool",
            Self::Group => "history.group",
        }
    }
}

/// Asks the active dispatcher to carry out at once what an agent's record says: `fleet.settle`.
pub const SETTLE: &str = "fleet.settle";

/// Where an entry of the audit trail goes: `audit.<area>.<deed>`. `None` unless `action` is two tokens of `a-z` and `_` with a dot between.
pub fn audit(action: &str) -> Option<String> {
    let plain = |token: &str| !token.is_empty() && token.len() <= 32 && token.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
    let (area, deed) = action.split_once('.')?;
    (plain(area) && plain(deed)).then(|| format!("audit.{area}.{deed}"))
}

/// Which entries of the audit trail a filter means: one action, or with `<area>.*` all of an area. `None` when it is neither.
pub fn audit_filter(action: &str) -> Option<String> {
    match action.strip_suffix(".*") {
        Some(area) => audit(&format!("{area}.x")).map(|_| format!("audit.{area}.*")),
        None => audit(action),
    }
}

/// Whether a reply subject is one that clients make for answers: nothing else may be answered on a stranger's behalf, since an
/// answer to, say, `jobs.…` would be stored as a job.
pub fn is_inbox(reply: &str) -> bool {
    reply.starts_with("_INBOX.") || reply.starts_with("_R_.")
}

/// The inbox prefix of an agent, which its permissions name.
pub fn agent_inbox(agent: &AgentId) -> String {
    format!("_INBOX.{agent}")
}

/// JetStream's own subjects, for clients that may not use (or do not need) the full API.
pub mod js {
    /// A pull request to a durable consumer.
    pub fn next(stream: &str, consumer: &str) -> String {
        format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}")
    }

    /// A direct get of the last message of `subject` in `stream`.
    pub fn direct_get(stream: &str, subject: &str) -> String {
        format!("$JS.API.DIRECT.GET.{stream}.{subject}")
    }

    /// A direct get whose body says what to get.
    pub fn direct_get_by_request(stream: &str) -> String {
        format!("$JS.API.DIRECT.GET.{stream}")
    }

    /// The subject of a key in a bucket.
    pub fn key(bucket: &str, key: &str) -> String {
        format!("$KV.{bucket}.{key}")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;
    use proptest::prelude::*;

    fn pool() -> PoolName {
        "p-1".parse().unwrap()
    }

    #[test]
    fn what_is_built_parses_back() {
        let (id, agent) = (JobId::generate(&pool()), AgentId::generate());
        for lane in Lane::of(&"shell".parse().unwrap()) {
            let subject = job(&pool(), &lane, &id);
            assert_eq!(parse_job(&subject), Some(JobAddress { pool: pool(), queue: Queue::Lane(lane), id: id.as_str() }));
        }
        let subject = command(&pool(), &agent, &id);
        assert_eq!(parse_job(&subject), Some(JobAddress { pool: pool(), queue: Queue::Agent(agent.clone()), id: id.as_str() }));
        for about in [About::Result, About::Done, About::Event, About::Log, About::Dead] {
            assert_eq!(about.parse(&about.job(&pool(), &id)), Some((pool(), id.clone())));
        }
        for query in Query::ALL {
            assert_eq!(query.parse(&query.subject(&pool(), &id)), Some((pool(), id.clone())));
        }
        assert_eq!(parse_heartbeat(&heartbeat(&pool(), &agent)), Some((pool(), agent.clone())));
        assert_eq!(parse_renew(&renew(&agent)), Some(agent.clone()));
        assert_eq!(parse_leave(&leave(&agent)), Some(agent));
    }

    #[test]
    fn a_subject_of_another_kind_does_not_parse() {
        for subject in [
            "jobs.p.normal.shell",
            "jobs.p.urgent.shell.x",
            "jobs.p.normal.shell.x.y",
            "job.p.normal.shell.x",
            "results.p.x",
            "",
            "commands.p.x.y",
        ] {
            assert_eq!(parse_job(subject), None, "{subject}");
        }
        assert_eq!(About::Result.parse("results.p.x.y"), None);
        assert_eq!(About::Result.parse("done.p.x"), None);
        assert_eq!(Query::Cancel.parse("query.result.p.x"), None);
    }

    #[test]
    fn an_action_of_the_audit_trail_is_two_plain_tokens() {
        assert_eq!(audit("agents.rotate_key").as_deref(), Some("audit.agents.rotate_key"));
        for action in ["", "agents", "agents.", ".revoke", "agents.re.voke", "agents.*", "agents.>", "Agents.revoke", "a b.c"] {
            assert_eq!(audit(action), None, "{action}");
            assert_eq!(audit_filter(action).filter(|_| action != "agents.*"), None, "{action}");
        }
    }

    #[test]
    fn only_inboxes_may_be_answered() {
        assert!(is_inbox("_INBOX.abc.1"));
        for reply in ["jobs.q.normal.shell.evil", "_INBOX", "$JS.API.STREAM.DELETE.JOBS_q", ""] {
            assert!(!is_inbox(reply), "{reply}");
        }
    }

    proptest! {
        #[test]
        fn no_subject_makes_a_parser_panic(subject in "[a-z.*>\\$ \u{0}-\u{20}]{0,60}") {
            let _ = parse_job(&subject);
            let _ = About::Event.parse(&subject);
            let _ = parse_heartbeat(&subject);
            let _ = parse_renew(&subject);
            let _ = Query::Result.parse(&subject);
        }
    }
}
