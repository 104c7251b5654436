//! Secrets from stdin: asked for on a terminal, read from a pipe.

use std::io::{self, IsTerminal as _, Read as _};

use anyhow::{Context as _, bail, ensure};
use muster_schemas::{connection::CREDENTIALS_LIMIT, names::ConnectionName};
use zeroize::Zeroizing;

/// The value of one field.
pub(super) fn value(name: &ConnectionName, field: &str) -> anyhow::Result<Zeroizing<Vec<u8>>> {
    let value = if io::stdin().is_terminal() {
        let ask = |prompt: &str| rpassword::prompt_password(prompt).map(Zeroizing::new).context("can't read from the terminal");
        let first = ask(&format!("{field} of {name}: "))?;
        let again = ask("the same again: ")?;
        ensure!(first == again, "the two are not the same; nothing was put into the vault");
        Zeroizing::new(first.as_bytes().to_vec())
    } else {
        let mut value = stdin()?;
        // What `echo` and most password managers end it with.
        if value.ends_with(b"\n") {
            value.pop();
        }
        if value.ends_with(b"\r") {
            value.pop();
        }
        value
    };
    ensure!(!value.is_empty(), "the value is empty; nothing was put into the vault");
    Ok(value)
}

/// All fields, as JSON.
pub(super) fn object() -> anyhow::Result<Zeroizing<Vec<u8>>> {
    if io::stdin().is_terminal() {
        bail!("say which field it is, such as --field password; or give a JSON object of all fields on stdin");
    }
    stdin()
}

fn stdin() -> anyhow::Result<Zeroizing<Vec<u8>>> {
    // A buffer that never grows leaves no copies behind.
    let mut bytes = Zeroizing::new(vec![0; CREDENTIALS_LIMIT + 1]);
    let (mut stdin, mut length) = (io::stdin().lock(), 0);
    loop {
        match stdin.read(bytes.get_mut(length..).unwrap_or_default()).context("can't read stdin")? {
            0 => break,
            read => length += read,
        }
    }
    ensure!(length <= CREDENTIALS_LIMIT, "more than {CREDENTIALS_LIMIT} bytes on stdin, which is more than credentials have");
    bytes.truncate(length);
    Ok(bytes)
}
