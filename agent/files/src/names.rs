//! Which names of files are taken, from jobs, archives and other machines alike: those that mean the same everywhere.
//!
//! A name is never decoded: `%2e%2e` is a name like any other.

/// The most bytes of one name, as on every usual file system.
pub const NAME_BYTES: usize = 255;

/// Checks one name, without folders.
///
/// # Errors
/// What is wrong with it.
pub fn check(name: &str) -> Result<(), &'static str> {
    match name {
        "" => Err("an empty name"),
        "." | ".." => Err("`.` and `..` are not taken"),
        _ if name.len() > NAME_BYTES => Err("a name of more than 255 bytes"),
        _ if name.contains('/') => Err("a name with a slash"),
        _ if name.contains('\\') => Err("a name with a backslash, which is a slash elsewhere"),
        _ if name.chars().any(char::is_control) => Err("a name with a control character"),
        _ if name.ends_with(['.', ' ']) => Err("a name that ends in a dot or a space, which some systems drop"),
        _ => Ok(()),
    }
}

/// What two names have in common that are the same file where case does not count.
pub fn folded(name: &str) -> String {
    name.to_lowercase()
}

/// A name from outside, made fit for a message: short, without control characters.
pub fn shown(name: &str) -> String {
    let mut shown: String = name.chars().take(128).flat_map(char::escape_debug).collect();
    if name.chars().nth(128).is_some() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;

    #[test]
    fn only_plain_names_are_taken() {
        let long = "x".repeat(NAME_BYTES + 1);
        for name in ["", ".", "..", "a/b", "..\\", "a\\b", "a\0b", "a\nb", "a.", "a ", "\u{1b}[2J", long.as_str()] {
            assert!(check(name).is_err(), "{name:?}");
        }
        for name in ["a", ".profile", "...a", "%2e%2e", "%2e%2e%2f", "a b", "ä", "-rf", &long[1..]] {
            check(name).unwrap();
        }
    }
}
