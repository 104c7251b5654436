//! Which units a job may name.

use muster_executor::{Rejection, fields::Fields};
use muster_schemas::code::Code;

/// What systemd itself allows in names (systemd.unit(5)).
const LETTERS: &str = ":-_.\\@";

/// Kinds of units that can be started and stopped.
const KINDS: &[&str] = &["service", "socket", "timer", "target", "path", "mount", "slice"];

/// The units that jobs may name; see [`crate::Service::new`].
#[derive(Debug)]
pub(crate) struct Units(pub(crate) Option<Vec<String>>);

impl Units {
    /// The field `unit`, with its kind.
    pub(crate) fn read(&self, fields: &mut Fields<'_>) -> Result<String, Rejection> {
        let text = fields.text("unit")?.ok_or_else(|| Rejection::field("unit", "is missing"))?;
        let good = |letter: char| letter.is_ascii_alphanumeric() || LETTERS.contains(letter);
        if text.is_empty() || text.len() > 240 || !text.chars().all(good) || text.starts_with(['.', '-']) {
            return Err(Rejection::field("unit", "takes the name of a unit: letters, digits and `:-_.\\@`, no path and no pattern"));
        }
        let unit = match text.rsplit_once('.') {
            Some((_, kind)) if KINDS.contains(&kind) => text.to_owned(),
            _ => format!("{text}.service"),
        };
        if unit.ends_with("@.service") {
            return Err(Rejection::field("unit", "is a template; name one of its instances, such as `name@instance`"));
        }
        if !self.allows(&unit) {
            return Err(Rejection::new(
                Code::SettingForbids,
                format!("params.unit: this agent lets jobs reach no `{unit}` (SERVICE_UNITS)"),
            ));
        }
        Ok(unit)
    }

    fn allows(&self, unit: &str) -> bool {
        let Some(allowed) = &self.0 else { return true };
        allowed.iter().any(|allowed| match allowed.strip_suffix('*') {
            Some(beginning) => unit.starts_with(beginning),
            None => unit == allowed || unit.strip_suffix(".service") == Some(allowed),
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use serde_json::json;

    use super::*;

    fn read(units: Option<&[&str]>, unit: &str) -> Result<String, Code> {
        let units = Units(units.map(|units| units.iter().map(|unit| (*unit).to_owned()).collect()));
        units.read(&mut Fields::of(&json!({"unit": unit})).unwrap()).map_err(|rejection| rejection.code)
    }

    #[test]
    fn a_unit_is_named_by_itself_and_nothing_else() {
        for (given, unit) in [
            ("nginx", "nginx.service"),
            ("nginx.service", "nginx.service"),
            ("getty@tty1", "getty@tty1.service"),
            ("apt-daily.timer", "apt-daily.timer"),
            ("org.example.App", "org.example.App.service"),
            ("dev-disk-by\\x2dlabel", "dev-disk-by\\x2dlabel.service"),
        ] {
            assert_eq!(read(None, given).as_deref(), Ok(unit));
        }
        for wrong in ["", "a b", "../x", "/etc/x.service", "a*", "a?", "[a]", "-H", "--user", ".x", "a;b", "a\nb", "ä", "x@", "x@.service"]
        {
            assert_eq!(read(None, wrong), Err(Code::ParamsInvalid), "{wrong:?}");
        }
        assert!(read(None, &"a".repeat(241)).is_err());
    }

    #[test]
    fn a_list_of_units_lets_no_other_through_and_an_empty_one_none() {
        let some: Option<&[&str]> = Some(&["nginx", "app-*", "backup.timer"]);
        for good in ["nginx", "app-web", "app-x.timer", "backup.timer"] {
            assert!(read(some, good).is_ok(), "{good}");
        }
        for other in ["nginx2", "nginx.socket", "app", "backup", "ssh"] {
            assert_eq!(read(some, other), Err(Code::SettingForbids), "{other}");
        }
        assert_eq!(read(Some(&[]), "nginx"), Err(Code::SettingForbids));
    }
}
