//! Rules for a PeerAuthentication and a RequestAuthentication, and for what a policy is attached to.

use serde_json::Value;

use super::{Checker, values};
use crate::api::destination_rule::PolicySelector;
use crate::api::security::{JwtRule, PeerAuthentication, PolicyTargetReference, RequestAuthentication};
use crate::diagnostic::Code;

pub(super) fn peer(check: &mut Checker<'_>, policy: &PeerAuthentication) {
    let selects = policy.selector.as_ref().is_some_and(|selector| !selector.match_labels.is_empty());
    if !selects && !policy.port_level_mtls.is_empty() {
        let message = "mesh/namespace peer authentication cannot have port level mTLS";
        check.error_at("portLevelMtls", Code::InvalidPolicy, message);
        check.hint("add a selector with labels");
    }
    check.field("portLevelMtls", |check| {
        for port in policy.port_level_mtls.keys() {
            if !port.parse::<u16>().is_ok_and(|port| port > 0) {
                check.key(port, |check| check.error(Code::InvalidPort, "port must be in range 1..65535"));
            }
        }
    });
    selector(check, policy.selector.as_ref());
}

pub(super) fn request(check: &mut Checker<'_>, policy: &RequestAuthentication) {
    scope(check, policy.selector.as_ref(), policy.target_ref.as_ref(), &policy.target_refs);
    check.items("jwtRules", &policy.jwt_rules, jwt_rule);
}

/// What a policy is about: workloads by labels, or something it is attached to.
pub(super) fn scope(
    check: &mut Checker<'_>,
    selector: Option<&PolicySelector>,
    target_ref: Option<&PolicyTargetReference>,
    target_refs: &[PolicyTargetReference],
) {
    let set = [selector.is_some(), target_ref.is_some(), !target_refs.is_empty()];
    if set.iter().filter(|&&is_set| is_set).count() > 1 {
        check.error(Code::InvalidSelector, "only one of targetRefs or workloadSelector can be set");
    }
    self::selector(check, selector);
    if let Some(target) = target_ref {
        check.field("targetRef", |check| self::target(check, target));
    }
    check.items("targetRefs", target_refs, target);
}

fn selector(check: &mut Checker<'_>, selector: Option<&PolicySelector>) {
    if let Some(selector) = selector {
        check.field("selector.matchLabels", |check| values::selector(check, &selector.match_labels));
    }
}

fn target(check: &mut Checker<'_>, target: &PolicyTargetReference) {
    if target.name.is_empty() {
        check.error(Code::InvalidSelector, "targetRef name must be set");
    }
    if !target.namespace.is_empty() {
        let message = "targetRef namespace must not be set; cross namespace referencing is not supported";
        check.error_at("namespace", Code::InvalidSelector, message);
    }
    let is_known = matches!(
        (target.group.as_str(), target.kind.as_str()),
        ("" | "core", "Service")
            | ("networking.istio.io", "ServiceEntry")
            | ("gateway.networking.k8s.io", "Gateway" | "GatewayClass")
    );
    if !is_known {
        let message = format!(
            "targetRef must be to one of Service, networking.istio.io/ServiceEntry, gateway.networking.k8s.io/Gateway or \
             gateway.networking.k8s.io/GatewayClass but was {}/{}",
            target.group, target.kind
        );
        check.error(Code::InvalidSelector, message);
    }
}

fn jwt_rule(check: &mut Checker<'_>, rule: &JwtRule) {
    if rule.issuer.is_empty() && rule.jwks_uri.is_empty() {
        check.error(Code::InvalidPolicy, "issuer or jwksUri must be non-empty string");
    }
    if !rule.jwks_uri.is_empty() && !rule.jwks.is_empty() {
        check.error(Code::InvalidPolicy, "only one of jwks or jwksUri can be set");
    }
    let is_url = ["http://", "https://"].iter().any(|scheme| rule.jwks_uri.starts_with(scheme));
    if !rule.jwks_uri.is_empty() && !is_url {
        let scheme = rule.jwks_uri.split_once(':').map_or("", |(scheme, _)| scheme);
        check.error_at("jwksUri", Code::InvalidPolicy, format!("URI scheme {scheme:?} is not supported"));
    }
    if !rule.jwks.is_empty() {
        check.field("jwks", |check| keys(check, &rule.jwks));
    }
    for (field, list, message) in [
        ("audiences", &rule.audiences, "audience must be non-empty string"),
        ("fromParams", &rule.from_params, "location query must be non-empty string"),
        ("fromCookies", &rule.from_cookies, "cookie name must be non-empty string"),
        ("spaceDelimitedClaims", &rule.space_delimited_claims, "claim must be non-empty string"),
    ] {
        check.items(field, list, |check, text| {
            if text.is_empty() {
                check.error(Code::InvalidPolicy, message);
            }
        });
    }
    check.items("fromHeaders", &rule.from_headers, |check, header| {
        if header.name.is_empty() {
            check.error(Code::InvalidPolicy, "location header name must be non-empty string");
        }
    });
    check.items("outputClaimToHeaders", &rule.output_claim_to_headers, |check, output| {
        let is_plain =
            output.header.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
        if output.header.is_empty() || output.claim.is_empty() {
            let message = "outputClaimToHeaders header and claim value must be non-empty string";
            check.error(Code::InvalidPolicy, message);
        } else if !is_plain {
            let message = format!("header name {} is not a valid header name", output.header);
            check.error_at("header", Code::InvalidHeaderName, message);
        }
    });
    check.field("timeout", |check| values::duration(check, rule.timeout));
}

/// A set of keys, or one. What a key holds is not looked into, but for what must not be there.
fn keys(check: &mut Checker<'_>, text: &str) {
    let parsed: Result<Value, _> = serde_json::from_str(text);
    let keys = match &parsed {
        Ok(Value::Object(set)) => match set.get("keys") {
            Some(Value::Array(keys)) => keys.as_slice(),
            None if set.contains_key("kty") => std::slice::from_ref(parsed.as_ref().unwrap_or(&Value::Null)),
            _ => return check.error(Code::InvalidPolicy, "jwks parse error: no keys"),
        },
        Ok(_) => return check.error(Code::InvalidPolicy, "jwks parse error: not a mapping"),
        Err(error) => return check.error(Code::InvalidPolicy, format!("jwks parse error: {error}")),
    };
    for (index, key) in keys.iter().enumerate() {
        // RFC 7518: `d` of RSA, EC and OKP keys, `k` of symmetric ones.
        if ["d", "k"].iter().any(|part| key.get(part).is_some()) {
            check.warn(
                Code::InvalidPolicy,
                format!(
                    "jwks key at index {index} contains private key material; only public keys are used for verification"
                ),
            );
        }
    }
}
