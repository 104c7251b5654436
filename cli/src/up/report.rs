//! What `muster up` says once jobs run: one line of JSON for programs, or what a person needs next.

use serde::Serialize;

use super::stack::Stack;
use crate::output;

/// The line for programs. Its fields are a promise.
#[derive(Debug, Serialize)]
struct Line<'a> {
    url: &'a str,
    nats_url: &'a str,
    api_key: &'a str,
    data_dir: &'a std::path::Path,
    service_creds: &'a std::path::Path,
}

pub(super) fn print(stack: &Stack, json: bool) -> anyhow::Result<()> {
    if json {
        let Stack { url, nats_url, api_key, data_dir, service_creds, .. } = stack;
        return output::json(&Line { url, nats_url, api_key, data_dir, service_creds });
    }
    output::line(&welcome(stack, &command()))?;
    Ok(())
}

/// How this program was called: `muster` where it is installed, a path where it is not.
fn command() -> String {
    std::env::args().next().unwrap_or_else(|| "muster".to_owned())
}

fn welcome(stack: &Stack, command: &str) -> String {
    let agents = match stack.agents {
        0 => format!("no agents in pool {}; jobs wait until one joins", stack.pool),
        1 => format!("1 agent in pool {}", stack.pool),
        many => format!("{many} agents in pool {}", stack.pool),
    };
    let facts = output::fields(vec![
        ("  URL", Some(stack.url.clone())),
        ("  Docs", Some(format!("{}/docs", stack.url))),
        ("  API key", Some(stack.api_key.clone())),
        ("  NATS", Some(stack.nats_url.clone())),
        ("  Credentials", Some(format!("{} (for services that use NATS)", stack.service_creds.display()))),
        ("  Data", Some(stack.data_dir.display().to_string())),
    ]);
    let pool = if stack.pool.as_str() == "default" { String::new() } else { format!(" --pool {}", stack.pool) };
    format!(
        "\nMuster is up: {agents}.\n\n{facts}\n\nA first job, from another terminal (it finds the URL and the key by itself):\n\n  \
         {command} submit{pool} -- uname -a\n\nCtrl-C stops everything; run it again, and it goes on."
    )
}

/// Tells that the end has been asked for: agents may take half a minute over running jobs.
pub(super) fn stopping(json: bool) {
    if !json {
        output::warn("stopping; running jobs have 30 s to end (Ctrl-C again to stop at once)");
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;

    fn stack(pool: &str, agents: u16) -> Stack {
        Stack {
            url: "http://127.0.0.1:1".into(),
            nats_url: "nats://127.0.0.1:2".into(),
            api_key: "mst_k".into(),
            data_dir: "/d".into(),
            service_creds: "/d/s.creds".into(),
            pool: pool.parse().unwrap(),
            agents,
        }
    }

    #[test]
    fn people_get_all_they_need_and_a_first_command() {
        let text = welcome(&stack("default", 2), "muster");
        for part in [
            "2 agents in pool default",
            "http://127.0.0.1:1/docs",
            "mst_k",
            "nats://127.0.0.1:2",
            "/d/s.creds",
            "muster submit -- uname -a",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
        assert!(welcome(&stack("build", 1), "target/debug/muster").contains("target/debug/muster submit --pool build -- "));
    }

    #[test]
    fn programs_get_exactly_the_five_fields() {
        let Stack { url, nats_url, api_key, data_dir, service_creds, .. } = &stack("p", 1);
        let line = serde_json::to_string(&Line { url, nats_url, api_key, data_dir, service_creds }).unwrap();
        assert_eq!(
            line,
            r#"{"url":"http://127.0.0.1:1","nats_url":"nats://127.0.0.1:2","api_key":"mst_k","data_dir":"/d","service_creds":"/d/s.creds"}"#
        );
    }
}
