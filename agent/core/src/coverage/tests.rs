use serde_json::json;

use super::*;
use crate::api::origin::Origin;
use crate::api::parse;
use crate::diagnostic::{Code, Severity};

#[test]
fn every_field_of_every_kind_has_an_answer() {
    let mut missing = Vec::new();
    for (kind, schema) in kinds() {
        schema.each_field(&mut |path| {
            if of_field(kind, path).is_none() {
                missing.push(format!("{kind} {path}"));
            }
        });
    }
    assert_eq!(missing, Vec::<String>::new());
}

#[test]
fn the_tables_speak_of_fields_that_exist_and_once() {
    for (kind, schema) in kinds() {
        let mut fields = Vec::new();
        schema.each_field(&mut |path| fields.push(path.to_owned()));
        let paths = table::paths(kind);
        assert!(!paths.is_empty(), "{kind}");
        for path in &paths {
            assert!(fields.iter().any(|field| field == path), "{kind} has no field {path}");
        }
        let mut once = paths.clone();
        once.sort_unstable();
        once.dedup();
        // A field with answers for single values is there once more for each of them.
        let again: usize = once.iter().map(|path| table::values_of(kind, path).len()).sum();
        assert_eq!(once.len() + again, paths.len(), "{kind}");
    }
}

#[test]
fn a_field_that_does_not_exist_has_no_answer() {
    assert_eq!(of_field("VirtualService", "http[].banana"), None);
    assert_eq!(of_field("VirtualService", "http[].mirrorX"), None);
    assert_eq!(of_field("Banana", "hosts"), None);
}

/// Severity and field of what is said about coverage.
fn said(kind: &str, spec: &Value) -> Vec<(Severity, String)> {
    let object = json!({"apiVersion": "networking.istio.io/v1", "kind": kind, "metadata": {"name": "x"}, "spec": spec});
    let parsed = parse(object, Origin::default());
    assert!(parsed.object.is_some(), "coverage refuses no object: {:?}", parsed.diagnostics);
    let about = parsed.diagnostics.into_iter();
    about
        .filter(|said| matches!(said.code, Code::NotEnforced | Code::Refused))
        .map(|said| (said.severity, said.field))
        .collect()
}

#[test]
fn what_is_written_and_not_enforced_is_said() {
    let warning = |field: &str| (Severity::Warning, field.to_owned());
    let error = |field: &str| (Severity::Error, field.to_owned());
    let policy = |policy: Value| json!({"host": "a", "trafficPolicy": policy});
    for (kind, spec, want) in [
        (
            "VirtualService",
            json!({"hosts": ["a"], "http": [{"route": [{"destination": {"host": "b"}, "headers": {"request": {"set": {"a": "b"}}}}]}]}),
            vec![],
        ),
        (
            "VirtualService",
            json!({"http": [{}, {"mirror": {"host": "b"}, "mirrorPercentage": {"value": 1}, "corsPolicy": {"allowOrigin": ["a"]}, "fault": {"delay": {"exponentialDelay": "1s"}}}]}),
            vec![warning("spec.http[1].fault.delay.exponentialDelay")],
        ),
        (
            "VirtualService",
            json!({"http": [{"match": [{"headers": {"@request.auth.claims.a": {"exact": "b"}, "x": {"exact": "y"}}}]}]}),
            vec![warning("spec.http[0].match[0].headers[\"@request.auth.claims.a\"]")],
        ),
        ("DestinationRule", policy(json!({"loadBalancer": {"simple": "ROUND_ROBIN"}})), vec![]),
        (
            "DestinationRule",
            policy(
                json!({"outlierDetection": {"consecutiveErrors": 1, "interval": "1s"}, "loadBalancer": {"localityLbSetting": {"enabled": true}}}),
            ),
            vec![warning("spec.trafficPolicy.outlierDetection.consecutiveErrors")],
        ),
        ("DestinationRule", policy(json!({"tls": {"mode": "DISABLE"}})), vec![]),
        (
            "DestinationRule",
            policy(json!({"tls": {"mode": "SIMPLE", "sni": "a", "caCertificates": "/a"}})),
            vec![error("spec.trafficPolicy.tls.caCertificates")],
        ),
        (
            "DestinationRule",
            json!({"host": "a", "subsets": [{"name": "v", "trafficPolicy": {"portLevelSettings": [{"port": {"number": 1},
                "tls": {"mode": "ISTIO_MUTUAL"}}]}}]}),
            vec![error("spec.subsets[0].trafficPolicy.portLevelSettings[0].tls.mode")],
        ),
        ("DestinationRule", policy(json!({"proxyProtocol": {"version": "V2"}})), vec![]),
        ("Gateway", json!({"servers": [{"tls": {"httpsRedirect": true}, "bind": ""}]}), vec![]),
        (
            "Gateway",
            json!({"servers": [{"tls": {"mode": "SIMPLE", "credentialName": "a"}}]}),
            vec![warning("spec.servers[0].tls.credentialName")],
        ),
        ("ServiceEntry", json!({"resolution": "STATIC", "location": "MESH_EXTERNAL"}), vec![]),
        (
            "ServiceEntry",
            json!({"resolution": "DNS", "endpoints": [{"locality": "a", "network": "n"}]}),
            vec![warning("spec.endpoints[0].network")],
        ),
    ] {
        assert_eq!(said(kind, &spec), want, "{kind} {spec}");
    }
}

#[test]
fn the_matrix_names_every_kind_and_answer() {
    let text = markdown();
    for part in [
        "## VirtualService",
        "## MeshConfig",
        "| `http[].timeout` | enforced |  |",
        "| `http[].fault.abort.http2Error` | warned | Istio has never implemented it |",
        "| `trafficPolicy.tls.mode`: `SIMPLE`, `MUTUAL`, `ISTIO_MUTUAL` | refused |",
    ] {
        assert!(text.contains(part), "{part}");
    }
    assert!(
        !text.contains("`trafficPolicy.tunnel.protocol`"),
        "what is below a refused field shares its line"
    );
}
