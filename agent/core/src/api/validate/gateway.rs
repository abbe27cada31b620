//! Rules for a Gateway.

use std::net::IpAddr;

use super::{Checker, values};
use crate::api::gateway::{Gateway, Port, Server, ServerTlsMode, ServerTlsSettings, TlsProtocol};
use crate::api::names::{is_dns_label, is_host_label};
use crate::diagnostic::Code;
use crate::inventory::Protocol;

pub(super) fn check(check: &mut Checker<'_>, gateway: &Gateway) {
    if !is_host_label(&check.meta.name) {
        let message = format!("invalid gateway name: {:?}", check.meta.name);
        check.error_at_name(Code::InvalidName, message);
        check.hint("a Gateway's name is one DNS label, without dots");
    }
    if gateway.servers.is_empty() {
        check.error(Code::InvalidServer, "gateway must have at least one server");
    }
    let mut names: Vec<&str> = Vec::new();
    for (index, server) in gateway.servers.iter().enumerate() {
        check.field(&format!("servers[{index}]"), |check| {
            self::server(check, server);
            let Some(port) = &server.port else { return };
            if names.contains(&port.name.as_str()) {
                let message = format!("port names in servers must be unique: duplicate name {}", port.name);
                check.error_at("port.name", Code::InvalidServer, message);
            }
            names.push(&port.name);
        });
    }
}

fn server(check: &mut Checker<'_>, server: &Server) {
    if server.hosts.is_empty() {
        check.error(Code::InvalidServer, "server config must contain at least one host");
    }
    check.items("hosts", &server.hosts, |check, host| namespaced_host(check, host, HostUse::Gateway));
    bind(check, server);
    if let Some(tls) = &server.tls {
        check.field("tls", |check| self::tls(check, tls));
    }
    let Some(port) = &server.port else {
        return check.error(Code::InvalidPort, "port is required");
    };
    check.field("port", |check| self::port(check, port, server.bind.starts_with("unix://")));
    let Some(protocol) = Protocol::parse(&port.protocol) else { return };
    match &server.tls {
        None if protocol.is_tls() => {
            check.error(Code::InvalidTls, "server must have TLS settings for HTTPS/TLS protocols");
        }
        Some(tls) if !protocol.is_tls() && protocol.is_http() => {
            // Only the redirect to https makes sense there.
            let is_plain = tls.mode == ServerTlsMode::Passthrough
                && [&tls.server_certificate, &tls.private_key, &tls.ca_certificates]
                    .iter()
                    .all(|path| path.is_empty());
            if !is_plain {
                let message = "server cannot have TLS settings for plain text HTTP ports";
                check.error_at("tls", Code::InvalidTls, message);
            }
        }
        Some(_) if !protocol.is_tls() => {
            check.error_at(
                "tls",
                Code::InvalidTls,
                "server cannot have TLS settings for non HTTPS/TLS ports",
            );
        }
        _ => {}
    }
    if server.tls.as_ref().is_some_and(|tls| tls.https_redirect) && !protocol.is_http() {
        let message = "tls.httpsRedirect should only be used with http servers";
        check.warn_at("tls.httpsRedirect", Code::NoEffect, message);
    }
}

fn port(check: &mut Checker<'_>, port: &Port, is_unix: bool) {
    if Protocol::parse(&port.protocol).is_none() {
        let message = format!(
            "invalid protocol {:?}, supported protocols are HTTP, HTTP2, GRPC, GRPC-WEB, MONGO, REDIS, MYSQL, TCP",
            port.protocol
        );
        check.error_at("protocol", Code::InvalidServer, message);
    }
    if port.number > 0 || !is_unix {
        check.field("number", |check| values::port(check, port.number));
    }
    if port.target_port > 0 {
        check.error_at("targetPort", Code::InvalidPort, "targetPort has no impact on Gateways");
    }
    if port.name.is_empty() {
        check.error_at("name", Code::InvalidServer, "port name must be set");
    }
}

fn bind(check: &mut Checker<'_>, server: &Server) {
    check.field("bind", |check| {
        if let Some(path) = server.bind.strip_prefix("unix://") {
            values::unix_path(check, path);
            if server.port.as_ref().is_some_and(|port| port.number != 0) {
                check.error(Code::InvalidServer, "port number must be 0 for unix domain socket");
            }
        } else if !server.bind.is_empty() && server.bind.parse::<IpAddr>().is_err() {
            check.error(Code::InvalidAddress, format!("{:?} is not a valid IP", server.bind));
        }
    });
}

/// Where a `[namespace/]host` is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HostUse {
    /// The namespace may be left out.
    Gateway,
    /// The namespace may be `~`: not these.
    Sidecar,
}

/// Istio: `ValidateNamespaceSlashWildcardHostname`.
pub(super) fn namespaced_host(check: &mut Checker<'_>, text: &str, place: HostUse) {
    let host = match (text.split_once('/'), place) {
        (None, HostUse::Sidecar) => {
            return check.error(Code::InvalidHost, "host must be of form namespace/dnsName");
        }
        (None, HostUse::Gateway) => text,
        (Some((namespace, host)), _) => {
            if namespace.is_empty() || host.is_empty() {
                let message = "config namespace and dnsName in host entry cannot be empty";
                return check.error(Code::InvalidHost, message);
            }
            let (wanted, kind) = match place {
                HostUse::Gateway => (namespace, "gateway"),
                // `~prod/host`: not these of prod's.
                HostUse::Sidecar => (namespace.strip_prefix('~').unwrap_or(namespace), "sidecar"),
            };
            let is_special = matches!(wanted, "*" | ".") || (wanted.is_empty() && place == HostUse::Sidecar);
            if !is_special && !is_dns_label(wanted) {
                let message = format!("invalid namespace value {namespace:?} in {kind}");
                check.error(Code::InvalidHost, message);
            }
            host
        }
    };
    if let Some(error) = values::wildcard_domain_error(host) {
        // Gateways take addresses too.
        if !(place == HostUse::Gateway && values::is_ip(host)) {
            check.error(Code::InvalidHost, error);
        }
    } else if host != "*" && !host.contains('.') {
        check.error(Code::InvalidHost, "short names (non FQDN) are not allowed");
        check.hint(format!("write the whole name, as in {host}.example.com"));
    } else if values::is_partial_wildcard(host) {
        check.error(Code::InvalidHost, format!("partial wildcard {host:?} not allowed"));
        check.hint("a wildcard is the whole first label, as in *.example.com");
    }
}

/// Certificates of a listener (Istio: `validateTLSOptions`).
pub(super) fn tls(check: &mut Checker<'_>, tls: &ServerTlsSettings) {
    let has_pair = !tls.server_certificate.is_empty() && !tls.private_key.is_empty();
    let kinds = [
        !tls.credential_name.is_empty(),
        !tls.credential_names.is_empty(),
        has_pair,
        !tls.tls_certificates.is_empty(),
    ];
    if kinds.iter().filter(|&&is_set| is_set).count() > 1 {
        check.error(
            Code::InvalidTls,
            "only one of credential_name, credential_names, server_certificate/private_key, tls_certificates should be \
             specified",
        );
    }
    for (field, count) in
        [("credentialNames", tls.credential_names.len()), ("tlsCertificates", tls.tls_certificates.len())]
    {
        if count > 2 {
            check.error_at(
                field,
                Code::InvalidTls,
                format!("at most 2 {field} may be specified, one RSA and one ECDSA"),
            );
        }
    }
    if matches!(tls.min_protocol_version, TlsProtocol::V1_0 | TlsProtocol::V1_1)
        && tls.cipher_suites.is_empty()
    {
        let message = "TLS version below TLSV1_2 require setting compatible ciphers as by default they no longer \
                       include compatible ciphers.";
        check.warn_at("minProtocolVersion", Code::InvalidTls, message);
    }
    if tls.max_protocol_version != TlsProtocol::Auto && tls.max_protocol_version < tls.min_protocol_version {
        let message = "maxProtocolVersion is below minProtocolVersion: no client can connect";
        check.warn_at("maxProtocolVersion", Code::InvalidTls, message);
    }
    cipher_suites(check, &tls.cipher_suites);
    let has_credential = kinds[0] || kinds[1];
    match tls.mode {
        ServerTlsMode::IstioMutual => {
            for (field, words, is_set) in [
                ("serverCertificate", "server certificate", !tls.server_certificate.is_empty()),
                ("privateKey", "private key", !tls.private_key.is_empty()),
                ("caCertificates", "CA bundle", !tls.ca_certificates.is_empty()),
                ("credentialName", "credentialName", !tls.credential_name.is_empty()),
                ("credentialNames", "credentialNames", !tls.credential_names.is_empty()),
                ("tlsCertificates", "tlsCertificates", !tls.tls_certificates.is_empty()),
            ] {
                if is_set {
                    let message = format!("ISTIO_MUTUAL TLS cannot have associated {words}");
                    check.error_at(field, Code::InvalidTls, message);
                }
            }
        }
        ServerTlsMode::Passthrough | ServerTlsMode::AutoPassthrough => {
            let is_set = [&tls.server_certificate, &tls.private_key, &tls.ca_certificates, &tls.ca_crl];
            if kinds.contains(&true) || is_set.iter().any(|path| !path.is_empty()) {
                let mode = match tls.mode {
                    ServerTlsMode::AutoPassthrough => "AUTO_PASSTHROUGH",
                    _ => "PASSTHROUGH",
                };
                let message = format!("{mode} mode does not use certificates, they will be ignored");
                check.warn(Code::NoEffect, message);
                check.hint("a tls block without mode is PASSTHROUGH");
            }
            if !tls.credential_name.is_empty() && !tls.ca_crl.is_empty() {
                let message =
                    "CRL is not supported with credentialName. CRL has to be specified in the credential";
                check.error_at("caCrl", Code::InvalidTls, message);
            }
        }
        ServerTlsMode::Simple => {
            certificates(check, tls, has_credential, "SIMPLE");
            if !has_credential && !tls.ca_crl.is_empty() {
                check.error_at("caCrl", Code::InvalidTls, "CRL is not supported with SIMPLE TLS");
            }
        }
        ServerTlsMode::Mutual | ServerTlsMode::OptionalMutual => {
            certificates(check, tls, has_credential, "MUTUAL");
            if !has_credential && tls.ca_certificates.is_empty() {
                check.error(Code::InvalidTls, "MUTUAL TLS requires a client CA bundle");
                check.hint("set caCertificates");
            }
        }
    }
}

/// Those Istio knows of; of others it says that they are ignored.
const CIPHER_SUITES: [&str; 15] = [
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-RSA-AES128-GCM-SHA256",
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-RSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-CHACHA20-POLY1305",
    "ECDHE-RSA-CHACHA20-POLY1305",
    "ECDHE-ECDSA-AES128-SHA",
    "ECDHE-RSA-AES128-SHA",
    "ECDHE-ECDSA-AES256-SHA",
    "ECDHE-RSA-AES256-SHA",
    "AES128-GCM-SHA256",
    "AES256-GCM-SHA384",
    "AES128-SHA",
    "AES256-SHA",
    "DES-CBC3-SHA",
];

fn cipher_suites(check: &mut Checker<'_>, suites: &[String]) {
    let mut seen: Vec<&str> = Vec::new();
    for (index, suite) in suites.iter().enumerate() {
        // Operators such as `-ALL` are not looked into.
        let is_operator = suite.chars().next().is_none_or(|first| !first.is_alphanumeric());
        let field = format!("cipherSuites[{index}]");
        if !(suite == "ALL" || is_operator || CIPHER_SUITES.contains(&suite.as_str())) {
            let message = format!("ignoring invalid cipher suites: [{suite}]");
            check.warn_at(&field, Code::InvalidTls, message);
        } else if seen.contains(&suite.as_str()) {
            check.warn_at(&field, Code::InvalidTls, format!("ignoring duplicate cipher suites: [{suite}]"));
        }
        seen.push(suite);
    }
}

fn certificates(check: &mut Checker<'_>, tls: &ServerTlsSettings, has_credential: bool, mode: &str) {
    if has_credential {
        return;
    }
    if tls.tls_certificates.is_empty() {
        if tls.server_certificate.is_empty() {
            check.error(Code::InvalidTls, format!("{mode} TLS requires a server certificate"));
        }
        if tls.private_key.is_empty() {
            check.error(Code::InvalidTls, format!("{mode} TLS requires a private key"));
        }
    }
    check.items("tlsCertificates", &tls.tls_certificates, |check, pair| {
        for (path, what) in
            [(&pair.server_certificate, "server certificate"), (&pair.private_key, "private key")]
        {
            if path.is_empty() {
                check.error(Code::InvalidTls, format!("{mode} TLS requires a {what}"));
            }
        }
    });
}
