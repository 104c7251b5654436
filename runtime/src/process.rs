//! The frame of every `main`: runtime, logs, signals, exit codes.
//!
//! It knows no service. A binary calls [`run_main`] with what it does, and inside that [`block_on`]
//! with its settings.

use std::{
    fmt::Write as _,
    io::{self, Write as _},
    process::ExitCode,
};

use nix::sys::{
    prctl,
    resource::{Resource, getrlimit, setrlimit},
    signal::Signal,
};

use crate::{
    config::{ConfigArgs, ConfigError, EXIT_CONFIG, Overrides, Settings},
    env,
    logs::{self, LogFilter, LogFormat},
    shutdown::Shutdown,
};

/// Set to `1`, or to the parent's process id, for a child that must not outlive its parent.
pub const DIE_WITH_PARENT: &str = "MUSTER_DIE_WITH_PARENT";

/// How a process runs; from its settings.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// What is logged.
    pub log_filter: LogFilter,
    /// How log lines look.
    pub log_format: LogFormat,
    /// Worker threads of the runtime; `None` is one per core.
    pub worker_threads: Option<usize>,
}

/// Runs the body of a `main` and turns its error into one line on stderr and an exit code: 64 for
/// wrong settings or flags, otherwise 1. Help and version texts of clap exit with 0.
pub fn run_main<F>(name: &str, body: F) -> ExitCode
where
    F: FnOnce() -> anyhow::Result<ExitCode>,
{
    let outcome = die_with_parent().map_err(anyhow::Error::from).and_then(|()| body());
    outcome.unwrap_or_else(|error| report(name, &error))
}

/// Runs a service inside [`run_main`]: reads its settings, prints them if that is all that was asked for, otherwise runs `body` with them.
///
/// # Errors
/// [`ConfigError`], or those of [`block_on`].
pub fn run_service<T, F, Fut>(args: &ConfigArgs, flags: Overrides, options: impl FnOnce(&T) -> Options, body: F) -> anyhow::Result<ExitCode>
where
    T: Settings,
    F: FnOnce(T, Shutdown) -> Fut,
    Fut: Future<Output = anyhow::Result<()>>,
{
    let loaded = args.load::<T>(flags)?;
    if !args.printed(&loaded)? {
        let options = options(&loaded.settings);
        block_on(&options, |shutdown| body(loaded.settings, shutdown))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Starts logs, signals and the runtime, and runs a future to its end.
///
/// When it ends, tasks that are still blocked don't hold up the exit.
///
/// # Errors
/// The future's own, or that of setting up.
pub fn block_on<F, Fut, T>(options: &Options, body: F) -> anyhow::Result<T>
where
    F: FnOnce(Shutdown) -> Fut,
    Fut: Future<Output = anyhow::Result<T>>,
{
    logs::init(&options.log_filter, options.log_format);
    let shutdown = Shutdown::on_signals()?;
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    if let Some(threads) = options.worker_threads {
        builder.worker_threads(threads.max(1));
    }
    let runtime = builder.enable_all().thread_name("worker").build()?;
    let outcome = runtime.block_on(body(shutdown));
    runtime.shutdown_background();
    outcome
}

/// Lets this process, and what it starts, have as many files open as the machine allows it; says how many.
///
/// # Errors
/// When the kernel does not say, or refuses.
pub fn raise_open_files() -> io::Result<u64> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    }
    Ok(hard)
}

/// Prints the error as one line and returns its exit code; what [`run_main`] does.
pub fn report(name: &str, error: &anyhow::Error) -> ExitCode {
    if let Some(usage) = error.downcast_ref::<clap::Error>() {
        // Clap knows which of its texts go to stdout. A closed pipe is nobody's error.
        let _ = usage.print();
        return if usage.use_stderr() { ExitCode::from(EXIT_CONFIG) } else { ExitCode::SUCCESS };
    }
    let _ = writeln!(io::stderr(), "{name}: {}", chain(error));
    let is_config = error.chain().any(|cause| cause.downcast_ref::<ConfigError>().is_some());
    ExitCode::from(if is_config { EXIT_CONFIG } else { 1 })
}

/// The error and its causes in one line, a cause that its effect already says left out.
#[must_use]
pub fn chain(error: &anyhow::Error) -> String {
    let mut line = String::new();
    let mut last = String::new();
    for cause in error.chain() {
        let text = crate::config::one_line(&cause.to_string());
        if line.is_empty() {
            line.push_str(&text);
        } else if !last.contains(&text) {
            let _ = write!(line, ": {text}");
        }
        last = text;
    }
    line
}

/// Asks the kernel to send TERM to this process when its parent dies, if [`DIE_WITH_PARENT`] is set.
/// Survives `exec`, so it also works for a broker that this process becomes.
///
/// The kernel means the parent's *thread* that started this process: start such children from the
/// main thread or a worker thread, never from `spawn_blocking` or `block_in_place`.
///
/// # Errors
/// When the variable or the call is refused.
pub fn die_with_parent() -> Result<(), DieWithParentError> {
    let Some(value) = env::var(DIE_WITH_PARENT)? else {
        return Ok(());
    };
    prctl::set_pdeathsig(Signal::SIGTERM)?;
    // The parent may have died before the call; then nobody would tell us.
    let expected = value.parse::<i32>().ok().filter(|pid| *pid > 1);
    if expected.is_some_and(|pid| nix::unistd::getppid().as_raw() != pid) {
        nix::sys::signal::raise(Signal::SIGTERM)?;
    }
    Ok(())
}

/// The process can't be bound to its parent's life.
#[derive(Debug, thiserror::Error)]
pub enum DieWithParentError {
    /// The variable is not text.
    #[error(transparent)]
    Environment(#[from] env::NotUnicode),
    /// The kernel refused.
    #[error("can't bind this process to its parent's life")]
    Kernel(#[from] nix::Error),
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use anyhow::Context as _;

    use super::*;
    use crate::config::{Layer, Problem};

    fn code(error: anyhow::Error) -> String {
        format!("{:?}", run_main("test", || Err(error)))
    }

    #[test]
    fn wrong_settings_exit_with_64_and_everything_else_with_1() {
        let wrong = ConfigError::from_problem(Layer::Defaults, Problem::new("port", "is wrong"));
        let wrong = anyhow::Error::from(wrong).context("can't start");
        assert_eq!(code(wrong), format!("{:?}", ExitCode::from(64)));
        assert_eq!(code(anyhow::anyhow!("broken")), format!("{:?}", ExitCode::from(1)));
        let done = run_main("test", || Ok(ExitCode::from(3)));
        assert_eq!(format!("{done:?}"), format!("{:?}", ExitCode::from(3)));
    }

    #[test]
    fn help_is_no_error_and_a_wrong_flag_is_one() {
        let command = || clap::Command::new("test").version("1");
        let help = command().try_get_matches_from(["test", "--help"]).unwrap_err();
        assert_eq!(code(help.into()), format!("{:?}", ExitCode::SUCCESS));
        let wrong = command().try_get_matches_from(["test", "--nope"]).unwrap_err();
        assert_eq!(code(wrong.into()), format!("{:?}", ExitCode::from(64)));
    }

    #[test]
    fn a_chain_is_one_line_that_says_nothing_twice() {
        let inner: anyhow::Result<()> = Err(anyhow::anyhow!("no route\nto host"));
        let error = inner.context("can't reach 10.0.0.1: no route to host").context("can't start");
        let line = chain(&error.unwrap_err());
        assert_eq!(line, "can't start: can't reach 10.0.0.1: no route to host");
    }

    #[test]
    fn a_body_runs_on_a_runtime_with_a_shutdown_of_its_own() {
        let options = Options { worker_threads: Some(1), ..Options::default() };
        let shut_down = block_on(&options, async |shutdown| {
            shutdown.trigger("test");
            shutdown.requested().await;
            Ok(shutdown.is_requested())
        });
        assert!(shut_down.unwrap());
    }
}
