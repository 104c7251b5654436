//! Flags of what tells of types of jobs, and of completion.

use super::*;

const TYPES_HELP: &str = "Examples:
  muster types
  muster types --pool build
  muster types http.request

Each agent says what its executors take; a gateway that knows it from all agents of a pool refuses wrong params before they are
queued. AGENTS counts those that are there. A type with 0 is part of Muster, and no agent that is there has it on.";

/// `muster types`.
#[derive(Debug, Args)]
#[command(after_help = TYPES_HELP)]
pub(crate) struct TypesArgs {
    /// Show this one: its params, an example and how to run it
    #[arg(value_name = "TYPE")]
    pub(crate) job_type: Option<String>,
    /// Only what agents of this pool can do [default: all pools]
    #[arg(long)]
    pub(crate) pool: Option<PoolName>,
}

const COMPLETION_HELP: &str = "Once, in the file that your shell reads at its start:
  bash (~/.bashrc)                    source <(muster completion bash)
  zsh (~/.zshrc, behind compinit)     source <(muster completion zsh)
  fish (~/.config/fish/config.fish)   muster completion fish | source

Words, flags and files are completed without asking anybody. Types, their params, pools and connections are asked of the gateway that
the command line names, for up to 0.8 seconds.";

/// `muster completion`.
#[derive(Debug, Args)]
#[command(after_help = COMPLETION_HELP)]
pub(crate) struct CompletionArgs {
    /// The shell
    pub(crate) shell: Shell,
}

/// Shells whose completion there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Shell {
    /// GNU bash
    Bash,
    /// The Z shell
    Zsh,
    /// The friendly interactive shell
    Fish,
}
