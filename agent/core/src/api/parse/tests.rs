use std::net::IpAddr;

use serde_json::json;

use super::*;
use crate::api::origin::{Lines, Step};
use crate::inventory::{PodPhase, ServiceType, TargetPort, Transport};

fn virtual_service(spec: &Value) -> Value {
    json!({"apiVersion": "networking.istio.io/v1", "kind": "VirtualService", "metadata": {"name": "x"}, "spec": spec})
}

fn run(value: Value) -> Parsed {
    parse(value, Origin::default())
}

/// severity, code, field of each diagnostic
fn said(parsed: &Parsed) -> Vec<(Severity, Code, &str)> {
    parsed.diagnostics.iter().map(|said| (said.severity, said.code, said.field.as_str())).collect()
}

#[test]
fn all_versions_of_a_kind_are_the_same() {
    for version in ["v1", "v1beta1", "v1alpha3"] {
        let mut value =
            virtual_service(&json!({"hosts": ["a"], "http": [{"route": [{"destination": {"host": "b"}}]}]}));
        value["apiVersion"] = format!("networking.istio.io/{version}").into();
        let parsed = run(value);
        assert_eq!(parsed.diagnostics, []);
        let Some(Object::VirtualService(object)) = parsed.object else { panic!("not a VirtualService") };
        assert_eq!(object.meta.key().to_string(), "default/x");
        assert_eq!(object.spec.hosts, ["a"]);
        assert_eq!(object.spec.http[0].route[0].destination.as_ref().unwrap().host, "b");
    }
}

#[test]
fn an_unknown_field_refuses_the_object_and_names_its_line() {
    let mut spec = Lines::at(5);
    spec.push(Step::Key("hots".into()), Lines::at(6));
    let mut lines = Lines::at(1);
    lines.push(Step::Key("spec".into()), spec);
    let parsed = parse(virtual_service(&json!({"hots": ["a"]})), Origin::new("a.yaml", lines));
    assert_eq!(parsed.object, None);
    assert_eq!(parsed.identity.unwrap().key.to_string(), "default/x");
    let text: Vec<_> = parsed.diagnostics.iter().map(ToString::to_string).collect();
    let want = "a.yaml:6: error[UM0101] VirtualService default/x spec.hots: unknown field \"hots\" (did you mean \"hosts\"?)";
    assert_eq!(text, [want]);
}

#[test]
fn type_errors_name_the_field_and_what_belongs_there() {
    for (spec, field, message, hint) in [
        (
            json!({"http": [{"match": [{"port": "80"}]}]}),
            "spec.http[0].match[0].port",
            "invalid type: string \"80\", expected a whole number from 0 to 4294967295",
            "write it without quotes",
        ),
        (
            json!({"http": [{"match": [{"port": "http"}]}]}),
            "spec.http[0].match[0].port",
            "invalid type: string \"http\", expected a whole number from 0 to 4294967295",
            "",
        ),
        (
            json!({"hosts": "a"}),
            "spec.hosts",
            "invalid type: string \"a\", expected a list",
            "begin the line with '- '",
        ),
        (
            json!({"hosts": [1]}),
            "spec.hosts[0]",
            "invalid type: integer `1`, expected a string",
            "put it in quotes",
        ),
        (
            json!({"http": [{"timeout": "5"}]}),
            "spec.http[0].timeout",
            "invalid duration \"5\": missing unit in duration, write it like 1h, 30s or 10ms",
            "",
        ),
        (
            json!({"http": [{"redirect": {"derivePort": "X"}}]}),
            "spec.http[0].redirect.derivePort",
            "unknown variant `X`, expected `FROM_PROTOCOL_DEFAULT` or `FROM_REQUEST_PORT`",
            "",
        ),
        (json!([]), "spec", "invalid type: a list, expected a mapping", ""),
        (json!("a"), "spec", "invalid type: string \"a\", expected a mapping", ""),
    ] {
        let parsed = run(virtual_service(&spec));
        assert_eq!(parsed.object, None, "{spec}");
        assert_eq!(said(&parsed), [(Severity::Error, Code::WrongType, field)], "{spec}");
        assert_eq!(
            (parsed.diagnostics[0].message.as_str(), parsed.diagnostics[0].hint.as_str()),
            (message, hint)
        );
    }
}

#[test]
fn nulls_are_absent_fields_but_not_conditions() {
    let parsed =
        run(virtual_service(&json!({"hosts": null, "http": [{"match": [{"uri": null}], "fault": null}]})));
    let Some(Object::VirtualService(object)) = parsed.object else {
        panic!("refused: {:?}", parsed.diagnostics)
    };
    assert_eq!((object.spec.http[0].matches.len(), &object.spec.http[0].matches[0].uri), (1, &None));

    let parsed = run(virtual_service(&json!({"http": [{"match": [{"headers": {"x": null}}]}]})));
    assert_eq!(said(&parsed), [(Severity::Error, Code::NullValue, "spec.http[0].match[0].headers.x")]);

    let rule = json!({"apiVersion": "networking.istio.io/v1", "kind": "DestinationRule", "metadata": {"name": "x"},
        "spec": {"host": "a", "trafficPolicy": {"loadBalancer": {"simple": null}}}});
    assert_eq!(run(rule).diagnostics, []);
}

#[test]
fn what_is_no_object_says_what_is_missing() {
    for (value, code, field) in [
        (json!(null), Code::NotAnObject, ""),
        (json!([]), Code::NotAnObject, ""),
        (json!({}), Code::NotAnObject, "kind"),
        (json!({"kind": "Service"}), Code::NotAnObject, "apiVersion"),
        (json!({"kind": 1, "apiVersion": "v1"}), Code::WrongType, "kind"),
        (json!({"kind": "Service", "apiVersion": "v1"}), Code::NotAnObject, "metadata.name"),
        (json!({"kind": "Service", "apiVersion": "v1", "metadata": 1}), Code::WrongType, "metadata"),
        (
            json!({"kind": "Service", "apiVersion": "v1", "metadata": {"name": 1}}),
            Code::WrongType,
            "metadata.name",
        ),
        (
            json!({"kind": "Service", "apiVersion": "v1", "metadata": {"name": "a", "labels": {"a": 1}}}),
            Code::WrongType,
            "metadata.labels.a",
        ),
        (
            json!({"kind": "VirtualServices", "apiVersion": "networking.istio.io/v1", "metadata": {"name": "a"}}),
            Code::UnknownKind,
            "kind",
        ),
        (
            json!({"kind": "VirtualService", "apiVersion": "networking.istio.io/v2", "metadata": {"name": "a"}}),
            Code::UnsupportedApiVersion,
            "apiVersion",
        ),
        (
            json!({"kind": "VirtualService", "apiVersion": "v1", "metadata": {"name": "a"}}),
            Code::UnsupportedApiVersion,
            "apiVersion",
        ),
        (
            json!({"kind": "Sidecar", "apiVersion": "networking.istio.io/v1", "metadata": {"name": "a", "lables": {}}}),
            Code::UnknownField,
            "metadata.lables",
        ),
        (
            json!({"kind": "Sidecar", "apiVersion": "networking.istio.io/v1", "metadata": {"name": "a"}, "sepc": {}}),
            Code::UnknownField,
            "sepc",
        ),
    ] {
        let parsed = run(value.clone());
        assert_eq!(parsed.object, None, "{value}");
        assert_eq!(said(&parsed), [(Severity::Error, code, field)], "{value}");
    }
}

#[test]
fn rules_that_nobody_enforces_are_refused_aloud() {
    let policy = |kind: &str, spec: Value| {
        run(
            json!({"apiVersion": "security.istio.io/v1", "kind": kind, "metadata": {"name": "a"}, "spec": spec}),
        )
    };
    assert_eq!(policy("AuthorizationPolicy", json!({})).diagnostics[0].severity, Severity::Error);
    let strict = json!({"mtls": {"mode": "STRICT"}});
    assert_eq!(policy("PeerAuthentication", strict).diagnostics[0].severity, Severity::Error);
    let permissive = json!({"mtls": {"mode": "PERMISSIVE"}});
    assert_eq!(policy("PeerAuthentication", permissive).diagnostics[0].severity, Severity::Warning);
}

#[test]
fn other_kinds_are_none_of_our_business() {
    for kind in ["Deployment", "Secret", "ConfigMap"] {
        let parsed = run(json!({"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": "a"}, "foo": 1}));
        assert_eq!(parsed, Parsed { object: None, identity: None, diagnostics: vec![] });
    }
}

#[test]
fn a_name_with_capitals_is_a_warning() {
    let mut value = virtual_service(&json!({"hosts": ["a"]}));
    value["metadata"]["name"] = "Kubernetes-Internal".into();
    let parsed = run(value);
    assert!(parsed.object.is_some());
    assert_eq!(said(&parsed), [(Severity::Warning, Code::InvalidName, "metadata.name")]);
}

#[test]
fn a_service_is_read() {
    let parsed = run(json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "shop", "uid": "1"},
        "spec": {"type": "LoadBalancer", "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1", "fd00::1"],
            "ipFamilies": ["IPv4"], "selector": {"app": "web"}, "ports": [
                {"name": "http", "port": 80, "targetPort": "web", "nodePort": 30000},
                {"name": "x", "port": 81, "targetPort": 8081, "protocol": "UDP"},
                {"name": "y", "port": 82, "appProtocol": "http", "targetPort": 0}]},
        "status": {"loadBalancer": {}}}));
    assert_eq!(parsed.diagnostics, []);
    let Some(Object::Service(service)) = parsed.object else { panic!("not a Service") };
    let spec = &service.spec;
    assert_eq!(spec.service_type, ServiceType::LoadBalancer);
    assert_eq!(*spec.cluster_ips, ["10.0.0.1".parse::<IpAddr>().unwrap(), "fd00::1".parse().unwrap()]);
    let targets: Vec<_> = spec.ports.iter().map(|port| port.target_port.clone()).collect();
    assert_eq!(targets, [TargetPort::Name("web".into()), TargetPort::Number(8081), TargetPort::Number(82)]);
    assert_eq!(spec.ports[1].transport, Transport::Udp);
    assert!(!spec.headless);
}

#[test]
fn headless_and_alias_services_have_no_address() {
    let service = |spec: Value| {
        let value = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"}, "spec": spec});
        let Some(Object::Service(service)) = run(value).object else { panic!("not a Service") };
        service.spec.clone()
    };
    let headless = service(json!({"clusterIP": "None"}));
    assert!(headless.headless && headless.cluster_ips.is_empty());
    let alias = service(json!({"type": "ExternalName", "externalName": "x.example", "selector": {"a": "b"}}));
    assert_eq!((alias.external_name.as_deref(), alias.selector.len()), (Some("x.example"), 0));
}

#[test]
fn values_that_kubernetes_would_refuse_are_named() {
    for (value, field) in [
        (json!({"apiVersion": "v1", "kind": "Service", "spec": {"clusterIP": "x"}}), "spec.clusterIP"),
        (
            json!({"apiVersion": "v1", "kind": "Service", "spec": {"ports": [{"port": 0}]}}),
            "spec.ports[0].port",
        ),
        (
            json!({"apiVersion": "v1", "kind": "Service", "spec": {"ports": [{"port": 70000}]}}),
            "spec.ports[0].port",
        ),
        (json!({"apiVersion": "v1", "kind": "Service", "spec": {"type": "Foo"}}), "spec.type"),
        (
            json!({"apiVersion": "v1", "kind": "Service", "spec": {"type": "ExternalName"}}),
            "spec.externalName",
        ),
        (
            json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "endpoints": [{"addresses": ["1.2.3.4", "y"]}]}),
            "endpoints[0].addresses[1]",
        ),
        (
            json!({"apiVersion": "v1", "kind": "Pod", "status": {"podIPs": [{"ip": "z"}]}}),
            "status.podIPs[0].ip",
        ),
        (
            json!({"apiVersion": "v1", "kind": "Pod", "spec": {"containers": [{"ports": [{"containerPort": -1}]}]}}),
            "spec.containers[0].ports[0].containerPort",
        ),
    ] {
        let mut value = value;
        value["metadata"] = json!({"name": "a"});
        let parsed = run(value);
        assert_eq!(said(&parsed), [(Severity::Error, Code::InvalidKubernetesField, field)]);
        assert_eq!(parsed.object, None);
    }
}

#[test]
fn endpoints_without_conditions_are_ready() {
    let parsed = run(json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": "a-1", "namespace": "ns", "labels": {"kubernetes.io/service-name": "a"}},
        "ports": [{"name": "http", "port": 8080, "protocol": null}, {"name": ""}],
        "endpoints": [
            {"addresses": ["10.1.1.1"], "targetRef": {"kind": "Pod", "name": "p"}, "nodeName": "n", "zone": "z"},
            {"addresses": ["10.1.1.2"], "conditions": {"ready": false, "serving": true, "terminating": true}}]}));
    let Some(Object::EndpointSlice(slice)) = parsed.object else {
        panic!("refused: {:?}", parsed.diagnostics)
    };
    let [one, two] = &*slice.spec.endpoints else { panic!("not two endpoints") };
    assert_eq!(&*slice.spec.service, "a");
    assert_eq!((one.is_ready, one.is_serving, one.is_terminating), (true, true, false));
    assert_eq!(one.pod.as_ref().unwrap().to_string(), "ns/p");
    assert_eq!((two.is_ready, two.is_serving, two.is_terminating), (false, true, true));
    assert_eq!((slice.spec.ports[0].number, slice.spec.ports[1].number), (Some(8080), None));
}

#[test]
fn a_pod_manifest_is_ready_and_a_pod_says_itself() {
    let pod = |spec: Value, status: Value| {
        let value = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": spec, "status": status});
        let Some(Object::Pod(pod)) = run(value).object else { panic!("not a Pod") };
        pod.spec.clone()
    };
    let manifest = pod(
        json!({"containers": [{"ports": [{"name": "web", "containerPort": 80}]}],
            "initContainers": [{"ports": [{"name": "a", "containerPort": 1}]},
                {"restartPolicy": "Always", "ports": [{"name": "b", "containerPort": 2}]}]}),
        json!({"podIP": "10.1.1.1"}),
    );
    assert!(
        manifest.is_ready && manifest.phase == PodPhase::Running && &*manifest.service_account == "default"
    );
    assert_eq!(manifest.port_named("web", Transport::Tcp), Some(80));
    assert_eq!(manifest.port_named("web", Transport::Udp), None);
    assert_eq!(manifest.port_named("a", Transport::Tcp), None);
    assert_eq!(manifest.port_named("b", Transport::Tcp), Some(2));
    let unready = json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "False"}]});
    assert!(!pod(json!({}), unready).is_ready);
    assert!(!pod(json!({}), json!({"phase": "Pending"})).is_ready);
}

#[test]
fn a_pod_is_found_by_its_uid_and_a_static_pod_by_that_of_the_original() {
    const OWN: &str = "0f6d5b2e-93a1-4c1e-8d55-0123456789ab";
    const ORIGINAL: &str = "5f2b7e3c9a1d4e6f8091a2b3c4d5e6f7";
    let uid = |uid: &str, annotations: Value| {
        let value = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "uid": uid, "annotations": annotations}});
        let Some(Object::Pod(pod)) = run(value).object else { panic!("not a Pod") };
        pod.spec.uid
    };
    assert_eq!(uid(OWN, json!({})), OWN.parse().ok());
    assert_eq!(uid(OWN, json!({"kubernetes.io/config.mirror": ORIGINAL})), ORIGINAL.parse().ok());
    // Anybody may write the annotation: no other pod is found by it.
    const OTHERS: &str = "11111111-93a1-4c1e-8d55-0123456789ab";
    assert_eq!(uid(OWN, json!({"kubernetes.io/config.mirror": OTHERS})), OWN.parse().ok());
    assert_ne!(
        uid(OWN, json!({"kubernetes.io/config.mirror": OTHERS.replace('-', "")})),
        OTHERS.parse().ok()
    );
    assert_eq!(uid("", json!({})), None);
    assert_eq!(uid("../../etc", json!({})), None);
}

#[test]
fn a_container_named_istio_proxy_is_a_sidecar_also_a_native_one() {
    let has_sidecar = |spec: Value| {
        let value = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": spec});
        let Some(Object::Pod(pod)) = run(value).object else { panic!("not a Pod") };
        pod.spec.has_sidecar
    };
    let (proxy, app) = (json!({"name": "istio-proxy"}), json!({"name": "app"}));
    let native = json!({"name": "istio-proxy", "restartPolicy": "Always"});
    assert!(has_sidecar(json!({"containers": [app, proxy]})));
    assert!(has_sidecar(json!({"containers": [app], "initContainers": [native]})));
    assert!(!has_sidecar(json!({"containers": [app], "initContainers": [{"name": "istio-init"}]})));
}

#[test]
fn nodes_and_namespaces_have_no_namespace() {
    let labels = json!({"topology.kubernetes.io/region": "r", "topology.kubernetes.io/zone": "z", "topology.istio.io/subzone": "s"});
    let parsed = run(json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n", "labels": labels},
        "status": {"addresses": [{"type": "Hostname", "address": "n"}, {"type": "InternalIP", "address": "10.0.0.9"}]}}));
    let Some(Object::Node(node)) = parsed.object else { panic!("not a Node") };
    assert_eq!(node.meta.key().to_string(), "n");
    assert_eq!(
        (node.spec.region.as_str(), node.spec.zone.as_str(), node.spec.subzone.as_str()),
        ("r", "z", "s")
    );
    assert_eq!(node.spec.addresses, ["10.0.0.9".parse::<IpAddr>().unwrap()]);
    let parsed = run(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "ns"}}));
    assert_eq!(parsed.object.unwrap().key().to_string(), "ns");
}

#[test]
fn mesh_settings_that_are_not_read_are_warned_about() {
    let settings = json!({"rootNamespace": "root", "accessLogFile": "/dev/stdout", "connect_timeout": "3s",
        "outboundTrafficPolicy": {"mode": "REGISTRY_ONLY"}, "defaultConfig": {"gatewayTopology": {"numTrustedProxies": 2},
        "concurrency": 2}});
    let parsed = parse_mesh_config(settings, &ObjectMeta::default(), Origin::default());
    assert_eq!(
        said(&parsed),
        [
            (Severity::Warning, Code::UnreadMeshSetting, "accessLogFile"),
            (Severity::Warning, Code::UnreadMeshSetting, "defaultConfig.concurrency")
        ]
    );
    let Some(Object::MeshConfig(mesh)) = parsed.object else { panic!("not mesh settings") };
    assert_eq!(mesh.spec.root_namespace(), "root");
    assert_eq!(mesh.spec.trust_domain(), "cluster.local");
    assert_eq!(mesh.spec.connect_timeout(), std::time::Duration::from_secs(3));
    assert_eq!(mesh.spec.gateway_topology().unwrap().num_trusted_proxies, 2);

    let parsed = parse_mesh_config(json!({"connectTimeout": 3}), &ObjectMeta::default(), Origin::default());
    assert_eq!(said(&parsed), [(Severity::Error, Code::WrongType, "connectTimeout")]);
}

#[test]
fn of_a_kubernetes_objects_annotations_only_those_are_kept_that_mean_something_here() {
    let annotations = json!({"undermesh.io/fail-mode": "closed", "networking.istio.io/traffic-distribution": "Any",
        "kubectl.kubernetes.io/last-applied-configuration": "{}", "prometheus.io/port": "80", "plain": "x"});
    let value = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a", "annotations": annotations},
        "spec": {"ports": [{"port": 80}]}});
    let object = parse(value, Origin::default()).object.unwrap();
    let kept: Vec<&str> = object.meta().annotations.keys().map(String::as_str).collect();
    assert_eq!(kept, ["networking.istio.io/traffic-distribution", "undermesh.io/fail-mode"]);
}
