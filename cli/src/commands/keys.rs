//! `muster keys create|list|revoke` and `muster join-token create|list|delete`.

use std::time::Duration;

use muster_schemas::{
    api::{CreateJoinToken, CreateKey, JoinTokenView, KeyView},
    time::Timestamp,
};
use reqwest::Method;
use serde_json::json;

use crate::{
    api::Api,
    args::{JoinTokenCommand, KeysCommand},
    failure::Failure,
    output,
};

pub(crate) async fn run(api: &Api, command: KeysCommand, json: bool) -> anyhow::Result<()> {
    match command {
        KeysCommand::Create { name, role, expires_in } => {
            let expires_at = expires_in.map(|period| Timestamp::now() + period.get());
            let key: KeyView = api.send(Method::POST, "/api-keys", &CreateKey { name, role, expires_at }, Duration::ZERO).await?;
            if json { output::json(&key)? } else { once(key.key.as_deref(), &format!("key {} ({})", key.id, key.role))? }
        }
        KeysCommand::List => {
            let keys: Vec<KeyView> = api.list("/api-keys", &[]).await?;
            if json { output::json(&keys)? } else { output::line(&table(&keys, Timestamp::now()))? }
        }
        KeysCommand::Revoke { id } => {
            if id.is_empty() || !id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
                return Err(Failure::new(format!("`{id}` is not the id of a key")).hint("`muster keys list` shows them").into());
            }
            api.delete(&format!("/api-keys/{id}")).await?;
            if json { output::json(&json!({"revoked": id}))? } else { output::line(&format!("key {id} is revoked"))? }
        }
    }
    Ok(())
}

pub(crate) async fn join_token(api: &Api, command: JoinTokenCommand, json: bool) -> anyhow::Result<()> {
    match command {
        JoinTokenCommand::Create { pool, uses, expires_in, name_pattern, ephemeral } => {
            let ttl_s = expires_in.map(|period| i64::try_from(period.get().as_secs()).unwrap_or(i64::MAX));
            let create = CreateJoinToken { pool: pool.to_string(), uses, ttl_s, name_pattern, ephemeral };
            let token: JoinTokenView = api.send(Method::POST, "/join-tokens", &create, Duration::ZERO).await?;
            if json { output::json(&token)? } else { once(token.token.as_deref(), &told(&token))? }
        }
        JoinTokenCommand::List => {
            let tokens: Vec<JoinTokenView> = api.list("/join-tokens", &[]).await?;
            if json { output::json(&tokens)? } else { output::line(&tokens_table(&tokens, Timestamp::now()))? }
        }
        JoinTokenCommand::Delete { prefix } => {
            if prefix.is_empty() || !prefix.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
                return Err(Failure::new(format!("`{prefix}` is not the prefix of a token"))
                    .hint("`muster join-token list` shows them")
                    .into());
            }
            api.delete(&format!("/join-tokens/{prefix}")).await?;
            if json { output::json(&json!({"deleted": prefix}))? } else { output::line(&format!("nobody joins with {prefix} any more"))? }
        }
    }
    Ok(())
}

fn told(token: &JoinTokenView) -> String {
    let uses = token.uses_left.map_or("any number of times".to_owned(), |uses| format!("{uses} times"));
    let until = token.expires_at.map(|at| format!(", until {at}")).unwrap_or_default();
    let names = token.name_pattern.as_ref().map(|pattern| format!(", for names like {pattern}")).unwrap_or_default();
    let kind = if token.ephemeral { "ephemeral agents of pool" } else { "pool" };
    format!("join token for {kind} {}, for use {uses}{until}{names}", token.pool)
}

fn tokens_table(tokens: &[JoinTokenView], now: Timestamp) -> String {
    let row = |token: &JoinTokenView| {
        let works = match (token.uses_left, token.expires_at) {
            (Some(0), _) => "used up".to_owned(),
            (_, Some(at)) if at <= now => format!("expired {at}"),
            (_, Some(at)) => format!("until {at}"),
            (_, None) => "for ever".to_owned(),
        };
        let of_one = token.agent_id.as_ref().map(|id| format!("only {id}"));
        let names = token.name_pattern.clone().or(of_one).unwrap_or_else(|| "any".to_owned());
        let uses = token.uses_left.map_or("no limit".to_owned(), |uses| uses.to_string());
        [token.prefix.clone(), token.pool.to_string(), uses, works, names, if token.ephemeral { "yes" } else { "" }.to_owned()]
    };
    let head = ["prefix", "pool", "uses left", "works", "names", "ephemeral"];
    output::table(head, tokens.iter().map(row).collect(), "There are no join tokens. `muster join-token create` makes one.")
}

/// The secret alone on standard output, so that it can be piped; what it is beside it.
pub(super) fn once(secret: Option<&str>, what: &str) -> anyhow::Result<()> {
    let Some(secret) = secret else { return Err(Failure::new("the gateway did not say the secret").into()) };
    output::warn(&format!("{what}; it is shown this once"));
    output::line(secret)?;
    Ok(())
}

fn table(keys: &[KeyView], now: Timestamp) -> String {
    let row = |key: &KeyView| {
        let state = match (key.revoked_at, key.expires_at) {
            (Some(at), _) => format!("revoked {at}"),
            (None, Some(at)) if at <= now => format!("expired {at}"),
            (None, Some(at)) => format!("until {at}"),
            (None, None) => "for ever".to_owned(),
        };
        [key.id.clone(), key.name.clone(), key.role.to_string(), state, key.created_at.to_string()]
    };
    output::table(["id", "name", "role", "works", "created"], keys.iter().map(row).collect(), "There are no API keys.")
}

#[cfg(test)]
mod tests {
    use muster_schemas::records::Role;

    use super::*;

    #[test]
    fn a_key_shows_whether_it_works_still() {
        let now = Timestamp::from_secs(1_800_000_000);
        let key = |revoked_at, expires_at| KeyView {
            id: "key_1".into(),
            prefix: "abc".into(),
            name: "ci".into(),
            role: Role::Operator,
            created_at: now,
            expires_at,
            revoked_at,
            last_used_at: None,
            last_used_from: None,
            key: None,
        };
        let later = now + Duration::from_secs(60);
        let text = table(&[key(None, None), key(Some(now), None), key(None, Some(now)), key(None, Some(later))], now);
        for part in ["for ever", "revoked 20", "expired 20", "until 20"] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }
}
