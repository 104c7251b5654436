//! Where output goes: results to standard output, remarks to standard error; tables for people, JSON for programs.

use std::io::{self, IsTerminal as _, Write as _};

use comfy_table::{Table, presets};
use serde::Serialize;

use crate::text::safe;

/// Prints a line to standard output.
pub(crate) fn line(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.write_all(b"\n")?;
    out.flush()
}

/// Prints a value as one line of JSON.
pub(crate) fn json(value: &impl Serialize) -> anyhow::Result<()> {
    Ok(line(&serde_json::to_string(value)?)?)
}

/// Prints bytes as they are.
pub(crate) fn raw(bytes: &[u8], to_stderr: bool) -> io::Result<()> {
    if to_stderr {
        return io::stderr().write_all(bytes);
    }
    let mut out = io::stdout().lock();
    out.write_all(bytes)?;
    out.flush()
}

/// A remark for whoever is at the terminal. It must not fail what is being done.
pub(crate) fn warn(text: &str) {
    let _ = writeln!(io::stderr(), "muster: {}", safe(text));
}

/// Whether a person sees what is written to standard error.
pub(crate) fn is_watched() -> bool {
    io::stderr().is_terminal()
}

/// A list: a head and its rows, or a sentence when there are none.
pub(crate) fn table<const N: usize>(head: [&str; N], rows: Vec<[String; N]>, none: &str) -> String {
    if rows.is_empty() {
        return none.to_owned();
    }
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(head.map(str::to_uppercase));
    for row in rows {
        table.add_row(row.map(|cell| safe(&cell)));
    }
    tidy(&mut table)
}

/// One thing: a line per field; fields without a value are left out.
pub(crate) fn fields(fields: Vec<(&str, Option<String>)>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    for (name, value) in fields {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            table.add_row([name.to_owned(), safe(&value)]);
        }
    }
    tidy(&mut table)
}

/// Columns two spaces apart, nothing at the ends of lines.
fn tidy(table: &mut Table) -> String {
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    let text = table.to_string();
    text.lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_lines_up_and_an_empty_one_says_so() {
        let rows = vec![["a".to_owned(), "1".to_owned()], ["long".to_owned(), "2".to_owned()]];
        assert_eq!(table(["name", "n"], rows, "none"), "NAME  N\na     1\nlong  2");
        assert_eq!(table(["name"], vec![], "there are no agents"), "there are no agents");
    }

    #[test]
    fn a_thing_shows_only_what_it_has() {
        let text = fields(vec![("name", Some("a".into())), ("note", None), ("labels", Some(String::new())), ("size", Some("2".into()))]);
        assert_eq!(text, "name  a\nsize  2");
    }

    #[test]
    fn what_comes_from_outside_cannot_steer_the_terminal() {
        assert!(!table(["n"], vec![["\u{1b}]0;pwned\u{7}".to_owned()]], "").contains('\u{1b}'));
    }
}
