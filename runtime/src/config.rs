//! Settings of a process: one struct, four layers, unknown keys refused.
//!
//! Owns how settings are read and how a bad one is reported; never knows a setting. The layers are,
//! weakest first: the commented defaults that are embedded in the binary, the config file, the
//! environment, the flags. Loading is in `layers`, durations and sizes in `quantity`.
//!
//! Every key must be settable alone: it has a default or is an `Option`. What belongs together is
//! checked by [`Settings::check`].

mod args;
mod error;
mod layers;
mod print;
mod quantity;
mod secret;

pub use args::ConfigArgs;
pub use error::{ConfigError, EXIT_CONFIG, Layer, Problem, in_range, not_below};
pub use layers::{Loaded, Overrides, Sources, load};
pub use quantity::{ByteSize, ParseQuantityError, Period};
pub use secret::Secret;

pub(crate) use error::one_line;

use serde::{Serialize, de::DeserializeOwned};

/// The settings of a process. Derive `Serialize` and `Deserialize` with
/// `#[serde(deny_unknown_fields)]`, also on nested structs.
pub trait Settings: Serialize + DeserializeOwned {
    /// The commented default config file (`include_str!`). It must be a valid config by itself.
    const DEFAULTS: &'static str;
    /// The environment variables that set a key.
    const ENV: &'static [EnvVar];

    /// Checks ranges and contradictions, after all layers were merged.
    ///
    /// # Errors
    /// The first [`Problem`]; it is reported with the layer that set its key.
    fn check(&self) -> Result<(), Problem> {
        Ok(())
    }
}

/// An environment variable and the key that it sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EnvVar {
    /// Name of the variable, for example `AGENT_NAME`.
    pub name: &'static str,
    /// Dotted key, for example `admin.port`.
    pub key: &'static str,
    /// Whether an empty value is one (a list of nothing) instead of counting as unset.
    pub may_be_empty: bool,
}

impl EnvVar {
    /// Pairs a variable with a key.
    #[must_use]
    pub const fn new(name: &'static str, key: &'static str) -> Self {
        Self { name, key, may_be_empty: false }
    }

    /// Pairs a variable with a list where empty means none, never the default.
    #[must_use]
    pub const fn list(name: &'static str, key: &'static str) -> Self {
        Self { name, key, may_be_empty: true }
    }
}
