//! What operators say of an agent, checked: its texts, tags, labels and executors. Pure.

use std::collections::{BTreeMap, BTreeSet};

use muster_schemas::{code::Code, job::check_labels, names::ExecutorName};

use crate::problem::ApiError;

/// The longest text for people, in characters.
const TEXT_MAX: usize = 1000;
const TAGS_MAX: usize = 32;
const TAG_MAX: usize = 63;
/// Executors that one agent may have.
pub(super) const EXECUTORS_MAX: usize = 32;

/// A text that is shown to people in one line: short, and without control characters.
pub(super) fn plain(field: &str, text: String, most: usize) -> Result<String, ApiError> {
    if text.len() > most || text.contains(char::is_control) {
        return Err(ApiError::new(Code::FieldInvalid, format!("{field} takes at most {most} bytes, without control characters")));
    }
    Ok(text)
}

/// A text for people, which may have lines.
pub(super) fn prose(field: &str, text: Option<String>) -> Result<Option<String>, ApiError> {
    let odd = |text: &str| text.contains(|c: char| c.is_control() && c != '\n') || text.chars().nth(TEXT_MAX).is_some();
    if text.as_deref().is_some_and(odd) {
        let detail = format!("{field} takes at most {TEXT_MAX} characters, none of them a control character but ends of lines");
        return Err(ApiError::new(Code::FieldInvalid, detail));
    }
    Ok(text.filter(|text| !text.is_empty()))
}

pub(super) fn tags(tags: BTreeSet<String>) -> Result<BTreeSet<String>, ApiError> {
    let odd = |tag: &String| !(1..=TAG_MAX).contains(&tag.len()) || tag.contains(char::is_control);
    if tags.len() > TAGS_MAX || tags.iter().any(odd) {
        let detail = format!("tags takes at most {TAGS_MAX}, each of 1 to {TAG_MAX} bytes without control characters");
        return Err(ApiError::new(Code::FieldInvalid, detail));
    }
    Ok(tags)
}

/// Labels, and what else has their limits.
pub(super) fn labels(labels: BTreeMap<String, String>) -> Result<BTreeMap<String, String>, ApiError> {
    check_labels(&labels)?;
    Ok(labels)
}

pub(super) fn executors<'a>(names: impl ExactSizeIterator<Item = &'a String>) -> Result<BTreeSet<ExecutorName>, ApiError> {
    if names.len() > EXECUTORS_MAX {
        return Err(ApiError::new(Code::FieldInvalid, format!("capabilities takes at most {EXECUTORS_MAX} executors")));
    }
    Ok(names.map(|name| name.parse()).collect::<Result<_, _>>()?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;

    #[test]
    fn texts_are_bounded_and_shown_as_they_are() {
        assert_eq!(prose("description", Some("two\nlines".into())).unwrap().as_deref(), Some("two\nlines"));
        assert_eq!(prose("description", Some(String::new())).unwrap(), None);
        for wrong in ["a\r\nb", "a\u{0}", "\u{1b}[31m", &"x".repeat(TEXT_MAX + 1)] {
            assert_eq!(prose("description", Some(wrong.into())).unwrap_err().code, Code::FieldInvalid, "{wrong:?}");
        }
        assert!(plain("os", "linux".into(), 64).is_ok() && plain("os", "a\nb".into(), 64).is_err());
    }

    #[test]
    fn tags_are_few_short_and_never_empty() {
        let set = |all: &[&str]| all.iter().map(|tag| (*tag).to_owned()).collect::<BTreeSet<_>>();
        assert_eq!(tags(set(&["pool:A", "pool:B", "*"])).unwrap().len(), 3, "a tag reaches no permission");
        assert!(tags(set(&[])).unwrap().is_empty());
        for wrong in [set(&[""]), set(&["a\r\n"]), set(&[&"t".repeat(64)]), (0..33).map(|n| n.to_string()).collect()] {
            assert_eq!(tags(wrong).unwrap_err().code, Code::FieldInvalid);
        }
    }

    #[test]
    fn no_executor_is_a_list_of_none_and_a_wrong_name_is_refused() {
        assert!(executors([].iter()).unwrap().is_empty());
        for wrong in ["*", ">", "a.b", "", "A", "a b", "$JS"] {
            assert_eq!(executors([wrong.to_owned()].iter()).unwrap_err().code, Code::NameInvalid, "{wrong}");
        }
        let many: Vec<String> = (0..=EXECUTORS_MAX).map(|n| format!("e{n}")).collect();
        assert_eq!(executors(many.iter()).unwrap_err().code, Code::FieldInvalid);
    }
}
