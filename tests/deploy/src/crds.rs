//! The CustomResourceDefinitions of Istio's kinds, as far as we read them.
//!
//! They let through and refuse what Istio's own do, so that an object can go from a cluster with one to a cluster with the
//! other. What only Istio's admission webhook refuses, we accept here too and say in a diagnostic: there is no webhook of ours
//! whose absence would stop a `kubectl apply`.

pub mod descriptions;
pub mod openapi;
pub mod rules;

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::{Value, json};
use undermesh_core::api::destination_rule::DestinationRule;
use undermesh_core::api::gateway::Gateway;
use undermesh_core::api::schema::Schema;
use undermesh_core::api::security::{AuthorizationPolicy, PeerAuthentication, RequestAuthentication};
use undermesh_core::api::service_entry::{ServiceEntry, WorkloadEntry};
use undermesh_core::api::sidecar::Sidecar;
use undermesh_core::api::virtual_service::VirtualService;

use descriptions::Descriptions;

/// A kind and what its CRD says beside the schema. Names and columns are Istio's; where Istio has no column, one that helps.
struct Kind {
    kind: &'static str,
    plural: &'static str,
    short: &'static str,
    group: &'static str,
    /// Name and path.
    columns: &'static [(&'static str, &'static str)],
    /// An object without a spec is refused.
    needs_spec: bool,
    spec: fn() -> Schema,
}

/// What became of an object, in a word; empty where nothing ever had to be said.
const VERDICT: &str = r#".status.conditions[?(@.type=="undermesh.io/InForce")].reason"#;
const NETWORKING: &str = "networking.istio.io";
const SECURITY: &str = "security.istio.io";

const KINDS: &[Kind] = &[
    Kind {
        kind: "VirtualService",
        plural: "virtualservices",
        short: "vs",
        group: NETWORKING,
        columns: &[("Gateways", ".spec.gateways"), ("Hosts", ".spec.hosts")],
        needs_spec: false,
        spec: Schema::of::<VirtualService>,
    },
    Kind {
        kind: "DestinationRule",
        plural: "destinationrules",
        short: "dr",
        group: NETWORKING,
        columns: &[("Host", ".spec.host")],
        needs_spec: false,
        spec: Schema::of::<DestinationRule>,
    },
    Kind {
        kind: "Gateway",
        plural: "gateways",
        short: "gw",
        group: NETWORKING,
        columns: &[("Selector", ".spec.selector")],
        needs_spec: false,
        spec: Schema::of::<Gateway>,
    },
    Kind {
        kind: "ServiceEntry",
        plural: "serviceentries",
        short: "se",
        group: NETWORKING,
        columns: &[
            ("Hosts", ".spec.hosts"),
            ("Location", ".spec.location"),
            ("Resolution", ".spec.resolution"),
        ],
        needs_spec: true,
        spec: Schema::of::<ServiceEntry>,
    },
    Kind {
        kind: "WorkloadEntry",
        plural: "workloadentries",
        short: "we",
        group: NETWORKING,
        columns: &[("Address", ".spec.address")],
        needs_spec: true,
        spec: Schema::of::<WorkloadEntry>,
    },
    Kind {
        kind: "Sidecar",
        plural: "sidecars",
        short: "",
        group: NETWORKING,
        columns: &[("Workloads", ".spec.workloadSelector.labels")],
        needs_spec: false,
        spec: Schema::of::<Sidecar>,
    },
    Kind {
        kind: "AuthorizationPolicy",
        plural: "authorizationpolicies",
        short: "ap",
        group: SECURITY,
        columns: &[("Action", ".spec.action")],
        needs_spec: false,
        spec: Schema::of::<AuthorizationPolicy>,
    },
    Kind {
        kind: "PeerAuthentication",
        plural: "peerauthentications",
        short: "pa",
        group: SECURITY,
        columns: &[("Mode", ".spec.mtls.mode")],
        needs_spec: false,
        spec: Schema::of::<PeerAuthentication>,
    },
    Kind {
        kind: "RequestAuthentication",
        plural: "requestauthentications",
        short: "ra",
        group: SECURITY,
        columns: &[],
        needs_spec: false,
        spec: Schema::of::<RequestAuthentication>,
    },
];

/// Every CRD, as text, by the name of its file (which is that of the CRD, with `.yaml`).
///
/// # Errors
/// The sources of the API cannot be read, or a rule names a field that is not there.
pub fn files() -> anyhow::Result<BTreeMap<String, String>> {
    let descriptions = Descriptions::read()?;
    KINDS
        .iter()
        .map(|kind| {
            let name = format!("{}.{}", kind.plural, kind.group);
            Ok((format!("{name}.yaml"), kind.file(&name, &descriptions)?))
        })
        .collect()
}

impl Kind {
    /// All versions have one schema. It is written once, and referred to by the others with YAML's own means: three copies
    /// would be three quarters of the chart.
    fn file(&self, name: &str, descriptions: &Descriptions) -> anyhow::Result<String> {
        let versions: &[&str] =
            if self.group == SECURITY { &["v1", "v1beta1"] } else { &["v1", "v1beta1", "v1alpha3"] };
        let head = json!({
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "metadata": {"name": name},
            "spec": {
                "group": self.group,
                "scope": "Namespaced",
                "names": self.names(),
            },
        });
        let mut text = String::from(
            "# Generated from undermesh-core's types: UPDATE_DOCS=1 cargo test -p undermesh-deploy --test crds\n",
        );
        text.push_str(&serde_yaml_ng::to_string(&head)?);
        text.push_str("  versions:\n");
        for (index, version) in versions.iter().enumerate() {
            writeln!(text, "  - name: {version}\n    served: true\n    storage: {}", index == 0)?;
            writeln!(text, "    subresources:\n      status: {{}}")?;
            let columns = serde_yaml_ng::to_string(&self.columns())?;
            writeln!(text, "    additionalPrinterColumns:\n{}", indented(&columns, 4))?;
            if index == 0 {
                let schema = json!({"openAPIV3Schema": self.schema(descriptions)?});
                let schema = serde_yaml_ng::to_string(&schema)?;
                writeln!(text, "    schema: &schema\n{}", indented(&schema, 6))?;
            } else {
                writeln!(text, "    schema: *schema")?;
            }
        }
        Ok(text)
    }

    fn names(&self) -> Value {
        let group = self.group.replace('.', "-");
        let mut names = json!({
            "kind": self.kind,
            "listKind": format!("{}List", self.kind),
            "plural": self.plural,
            "singular": self.kind.to_ascii_lowercase(),
            "categories": ["istio-io", group],
        });
        if !self.short.is_empty() {
            names["shortNames"] = json!([self.short]);
        }
        names
    }

    fn columns(&self) -> Value {
        let own =
            self.columns.iter().map(|(name, path)| json!({"name": name, "type": "string", "jsonPath": path}));
        let verdict = json!({"name": "Undermesh", "type": "string", "jsonPath": VERDICT});
        let age = json!({"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"});
        own.chain([verdict, age]).collect()
    }

    fn schema(&self, descriptions: &Descriptions) -> anyhow::Result<Value> {
        let mut schema = json!({
            "type": "object",
            "properties": {
                "spec": openapi::spec(self.kind, &(self.spec)(), descriptions)?,
                "status": openapi::status(),
            },
        });
        if self.needs_spec {
            schema["required"] = json!(["spec"]);
        }
        Ok(schema)
    }
}

/// Each line moved to the right, without the last line's end.
fn indented(text: &str, by: usize) -> String {
    let lines: Vec<_> = text.lines().map(|line| format!("{:by$}{line}", "")).collect();
    lines.join("\n")
}
