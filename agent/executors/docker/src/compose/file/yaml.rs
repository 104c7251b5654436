//! YAML, read within bounds: its size, its depth, and what aliases make of it.

use serde_json::Value;
use serde_saphyr::{DuplicateKeyPolicy, options::AliasLimits};

/// Most bytes of a file.
const FILE_BYTES: usize = 256 * 1024;

/// Most values of a file, those that aliases repeat among them.
const NODES: usize = 20_000;

/// Deepest nesting; a Compose file needs six.
const DEPTH: usize = 16;

/// The file as a value.
///
/// # Errors
/// What is wrong, and in which line.
pub(super) fn parse(text: &str) -> Result<Value, String> {
    if text.len() > FILE_BYTES {
        return Err(format!("has more than {FILE_BYTES} bytes"));
    }
    let mut aliases = AliasLimits::default();
    aliases.max_total_replayed_events = NODES;
    aliases.max_replay_stack_depth = DEPTH;
    aliases.max_alias_expansions_per_anchor = 256;
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: DEPTH,
            max_nodes: NODES,
            max_events: 4 * NODES,
            max_documents: 1,
            max_total_scalar_bytes: 2 * FILE_BYTES,
            max_recorded_anchor_events: NODES,
            max_recorded_anchor_bytes: FILE_BYTES,
        },
        alias_limits: aliases,
        duplicate_keys: DuplicateKeyPolicy::Error,
        // `restart: no` is a word.
        strict_booleans: true,
        with_snippet: false,
    };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        let error = error.to_string();
        let line: String = error.lines().next().unwrap_or_default().chars().take(300).collect();
        format!("is not YAML that is read here: {line}")
    })
}
