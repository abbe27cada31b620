//! A folder that was exported with `kubectl get -o yaml` is the live cluster.

use std::path::Path;
use std::sync::Arc;

use serde_json::{Value, json};
use undermesh::source::{Loaded, files};
use undermesh_core::api::meta::Resource;
use undermesh_core::compile::compile;
use undermesh_core::inputs::{Inputs, Objects};
use undermesh_fake_api::FakeApi;

use crate::world::{World, api};

/// What is read of the examples, as the API server would hold it.
fn examples() -> Vec<Value> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/examples");
    let mut objects = Vec::new();
    let mut folders = vec![folder];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|it| it == "yaml") {
                let text = std::fs::read_to_string(&path).unwrap();
                let chunks = undermesh::source::yaml::chunks(&text);
                let documents =
                    chunks.filter_map(|it| undermesh::source::yaml::parse_document(it).ok().flatten());
                objects.extend(documents.map(|it| it.value));
            }
        }
    }
    objects
}

/// What `kubectl get … -A -o yaml` prints.
fn exported(api: &FakeApi, objects: &[Value]) -> String {
    let held = |object: &Value| {
        let (group, plural) = plural(object)?;
        let text = |field: &str| object.pointer(&format!("/metadata/{field}")).and_then(Value::as_str);
        let is_cluster_scoped = ["nodes", "namespaces"].contains(&plural.as_str());
        let namespace = if is_cluster_scoped { "" } else { text("namespace").unwrap_or("default") };
        api.object(&group, &plural, namespace, text("name")?)
    };
    let items: Vec<Value> = objects.iter().filter_map(held).collect();
    json!({"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": ""}, "items": items})
        .to_string()
}

fn plural(object: &Value) -> Option<(String, String)> {
    let group = object["apiVersion"].as_str()?.rsplit_once('/').map_or("", |it| it.0).to_owned();
    let plural = match object["kind"].as_str()?.to_lowercase() {
        kind if kind.ends_with("policy") || kind.ends_with("entry") => {
            format!("{}ies", &kind[..kind.len() - 1])
        }
        kind => format!("{kind}s"),
    };
    Some((group, plural))
}

/// The same objects, from nowhere.
fn without_origins(inputs: &Inputs) -> Inputs {
    fn of<T: Clone>(objects: &Objects<T>) -> Objects<T> {
        objects.iter().map(|(key, object)| (key.clone(), anonymous(object))).collect()
    }
    fn anonymous<T: Clone>(object: &Resource<T>) -> Arc<Resource<T>> {
        Arc::new(Resource { origin: Arc::default(), ..object.clone() })
    }
    Inputs {
        mesh: inputs.mesh.as_deref().map(anonymous),
        virtual_services: of(&inputs.virtual_services),
        destination_rules: of(&inputs.destination_rules),
        gateways: of(&inputs.gateways),
        service_entries: of(&inputs.service_entries),
        workload_entries: of(&inputs.workload_entries),
        sidecars: of(&inputs.sidecars),
        authorization_policies: of(&inputs.authorization_policies),
        peer_authentications: of(&inputs.peer_authentications),
        request_authentications: of(&inputs.request_authentications),
        services: of(&inputs.services),
        endpoint_slices: of(&inputs.endpoint_slices),
        pods: of(&inputs.pods),
        nodes: of(&inputs.nodes),
        namespaces: of(&inputs.namespaces),
    }
}

/// All of the snapshot; its tables have no order.
fn snapshot(inputs: &Inputs) -> Vec<String> {
    let text = format!("{:#?}", compile(inputs).snapshot.with_generation(1));
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

#[test]
fn an_exported_folder_compiles_to_the_snapshot_of_the_live_cluster() {
    let api = api();
    let mut objects = examples();
    objects.retain(|object| {
        let known = [
            "Service",
            "Pod",
            "Namespace",
            "Node",
            "EndpointSlice",
            "VirtualService",
            "DestinationRule",
            "Gateway",
            "ServiceEntry",
        ];
        object["kind"].as_str().is_some_and(|kind| known.contains(&kind))
    });
    objects.push(json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "istio", "namespace": "istio-system"},
        "data": {"mesh": "outboundTrafficPolicy:\n  mode: REGISTRY_ONLY\naccessLogFile: /dev/stdout\n"}}));
    for object in &objects {
        api.apply(object.clone());
    }
    let text = exported(&api, &objects);
    let mut world = World::start(api);
    let live = world.load();
    let folder = files::load_text("export.yaml", &text);
    assert!(
        live.inputs.services.len() >= 3 && live.inputs.virtual_services.len() >= 2,
        "the examples are read"
    );
    assert!(live.inputs.mesh.is_some());
    let exported = without_origins(&folder.inputs);
    assert_eq!(live.inputs, exported);
    assert_eq!(snapshot(&live.inputs), snapshot(&exported));
    let messages = |it: &Loaded| it.diagnostics.iter().map(|it| it.message.clone()).collect::<Vec<_>>();
    let (mut of_live, mut of_folder) = (messages(&live), messages(&folder));
    of_live.sort();
    of_folder.sort();
    assert_eq!(of_live, of_folder);
    // The twin: one field makes the difference.
    let other = files::load_text("export.yaml", &text.replace("REGISTRY_ONLY", "ALLOW_ANY"));
    assert_ne!(live.inputs, without_origins(&other.inputs));
}
