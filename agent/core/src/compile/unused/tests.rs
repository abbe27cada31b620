use super::super::fixture::{REGISTRY, SUBSETS, compiled};
use super::*;

fn object(kind: &str, name: &str, namespace: &str, spec: &str) -> String {
    format!(
        "{{apiVersion: networking.istio.io/v1, kind: {kind}, metadata: {{name: {name}, namespace: {namespace}}}, spec: {spec}}}"
    )
}

/// What is said beside the registry: severity, code, field.
fn said(parts: &[&str]) -> Vec<(Severity, Code, String)> {
    let all: Vec<&str> = std::iter::once(REGISTRY).chain(parts.iter().copied()).collect();
    compiled(&all).diagnostics.into_iter().map(|it| (it.severity, it.code, it.field)).collect()
}

#[test]
fn a_destination_rule_is_looked_up_where_clients_look() {
    let policy = "trafficPolicy: {loadBalancer: {simple: RANDOM}}";
    let unused = |field: &str| vec![(Severity::Warning, Code::UnusedObject, field.to_owned())];
    let catalog = "catalog.shop.svc.cluster.local";
    for (namespace, spec, want) in [
        ("shop", format!("{{host: gone, {policy}}}"), unused("spec.host")),
        ("shop", format!("{{host: '*.gone.example', {policy}}}"), unused("spec.host")),
        ("shop", format!("{{host: catalog, {policy}}}"), vec![]),
        ("shop", format!("{{host: '*.shop.svc.cluster.local', {policy}}}"), vec![]),
        ("shop", format!("{{host: catalog, {policy}, exportTo: [red]}}"), vec![]),
        ("istio-system", format!("{{host: {catalog}, {policy}, exportTo: [red]}}"), vec![]),
        // A client's own override.
        ("red", format!("{{host: {catalog}, {policy}}}"), vec![]),
        ("red", format!("{{host: {catalog}, {policy}, exportTo: ['.']}}"), vec![]),
        (
            "red",
            format!("{{host: {catalog}, {policy}, exportTo: ['*']}}"),
            vec![(Severity::Info, Code::NoEffect, "spec.exportTo".to_owned())],
        ),
        ("red", format!("{{host: {catalog}, {policy}, exportTo: [blue]}}"), unused("spec.exportTo")),
    ] {
        assert_eq!(said(&[&object("DestinationRule", "d", namespace, &spec)]), want, "{namespace} {spec}");
    }
    // Rules alone, before they reach a cluster.
    let alone = object("DestinationRule", "d", "shop", &format!("{{host: gone, {policy}}}"));
    assert_eq!(compiled(&[&alone]).diagnostics, []);
}

#[test]
fn a_delegate_that_nobody_names_does_nothing() {
    let kid = object("VirtualService", "kid", "shop", "{http: [{route: [{destination: {host: catalog}}]}]}");
    let root = object("VirtualService", "v", "shop", "{hosts: [catalog], http: [{delegate: {name: kid}}]}");
    assert_eq!(said(&[&kid]), [(Severity::Warning, Code::UnusedObject, "spec.hosts".to_owned())]);
    assert_eq!(said(&[&kid, &root]), []);
}

#[test]
fn a_selector_that_looks_misspelt_is_worth_a_word() {
    let gateway = |labels: &str| {
        object(
            "Gateway",
            "edge",
            "shop",
            &format!(
                "{{selector: {{{labels}}}, servers: [{{port: {{number: 80, name: http, protocol: HTTP}}, hosts: ['*']}}]}}"
            ),
        )
    };
    let want = [(Severity::Info, Code::UnselectedGateway, "spec.selector".to_owned())];
    assert_eq!(said(&[&gateway("app: catalgo")]), want);
    for labels in ["app: catalog", "istio: ingressgateway", ""] {
        assert_eq!(said(&[&gateway(labels)]), [], "{labels}");
    }
}

#[test]
fn a_sidecars_host_has_to_bring_something_into_view() {
    let sidecar =
        |host: &str| object("Sidecar", "s", "shop", &format!("{{egress: [{{hosts: ['{host}']}}]}}"));
    for (host, is_empty) in [
        ("./*", false),
        ("*/*", false),
        ("istio-system/*", false),
        ("~/*", false),
        ("~red/*", false),
        ("shop/catalog.shop.svc.cluster.local", false),
        ("*/catalog.shop.svc.cluster.local", false),
        ("./*.shop.svc.cluster.local", false),
        ("red/*", true),
        ("red/catalog.shop.svc.cluster.local", true),
        ("*/gone.shop.svc.cluster.local", true),
    ] {
        let want = (Severity::Warning, Code::ImportsNothing, "spec.egress[0].hosts[0]".to_owned());
        let want: Vec<_> = is_empty.then_some(want).into_iter().collect();
        assert_eq!(said(&[&sidecar(host)]), want, "{host}");
    }
}

#[test]
fn exports_to_nowhere_are_told_where_namespaces_are_known() {
    let rule = object(
        "VirtualService",
        "v",
        "shop",
        "{hosts: [catalog], exportTo: [shop, rde, '.'], http: [{route: [{destination: {host: catalog}}]}]}",
    );
    assert_eq!(said(&[&rule]), []);
    let namespace = "{apiVersion: v1, kind: Namespace, metadata: {name: red}}";
    assert_eq!(
        said(&[namespace, &rule]),
        [(Severity::Info, Code::UnknownNamespace, "spec.exportTo[1]".to_owned())]
    );
}

#[test]
fn a_share_of_requests_that_nobody_answers_is_a_warning() {
    let subsets = SUBSETS.replace("version: v2", "version: v9");
    let rule = |legs: &str| {
        object("VirtualService", "v", "shop", &format!("{{hosts: [catalog], http: [{{route: [{legs}]}}]}}"))
    };
    let leg = |subset: &str, weight: u32| {
        format!("{{destination: {{host: catalog, subset: {subset}}}, weight: {weight}}}")
    };
    let split = |weight: u32| rule(&format!("{}, {}", leg("v1", 90), leg("v2", weight)));
    let want = (Severity::Warning, Code::NoEndpoints, "spec.http[0].route[1].destination".to_owned());
    assert_eq!(said(&[&subsets, &split(10)]), [want]);
    assert_eq!(said(&[&subsets, &split(0)]), []);
    assert_eq!(said(&[SUBSETS, &split(10)]), []);
}

#[test]
fn a_host_of_the_mesh_that_is_nobodys_is_a_warning() {
    let rule = |host: &str, gateways: &str| {
        object(
            "VirtualService",
            "v",
            "shop",
            &format!(
                "{{hosts: [{host}], {gateways}http: [{{route: [{{destination: {{host: catalog}}}}]}}]}}"
            ),
        )
    };
    let want = [(Severity::Warning, Code::UnknownHost, "spec.hosts[0]".to_owned())];
    assert_eq!(said(&[&rule("catalgo", "")]), want);
    assert_eq!(said(&[&rule("catalog", "")]), []);
    assert_eq!(said(&[&rule("catalog.example", "")]), []);
    let at_gateway = said(&[&rule("catalgo", "gateways: [edge], ")]);
    assert!(at_gateway.iter().all(|(_, code, _)| *code == Code::UnknownGateway), "{at_gateway:?}");
}
