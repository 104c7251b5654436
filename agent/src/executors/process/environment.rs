//! What a process finds in its environment: a short allow-list of the agent's own, what the job gives, and ours.
//!
//! The agent's own environment holds its API key and join token, so nothing passes that is neither on the list nor allowed by the operator.

use muster_executor::Attempt;

use super::user::Account;

/// Passed on from the agent when it has them.
const INHERITED: &[&str] = &[
    "HOME",
    "LANG",
    "LOGNAME",
    "SHELL",
    "TMPDIR",
    "TZ",
    "USER",
    "LC_ADDRESS",
    "LC_ALL",
    "LC_COLLATE",
    "LC_CTYPE",
    "LC_IDENTIFICATION",
    "LC_MEASUREMENT",
    "LC_MESSAGES",
    "LC_MONETARY",
    "LC_NAME",
    "LC_NUMERIC",
    "LC_PAPER",
    "LC_TELEPHONE",
    "LC_TIME",
];

const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Names that change what a program loads or runs before its first line: loaders, shells, interpreters, git.
const REFUSED: &[&str] = &[
    "BASHOPTS",
    "BASH_ENV",
    "CDPATH",
    "CLASSPATH",
    "ENV",
    "GCONV_PATH",
    "GLIBC_TUNABLES",
    "GLOBIGNORE",
    "IFS",
    "JAVA_TOOL_OPTIONS",
    "JDK_JAVA_OPTIONS",
    "LOCPATH",
    "NLSPATH",
    "NODE_OPTIONS",
    "NODE_PATH",
    "PATH",
    "PERLLIB",
    "PHPRC",
    "PHP_INI_SCAN_DIR",
    "PROMPT_COMMAND",
    "PS4",
    "R_PROFILE",
    "SHELLOPTS",
    "TCLLIBPATH",
    "ZDOTDIR",
    "_JAVA_OPTIONS",
];

/// Names that begin so are refused for the same reason; `MUSTER_` is ours.
const REFUSED_PREFIXES: &[&str] = &["LD_", "DYLD_", "GIT_", "PYTHON", "PERL5", "RUBY", "GEM_", "LUA_", "MALLOC_", OURS];

/// What the names of our own variables begin with.
const OURS: &str = "MUSTER_";

/// Names the agent, so that what it left behind when it was killed can be found at its next start.
pub(super) const AGENT: &str = "MUSTER_AGENT_ID";

/// Names the attempt in the environment of everything it starts, so that the whole tree can be found at its end.
pub(super) const MARKER: &str = "MUSTER_ATTEMPT_KEY";

/// Whether a job may set the variable; `Err` says why not. `allowed` are those that the operator lets pass all the same.
pub(crate) fn may_be_set(name: &str, allowed: &[String]) -> Result<(), &'static str> {
    if !is_name(name) {
        return Err("a name is 1 to 128 of A-Z, a-z, 0-9 and _, and does not begin with a digit");
    }
    if changes_code(name) && !allowed.iter().any(|allowed| allowed == name) {
        return Err("may not be set by a job, as it changes which code runs; set it inside the command, or have SHELL_ENV_ALLOW name it");
    }
    Ok(())
}

/// Whether an operator may let the variable pass; `Err` says why not.
pub(crate) fn may_be_allowed(name: &str) -> Result<(), &'static str> {
    match name {
        name if !is_name(name) => Err("is not the name of a variable"),
        "AGENT_API_KEY" | "AGENT_JOIN_TOKEN" | "ADMIN_TOKEN" => Err("is a secret of the agent, which no job may see"),
        name if name.to_ascii_uppercase().starts_with(OURS) => Err("is the agent's own to set"),
        _ => Ok(()),
    }
}

fn is_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    let first = bytes.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_');
    first && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_') && name.len() <= 128
}

fn changes_code(name: &str) -> bool {
    // Some interpreters look at names without regard to case.
    let upper = name.to_ascii_uppercase();
    REFUSED.contains(&upper.as_str()) || REFUSED_PREFIXES.iter().any(|prefix| upper.starts_with(prefix))
}

/// What a process gets of the agent's own variables: those on the list, and those `allowed` by the operator.
pub(crate) fn inherited(allowed: &[String]) -> Vec<(String, String)> {
    let own = |name: &str| Some((name.to_owned(), muster_runtime::env::var(name).ok().flatten()?));
    let mut variables: Vec<_> = INHERITED.iter().copied().chain(allowed.iter().map(String::as_str)).filter_map(own).collect();
    let path = muster_runtime::env::var("PATH").ok().flatten();
    variables.push(("PATH".to_owned(), path.unwrap_or_else(|| DEFAULT_PATH.to_owned())));
    variables
}

/// All that a process of an attempt finds: `inherited`, what it says of its user, the job's own, and ours. A later one of a name counts.
pub(super) fn of(
    attempt: &Attempt,
    key: &str,
    inherited: Vec<(String, String)>,
    user: Option<&Account>,
    job: Vec<(String, String)>,
) -> Vec<(String, String)> {
    let mut variables = inherited;
    let mut set = |name: &str, value: String| variables.push((name.to_owned(), value));
    if let Some(user) = user {
        set("HOME", user.home.display().to_string());
        set("USER", user.name.clone());
        set("LOGNAME", user.name.clone());
        set("SHELL", user.shell.as_ref().map_or("/bin/sh".to_owned(), |shell| shell.display().to_string()));
    }
    variables.extend(job);
    let ours = [
        (AGENT, attempt.agent_id.to_string()),
        ("MUSTER_JOB_ID", attempt.job_id.to_string()),
        ("MUSTER_ATTEMPT", attempt.number.to_string()),
        (MARKER, key.to_owned()),
    ];
    variables.extend(ours.map(|(name, value)| (name.to_owned(), value)));
    variables
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_that_change_which_code_runs_are_refused() {
        for name in [
            "LD_PRELOAD",
            "LD_LIBRARY_PATH",
            "ld_preload",
            "DYLD_INSERT_LIBRARIES",
            "BASH_ENV",
            "ENV",
            "IFS",
            "PATH",
            "GIT_SSH_COMMAND",
            "GIT_EXEC_PATH",
            "PYTHONPATH",
            "PYTHONSTARTUP",
            "PYTHONINSPECT",
            "PERL5OPT",
            "PERL5LIB",
            "RUBYOPT",
            "RUBYLIB",
            "NODE_OPTIONS",
            "SHELLOPTS",
            "PS4",
            "GLIBC_TUNABLES",
            "MUSTER_ATTEMPT_KEY",
            "MUSTER_JOB_ID",
            "",
            "1A",
            "A=B",
            "A B",
            "A-B",
            "BASH_FUNC_x%%",
            "Ä",
            "A\n",
        ] {
            assert!(may_be_set(name, &[]).is_err(), "{name:?} was allowed");
        }
    }

    #[test]
    fn ordinary_variables_may_be_set() {
        for name in ["DEPLOY_ENV", "_", "a1", "HTTP_PROXY", "HOME", "LANG", "ENVIRONMENT", "GITHUB_SHA"] {
            assert_eq!(may_be_set(name, &[]), Ok(()), "{name}");
        }
    }

    #[test]
    fn what_the_operator_allows_may_be_set_by_that_name_only() {
        let allowed = ["LD_LIBRARY_PATH".to_owned(), "PATH".to_owned()];
        for name in ["LD_LIBRARY_PATH", "PATH"] {
            assert_eq!(may_be_set(name, &allowed), Ok(()), "{name}");
        }
        for name in ["LD_PRELOAD", "ld_library_path", "PYTHONPATH", "MUSTER_JOB_ID"] {
            assert!(may_be_set(name, &allowed).is_err(), "{name}");
        }
    }

    #[test]
    fn no_operator_can_let_the_agents_secrets_pass() {
        for name in ["AGENT_API_KEY", "AGENT_JOIN_TOKEN", "ADMIN_TOKEN", "MUSTER_JOB_ID", "muster_launch", "", "A B", "*", "A=B"] {
            assert!(may_be_allowed(name).is_err(), "{name:?}");
        }
        assert_eq!(may_be_allowed("JAVA_HOME"), Ok(()));
    }
}
