//! The fields of credentials: from files, standard input and a prompt that shows nothing. None of them is ever on a command line, in a message
//! or on the screen.

use std::{
    collections::BTreeMap,
    io::{IsTerminal as _, Read},
};

use anyhow::Context as _;
use muster_schemas::{
    api::ConnectionView,
    connection::{CREDENTIALS_LIMIT, Way, check},
    sealed::{Binding, Credentials},
    wire::V,
};
use zeroize::{Zeroize as _, Zeroizing};

use crate::{
    args::CredentialsArgs,
    failure::{EXIT_USAGE, Failure},
};

/// Fields that nobody types: they are several lines.
const FROM_FILES: [&str; 3] = ["private_key", "certificate", "kubeconfig"];

/// Asks for a field without showing what is typed.
pub(super) type Ask<'a> = &'a mut dyn FnMut(&str) -> std::io::Result<String>;

/// Gathers the credentials of a connection from where the flags say, and asks for what is still needed.
///
/// # Errors
/// When something can't be read, or does not fit the connection's kind.
pub(super) fn gather(args: &CredentialsArgs, connection: &ConnectionView, stdin: impl Read, ask: Ask<'_>) -> anyhow::Result<Credentials> {
    // For what is shown now: an agent uses them for nothing else, whoever changes the record.
    let bound = Some(Binding::of(connection.kind, &connection.settings));
    let mut credentials = Credentials { v: V, fields: BTreeMap::new(), shared: !args.no_share, bound };
    for (field, path) in &args.files {
        let what = || format!("can't read `{field}` from {path}");
        let value = read(std::fs::File::open(path).with_context(what)?).with_context(what)?;
        put(&mut credentials, field, value)?;
    }
    if args.stdin {
        for (field, value) in object(read(stdin).context("can't read the credentials from standard input")?)? {
            put(&mut credentials, &field, value)?;
        }
    } else if let Some(field) = &args.field {
        let mut value = read(stdin).with_context(|| format!("can't read `{field}` from standard input"))?;
        let end = value.trim_end_matches(['\r', '\n']).len();
        value.truncate(end);
        put(&mut credentials, field, value)?;
    } else {
        complete(&mut credentials, connection, ask)?;
    }
    check::credentials(connection.kind, &connection.settings, &credentials.fields).map_err(|misfit| {
        let hint = format!("docs/connections.md lists what a connection of the kind {} takes", connection.kind.as_str());
        Failure::new(format!("{}: {misfit}", misfit.code())).hint(hint)
    })?;
    Ok(credentials)
}

/// Asks for the fields that are missing, when what is there leaves no doubt about what is needed.
fn complete(credentials: &mut Credentials, connection: &ConnectionView, ask: Ask<'_>) -> anyhow::Result<()> {
    let ways = check::ways(connection.kind, &connection.settings);
    let given = |credentials: &Credentials, name: &str| credentials.fields.contains_key(name);
    let can = |way: &&&Way| {
        credentials.fields.keys().all(|name| way.takes(name))
            && way.required.iter().all(|name| given(credentials, name) || !FROM_FILES.contains(name))
    };
    let Some(way) = ways.iter().find(can).copied() else {
        // What was given may be whole, or wrong: the check says so.
        return if credentials.fields.is_empty() { Err(unasked(connection, &ways).into()) } else { Ok(()) };
    };
    let required = way.required.iter().map(|name| (*name, true)).chain(way.optional.iter().map(|name| (*name, false)));
    for (name, required) in required.filter(|(name, _)| !credentials.fields.contains_key(*name)).collect::<Vec<_>>() {
        let prompt = format!("{name} of {}{}: ", connection.name, if required { "" } else { " (empty for none)" });
        let answer = ask(&prompt);
        // A script gives what is needed, and need not say that there is no more.
        if !required && answer.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::NotConnected) {
            continue;
        }
        let value = Zeroizing::new(answer.map_err(|error| {
            let message = format!("can't ask for `{name}`: {error}");
            Failure::new(message).hint("give it with --stdin, --field or --file where there is no terminal").exit(EXIT_USAGE)
        })?);
        if required || !value.is_empty() {
            put(credentials, name, value)?;
        }
    }
    Ok(())
}

/// Why there is nothing to ask for.
fn unasked(connection: &ConnectionView, ways: &[&Way]) -> Failure {
    let kind = connection.kind.as_str();
    let files: Vec<_> =
        ways.iter().map(|way| way.required.iter().map(|name| format!("--file {name}=PATH")).collect::<Vec<_>>().join(" ")).collect();
    let hint = match files.is_empty() {
        true => "give them as JSON on standard input with --stdin, or each with --file FIELD=PATH".to_owned(),
        false => format!("give {}", files.join(", or ")),
    };
    Failure::new(format!("the credentials of a connection of the kind {kind} can't be typed here")).hint(hint).exit(EXIT_USAGE)
}

fn put(credentials: &mut Credentials, field: &str, mut value: Zeroizing<String>) -> anyhow::Result<()> {
    let value = std::mem::take(&mut *value);
    if let Some(mut before) = credentials.fields.insert(field.to_owned(), value) {
        before.zeroize();
        return Err(Failure::new(format!("`{field}` is given twice")).exit(EXIT_USAGE).into());
    }
    Ok(())
}

/// No more than credentials may have.
fn read(from: impl Read) -> anyhow::Result<Zeroizing<String>> {
    let limit = u64::try_from(CREDENTIALS_LIMIT)?;
    // With room for all: a buffer that grows leaves copies behind.
    let mut text = Zeroizing::new(String::with_capacity(CREDENTIALS_LIMIT + 1));
    from.take(limit + 1).read_to_string(&mut text)?;
    anyhow::ensure!(text.len() <= CREDENTIALS_LIMIT, "it has more than {CREDENTIALS_LIMIT} bytes");
    Ok(text)
}

fn object(text: Zeroizing<String>) -> anyhow::Result<Vec<(String, Zeroizing<String>)>> {
    // Not the parser's own words, which quote what they stumble over.
    let fields: Result<BTreeMap<String, String>, _> = serde_json::from_str(&text);
    let fields = fields.map_err(|error| {
        let message = format!("standard input is no JSON object of texts (line {}, column {})", error.line(), error.column());
        Failure::new(message).hint("write it as {\"username\": \"…\", \"password\": \"…\"}")
    })?;
    Ok(fields.into_iter().map(|(field, value)| (field, Zeroizing::new(value))).collect())
}

/// Asks on the terminal, whatever standard input is.
pub(super) fn prompt(text: &str) -> std::io::Result<String> {
    if !std::io::stderr().is_terminal() && !std::io::stdin().is_terminal() {
        return Err(std::io::Error::new(std::io::ErrorKind::NotConnected, "there is no terminal"));
    }
    rpassword::prompt_password(text)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests fail by panicking")]
    use clap::Parser as _;
    use muster_schemas::time::Timestamp;
    use serde_json::{Value, json};

    use super::*;
    use crate::args::{Cli, Command, ConnectionsCommand};

    const KEY: &str = "-----BEGIN OPENSSH PRIVATE KEY-----\nx\n-----END OPENSSH PRIVATE KEY-----\n";

    fn connection(kind: &str, settings: Value) -> ConnectionView {
        let at = Timestamp::from_secs(0);
        let view = json!({"name": "c", "kind": kind, "pool": "p", "settings": settings, "revision": 0, "created_at": at, "updated_at": at});
        serde_json::from_value(view).unwrap()
    }

    /// Gathers with these flags; answers the fields and what was asked for, in order.
    fn given(connection: &ConnectionView, flags: &[&str], stdin: &str) -> Result<(BTreeMap<String, String>, Vec<String>), String> {
        let line = [&["muster", "connections", "credentials", "c"], flags].concat();
        let Command::Connections { command: Some(ConnectionsCommand::Credentials(args)) } = Cli::try_parse_from(line).unwrap().command
        else {
            unreachable!("the command is connections credentials")
        };
        let mut asked = Vec::new();
        let mut ask = |prompt: &str| {
            asked.push(prompt.to_owned());
            Ok(if prompt.contains("empty for none") { String::new() } else { "typed".to_owned() })
        };
        let credentials = gather(&args, connection, stdin.as_bytes(), &mut ask).map_err(|error| format!("{error:#}"))?;
        assert_eq!(credentials.shared, !flags.contains(&"--no-share"));
        Ok((credentials.fields.clone(), asked))
    }

    #[test]
    fn what_the_settings_need_is_asked_for_and_nothing_else() {
        let basic = connection("http", json!({"base_url": "https://a", "auth": "basic"}));
        let (fields, asked) = given(&basic, &[], "").unwrap();
        assert_eq!((fields.len(), asked), (2, vec!["username of c: ".to_owned(), "password of c: ".to_owned()]));
        let ssh = connection("ssh", json!({"host": "h", "user": "u"}));
        assert_eq!(given(&ssh, &["--no-share"], "").unwrap().1, ["password of c: "]);
        let mut file = tempfile::NamedTempFile::new().unwrap();
        std::io::Write::write_all(&mut file, KEY.as_bytes()).unwrap();
        let flag = format!("private_key={}", file.path().display());
        let (fields, asked) = given(&ssh, &["--file", &flag], "").unwrap();
        assert_eq!((fields["private_key"].as_str(), fields.len(), asked.len()), (KEY, 1, 1), "{asked:?}");
        assert!(given(&ssh, &["--file", &flag, "--field", "private_key"], KEY).unwrap_err().contains("given twice"));
    }

    #[test]
    fn what_nobody_types_is_to_come_from_files_or_standard_input() {
        let mtls = connection("http", json!({"base_url": "https://a", "auth": "mtls"}));
        assert!(given(&mtls, &[], "").unwrap_err().contains("can't be typed here"));
        let secret = connection("secret", Value::Null);
        assert!(given(&secret, &[], "").unwrap_err().contains("can't be typed here"));
        let (fields, asked) = given(&secret, &["--stdin"], r#"{"a": "1", "b": "2\n"}"#).unwrap();
        assert_eq!((fields["b"].as_str(), asked.len()), ("2\n", 0));
        let (fields, _) = given(&secret, &["--field", "token"], "hunter2\r\n").unwrap();
        assert_eq!(fields["token"], "hunter2");
    }

    #[test]
    fn what_is_wrong_is_named_and_no_secret_is_in_the_words() {
        let bearer = connection("http", json!({"base_url": "https://a", "auth": "bearer"}));
        for (flags, stdin, says) in [
            (&["--stdin"][..], r#"{"tokn": "hunter2hunter2"}"#, "credentials_invalid: field `tokn`: unknown"),
            (&["--stdin"], r#"{"token": ["hunter2hunter2"]}"#, "no JSON object of texts"),
            (&["--stdin"], r#"hunter2hunter2"#, "no JSON object of texts"),
            (&["--stdin"], r#"{"token": "hunter2\nhunter2"}"#, "`token`: it is text of one line"),
            (&["--field", "password"], "hunter2hunter2", "`password`: unknown"),
        ] {
            let said = given(&bearer, flags, stdin).unwrap_err();
            assert!(said.contains(says) && !said.contains("hunter2"), "{said}");
        }
        assert!(given(&bearer, &["--field", "token"], &"x".repeat(CREDENTIALS_LIMIT + 1)).unwrap_err().contains("more than"));
    }

    #[test]
    fn no_flag_takes_a_secret() {
        for line in [&["--token", "x"][..], &["token=x"], &["--stdin", "--field", "token"]] {
            let line = [&["muster", "connections", "credentials", "c"], line].concat();
            assert!(Cli::try_parse_from(&line).is_err(), "{line:?}");
        }
    }
}
