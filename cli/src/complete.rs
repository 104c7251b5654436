//! Completion of command lines: the shell asks this program at each press of the key. Words and flags come from the table of commands; types,
//! their params, pools and connections from the gateway that the line names, if it answers at once.
//!
//! `muster completion` prints what a shell reads to be able to ask. A completion never fails and never prints an error: it then has fewer
//! proposals.

use std::{ffi::OsStr, time::Duration};

use clap::{CommandFactory as _, Parser};
use clap_complete::{
    CompleteEnv,
    engine::{ArgValueCompleter, CompletionCandidate},
    env::{Bash, EnvCompleter, Fish, Zsh},
};
use muster_schemas::{
    api::{ExecutorView, PoolView},
    builtin,
    describe::TypeInfo,
};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::{
    api::Api,
    args::{Cli, CompletionArgs, Global, Shell},
    target,
};

/// The variable by which a shell says that it asks. Its value is the shell's name.
const VARIABLE: &str = "MUSTER_COMPLETE";
/// The program's name.
const PROGRAM: &str = "muster";
/// How long the gateway is waited for: somebody is in the middle of typing.
const PATIENCE: Duration = Duration::from_millis(800);

/// Answers the shell and ends the process, if it is a shell that asks.
pub(crate) fn answer() {
    CompleteEnv::with_factory(|| proposing(Cli::command())).var(VARIABLE).complete();
}

/// What a shell has to read.
pub(crate) fn script(args: &CompletionArgs) -> anyhow::Result<String> {
    let shell: &dyn EnvCompleter = match args.shell {
        Shell::Bash => &Bash,
        Shell::Zsh => &Zsh,
        Shell::Fish => &Fish,
    };
    // As it was called, so that it is asked again in the same way: by its name, or where it is.
    let called = std::env::args_os().next().map(std::path::PathBuf::from).filter(|path| path.components().count() > 1);
    let called =
        called.map(std::path::absolute).transpose()?.map_or_else(|| PROGRAM.to_owned(), |path| path.to_string_lossy().into_owned());
    let mut script = Vec::new();
    shell.write_registration(VARIABLE, PROGRAM, PROGRAM, &called, &mut script)?;
    Ok(String::from_utf8(script)?)
}

/// The commands, with proposals for what only a gateway knows.
fn proposing(command: clap::Command) -> clap::Command {
    let command = command.mut_args(|argument| match argument.get_id().as_str() {
        "pool" | "to" => argument.add(ArgValueCompleter::new(pools)),
        "job_type" => argument.add(ArgValueCompleter::new(types)),
        "given" => argument.add(ArgValueCompleter::new(params)),
        "connection" => argument.add(ArgValueCompleter::new(connections)),
        _ => argument,
    });
    command.mut_subcommands(proposing)
}

fn pools(current: &OsStr) -> Vec<CompletionCandidate> {
    let pools = ask::<PoolView>("/pools", &[]).unwrap_or_default();
    fitting(current, pools.into_iter().map(|pool| (pool.name.to_string(), pool.description.unwrap_or_default())))
}

fn types(current: &OsStr) -> Vec<CompletionCandidate> {
    fitting(current, known_types().into_iter().map(|info| (info.name, info.about)))
}

/// The params of the type on the line: `name=` for a text, `name:=` for anything else.
fn params(current: &OsStr) -> Vec<CompletionCandidate> {
    let line = Line::now();
    let Some(info) = line.flag("--type").and_then(|wanted| known_types().into_iter().find(|info| info.name == *wanted)) else {
        return Vec::new();
    };
    let fields = info.params.get("properties").and_then(Value::as_object).into_iter().flatten();
    let proposal = |(name, field): (&String, &Value)| {
        let sign = if field["type"] == "string" { "=" } else { ":=" };
        (format!("{name}{sign}"), field["description"].as_str().unwrap_or_default().to_owned())
    };
    fitting(current, fields.map(proposal))
}

fn connections(current: &OsStr) -> Vec<CompletionCandidate> {
    let named = |connection: Value| {
        let text = |field: &str| connection.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
        (text("name"), format!("{} of pool {}", text("kind"), text("pool")))
    };
    fitting(current, ask::<Value>("/connections", &[]).unwrap_or_default().into_iter().map(named))
}

/// The types that agents of the line's pool have; without an answer, those that are part of Muster.
fn known_types() -> Vec<TypeInfo> {
    let pool = Line::now().flag("--pool").cloned();
    let query: Vec<_> = pool.into_iter().map(|pool| ("pool", pool)).collect();
    match ask::<ExecutorView>("/executors", &query) {
        Some(executors) => executors.into_iter().flat_map(|executor| executor.types).map(|kind| kind.info).collect(),
        None => builtin::description().executors.into_iter().flat_map(|executor| executor.types).collect(),
    }
}

/// Those that begin as the word on the line does.
fn fitting(current: &OsStr, all: impl Iterator<Item = (String, String)>) -> Vec<CompletionCandidate> {
    let current = current.to_string_lossy();
    let clean = |about: String| (!about.is_empty()).then(|| crate::text::safe(&about).into());
    all.filter(|(name, _)| name.starts_with(&*current) && !name.contains(char::is_control))
        .map(|(name, about)| CompletionCandidate::new(name).help(clean(about)))
        .collect()
}

/// A list of the gateway's, if it comes soon.
fn ask<T: DeserializeOwned>(path: &str, query: &[(&str, String)]) -> Option<Vec<T>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
    let api = Api::new(target::find(&Line::now().global()?).ok()?).ok()?;
    let answer = runtime.block_on(async { tokio::time::timeout(PATIENCE, api.list(path, query)).await });
    runtime.shutdown_background();
    answer.ok()?.ok()
}

/// The words of the command line that is being completed.
struct Line(Vec<String>);

impl Line {
    /// Shells give it behind a `--` of its own.
    fn now() -> Self {
        Self(std::env::args_os().skip_while(|word| word != "--").skip(1).map(|word| word.to_string_lossy().into_owned()).collect())
    }

    /// The value of a flag, the last one that is given.
    fn flag(&self, flag: &str) -> Option<&String> {
        let place = self.0.iter().rposition(|word| word == flag)?;
        self.0.get(place + 1)
    }

    /// Which gateway it names, by flags or by the environment.
    fn global(&self) -> Option<Global> {
        #[derive(Parser)]
        struct Only {
            #[command(flatten)]
            global: Global,
        }
        let flags = ["--url", "--api-key", "--ca", "--profile"].into_iter();
        let words = flags.filter_map(|flag| Some([flag.to_owned(), self.flag(flag)?.clone()])).flatten();
        Some(Only::try_parse_from([PROGRAM.to_owned()].into_iter().chain(words)).ok()?.global)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;

    fn line(words: &[&str]) -> Line {
        Line(words.iter().map(|word| (*word).to_owned()).collect())
    }

    #[test]
    fn the_line_says_which_gateway_is_asked_about_what() {
        let line = line(&["muster", "submit", "--url", "http://a:1", "--type", "x.y", "--api-key", "k", "--param", ""]);
        let global = line.global().unwrap();
        assert_eq!((global.url.as_deref(), global.api_key.as_deref(), global.profile), (Some("http://a:1"), Some("k"), None));
        assert_eq!(line.flag("--type").unwrap(), "x.y");
        assert!(line.flag("--pool").is_none());
    }

    #[test]
    fn proposals_begin_as_the_word_does_and_can_be_shown_on_a_terminal() {
        let all = [("shell.run", "Runs\u{1b}[31m it."), ("http.request", ""), ("shell\u{7}.x", "")];
        let all = || all.iter().map(|(name, about)| ((*name).to_owned(), (*about).to_owned()));
        let found = fitting(OsStr::new("sh"), all());
        assert_eq!(found.iter().map(|one| one.get_value().to_str().unwrap()).collect::<Vec<_>>(), ["shell.run"]);
        assert!(!found.first().unwrap().get_help().unwrap().to_string().contains('\u{1b}'));
        assert_eq!(fitting(OsStr::new(""), all()).len(), 2);
    }

    #[test]
    fn every_flag_for_a_type_or_a_pool_has_proposals() {
        let mut commands = vec![proposing(Cli::command())];
        let mut proposing = 0;
        while let Some(command) = commands.pop() {
            proposing += command.get_arguments().filter(|argument| argument.get::<ArgValueCompleter>().is_some()).count();
            commands.extend(command.get_subcommands().cloned());
        }
        assert!(proposing > 15, "{proposing}");
    }
}
