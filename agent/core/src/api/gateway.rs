//! `Gateway` as written: what an ingress or egress gateway listens to.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::meta::Kinded;

/// The spec of a Gateway.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Gateway {
    /// Labels of the gateway workload; empty selects all.
    pub selector: BTreeMap<String, String>,
    /// What it listens to.
    pub servers: Vec<Server>,
}

impl Kinded for Gateway {
    const KIND: &'static str = "Gateway";
}

/// One listener.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Server {
    /// Required.
    pub port: Option<Port>,
    /// Address or unix socket to listen on.
    pub bind: String,
    /// `[namespace/]dnsName`.
    pub hosts: Vec<String>,
    /// Certificates and mode.
    pub tls: Option<ServerTlsSettings>,
    /// Not implemented by Istio.
    pub default_endpoint: String,
    /// For statistics.
    pub name: String,
}

/// A port.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Port {
    /// 1 to 65535.
    pub number: u32,
    /// HTTP, HTTPS, GRPC, GRPC-WEB, HTTP2, MONGO, TCP, TLS, ...
    pub protocol: String,
    /// Unique in the object.
    pub name: String,
    /// Deprecated.
    pub target_port: u32,
}

/// `ServerTLSSettings`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServerTlsSettings {
    /// Plain HTTP servers only: answer 301 to https.
    pub https_redirect: bool,
    /// Default PASSTHROUGH.
    pub mode: ServerTlsMode,
    /// Path.
    pub server_certificate: String,
    /// Path.
    pub private_key: String,
    /// Path.
    pub ca_certificates: String,
    /// Path.
    pub ca_crl: String,
    /// A secret in place of the paths.
    pub credential_name: String,
    /// Up to two secrets (RSA and ECDSA).
    pub credential_names: Vec<String>,
    /// A secret with the CA.
    pub ca_cert_credential_name: String,
    /// Up to two pairs of paths.
    pub tls_certificates: Vec<TlsCertificate>,
    /// Names accepted in the client's certificate.
    pub subject_alt_names: Vec<String>,
    /// Base64 SHA-256 of accepted SPKIs.
    pub verify_certificate_spki: Vec<String>,
    /// Hex SHA-256 of accepted certificates.
    pub verify_certificate_hash: Vec<String>,
    /// Default TLS 1.2.
    pub min_protocol_version: TlsProtocol,
    /// Default: the newest.
    pub max_protocol_version: TlsProtocol,
    /// OpenSSL names.
    pub cipher_suites: Vec<String>,
    /// Do not check the client's certificate.
    pub insecure_skip_verify: Option<bool>,
}

/// `ServerTLSSettings.mode`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ServerTlsMode {
    /// By SNI, not decrypted.
    #[default]
    Passthrough,
    /// Terminate.
    Simple,
    /// Terminate, client certificate required.
    Mutual,
    /// By an SNI that names the service.
    AutoPassthrough,
    /// Istio's mutual TLS.
    IstioMutual,
    /// Terminate, client certificate optional.
    OptionalMutual,
}

/// Paths of a certificate.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TlsCertificate {
    /// Path.
    pub server_certificate: String,
    /// Path.
    pub private_key: String,
    /// Path.
    pub ca_certificates: String,
}

/// `ServerTLSSettings.TLSProtocol`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
pub enum TlsProtocol {
    /// Our choice.
    #[default]
    #[serde(rename = "TLS_AUTO")]
    Auto,
    /// TLS 1.0.
    #[serde(rename = "TLSV1_0")]
    V1_0,
    /// TLS 1.1.
    #[serde(rename = "TLSV1_1")]
    V1_1,
    /// TLS 1.2.
    #[serde(rename = "TLSV1_2")]
    V1_2,
    /// TLS 1.3.
    #[serde(rename = "TLSV1_3")]
    V1_3,
}
