//! The kinds of `security.istio.io` as written. Nothing acts on them yet; they are read so that what is wrong with them is said.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::destination_rule::PolicySelector;
use super::duration::Duration;
use super::meta::Kinded;

/// The spec of an AuthorizationPolicy.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AuthorizationPolicy {
    /// The workloads it is about; absent: all of the namespace.
    pub selector: Option<PolicySelector>,
    /// The older form of `targetRefs`.
    pub target_ref: Option<PolicyTargetReference>,
    /// What it is attached to, in place of a selector.
    pub target_refs: Vec<PolicyTargetReference>,
    /// Any may fit.
    pub rules: Vec<Rule>,
    /// What happens to requests that fit.
    pub action: Action,
    /// Who decides, for `CUSTOM`.
    pub provider: Option<ExtensionProvider>,
}

impl Kinded for AuthorizationPolicy {
    const KIND: &'static str = "AuthorizationPolicy";
}

/// `AuthorizationPolicy.Action`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Action {
    /// Only what fits some policy goes.
    #[default]
    Allow,
    /// What fits does not go.
    Deny,
    /// What fits is written down.
    Audit,
    /// Somebody else is asked.
    Custom,
}

impl Action {
    /// As users write it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Allow => "ALLOW",
            Self::Deny => "DENY",
            Self::Audit => "AUDIT",
            Self::Custom => "CUSTOM",
        }
    }
}

/// Who is asked.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ExtensionProvider {
    /// Of MeshConfig's `extensionProviders`.
    pub name: String,
}

/// All three must fit; an empty list does.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Rule {
    /// Who; any.
    pub from: Vec<From>,
    /// What; any.
    pub to: Vec<To>,
    /// More conditions; all.
    pub when: Vec<Condition>,
}

/// `Rule.From`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct From {
    /// Required.
    pub source: Option<Source>,
}

/// Who sends. All lists that are there must fit.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Source {
    /// Identities of certificates.
    pub principals: Vec<String>,
    /// None of these.
    pub not_principals: Vec<String>,
    /// Identities of tokens.
    pub request_principals: Vec<String>,
    /// None of these.
    pub not_request_principals: Vec<String>,
    /// Namespaces.
    pub namespaces: Vec<String>,
    /// None of these.
    pub not_namespaces: Vec<String>,
    /// `[namespace/]serviceAccount`.
    pub service_accounts: Vec<String>,
    /// None of these.
    pub not_service_accounts: Vec<String>,
    /// The packet's addresses.
    pub ip_blocks: Vec<String>,
    /// None of these.
    pub not_ip_blocks: Vec<String>,
    /// The addresses that X-Forwarded-For or the PROXY protocol say.
    pub remote_ip_blocks: Vec<String>,
    /// None of these.
    pub not_remote_ip_blocks: Vec<String>,
    /// Trust domains of certificates.
    pub trust_domains: Vec<String>,
    /// None of these.
    pub not_trust_domains: Vec<String>,
}

/// `Rule.To`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct To {
    /// Required.
    pub operation: Option<Operation>,
}

/// What is asked for. All lists that are there must fit.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Operation {
    /// Host headers.
    pub hosts: Vec<String>,
    /// None of these.
    pub not_hosts: Vec<String>,
    /// Ports.
    pub ports: Vec<String>,
    /// None of these.
    pub not_ports: Vec<String>,
    /// Methods.
    pub methods: Vec<String>,
    /// None of these.
    pub not_methods: Vec<String>,
    /// Paths, or templates of paths.
    pub paths: Vec<String>,
    /// None of these.
    pub not_paths: Vec<String>,
}

/// One more condition.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Condition {
    /// The attribute.
    pub key: String,
    /// Any of these.
    pub values: Vec<String>,
    /// None of these.
    pub not_values: Vec<String>,
}

/// `istio.type.v1beta1.PolicyTargetReference`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PolicyTargetReference {
    /// Empty: Kubernetes' own.
    pub group: String,
    /// Service, Gateway, ...
    pub kind: String,
    /// Of the policy's namespace.
    pub name: String,
    /// Must not be set.
    pub namespace: String,
}

/// The spec of a PeerAuthentication.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PeerAuthentication {
    /// The workloads it is about; absent: all of the namespace.
    pub selector: Option<PolicySelector>,
    /// For all ports.
    pub mtls: Option<MutualTls>,
    /// For single ports of the workload.
    pub port_level_mtls: BTreeMap<String, MutualTls>,
}

impl Kinded for PeerAuthentication {
    const KIND: &'static str = "PeerAuthentication";
}

/// `PeerAuthentication.MutualTLS`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MutualTls {
    /// What is taken.
    pub mode: MutualTlsMode,
}

/// `PeerAuthentication.MutualTLS.Mode`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum MutualTlsMode {
    /// As the scope above says.
    #[default]
    Unset,
    /// Clear text.
    Disable,
    /// Both.
    Permissive,
    /// Mutual TLS.
    Strict,
}

/// The spec of a RequestAuthentication.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RequestAuthentication {
    /// The workloads it is about; absent: all of the namespace.
    pub selector: Option<PolicySelector>,
    /// The older form of `targetRefs`.
    pub target_ref: Option<PolicyTargetReference>,
    /// What it is attached to, in place of a selector.
    pub target_refs: Vec<PolicyTargetReference>,
    /// The issuers that are trusted.
    pub jwt_rules: Vec<JwtRule>,
}

impl Kinded for RequestAuthentication {
    const KIND: &'static str = "RequestAuthentication";
}

/// An issuer of tokens, and where its tokens are.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct JwtRule {
    /// The `iss` claim.
    pub issuer: String,
    /// One of these must be the token's.
    pub audiences: Vec<String>,
    /// Where its keys are.
    pub jwks_uri: String,
    /// Its keys.
    pub jwks: String,
    /// Headers that hold a token.
    pub from_headers: Vec<JwtHeader>,
    /// Query parameters that hold a token.
    pub from_params: Vec<String>,
    /// Cookies that hold a token.
    pub from_cookies: Vec<String>,
    /// The header that takes the token's content.
    pub output_payload_to_header: String,
    /// Whether the token is left in place.
    pub forward_original_token: bool,
    /// Headers that take single claims.
    pub output_claim_to_headers: Vec<ClaimToHeader>,
    /// Of fetching keys.
    pub timeout: Option<Duration>,
    /// Claims that are lists of words.
    pub space_delimited_claims: Vec<String>,
}

/// A header that holds a token.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct JwtHeader {
    /// Required.
    pub name: String,
    /// Before the token.
    pub prefix: String,
}

/// A header that takes a claim.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ClaimToHeader {
    /// Required.
    pub header: String,
    /// Required.
    pub claim: String,
}
