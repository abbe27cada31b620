//! A case's world: its registry and configuration as inputs, and its requests in the form that `explain` takes. Shared by
//! both halves of the suite: the offline one (`agent/core/tests/conformance`) and the live one beside this file.

use std::path::Path;

use serde_json::{Map, Value, json};
use undermesh_core::api::origin::{Lines, Origin};
use undermesh_core::api::parse;
use undermesh_core::compile::compile;
use undermesh_core::explain::{Explanation, explain};
use undermesh_core::inputs::Inputs;
use undermesh_core::snapshot::Snapshot;

/// All cases of `folder` but those of admission, which have a runner of their own.
pub(crate) fn cases(folder: &Path) -> Vec<Value> {
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .expect("the folder of cases")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|it| it == "yaml") && !path.ends_with("validation.yaml"))
        .collect();
    files.sort();
    let mut cases = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(&file).expect("a readable file");
        let document: Value =
            serde_yaml_ng::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        cases.extend(document["cases"].as_array().expect("cases").iter().cloned());
    }
    cases
}

/// What a name resolves to of which nothing is known.
pub(crate) const UNKNOWN: &str = "198.18.0.1";

pub(crate) struct World {
    pub(crate) snapshot: Snapshot,
    case: Value,
}

impl World {
    pub(crate) fn new(case: &Value) -> Result<Self, String> {
        let mut inputs = Inputs::default();
        let mut insert = |value: Value| {
            let parsed = parse(value, Origin::new("case.yaml", Lines::at(1)));
            match parsed.object {
                Some(object) => inputs.insert(object),
                None => {
                    return Err(format!(
                        "refused: {:?}",
                        parsed.diagnostics.first().map(ToString::to_string)
                    ));
                }
            }
            Ok(())
        };
        for object in objects(case) {
            insert(object)?;
        }
        Ok(Self { snapshot: compile(&inputs).snapshot, case: case.clone() })
    }

    /// Whether some upstream of the case does not simply answer 200.
    pub(crate) fn has_behaviour(&self) -> bool {
        let services = array(&self.case, "services").iter().flat_map(|it| array(it, "endpoints"));
        let entries = array(&self.case, "config").iter().flat_map(|it| array(&it["spec"], "endpoints"));
        services.chain(entries).any(|endpoint| endpoint.get("behaviour").is_some())
    }

    pub(crate) fn explain(&self, request: &Value) -> Explanation {
        let answer = self.ask(&self.question(request));
        let hops = array(&request["expect"], "hops");
        match hops.first().and_then(Value::as_str) {
            Some(hop) => self.ask(&self.at_gateway(request, hop, &answer)),
            None => answer,
        }
    }

    fn ask(&self, question: &Value) -> Explanation {
        let request =
            serde_json::from_value(question.clone()).unwrap_or_else(|error| panic!("{question}: {error}"));
        explain(&self.snapshot, &request)
    }

    fn question(&self, request: &Value) -> Value {
        let mut question = http_parts(request);
        // One of the values that the live half takes in turn.
        if let Some(name) = request["vary_header"]["name"].as_str() {
            question["headers"][name] = json!(["1"]);
        }
        if let Some(via) =
            request.get("via").and_then(Value::as_str).and_then(|via| via.strip_prefix("gateway:"))
        {
            question["gateway"] = self.gateway(via, &request["connect"]["port"]);
            return question;
        }
        let source = &request["source"];
        let mut client = Map::new();
        for key in ["namespace", "labels", "serviceAccount", "locality", "node"] {
            if let Some(value) = source.get(key) {
                client.insert(key.into(), value.clone());
            }
        }
        if let Some(id) = source.get("endpoint").and_then(Value::as_str)
            && let Some((service, endpoint)) = self.endpoint(id)
        {
            client.entry("labels").or_insert_with(|| endpoint["labels"].clone());
            client.entry("namespace").or_insert_with(|| service["namespace"].clone());
        }
        question["source"] = Value::Object(client);
        question["address"] = self.address(&request["connect"]).into();
        question["port"] = request["connect"]["port"].clone();
        question
    }

    /// The second hop of a request that goes by way of a gateway: as the first one sent it on.
    fn at_gateway(&self, request: &Value, hop: &str, first: &Explanation) -> Value {
        let mut question = http_parts(request);
        let destination = first.destinations.first().expect("a destination that is the gateway");
        question["gateway"] = self.gateway(hop, &json!(destination.endpoints.first().map(|it| it.port)));
        if let Some(sent) = &destination.request {
            question["path"] = sent.path.clone().into();
            question["authority"] = sent.authority.clone().into();
        }
        question
    }

    fn gateway(&self, name: &str, port: &Value) -> Value {
        let gateway = array(&self.case, "gateways")
            .iter()
            .find(|it| {
                format!("{}/{}", it["namespace"].as_str().unwrap_or(""), it["name"].as_str().unwrap_or(""))
                    == name
            })
            .unwrap_or_else(|| panic!("no gateway {name}"));
        json!({"namespace": gateway["namespace"], "labels": gateway["labels"], "port": port})
    }

    fn endpoint(&self, id: &str) -> Option<(&Value, &Value)> {
        array(&self.case, "services")
            .iter()
            .flat_map(|service| array(service, "endpoints").iter().map(move |endpoint| (service, endpoint)))
            .find(|(_, endpoint)| endpoint["id"] == id)
    }

    /// What the client's socket dials: a literal, the VIP of a service, or whatever the name resolves to.
    pub(crate) fn address(&self, connect: &Value) -> String {
        if let Some(address) = connect.get("address").and_then(Value::as_str) {
            return match address.strip_prefix("endpoint:").and_then(|id| self.endpoint(id)) {
                Some((_, endpoint)) => endpoint["address"].as_str().expect("an address").to_owned(),
                None => address.to_owned(),
            };
        }
        let mut host = connect["host"].as_str().unwrap_or_default().to_owned();
        let fqdn = |it: &Value| format!("{}.{}.svc.cluster.local", text(&it["name"]), text(&it["namespace"]));
        let service = |host: &str| array(&self.case, "services").iter().find(|it| fqdn(it) == host);
        if let Some(target) = service(&host).and_then(|it| it.get("externalName")) {
            host = text(target).to_owned();
        }
        if let Some(service) = service(&host) {
            let own =
                service.get("vip").or_else(|| array(service, "endpoints").first().map(|it| &it["address"]));
            return own.and_then(Value::as_str).unwrap_or("192.0.2.254").to_owned();
        }
        let entries = array(&self.case, "config").iter().filter(|it| it["kind"] == "ServiceEntry");
        let entry = entries.map(|it| &it["spec"]).find(|it| array(it, "hosts").iter().any(|it| *it == *host));
        let address = entry.and_then(|it| array(it, "addresses").first()).and_then(Value::as_str);
        address.filter(|it| !it.contains('/')).unwrap_or(UNKNOWN).to_owned()
    }
}

fn http_parts(request: &Value) -> Value {
    let mut parts = json!({ "id": request["id"] });
    parts["protocol"] = match text(&request["protocol"]) {
        "http1.0" | "http2" | "grpc" | "tls" | "tcp" => request["protocol"].clone(),
        "https" => "tls".into(),
        _ => "http1".into(),
    };
    for key in ["authority", "method", "path", "sni"] {
        if let Some(value) = request.get(key) {
            parts[key] = value.clone();
        }
    }
    let mut headers = Map::new();
    for (name, value) in request.get("headers").and_then(Value::as_object).into_iter().flatten() {
        let lines = match value {
            Value::Array(lines) => lines.iter().map(plain).collect(),
            one => vec![plain(one)],
        };
        headers.insert(name.clone(), lines.into());
    }
    if request["protocol"] == "grpc" {
        headers.insert("content-type".into(), json!(["application/grpc"]));
    }
    parts["headers"] = Value::Object(headers);
    parts
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// The registry and configuration of a case as Kubernetes objects.
pub(crate) fn objects(case: &Value) -> Vec<Value> {
    let mut objects: Vec<Value> = array(case, "services").iter().flat_map(service_objects).collect();
    for resource in array(case, "config") {
        let mut resource = resource.clone();
        // For the harness only.
        for endpoint in
            resource["spec"].get_mut("endpoints").and_then(Value::as_array_mut).into_iter().flatten()
        {
            endpoint.as_object_mut().map(|it| it.remove("behaviour"));
        }
        objects.push(resource);
    }
    objects
}

/// The Kubernetes objects of a service of the registry: Service, EndpointSlice, Pods.
fn service_objects(service: &Value) -> Vec<Value> {
    let metadata = |name: &str| json!({"name": name, "namespace": service["namespace"]});
    let name = text(&service["name"]);
    let ports: Vec<_> = array(service, "ports")
        .iter()
        .map(|port| {
            let protocol = text(&port["protocol"]);
            let mut written = json!({"name": port["name"], "port": port["number"]});
            written["targetPort"] = port.get("targetPort").unwrap_or(&port["number"]).clone();
            if protocol != "AUTO" {
                written["appProtocol"] = protocol.to_ascii_lowercase().into();
            }
            written
        })
        .collect();
    let mut spec = json!({ "ports": ports });
    if let Some(target) = service.get("externalName") {
        spec["type"] = "ExternalName".into();
        spec["externalName"] = target.clone();
    } else if service.get("headless").is_some() {
        spec["clusterIP"] = "None".into();
    } else if let Some(vip) = service.get("vip") {
        spec["clusterIP"] = vip.clone();
        spec["clusterIPs"] = json!([vip]);
    }
    for key in ["selector", "trafficDistribution"] {
        if let Some(value) = service.get(key) {
            spec[key] = value.clone();
        }
    }
    let mut objects =
        vec![json!({"apiVersion": "v1", "kind": "Service", "metadata": metadata(name), "spec": spec})];
    let endpoints = array(service, "endpoints");
    for endpoint in endpoints {
        let node = node_name(endpoint);
        if let (Some(node), Some(locality)) = (&node, endpoint["locality"].as_str()) {
            let mut parts = locality.split('/');
            objects.push(json!({
                "apiVersion": "v1", "kind": "Node",
                "metadata": {"name": node, "labels": {
                    "topology.kubernetes.io/region": parts.next(),
                    "topology.kubernetes.io/zone": parts.next().unwrap_or_default(),
                    "topology.istio.io/subzone": parts.next().unwrap_or_default(),
                }},
            }));
        }
        objects.push(json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": endpoint["id"], "namespace": service["namespace"], "labels": endpoint["labels"]},
            "spec": {"containers": [], "nodeName": node},
            "status": {"phase": "Running", "podIP": endpoint["address"], "podIPs": [{"ip": endpoint["address"]}]},
        }));
    }
    let addresses: Vec<_> = endpoints
        .iter()
        .map(|endpoint| {
            json!({
                "addresses": [endpoint["address"]],
                "conditions": {"ready": true},
                "targetRef": {"kind": "Pod", "name": endpoint["id"], "namespace": service["namespace"]},
            })
        })
        .collect();
    let is_v6 = endpoints.iter().any(|it| text(&it["address"]).contains(':'));
    let family = if is_v6 { "IPv6" } else { "IPv4" };
    let slice_ports: Vec<_> =
        ports.iter().map(|port| json!({"name": port["name"], "port": port["targetPort"]})).collect();
    let mut slice = metadata(&format!("{name}-slice"));
    slice["labels"] = json!({"kubernetes.io/service-name": name});
    objects.push(json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": slice,
        "addressType": family, "endpoints": addresses, "ports": slice_ports,
    }));
    objects
}

/// Its node; one that has a locality and names none has one to itself.
fn node_name(endpoint: &Value) -> Option<String> {
    let own = || endpoint.get("locality").map(|_| format!("node-of-{}", text(&endpoint["id"])));
    endpoint.get("node").map(|node| text(node).to_owned()).or_else(own)
}

pub(crate) fn array<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value.get(key).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

pub(crate) fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
