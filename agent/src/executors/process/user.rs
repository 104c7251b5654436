//! Whom a process runs as, where that is not the agent itself: names and numbers of users and groups, looked up.
//!
//! Nothing here changes who anybody is; the launcher does.

use std::{ffi::CString, path::PathBuf};

use nix::unistd::{Gid, Group, Uid, User, geteuid, getgrouplist};
use serde::{Deserialize, Serialize};

/// Whom a job asks for, by name or number.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    pub(crate) user: String,
    pub(crate) group: Option<String>,
}

/// The numbers that the launcher takes on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Ids {
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Supplementary groups.
    pub(super) groups: Vec<u32>,
}

/// A user of this machine.
#[derive(Debug)]
pub(super) struct Account {
    pub(super) ids: Ids,
    pub(super) name: String,
    pub(super) home: PathBuf,
    pub(super) shell: Option<PathBuf>,
}

impl Wanted {
    /// Looks it up. Blocks: names may come from a directory service.
    ///
    /// # Errors
    /// When there is no such user or group, or this agent may not become another user.
    pub(super) fn find(&self) -> Result<Account, String> {
        let Self { user, group } = self;
        let number = user.parse::<u32>().ok().map(Uid::from_raw);
        let found = match number {
            Some(uid) => User::from_uid(uid),
            None => User::from_name(user),
        };
        let found = found.map_err(|error| format!("params.user: can't look up `{user}`: {}", error.desc()))?;
        let group = group.as_deref().map(find_group).transpose()?;
        let account = match (found, number) {
            (Some(entry), _) => {
                let gid = group.unwrap_or(entry.gid);
                let name = CString::new(entry.name.as_str()).map_err(|_| format!("params.user: `{user}` has an odd name"))?;
                let groups =
                    getgrouplist(&name, gid).map_err(|error| format!("params.user: can't look up the groups of `{user}`: {error}"))?;
                let groups = groups.into_iter().map(Gid::as_raw).collect();
                let ids = Ids { uid: entry.uid.as_raw(), gid: gid.as_raw(), groups };
                Account { ids, name: entry.name, home: entry.dir, shell: Some(entry.shell) }
            }
            (None, Some(uid)) => {
                let gid = group.ok_or_else(|| format!("params.user: there is no user {uid} here to take a group of; give `group` too"))?;
                let ids = Ids { uid: uid.as_raw(), gid: gid.as_raw(), groups: vec![gid.as_raw()] };
                Account { ids, name: user.clone(), home: "/".into(), shell: None }
            }
            (None, None) => return Err(format!("params.user: there is no user `{user}` here")),
        };
        if !geteuid().is_root() {
            return Err(format!("params.user: this agent is not root, so it can't run commands as `{user}`"));
        }
        Ok(account)
    }
}

fn find_group(group: &str) -> Result<Gid, String> {
    if let Ok(gid) = group.parse() {
        return Ok(Gid::from_raw(gid));
    }
    let found = Group::from_name(group).map_err(|error| format!("params.group: can't look up `{group}`: {}", error.desc()))?;
    found.map(|group| group.gid).ok_or_else(|| format!("params.group: there is no group `{group}` here"))
}
