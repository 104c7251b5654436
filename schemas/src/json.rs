//! JSON Schemas of every message, generated from the types into `schemas/json/`, and the golden files that pin their bytes.
//!
//! `UPDATE_GOLDEN=1 cargo test -p muster-schemas` writes both anew; without it a difference fails the test.

use schemars::{JsonSchema, Schema, generate::SchemaSettings};

use crate::{api, audit, control, event, heartbeat, history, job, log, result, signature, standing};

fn schema<T: JsonSchema>() -> Schema {
    SchemaSettings::draft2020_12().into_generator().into_root_schema_for::<T>()
}

/// The schema of every message that travels over NATS, by file name without its ending.
pub fn messages() -> Vec<(&'static str, Schema)> {
    vec![
        ("job", schema::<job::Draft>()),
        ("result", schema::<result::JobResult>()),
        ("event", schema::<event::Event>()),
        ("dead_letter", schema::<event::DeadLetter>()),
        ("log_chunk", schema::<log::LogChunk>()),
        ("heartbeat", schema::<heartbeat::Heartbeat>()),
        ("standing", schema::<standing::Standing>()),
        ("order", schema::<control::Order>()),
        ("query_answer", schema::<control::QueryAnswer>()),
        ("renew_request", schema::<control::RenewRequest>()),
        ("renew_answer", schema::<control::RenewAnswer>()),
        ("leave_request", schema::<control::LeaveRequest>()),
        ("leave_answer", schema::<control::LeaveAnswer>()),
        ("settle_request", schema::<control::SettleRequest>()),
        ("settle_answer", schema::<control::SettleAnswer>()),
        ("audit_entry", schema::<audit::AuditEntry>()),
        ("signers", schema::<signature::SignedSigners>()),
        ("jobs_question", schema::<history::JobsQuestion>()),
        ("jobs_answer", schema::<history::JobsAnswer>()),
        ("pool_question", schema::<history::PoolQuestion>()),
        ("pool_answer", schema::<history::PoolAnswer>()),
        ("group_question", schema::<history::GroupQuestion>()),
        ("group_answer", schema::<history::GroupAnswer>()),
        ("problem", schema::<api::Problem>()),
    ]
}

/// Compares a text with the golden file of that name in `schemas/golden/`.
#[cfg(test)]
pub(crate) fn golden(name: &str, text: &str) {
    pinned("golden", name, text);
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests fail by panicking, and this one reads a switch of its own")]
fn pinned(folder: &str, name: &str, text: &str) {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(folder).join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
    }
    let pinned = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(pinned, text, "{} differs; if that is meant, run the test with UPDATE_GOLDEN=1", path.display());
}

/// Bytes as lines of 32, in hex.
#[cfg(test)]
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.chunks(32).map(|line| line.iter().map(|b| format!("{b:02x}")).collect::<String>() + "\n").collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

    #[test]
    fn the_schemas_in_the_repository_are_those_of_the_types() {
        for (name, schema) in super::messages() {
            super::pinned("json", &format!("{name}.json"), &(serde_json::to_string_pretty(&schema).unwrap() + "\n"));
        }
    }
}
