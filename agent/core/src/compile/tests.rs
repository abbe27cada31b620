use super::fixture::{REGISTRY, SUBSETS, compiled, inputs, virtual_service};
use super::*;
use crate::diagnostic::{Code, Severity};

/// Code and field of every diagnostic about VirtualServices.
fn findings(parts: &[&str]) -> Vec<(Code, String)> {
    compiled(parts).diagnostics.into_iter().map(|it| (it.code, it.field)).collect()
}

#[test]
fn sound_rules_leave_no_diagnostics() {
    let rules = virtual_service(
        "v",
        "{hosts: [catalog], http: [{route: [{destination: {host: catalog, subset: v1}}]}]}",
    );
    assert_eq!(findings(&[REGISTRY, SUBSETS, &rules]), []);
}

#[test]
fn what_names_nothing_is_said_with_its_field() {
    for (spec, code, field) in [
        (
            "{hosts: [catalog], http: [{route: [{destination: {host: gone}}]}]}",
            Code::UnknownHost,
            "spec.http[0].route[0].destination.host",
        ),
        (
            "{hosts: [catalog], http: [{route: [{destination: {host: CATALOG}}]}]}",
            Code::UnknownHost,
            "spec.http[0].route[0].destination.host",
        ),
        (
            "{hosts: [catalog], http: [{route: [{destination: {host: catalog, subset: v9}}]}]}",
            Code::UnknownSubset,
            "spec.http[0].route[0].destination.subset",
        ),
        (
            "{hosts: [catalog], http: [{route: [{destination: {host: catalog, port: {number: 1}}}]}]}",
            Code::UnknownPort,
            "spec.http[0].route[0].destination.port.number",
        ),
        (
            "{hosts: [x.example], gateways: [nope], http: [{route: [{destination: {host: catalog}}]}]}",
            Code::UnknownGateway,
            "spec.gateways[0]",
        ),
        (
            "{hosts: [catalog], http: [{delegate: {name: nobody}}]}",
            Code::UnknownDelegate,
            "spec.http[0].delegate.name",
        ),
        (
            "{hosts: [catalog], http: [{route: [{destination: {host: pay.shop, port: {number: 80}}}]}]}",
            Code::ShortNameTaken,
            "spec.http[0].route[0].destination.host",
        ),
        (
            "{hosts: [catalog.shop], http: [{route: [{destination: {host: catalog}}]}]}",
            Code::NoEffect,
            "spec.hosts[0]",
        ),
        (
            "{hosts: [catalog], http: [{mirror: {host: gone}, route: [{destination: {host: catalog}}]}]}",
            Code::UnknownHost,
            "spec.http[0].mirror.host",
        ),
    ] {
        let rules = virtual_service("v", spec);
        assert_eq!(findings(&[REGISTRY, SUBSETS, &rules]), [(code, field.to_owned())], "{spec}");
    }
}

#[test]
fn a_subset_that_no_pod_is_in_is_worth_an_info() {
    let subsets = SUBSETS.replace("version: v2", "version: v9");
    let rules = virtual_service(
        "v",
        "{hosts: [catalog], http: [{route: [{destination: {host: catalog, subset: v2}}]}]}",
    );
    let want = (Code::NoEndpoints, "spec.http[0].route[0].destination".to_owned());
    assert_eq!(findings(&[REGISTRY, &subsets, &rules]), [want]);
    // Rules alone, checked before they reach a cluster, have no endpoints to miss.
    let service = REGISTRY.split("---").next().unwrap_or_default();
    assert_eq!(findings(&[service, &subsets, &rules]), []);
}

#[test]
fn a_service_whose_selector_finds_no_pod_is_worth_an_info() {
    let idle = "
kind: Service
apiVersion: v1
metadata: {name: idle, namespace: shop}
spec: {clusterIP: 10.96.0.77, selector: {app: idel}, ports: [{port: 80, name: http}]}
";
    let service = format!("{REGISTRY}\n---{idle}");
    assert_eq!(findings(&[&service]), [(Code::NoEndpoints, "spec.selector".to_owned())]);
    let pod = "
kind: Pod
apiVersion: v1
metadata: {name: idle-1, namespace: shop, labels: {app: idel}}
spec: {nodeName: n1}
status: {podIPs: [{ip: 10.1.0.77}], conditions: [{type: Ready, status: 'False'}]}
";
    // One that is not ready is there all the same; and without a selector somebody else sees to endpoints.
    assert_eq!(findings(&[&service, pod]), []);
    assert_eq!(findings(&[&service.replace("selector: {app: idel}, ", "")]), []);
}

#[test]
fn an_only_port_that_istio_would_not_take_is_worth_an_info() {
    let rules = virtual_service("v", "{hosts: [pay], http: [{route: [{destination: {host: catalog}}]}]}");
    let diagnostics = compiled(&[REGISTRY, &rules]).diagnostics;
    let have: Vec<_> = diagnostics.iter().map(|it| (it.severity, it.code)).collect();
    assert_eq!(have, [(Severity::Info, Code::OnlyPort)]);
}

#[test]
fn the_younger_of_two_rules_for_a_host_is_shadowed() {
    let spec = "{hosts: [catalog], http: [{route: [{destination: {host: catalog}}]}]}";
    let (a, b) = (virtual_service("a", spec), virtual_service("b", spec));
    let diagnostics = compiled(&[REGISTRY, &a, &b]).diagnostics;
    assert_eq!(
        diagnostics.iter().map(|it| (it.code, &*it.name)).collect::<Vec<_>>(),
        [(Code::ShadowedObject, "b")]
    );
    // Rules that no client sees both of do not meet.
    let a = virtual_service(
        "a",
        "{hosts: [catalog], exportTo: [red], http: [{route: [{destination: {host: catalog}}]}]}",
    );
    let b = virtual_service(
        "b",
        "{hosts: [catalog], exportTo: [blue], http: [{route: [{destination: {host: catalog}}]}]}",
    );
    assert_eq!(findings(&[REGISTRY, &a, &b]), []);
}

#[test]
fn the_same_inputs_give_the_same_snapshot() {
    let rules =
        virtual_service("v", "{hosts: [catalog, pay], http: [{route: [{destination: {host: gone}}]}]}");
    let inputs = inputs(&[REGISTRY, SUBSETS, &rules]);
    let (a, b) = (compile(&inputs), compile(&inputs));
    assert_eq!(a.diagnostics, b.diagnostics);
    assert_eq!(a.snapshot.captures().collect::<Vec<_>>(), b.snapshot.captures().collect::<Vec<_>>());
    assert_eq!(format!("{:?}", a.snapshot.services()), format!("{:?}", b.snapshot.services()));
}

#[test]
fn nothing_at_all_compiles_to_an_empty_snapshot() {
    let compiled = compile(&Inputs::default());
    assert_eq!((compiled.diagnostics.len(), compiled.snapshot.captures().count()), (0, 0));
}
