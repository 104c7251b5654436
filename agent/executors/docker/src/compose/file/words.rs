//! A command line, divided into words as a shell would, without anything else that a shell does.

/// The words: divided by spaces, with `'…'`, `"…"` and `\`.
///
/// # Errors
/// A quote that is not closed, or a `\` at the end.
pub(super) fn split(line: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut letters = line.chars().peekable();
    while let Some(letter) = letters.next() {
        match letter {
            letter if letter.is_ascii_whitespace() => words.extend(word.take()),
            '\'' => {
                let word = word.get_or_insert_default();
                loop {
                    match letters.next().ok_or("a `'` is not closed")? {
                        '\'' => break,
                        letter => word.push(letter),
                    }
                }
            }
            '"' => {
                let word = word.get_or_insert_default();
                loop {
                    match letters.next().ok_or("a `\"` is not closed")? {
                        '"' => break,
                        '\\' => match letters.next().ok_or("a `\"` is not closed")? {
                            escaped @ ('"' | '\\' | '$' | '`') => word.push(escaped),
                            '\n' => {}
                            other => word.extend(['\\', other]),
                        },
                        letter => word.push(letter),
                    }
                }
            }
            '\\' => match letters.next().ok_or("ends with a `\\`")? {
                '\n' => {}
                letter => word.get_or_insert_default().push(letter),
            },
            letter => word.get_or_insert_default().push(letter),
        }
    }
    words.extend(word);
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_line_is_divided_as_a_shell_does() {
        for (line, words) in [
            ("nginx -g 'daemon off;'", &["nginx", "-g", "daemon off;"][..]),
            (r#"a "b \"c\" \x" d\ e"#, &["a", r#"b "c" \x"#, "d e"]),
            ("'' x\"\"y", &["", "xy"]),
            ("  ", &[]),
        ] {
            assert_eq!(split(line), Ok(words.iter().map(|word| (*word).to_owned()).collect()), "{line}");
        }
        assert!(split("'a").is_err() && split("\"a").is_err() && split("a\\").is_err());
    }

    proptest! {
        #[test]
        fn quoted_words_come_back(words in prop::collection::vec("\\PC{0,12}", 0..6)) {
            let quoted: Vec<_> = words.iter().map(|word| format!("'{}'", word.replace('\'', r"'\''"))).collect();
            prop_assert_eq!(split(&quoted.join(" ")), Ok(words));
        }
    }
}
