//! Kubeconfig files.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde_json::{Value, json};

use crate::authority::Identity;

/// As whom to speak to the API server.
#[derive(Debug, Clone, Copy)]
pub enum User<'a> {
    /// By certificate.
    Certificate(&'a Identity),
    /// By a service account's token.
    Token(&'a str),
}

/// Writes one to `path`. JSON is YAML, too.
pub fn write(path: PathBuf, server: SocketAddr, authority: &Path, user: User<'_>) -> anyhow::Result<PathBuf> {
    let text = serde_json::to_string_pretty(&content(server, authority, user))?;
    std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

fn content(server: SocketAddr, authority: &Path, user: User<'_>) -> Value {
    let user = match user {
        User::Certificate(Identity { certificate, key }) => {
            json!({"client-certificate": certificate, "client-key": key})
        }
        User::Token(token) => json!({"token": token}),
    };
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "undermesh", "cluster": {"server": format!("https://{server}"), "certificate-authority": authority}}],
        "users": [{"name": "user", "user": user}],
        "contexts": [{"name": "undermesh", "context": {"cluster": "undermesh", "user": "user"}}],
        "current-context": "undermesh",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_or_a_token_and_never_both() {
        let identity = Identity { certificate: "/a.crt".into(), key: "/a.key".into() };
        let server = SocketAddr::from(([127, 0, 0, 1], 6443));
        let by_certificate = content(server, Path::new("/ca.crt"), User::Certificate(&identity));
        assert_eq!(by_certificate.pointer("/users/0/user/client-key"), Some(&json!("/a.key")));
        assert_eq!(by_certificate.pointer("/users/0/user/token"), None);
        let by_token = content(server, Path::new("/ca.crt"), User::Token("t"));
        assert_eq!(by_token.pointer("/users/0/user"), Some(&json!({"token": "t"})));
        assert_eq!(by_token.pointer("/clusters/0/cluster/server"), Some(&json!("https://127.0.0.1:6443")));
    }
}
