//! What a command finds in its environment: a short allow-list of the agent's own, what the job gives, and ours.
//!
//! The agent's own environment holds its API key and join token, so nothing passes that is not on the list.

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
const REFUSED_PREFIXES: &[&str] = &["LD_", "DYLD_", "GIT_", "PYTHON", "PERL5", "RUBY", "GEM_", "LUA_", "MALLOC_", "MUSTER_"];

/// Names the agent, so that what it left behind when it was killed can be found at its next start.
pub(super) const AGENT: &str = "MUSTER_AGENT_ID";

/// Names the attempt in the environment of everything it starts, so that the whole tree can be found at its end.
pub(super) const MARKER: &str = "MUSTER_ATTEMPT_KEY";

/// Whether a job may set the variable; `Err` says why not.
pub(super) fn may_be_set(name: &str) -> Result<(), &'static str> {
    let mut bytes = name.bytes();
    let first = bytes.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_');
    if !first || !bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_') || name.len() > 128 {
        return Err("a name is 1 to 128 of A-Z, a-z, 0-9 and _, and does not begin with a digit");
    }
    // Some interpreters look at names without regard to case.
    let upper = name.to_ascii_uppercase();
    if REFUSED.contains(&upper.as_str()) || REFUSED_PREFIXES.iter().any(|prefix| upper.starts_with(prefix)) {
        return Err("may not be set by a job, as it changes which code runs; set it inside the command if you must");
    }
    Ok(())
}

/// The agent's own variables that a command gets.
pub(super) fn inherited() -> Vec<(&'static str, String)> {
    let own = |name: &&'static str| Some((*name, muster_runtime::env::var(name).ok().flatten()?));
    let path = muster_runtime::env::var("PATH").ok().flatten();
    let mut variables: Vec<_> = INHERITED.iter().filter_map(own).collect();
    variables.push(("PATH", path.unwrap_or_else(|| DEFAULT_PATH.to_owned())));
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
            assert!(may_be_set(name).is_err(), "{name:?} was allowed");
        }
    }

    #[test]
    fn ordinary_variables_may_be_set() {
        for name in ["DEPLOY_ENV", "_", "a1", "HTTP_PROXY", "HOME", "LANG", "ENVIRONMENT", "GITHUB_SHA"] {
            assert_eq!(may_be_set(name), Ok(()), "{name}");
        }
    }
}
