//! The stable codes of everything that can go wrong: the same in problem documents, `rejected` results, logs and metrics.
//!
//! Each code has a page in `docs/errors/`. Codes are never renamed; a new one is added at the end of its group.

use serde::{Deserialize, Serialize};

/// Defines [`Code`] with its text and a line that says what it means.
macro_rules! codes {
    ($($variant:ident $text:literal $meaning:literal)*) => {
        /// What went wrong, as a stable word.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema)]
        #[serde(rename_all = "snake_case")]
        pub enum Code {
            $(#[doc = $meaning] $variant,)*
        }

        impl Code {
            /// Every code.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The word on the wire.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }

            /// What it means, in one line.
            pub fn meaning(self) -> &'static str {
                match self { $(Self::$variant => $meaning,)* }
            }
        }
    };
}

codes! {
    BodyTooLarge "body_too_large" "The body has more bytes than its kind may have."
    BodyTooDeep "body_too_deep" "The body nests deeper than 32 levels."
    BodyMalformed "body_malformed" "The body is neither a MessagePack map nor a JSON object."
    HeadTooLarge "head_too_large" "The path, the query or the headers are larger than a request may have."
    VersionUnknown "version_unknown" "The body is of a version that this build does not read."
    FieldInvalid "field_invalid" "A field is missing, of the wrong type or out of its range."
    NameInvalid "name_invalid" "A name or id breaks the rule for its kind."
    QueryInvalid "query_invalid" "A query parameter is unknown or out of its range."
    HeaderInvalid "header_invalid" "A request header is missing, malformed or not allowed."
    TypeUnknown "type_unknown" "No executor of the agent runs jobs of this type."
    ExecutorMismatch "executor_mismatch" "The executor in the subject contradicts the job's type."
    ParamsInvalid "params_invalid" "The job's params do not fit its type."
    TimeoutInvalid "timeout_invalid" "The time-out is out of its range."
    RetryInvalid "retry_invalid" "The retry policy is out of its range."
    TimeInvalid "time_invalid" "A point in time contradicts another one or lies too far away."
    WaitInvalid "wait_invalid" "The wait is malformed or longer than allowed."
    LabelsInvalid "labels_invalid" "The labels are too many, too long or malformed."
    PoolNotFound "pool_not_found" "There is no pool of that name."
    PoolNotEmpty "pool_not_empty" "The pool still has jobs or agents, or schedules name it."
    QueueFull "queue_full" "The queue has reached its limit."
    JobNotFound "job_not_found" "No job of that id is known, or it is older than results are kept."
    JobFinished "job_finished" "The job has already ended."
    JobAmbiguous "job_ambiguous" "Several pools have a job of that id; say which."
    JobNotFinished "job_not_finished" "The job has not ended yet."
    BodyNotKept "body_not_kept" "What the job asked for is not kept any more, so it can't run again."
    DeadLetterNotFound "dead_letter_not_found" "There is no dead letter of that job."
    JobConflict "job_conflict" "The idempotency key or the id is that of another job."
    Unauthenticated "unauthenticated" "The key is missing, wrong, expired or revoked."
    Forbidden "forbidden" "The key's role does not allow this."
    RateLimited "rate_limited" "Too many requests."
    TokenInvalid "token_invalid" "The join token is wrong, used up, expired or revoked."
    NameTaken "name_taken" "Another agent has this name."
    AgentNotFound "agent_not_found" "There is no agent of that id."
    AgentRevoked "agent_revoked" "The agent has been revoked."
    AgentSilent "agent_silent" "The agent did not answer."
    AgentDeleted "agent_deleted" "The agent that the command was for has been removed."
    AgentBusy "agent_busy" "The agent is in a state in which this can't be done."
    KeyRevoked "key_revoked" "The public key is refused: it was revoked, or is not proven to be the caller's own."
    SettlePending "settle_pending" "It is decided and stored, but no dispatcher has carried it out yet."
    ClockSkewed "clock_skewed" "The clocks of two machines differ by more than allowed."
    CertificateInvalid "certificate_invalid" "The request for a certificate is malformed, or for somebody else."
    SignatureMissing "signature_missing" "The job is not signed, and the agent runs only what is."
    SignatureInvalid "signature_invalid" "The job's signature does not hold, or not by whom, for where and when it was sent."
    SignerNotFound "signer_not_found" "There is no such key among those whose jobs are run."
    SigningUnavailable "signing_unavailable" "This gateway has no key that agents trust, so it takes no jobs."
    ConnectionNotFound "connection_not_found" "There is no connection of that name."
    ConnectionExists "connection_exists" "A connection of that name exists, in another pool or of another kind."
    ConnectionMismatch "connection_mismatch" "The job's type takes no connection, needs one, or needs one of another kind or pool."
    ConnectionUndelivered "connection_undelivered" "No agent of the pool has the connection's credentials."
    SettingsInvalid "settings_invalid" "The connection's settings do not fit its kind."
    CredentialsInvalid "credentials_invalid" "The credentials do not fit the connection's kind, or were not sealed to the agents."
    RevisionConflict "revision_conflict" "Somebody else has delivered credentials for this connection meanwhile."
    VaultUnavailable "vault_unavailable" "The agent's vault can't be used."
    ExecutorUnavailable "executor_unavailable" "What the executor needs on this host does not answer."
    SettingForbids "setting_forbids" "The agent's settings do not allow this."
    UnitNotFound "unit_not_found" "There is no unit of that name on the agent's machine."
    UnitFailed "unit_failed" "systemd did not bring the unit to where it was to be."
    KeyNotFound "key_not_found" "There is no API key of that id."
    LastAdminKey "last_admin_key" "It is the last key that may administer this deployment."
    NotFound "not_found" "There is nothing at that path."
    MethodNotAllowed "method_not_allowed" "The path exists, but not for that method."
    BrokerUnavailable "broker_unavailable" "The broker cannot be reached or did not answer in time."
    HistoryUnavailable "history_unavailable" "No dispatcher answers for the history of jobs."
    Internal "internal" "Something failed on our side; the log has the details."
    ExitNonzero "exit_nonzero" "The command ended with an exit status other than 0."
    SpawnFailed "spawn_failed" "The command could not be started."
    TimedOut "timed_out" "The job ran longer than its time-out."
    Cancelled "cancelled" "The job was cancelled."
    Expired "expired" "The job's expiry passed before it could start."
    AgentLost "agent_lost" "Agents died or were cut off while running the job, as often as its attempts allow."
    AddressForbidden "address_forbidden" "The address is private or reserved, and the agent does not allow those."
    RequestFailed "request_failed" "The HTTP request got no answer."
    AnswerUnexpected "answer_unexpected" "The body of the answer is not what the job expects."
    StatusUnexpected "status_unexpected" "The HTTP answer has another status than expected."
    RedirectRefused "redirect_refused" "The HTTP answer redirects to where the agent does not follow."
    ClusterRefused "cluster_refused" "The Kubernetes cluster refused what was asked for, or has no such thing."
    ApplyConflict "apply_conflict" "Somebody else owns fields of an object that was to be applied."
    RolloutFailed "rollout_failed" "The rollout of a workload will not get done."
    ConnectionFailed "connection_failed" "The other machine could not be reached, or the connection to it was lost."
    LoginRefused "login_refused" "The other machine does not let the user in with these credentials."
    HostKeyUnknown "host_key_unknown" "Nobody has said which host key the other machine has."
    HostKeyChanged "host_key_changed" "The other machine has another host key than it should have."
    TransferFailed "transfer_failed" "A file could not be read, written or carried over."
    ArchiveRefused "archive_refused" "The archive is damaged, too large, or holds an entry that is not taken."
    ProbeFailed "probe_failed" "The probe was told to fail, and did."
    ContainerNotFound "container_not_found" "There is no container of that name or id on the agent's host."
    ImageNotFound "image_not_found" "There is no such image here, or not in its registry."
    RegistryRefused "registry_refused" "The registry of images refused the credentials, or wants some."
    EngineFailed "engine_failed" "The container engine could not do what it was asked for."
    ProjectUnready "project_unready" "A service of the project ended, is unhealthy, or was not ready in time."
    PluginFailed "plugin_failed" "The plugin said that it failed, or broke its protocol."
    ResultTooLarge "result_too_large" "The result had more bytes than a result may have, and lost what did not fit."
    ScheduleInvalid "schedule_invalid" "When the schedule is to fire is malformed, contradictory or never."
    ScheduleNotFound "schedule_not_found" "There is no schedule of that name."
    NoAgentMatches "no_agent_matches" "No agent of the pool can be given the job."
    GroupNotFound "group_not_found" "There is no group of that id, or it is older than groups are kept."
    GroupFinished "group_finished" "All jobs of the group have ended."
}

impl std::fmt::Display for Code {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;

    #[test]
    fn a_code_is_written_as_its_word_everywhere() {
        for code in Code::ALL {
            assert_eq!(serde_json::to_value(code).unwrap(), code.as_str());
        }
    }

    #[test]
    fn every_code_has_a_page_that_opens_with_its_word() {
        let pages = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/errors");
        for code in Code::ALL {
            let page = pages.join(format!("{code}.md"));
            let text = std::fs::read_to_string(&page).unwrap_or_default();
            assert!(text.starts_with(&format!("# {code}\n")), "{} is missing or does not open with its code", page.display());
        }
        let known = Code::ALL.len() + 1; // and the README
        assert_eq!(std::fs::read_dir(&pages).unwrap().count(), known, "a page without a code, in {}", pages.display());
    }
}
