//! Commands that list when no word says otherwise: they take the flags of their list then, as `muster dead --pool build` does.

use super::*;
use crate::failure::{EXIT_USAGE, Failure};

/// The words of a command, and the flags of its list.
#[derive(Debug, Args)]
pub(crate) struct Listed<C: Subcommand, L: Args> {
    #[command(subcommand)]
    command: Option<C>,
    #[command(flatten)]
    list: L,
}

impl<C: Subcommand, L: Args + Default + PartialEq> Listed<C, L> {
    /// What is to be done.
    ///
    /// Flags before another word are refused, since that word would act without them: `dead --pool build delete --all` is not meant to delete
    /// all. clap's own `args_conflicts_with_subcommands` would refuse `--json` there as well.
    ///
    /// # Errors
    /// [`Failure`] with [`EXIT_USAGE`].
    pub(crate) fn or(self, list: impl FnOnce(L) -> C) -> Result<C, Failure> {
        match self.command {
            None => Ok(list(self.list)),
            Some(command) if self.list == L::default() => Ok(command),
            Some(_) => {
                let message = "the flags before the word are those of the list, which is not what the word says";
                Err(Failure::new(message).hint("write the flags behind the word").exit(EXIT_USAGE))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;

    fn dead(line: &str) -> Result<DeadCommand, Failure> {
        let Command::Dead(listed) = Cli::try_parse_from(line.split(' ')).unwrap().command else { unreachable!("the command is dead") };
        listed.or(DeadCommand::List)
    }

    #[test]
    fn without_a_word_the_flags_are_those_of_the_list() {
        for line in ["muster dead --pool p --type shell.run --limit 7", "muster dead list --pool p --type shell.run --limit 7"] {
            let DeadCommand::List(args) = dead(line).unwrap() else { unreachable!("{line}") };
            assert_eq!((args.pool.unwrap().as_str(), args.job_type.unwrap().as_str(), args.limit), ("p", "shell.run", Some(7)));
        }
        for line in ["muster groups --pool p --status stopped --limit 7", "muster agents --pool p", "muster group --json --pool p"] {
            Cli::try_parse_from(line.split(' ')).unwrap();
        }
    }

    #[test]
    fn flags_before_another_word_are_never_passed_over() {
        let refused = dead("muster dead --pool p delete --all").unwrap_err();
        assert_eq!(refused.exit, EXIT_USAGE);
        assert!(matches!(dead("muster dead --json delete --pool p").unwrap(), DeadCommand::Delete { .. }));
    }
}
