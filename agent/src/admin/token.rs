//! The token of the admin interface, and where the interface is: two small files in the state directory, for the agent's own user only.

use std::{net::SocketAddr, path::Path};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use muster_runtime::config::Secret;

use crate::{
    config::Config,
    identity::{FileError, file},
};

const TOKEN: &str = "admin.token";
const ADDRESS: &str = "admin.address";
/// The names of the files.
pub(crate) const FILES: [&str; 2] = [TOKEN, ADDRESS];

/// Shorter is none of ours, and none that a person should have written there.
const SHORTEST: usize = 16;

/// The token of the settings; or that in the state directory, which is made if it is not there.
pub(super) fn of(config: &Config) -> Result<Secret, FileError> {
    if let Some(token) = kept(config)? {
        return Ok(token);
    }
    let token = Secret::new(URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>()));
    file::write_private(&config.state_dir.join(TOKEN), token.expose().as_bytes())?;
    Ok(token)
}

/// The token, if there is one already.
pub(crate) fn kept(config: &Config) -> Result<Option<Secret>, FileError> {
    if let Some(token) = &config.admin_token {
        return Ok(Some(token.clone()));
    }
    let bytes = file::read_private(&config.state_dir.join(TOKEN))?.map(zeroize::Zeroizing::new);
    let text = bytes.as_ref().and_then(|bytes| std::str::from_utf8(bytes).ok()).map(str::trim);
    Ok(text.filter(|token| token.len() >= SHORTEST).map(Secret::new))
}

/// Leaves word of where the interface is: its port may be any.
pub(super) fn leave_address(state_dir: &Path, address: SocketAddr) -> Result<(), FileError> {
    file::write_private(&state_dir.join(ADDRESS), address.to_string().as_bytes())
}

/// Where the interface is, as the agent said when it started; or as the settings say.
pub(crate) fn address(config: &Config) -> Result<SocketAddr, FileError> {
    let said = file::read_private(&config.state_dir.join(ADDRESS))?;
    let said = said.and_then(|bytes| String::from_utf8(bytes).ok()?.trim().parse().ok());
    Ok(said.unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], config.admin_port))))
}
