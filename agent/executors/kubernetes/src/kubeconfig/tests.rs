//! Kubeconfigs, good and bad.

#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
use super::*;

/// A kubeconfig whose used cluster and user have these fields beside the usual ones; a second context has all that is refused.
fn with(cluster: &str, user: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: here\ncontexts:\n- name: here\n  context: {{cluster: c, user: u, namespace: shop}}\n- name: there\n  \
         context: {{cluster: other, user: cloud}}\nclusters:\n- name: c\n  cluster:\n    server: https://cluster.example:6443\n    {cluster}\n- name: other\n  \
         cluster: {{server: 'https://other.example', insecure-skip-tls-verify: true}}\nusers:\n- name: u\n  user:\n    token: t0p-secret-token\n    {user}\n- \
         name: cloud\n  user: {{exec: {{command: /bin/evil}}}}\n"
    )
}

#[test]
fn the_current_context_is_read_and_others_do_not_matter() {
    let target = read(&with("", ""), None).unwrap();
    assert_eq!((target.server.as_str(), target.namespace.as_deref()), ("https://cluster.example:6443", Some("shop")));
    assert!(target.auth.token.is_some() && target.auth.exec.is_none() && target.auth.token_file.is_none());
    assert!(read(&with("", ""), Some("there")).err().unwrap().contains("`exec` is refused"));
    assert!(read(&with("", ""), Some("nowhere")).err().unwrap().contains("`contexts` have no `nowhere`"));
}

#[test]
fn what_would_run_read_or_go_elsewhere_is_refused_by_name() {
    let cases = [
        ("", "exec: {apiVersion: client.authentication.k8s.io/v1, command: /bin/sh, args: [-c, id]}", "exec"),
        ("", "auth-provider: {name: gcp, config: {cmd-path: /bin/sh}}", "auth-provider"),
        ("", "tokenFile: /etc/shadow", "tokenFile"),
        ("", "client-certificate: /home/a.pem", "client-certificate"),
        ("", "client-key: /home/a.key", "client-key"),
        ("", "username: root", "username"),
        ("", "password: hunter2", "password"),
        ("certificate-authority: /etc/passwd", "", "certificate-authority"),
        ("proxy-url: http://evil.example:3128", "", "proxy-url"),
        ("insecure-skip-tls-verify: true", "", "insecure-skip-tls-verify"),
        ("insecure-skip-tls-verify: 'true'", "", "insecure-skip-tls-verify"),
        ("brand-new: 1", "", "brand-new"),
        ("", "brand-new: 1", "brand-new"),
    ];
    for (cluster, user, field) in cases {
        let problem = read(&with(cluster, user), None).err().unwrap();
        assert!(problem.contains(&format!("`{field}`")), "{problem}");
        assert!(!problem.contains("t0p-secret") && !problem.contains("hunter2"), "{problem}");
    }
}

#[test]
fn what_is_no_kubeconfig_is_not_quoted() {
    for text in [
        "{",
        "t0p-secret-token",
        "[]",
        "a: b\n---\nc: d",
        "&a [*a]",
        &with("", "client-key-data: t0p-secret"),
        &with("certificate-authority-data: '%%%'", ""),
    ] {
        let problem = read(text, None).err().unwrap();
        assert!(!problem.contains("t0p-secret"), "{problem}");
    }
    assert!(read(&with("", ""), None).is_ok());
}
