//! The params of `shell.run`: `command` or `argv`, and `env`, `cwd`, `stdin`, `shell`, `user`, `group`, `limits`. Parses; never starts anything.

use std::path::PathBuf;

use muster_executor::{
    Rejection,
    fields::{self, Fields},
    schema as json_schema,
};
use serde_json::Value;

use super::{
    super::process::{Order, environment, limits::Limits, user::Wanted},
    Bounds,
};

const DEFAULT_SHELL: &str = "/bin/sh";

/// What a `shell.run` takes.
pub(super) fn schema() -> Value {
    json_schema::object(
        &[],
        [
            ("command", json_schema::text("A command line for the shell; or `argv`.")),
            ("argv", json_schema::texts("A program and its arguments, that no shell looks at.")),
            ("env", json_schema::text_map("Variables of the environment, beside a few of the agent's own.")),
            ("cwd", json_schema::text("The directory that it starts in, an absolute path.")),
            ("stdin", json_schema::text("What it reads on its standard input.")),
            ("shell", json_schema::text("The shell for `command`, by default /bin/sh.")),
            ("user", json_schema::text("Whom it runs as, a name or a number; by default the agent's user. Needs an agent that is root.")),
            ("group", json_schema::text("The group that it runs as, a name or a number; by default the user's.")),
            ("limits", Limits::schema()),
        ],
    )
}

/// Reads a job's params. A job can hold no NUL in them, so that every text is a valid C string.
pub(super) fn parse(params: &Value, bounds: &Bounds) -> Result<Order, Rejection> {
    let mut fields = Fields::of(params)?;
    let (command, argv) = (fields.text("command")?, fields.texts("argv")?);
    let env = env(&mut fields, &bounds.host.env_allow)?;
    let cwd = cwd(&mut fields)?;
    let stdin = fields.value("stdin").map(|value| value.as_str().ok_or_else(|| fields::wrong("stdin", "text", value)));
    let stdin = stdin.transpose()?.unwrap_or_default().as_bytes().to_vec().into();
    let shell = fields.text("shell")?;
    let user = user(&mut fields)?;
    let asked = fields.value("limits").map(Limits::parse).transpose()?.unwrap_or_default();
    fields.end()?;
    let limits = bounds.limits.within(&asked)?;
    let (program, args) = match (command, argv) {
        (Some(command), None) => through_shell(command, shell.unwrap_or(DEFAULT_SHELL))?,
        (None, Some(_)) if shell.is_some() => return Err(Rejection::field("shell", "goes with `command`, not with `argv`")),
        (None, Some(argv)) => directly(argv)?,
        _ => return Err(Rejection::field("command", "give exactly one of `command` and `argv`")),
    };
    Ok(Order { program, args, env, cwd, stdin, user, limits })
}

fn through_shell(command: &str, shell: &str) -> Result<(String, Vec<String>), Rejection> {
    if command.trim().is_empty() {
        return Err(Rejection::field("command", "must not be empty"));
    }
    if shell.is_empty() || shell.starts_with('-') {
        return Err(Rejection::field("shell", "must be the name or path of a shell"));
    }
    // `sh -c -x` takes `-x` as an option; a space before it means the same to every shell and is never an option.
    let space = if command.starts_with(['-', '+']) { " " } else { "" };
    Ok((shell.to_owned(), vec!["-c".to_owned(), format!("{space}{command}")]))
}

fn directly(argv: Vec<String>) -> Result<(String, Vec<String>), Rejection> {
    let mut argv = argv.into_iter();
    match argv.next() {
        Some(program) if !program.is_empty() => Ok((program, argv.collect())),
        _ => Err(Rejection::field("argv", "must begin with the name of a program")),
    }
}

fn env(fields: &mut Fields<'_>, allowed: &[String]) -> Result<Vec<(String, String)>, Rejection> {
    let Some(map) = fields.map("env")? else { return Ok(Vec::new()) };
    let pair = |(name, value): (&String, &Value)| {
        let field = format!("env.{}", fields::shown(name));
        environment::may_be_set(name, allowed).map_err(|problem| Rejection::field(&field, problem))?;
        Ok((name.clone(), fields::text(&field, value)?.to_owned()))
    };
    map.iter().map(pair).collect()
}

fn user(fields: &mut Fields<'_>) -> Result<Option<Wanted>, Rejection> {
    let (user, group) = (fields.text("user")?, fields.text("group")?);
    match (user, group) {
        (Some(""), _) => Err(Rejection::field("user", "must not be empty")),
        (_, Some("")) => Err(Rejection::field("group", "must not be empty")),
        (None, Some(_)) => Err(Rejection::field("group", "goes with `user`")),
        (user, group) => Ok(user.map(|user| Wanted { user: user.to_owned(), group: group.map(str::to_owned) })),
    }
}

fn cwd(fields: &mut Fields<'_>) -> Result<Option<PathBuf>, Rejection> {
    match fields.text("cwd")? {
        None => Ok(None),
        // What a relative one would be relative to differs from agent to agent.
        Some(cwd) if !cwd.starts_with('/') => Err(Rejection::field("cwd", "must be an absolute path")),
        Some(cwd) => Ok(Some(cwd.into())),
    }
}
