//! The params of `ssh.run`: `command` or `argv`, and `env`, `stdin`. Makes the one command line that the protocol has of them.

use muster_executor::{
    Rejection,
    fields::{self, Fields},
    schema as json_schema,
};
use serde_json::Value;

/// The longest command line: servers take packets of 32 KiB at the least (RFC 4253, 6.1), and OpenSSH 256 KiB.
const COMMAND_BYTES: usize = 128 * 1024;

/// A command, parsed.
#[derive(Debug)]
pub(super) struct Params {
    pub(super) command: String,
    pub(super) stdin: Vec<u8>,
}

/// What an `ssh.run` takes.
pub(crate) fn schema() -> Value {
    json_schema::object(
        &[],
        [
            ("command", json_schema::text("A command line for the shell of the connection's user; or `argv`.")),
            ("argv", json_schema::texts("A program and its arguments, each taken as it is.")),
            ("env", json_schema::text_map("Variables of the environment. They need a Unix shell there.")),
            ("stdin", json_schema::text("What it reads on its standard input.")),
        ],
    )
}

impl Params {
    pub(super) fn parse(params: &Value) -> Result<Self, Rejection> {
        let mut fields = Fields::of(params)?;
        let (command, argv) = (fields.text("command")?, fields.texts("argv")?);
        let env = fields.map("env")?;
        let stdin = fields.value("stdin").map(|value| value.as_str().ok_or_else(|| fields::wrong("stdin", "text", value)));
        let stdin = stdin.transpose()?.unwrap_or_default().as_bytes().to_vec();
        fields.end()?;
        let (field, command) = match (command, argv) {
            (Some(command), None) if command.trim().is_empty() => return Err(Rejection::field("command", "must not be empty")),
            (Some(command), None) => ("command", command.to_owned()),
            (None, Some(argv)) if argv.first().is_none_or(String::is_empty) => {
                return Err(Rejection::field("argv", "must begin with the name of a program"));
            }
            (None, Some(argv)) => ("argv", argv.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" ")),
            _ => return Err(Rejection::field("command", "give exactly one of `command` and `argv`")),
        };
        let command = match env.filter(|env| !env.is_empty()) {
            None => command,
            // Servers take almost no variables by the protocol's own request, and do not say so.
            Some(env) => format!("env {} sh -c {}", variables(env)?, quoted(&command)),
        };
        if command.len() > COMMAND_BYTES {
            return Err(Rejection::field(field, format!("the command line has {} bytes, more than {COMMAND_BYTES}", command.len())));
        }
        Ok(Self { command, stdin })
    }
}

fn variables(env: &serde_json::Map<String, Value>) -> Result<String, Rejection> {
    let assignment = |(name, value): (&String, &Value)| {
        let field = format!("env.{}", fields::shown(name));
        let mut letters = name.chars();
        let fits = letters.next().is_some_and(|first| first.is_ascii_alphabetic() || first == '_')
            && letters.all(|letter| letter.is_ascii_alphanumeric() || letter == '_');
        if !fits {
            return Err(Rejection::field(&field, "must be of letters, digits and _, not beginning with a digit"));
        }
        Ok(quoted(&format!("{name}={}", fields::text(&field, value)?)))
    };
    Ok(env.iter().map(assignment).collect::<Result<Vec<_>, _>>()?.join(" "))
}

/// A word that every Unix shell takes as it is.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use serde_json::json;

    use super::*;

    fn command(params: Value) -> String {
        Params::parse(&params).unwrap().command
    }

    #[test]
    fn words_are_quoted_and_variables_come_before() {
        assert_eq!(command(json!({"command": "echo $HOME"})), "echo $HOME");
        assert_eq!(command(json!({"argv": ["echo", "a b", "$HOME", "it's", "-n", ""]})), r"'echo' 'a b' '$HOME' 'it'\''s' '-n' ''");
        assert_eq!(command(json!({"command": "echo $A", "env": {"A": "1 '2"}})), r"env 'A=1 '\''2' sh -c 'echo $A'");
    }

    #[test]
    fn what_does_not_fit_is_refused_by_its_field() {
        for (params, field) in [
            (json!({}), "params.command"),
            (json!({"command": "a", "argv": ["a"]}), "params.command"),
            (json!({"command": " "}), "params.command"),
            (json!({"command": "x".repeat(COMMAND_BYTES + 1)}), "params.command"),
            (json!({"argv": []}), "params.argv"),
            (json!({"argv": [""]}), "params.argv"),
            (json!({"argv": ["a", 1]}), "params.argv[1]"),
            (json!({"command": "a\u{0}b"}), "params.command"),
            (json!({"command": "a", "env": {"A=B;rm": "x"}}), "params.env.A=B;rm"),
            (json!({"command": "a", "env": {"1A": "x"}}), "params.env.1A"),
            (json!({"command": "a", "env": {"A": 1}}), "params.env.A"),
            (json!({"command": "a", "stdin": 1}), "params.stdin"),
            (json!({"command": "a", "pty": true}), "params.pty"),
        ] {
            let message = Params::parse(&params).unwrap_err().message;
            assert!(message.starts_with(field), "{params}: {message}");
        }
    }
}
