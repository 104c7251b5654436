//! Reads the one context of a kubeconfig that is used. Whatever in it would have the agent run a program, read a file of its machine, go through a
//! proxy or trust anybody is refused by name: a kubeconfig comes from outside, and its author need not be who may do that here.

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use kube::config::AuthInfo;
use serde_json::{Map, Value};

use crate::{connect::Target, manifest};

/// What a cluster may say.
const CLUSTER: &[&str] =
    &["server", "certificate-authority-data", "tls-server-name", "disable-compression", "insecure-skip-tls-verify", "extensions"];

/// What a user may say.
const USER: &[&str] = &["token", "client-certificate-data", "client-key-data", "as", "as-uid", "as-groups", "extensions"];

/// What is refused, and why.
const REFUSED: &[(&str, &str)] = &[
    ("exec", "it would run a program on the agent's machine; use a token or a certificate"),
    ("auth-provider", "it would run a program on the agent's machine; use a token or a certificate"),
    ("tokenFile", "it would read a file of the agent's machine; put the token into `token`"),
    ("client-certificate", "it would read a file of the agent's machine; use `client-certificate-data`"),
    ("client-key", "it would read a file of the agent's machine; use `client-key-data`"),
    ("certificate-authority", "it would read a file of the agent's machine; use `certificate-authority-data`"),
    ("proxy-url", "agents go through no proxy"),
    ("username", "clusters take no passwords any more"),
    ("password", "clusters take no passwords any more"),
];

/// Reads it. `context` is the one to use, by default its current one.
///
/// # Errors
/// What is wrong, without any value of it.
pub(crate) fn read(text: &str, context: Option<&str>) -> Result<Target, String> {
    // The parser's own words would quote the text.
    let document = manifest::yaml(text).map_err(|_| "the kubeconfig is no YAML".to_owned())?;
    let [document] = document.as_slice() else { return Err("the kubeconfig must be one YAML document".to_owned()) };
    let current = || document.get("current-context").and_then(Value::as_str).filter(|name| !name.is_empty());
    let context = context.or_else(current).ok_or("the kubeconfig has no current-context; set `context`")?;
    let chosen = named(document, "contexts", "context", context)?;
    let part = |field: &str| {
        let name = chosen.get(field).and_then(Value::as_str);
        name.ok_or_else(|| format!("the kubeconfig's context `{context}` has no `{field}`"))
    };
    let (cluster_name, user_name) = (part("cluster")?, part("user")?);
    let cluster = named(document, "clusters", "cluster", cluster_name)?;
    let user = named(document, "users", "user", user_name)?;
    allow(cluster, CLUSTER, &format!("cluster `{cluster_name}`"))?;
    allow(user, USER, &format!("user `{user_name}`"))?;
    if cluster.get("insecure-skip-tls-verify").is_some_and(|skip| *skip != Value::Bool(false)) {
        return Err(format!(
            "the kubeconfig's cluster `{cluster_name}`: `insecure-skip-tls-verify` is refused: anybody could pose as it; use `certificate-authority-data`"
        ));
    }
    let words = |map: &Map<String, Value>, field: &str| match map.get(field) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone()).filter(|text| !text.is_empty())),
        Some(_) => Err(format!("the kubeconfig's `{field}` is no text")),
    };
    let groups = match user.get("as-groups") {
        None | Some(Value::Null) => None,
        Some(groups) => Some(serde_json::from_value(groups.clone()).map_err(|_| "the kubeconfig's `as-groups` is no list of texts")?),
    };
    let token = words(user, "token")?.map(|token| crate::connect::token(&token).ok_or("the kubeconfig's `token` can't be one"));
    let auth = AuthInfo {
        token: token.transpose()?.map(Into::into),
        client_certificate_data: words(user, "client-certificate-data")?,
        client_key_data: words(user, "client-key-data")?.map(Into::into),
        impersonate: words(user, "as")?,
        impersonate_uid: words(user, "as-uid")?,
        impersonate_groups: groups,
        ..AuthInfo::default()
    };
    if auth.client_certificate_data.is_some() != auth.client_key_data.is_some() {
        return Err("the kubeconfig has one of `client-certificate-data` and `client-key-data` without the other".to_owned());
    }
    if auth.token.is_none() && auth.client_key_data.is_none() {
        return Err(format!("the kubeconfig's user `{user_name}` has neither `token` nor `client-certificate-data`"));
    }
    let ca = words(cluster, "certificate-authority-data")?.map(|data| {
        let pem = BASE64.decode(data.replace(['\n', ' '], "")).ok().and_then(|bytes| String::from_utf8(bytes).ok());
        pem.ok_or("the kubeconfig's `certificate-authority-data` is no PEM in base64")
    });
    Ok(Target {
        server: words(cluster, "server")?.ok_or_else(|| format!("the kubeconfig's cluster `{cluster_name}` has no `server`"))?,
        ca: ca.transpose()?,
        tls_server_name: words(cluster, "tls-server-name")?,
        namespace: words(chosen, "namespace")?,
        auth,
    })
}

/// The entry of this name in one of the kubeconfig's lists.
fn named<'a>(document: &'a Value, list: &str, field: &str, name: &str) -> Result<&'a Map<String, Value>, String> {
    let entries = document.get(list).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let entry = entries.iter().find(|entry| entry.get("name").and_then(Value::as_str) == Some(name));
    let found = entry.and_then(|entry| entry.get(field)).and_then(Value::as_object);
    found.ok_or_else(|| format!("the kubeconfig's `{list}` have no `{name}`"))
}

fn allow(map: &Map<String, Value>, known: &[&str], whose: &str) -> Result<(), String> {
    for key in map.keys() {
        if let Some((_, why)) = REFUSED.iter().find(|(name, _)| name == key) {
            return Err(format!("the kubeconfig's {whose}: `{key}` is refused: {why}"));
        }
        if !known.contains(&key.as_str()) {
            return Err(format!("the kubeconfig's {whose}: `{}` is not known here", muster_executor::fields::shown(key)));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
