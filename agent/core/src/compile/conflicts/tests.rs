use super::super::fixture::{REGISTRY, compiled};
use crate::diagnostic::{Code, Severity};

fn object(kind: &str, name: &str, namespace: &str, time: &str, spec: &str) -> String {
    let time = if time.is_empty() {
        String::new()
    } else {
        format!(", creationTimestamp: '2024-01-0{time}T00:00:00Z'")
    };
    format!(
        "{{apiVersion: networking.istio.io/v1, kind: {kind}, metadata: {{name: {name}, namespace: {namespace}{time}}}, spec: {spec}}}"
    )
}

/// What is said: severity, code, object, field; without what a bare registry says.
fn said(parts: &[String]) -> Vec<(Severity, Code, String, String)> {
    let mut all = vec![REGISTRY];
    all.extend(parts.iter().map(String::as_str));
    compiled(&all).diagnostics.into_iter().map(|it| (it.severity, it.code, it.name, it.field)).collect()
}

fn messages(parts: &[String]) -> Vec<String> {
    let mut all = vec![REGISTRY];
    all.extend(parts.iter().map(String::as_str));
    compiled(&all).diagnostics.into_iter().map(|it| it.message).collect()
}

fn want(severity: Severity, code: Code, name: &str, field: &str) -> (Severity, Code, String, String) {
    (severity, code, name.into(), field.into())
}

#[test]
fn of_rules_that_merge_the_older_ones_subset_and_policy_count() {
    let rule = |name: &str, time: &str, more: &str| {
        object("DestinationRule", name, "shop", time, &format!("{{host: catalog, {more}}}"))
    };
    let subsets = "subsets: [{name: v1, labels: {version: v1}}]";
    let policy = "trafficPolicy: {loadBalancer: {simple: RANDOM}}";
    assert_eq!(
        said(&[rule("b", "1", subsets), rule("a", "2", subsets)]),
        [want(Severity::Warning, Code::DuplicateSubset, "a", "spec.subsets[0].name")]
    );
    assert_eq!(
        said(&[rule("a", "", policy), rule("b", "", policy)]),
        [want(Severity::Warning, Code::ShadowedObject, "b", "spec.trafficPolicy")]
    );
    // Blocks that do not meet, hosts that do not, and rules for single clients.
    for parts in [
        [rule("a", "", subsets), rule("b", "", policy)],
        [
            rule("a", "", policy),
            object(
                "DestinationRule",
                "b",
                "shop",
                "",
                "{host: pay, trafficPolicy: {loadBalancer: {simple: RANDOM}}}",
            ),
        ],
        [
            rule("a", "", policy),
            rule("b", "", &format!("{policy}, workloadSelector: {{matchLabels: {{app: pay}}}}")),
        ],
    ] {
        assert_eq!(said(&parts), [], "{parts:?}");
    }
}

#[test]
fn of_rules_that_do_not_merge_one_is_found_first() {
    let rule = |name: &str, export: &str| {
        object("DestinationRule", name, "shop", "", &format!("{{host: catalog, exportTo: [{export}]}}"))
    };
    assert_eq!(
        said(&[rule("a", "'*'"), rule("b", "'.'")]),
        [want(Severity::Warning, Code::ShadowedObject, "b", "spec.host")]
    );
    assert_eq!(said(&[rule("a", "red"), rule("b", "'.'")]), []);
}

#[test]
fn the_reason_for_the_order_is_told() {
    let rule = |name: &str, time: &str| {
        object(
            "VirtualService",
            name,
            "shop",
            time,
            "{hosts: [catalog], http: [{route: [{destination: {host: catalog}}]}]}",
        )
    };
    for (a, b, why) in [
        (rule("z", "1"), rule("a", "2"), "VirtualService shop/z governs catalog: it is older;"),
        (
            rule("z", "1"),
            rule("a", ""),
            "shop/z governs catalog: it has a creationTimestamp and this one has none;",
        ),
        (
            rule("z", ""),
            rule("a", ""),
            "shop/a governs catalog: their age is the same and its name comes first;",
        ),
    ] {
        let said = messages(&[a, b]);
        assert!(matches!(&*said, [one] if one.contains(why)), "{why}: {said:?}");
    }
}

#[test]
fn rules_of_a_gateway_are_joined_and_only_a_second_catch_all_is_lost() {
    let gateway = object(
        "Gateway",
        "edge",
        "shop",
        "",
        "{selector: {a: b}, servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ['*']}]}",
    );
    let rule = |name: &str, path: &str| {
        let matches =
            if path.is_empty() { String::new() } else { format!("match: [{{uri: {{prefix: {path}}}}}], ") };
        object(
            "VirtualService",
            name,
            "shop",
            "",
            &format!(
                "{{hosts: [a.example], gateways: [edge], http: [{{{matches}route: [{{destination: {{host: catalog}}}}]}}]}}"
            ),
        )
    };
    for (a, b, is_lost) in
        [("", "", true), ("/", "", true), ("/a", "", false), ("", "/a", false), ("/a", "/a", false)]
    {
        let have = said(&[gateway.clone(), rule("a", a), rule("b", b)]);
        let lost = [want(Severity::Warning, Code::ShadowedObject, "b", "spec.http[0]")];
        assert_eq!(have, if is_lost { &lost[..] } else { &[] }, "{a:?} {b:?}");
    }
}

#[test]
fn service_entries_that_meet_are_pointed_out() {
    let entry = |name: &str, namespace: &str, spec: &str| object("ServiceEntry", name, namespace, "", spec);
    let http = "ports: [{number: 80, name: http, protocol: HTTP}], resolution: STATIC";
    let tcp = "ports: [{number: 5432, name: tcp, protocol: TCP}], resolution: STATIC";
    let hosts = |host: &str, more: &str| format!("{{hosts: [{host}], {more}}}");
    let info = |field: &str| vec![want(Severity::Info, Code::DuplicateServiceEntry, "b", field)];
    let warning = |code: Code, field: &str| vec![want(Severity::Warning, code, "b", field)];
    for (a, b, expected) in [
        (
            entry("a", "shop", &hosts("x.y", http)),
            entry("b", "shop", &hosts("x.y", http)),
            info("spec.hosts[0]"),
        ),
        (
            entry("a", "shop", &hosts("x.y", http)),
            entry("b", "red", &hosts("x.y", http)),
            info("spec.hosts[0]"),
        ),
        (
            entry("a", "shop", &hosts("x.y", &http.replace("STATIC", "NONE"))),
            entry("b", "shop", &hosts("x.y", http)),
            warning(Code::DuplicateServiceEntry, "spec.ports[0]"),
        ),
        (
            entry("a", "shop", &hosts("x.y", &format!("{tcp}, addresses: [1.2.3.4]"))),
            entry("b", "shop", &hosts("z.y", &format!("{tcp}, addresses: [1.2.3.4]"))),
            warning(Code::PortConflict, "spec.addresses[0]"),
        ),
        (
            entry("a", "shop", &hosts("x.y", &format!("{tcp}, addresses: [1.2.3.4]"))),
            entry("b", "shop", &hosts("z.y", &format!("{tcp}, addresses: [1.2.3.5]"))),
            vec![],
        ),
        (
            entry("a", "shop", &hosts("x.y", tcp)),
            entry("b", "shop", &hosts("z.y", tcp)),
            warning(Code::PortConflict, "spec.ports[0].number"),
        ),
        (entry("a", "shop", &hosts("x.y", http)), entry("b", "shop", &hosts("z.y", http)), vec![]),
        (
            entry("a", "shop", &hosts("x.y", &format!("{tcp}, exportTo: ['.']"))),
            entry("b", "red", &hosts("z.y", &format!("{tcp}, exportTo: ['.']"))),
            vec![],
        ),
    ] {
        assert_eq!(said(&[a.clone(), b.clone()]), expected, "{a} {b}");
    }
}
