//! The flags that every process has for its settings.

use std::{
    io::{self, Write as _},
    path::PathBuf,
};

use super::{ConfigError, Loaded, Overrides, Settings, Sources, load};

/// `--config`, `--set` and `--print-config`, for `#[command(flatten)]`.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct ConfigArgs {
    /// Config file (TOML)
    #[arg(long, value_name = "FILE", env = "MUSTER_CONFIG")]
    pub config: Option<PathBuf>,

    /// Set one key, for example `--set log_level=DEBUG`; may be given several times
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_pair)]
    pub set: Vec<(String, String)>,

    /// Print the settings in effect, secrets hidden, and exit
    #[arg(long)]
    pub print_config: bool,
}

impl ConfigArgs {
    /// Loads the settings from all layers. `flags` are the process's own flags; `--set` wins over them.
    ///
    /// # Errors
    /// As [`load`].
    pub fn load<T: Settings>(&self, flags: Overrides) -> Result<Loaded<T>, ConfigError> {
        let flags = self.set.iter().fold(flags, |flags, (key, value)| flags.set("--set", key, Some(value)));
        load(&Sources::of_process::<T>(self.config.clone(), flags)?)
    }

    /// Prints the settings to stdout if `--print-config` was given; true means: printed, now exit.
    ///
    /// # Errors
    /// When stdout can't be written.
    pub fn printed<T: Settings>(&self, loaded: &Loaded<T>) -> io::Result<bool> {
        if self.print_config {
            io::stdout().write_all(loaded.to_toml().as_bytes())?;
        }
        Ok(self.print_config)
    }
}

fn parse_pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.trim().is_empty() => Ok((key.trim().to_owned(), value.to_owned())),
        _ => Err("write KEY=VALUE".to_owned()),
    }
}
