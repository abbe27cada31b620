//! From JSON to [`Object`]: which kind it is, its metadata, its content, and what is wrong with it.
//!
//! An Istio object with a field that does not exist, or of the wrong type, is refused as a whole, as Kubernetes' strict
//! validation does: leaving out one condition could send traffic to the wrong place. Of Kubernetes objects we read a few
//! fields and leave the rest alone.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use serde::Deserialize;
use serde_json::{Map, Value};

use super::kubernetes::{Raw, RawEndpointSlice, RawNamespace, RawNode, RawPod, RawService};
use super::meta::{Kinded, Labels, ObjectMeta, Resource};
use super::names::{is_dns_label, is_dns_subdomain};
use super::normalize::{Finding, normalize};
use super::origin::{Origin, push_index, push_key};
use super::schema::Schema;
use super::spelling::nearest;
use super::{Object, mesh_config::MeshConfig};
use crate::coverage::{self, Coverage, Uncovered};
use crate::diagnostic::{Code, Diagnostic, Severity};
use crate::inventory::{EndpointSlice, Namespace, Node, Pod, Service};

/// The result of [`parse`].
#[derive(Debug, Clone, PartialEq)]
pub struct Parsed {
    /// The object; `None` if it is refused or of a kind that we do not read.
    pub object: Option<Object>,
    /// The kind and key, if they could be read: what a last good version is found by. `None` also for kinds that mean
    /// nothing to us.
    pub identity: Option<Identity>,
    /// All that is to be said. With an error among them there is no object, but for [`Code::Refused`]: then the object is in
    /// force, as it is what keeps traffic from going where it must not.
    pub diagnostics: Vec<Diagnostic>,
}

impl Parsed {
    /// Adds what admission has to say ([`super::validate`]), and takes the object out if that has an error.
    pub fn validated(mut self) -> Self {
        if let Some(object) = &self.object {
            self.diagnostics.extend(super::validate(object));
        }
        self.without_refused()
    }

    fn without_refused(mut self) -> Self {
        if self.diagnostics.iter().any(|said| said.is_error() && said.code != Code::Refused) {
            self.object = None;
        }
        self
    }
}

/// Which object a document is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Identity {
    /// As [`Object::kind`].
    pub kind: &'static str,
    /// Namespace and name.
    pub key: super::meta::Key,
}

/// Reads one object, and says which of its fields are not enforced ([`crate::coverage`]). Never panics, whatever `value`
/// holds.
pub fn parse(value: Value, origin: Origin) -> Parsed {
    let mut reader = Reader { origin: Arc::new(origin), head: Head::default(), diagnostics: Vec::new() };
    let (identity, object) = reader.read(value);
    Parsed { object, identity, diagnostics: reader.diagnostics }.without_refused()
}

/// Reads mesh settings: the YAML inside the ConfigMap `istio`, as JSON. `meta` and the file of `origin` are the ConfigMap's;
/// the lines are those of the settings.
pub fn parse_mesh_config(value: Value, meta: &ObjectMeta, origin: Origin) -> Parsed {
    let head = Head { kind: MeshConfig::KIND.into(), meta: meta.clone() };
    let mut reader = Reader { origin: Arc::new(origin), head, diagnostics: Vec::new() };
    let identity = Identity { kind: MeshConfig::KIND, key: meta.key() };
    let spec = match value {
        Value::Null => Some(MeshConfig::default()),
        value => reader.typed::<MeshConfig>(value, schema_of_mesh_config(), "", Strictness::Mesh),
    };
    let object = spec.map(|spec| Object::MeshConfig(Arc::new(reader.resource(spec))));
    Parsed { object, identity: Some(identity), diagnostics: reader.diagnostics }.without_refused()
}

/// Where Istio keeps its mesh settings: the namespace, name and key of the ConfigMap.
pub const MESH_CONFIG_MAP: (&str, &str, &str) = ("istio-system", "istio", "mesh");

#[derive(Default)]
struct Head {
    kind: String,
    meta: ObjectMeta,
}

struct Reader {
    origin: Arc<Origin>,
    head: Head,
    diagnostics: Vec<Diagnostic>,
}

/// What an unknown field means.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Strictness {
    /// Istio: the object is refused.
    Istio,
    /// Mesh settings: it has no effect here.
    Mesh,
    /// Kubernetes: not our business.
    Kubernetes,
}

const VERSIONS: [&str; 3] = ["v1", "v1beta1", "v1alpha3"];

/// Fields of `ObjectMeta` in the API, for spelling.
const META_FIELDS: [&str; 16] = [
    "name",
    "generateName",
    "namespace",
    "selfLink",
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "labels",
    "annotations",
    "ownerReferences",
    "finalizers",
    "managedFields",
    "clusterName",
];

macro_rules! istio {
    ($reader:expr, $value:expr, $variant:ident) => {{
        static SCHEMA: OnceLock<Schema> = OnceLock::new();
        type Spec = super::$variant;
        let identity = $reader.identity::<Spec>();
        let spec = $reader.istio::<Spec>($value, SCHEMA.get_or_init(Schema::of::<Spec>));
        (identity, spec.map(|spec| Object::$variant(Arc::new($reader.resource(spec)))))
    }};
}

macro_rules! kubernetes {
    ($reader:expr, $value:expr, $raw:ty, $variant:ident) => {{
        static SCHEMA: OnceLock<Schema> = OnceLock::new();
        let identity = $reader.identity::<$variant>();
        let kept = $reader.kubernetes::<$raw>($value, SCHEMA.get_or_init(Schema::of::<$raw>));
        (identity, kept.map(|kept| Object::$variant(Arc::new($reader.shallow(kept)))))
    }};
}

fn schema_of_mesh_config() -> &'static Schema {
    static SCHEMA: OnceLock<Schema> = OnceLock::new();
    SCHEMA.get_or_init(Schema::of::<MeshConfig>)
}

impl Reader {
    fn read(&mut self, value: Value) -> (Option<Identity>, Option<Object>) {
        let Value::Object(mut object) = value else {
            self.error(
                Code::NotAnObject,
                "",
                "not a Kubernetes object",
                "start with apiVersion, kind, metadata and spec",
            );
            return (None, None);
        };
        let Some(kind) = self.text(&object, "kind") else { return (None, None) };
        self.head.kind = kind;
        let Some(api_version) = self.text(&object, "apiVersion") else { return (None, None) };
        if !self.read_meta(&mut object) {
            return (None, None);
        }
        let (group, version) = api_version.rsplit_once('/').unwrap_or(("", &api_version));
        let kind = self.head.kind.clone();
        let value = Value::Object(object);
        match (group, version, kind.as_str()) {
            ("networking.istio.io", version, kind) => self.read_istio(kind, version, value),
            ("security.istio.io", version, kind) => self.read_security(kind, version, value),
            (group, ..) if group.ends_with("istio.io") || group == "gateway.networking.k8s.io" => {
                let message = format!("{api_version} {kind} is not read: it has no effect here");
                self.say(Severity::Warning, Code::UnknownKind, "kind", message, "");
                (None, None)
            }
            ("", "v1", "Service") => kubernetes!(self, value, RawService, Service),
            ("", "v1", "Pod") => kubernetes!(self, value, RawPod, Pod),
            ("", "v1", "Node") => {
                self.head.meta.namespace = Arc::default();
                kubernetes!(self, value, RawNode, Node)
            }
            ("", "v1", "Namespace") => {
                self.head.meta.namespace = Arc::default();
                kubernetes!(self, value, RawNamespace, Namespace)
            }
            ("discovery.k8s.io", "v1", "EndpointSlice") => {
                kubernetes!(self, value, RawEndpointSlice, EndpointSlice)
            }
            (
                _,
                _,
                kind @ ("VirtualService" | "DestinationRule" | "ServiceEntry" | "WorkloadEntry" | "Sidecar"),
            ) => {
                let message = format!("there is no {kind} in {api_version}");
                self.error(
                    Code::UnsupportedApiVersion,
                    "apiVersion",
                    message,
                    "write networking.istio.io/v1",
                );
                (None, None)
            }
            // Deployments, ConfigMaps, roles: nothing that routing has to know of.
            _ => (None, None),
        }
    }

    fn read_istio(&mut self, kind: &str, version: &str, value: Value) -> (Option<Identity>, Option<Object>) {
        const KINDS: [&str; 6] =
            ["VirtualService", "DestinationRule", "Gateway", "ServiceEntry", "WorkloadEntry", "Sidecar"];
        const NOT_READ: [&str; 3] = ["WorkloadGroup", "EnvoyFilter", "ProxyConfig"];
        if NOT_READ.contains(&kind) {
            let message = match kind {
                "EnvoyFilter" => {
                    "EnvoyFilter patches Envoy's own configuration, which does not exist here: no effect"
                        .into()
                }
                _ => format!("{kind} is not read: it has no effect here"),
            };
            self.say(Severity::Warning, Code::UnknownKind, "kind", message, "");
            return (None, None);
        }
        if !VERSIONS.contains(&version) {
            let message = format!("networking.istio.io has no version {version:?}");
            let hint = format!("known versions: {}", VERSIONS.join(", "));
            self.error(Code::UnsupportedApiVersion, "apiVersion", message, hint);
        }
        match kind {
            "VirtualService" => istio!(self, value, VirtualService),
            "DestinationRule" => istio!(self, value, DestinationRule),
            "Gateway" => istio!(self, value, Gateway),
            "ServiceEntry" => istio!(self, value, ServiceEntry),
            "WorkloadEntry" => istio!(self, value, WorkloadEntry),
            "Sidecar" => istio!(self, value, Sidecar),
            _ => {
                let message = format!("networking.istio.io has no kind {kind:?}");
                let hint =
                    nearest(kind, KINDS).map(|kind| format!("did you mean {kind:?}?")).unwrap_or_default();
                self.error(Code::UnknownKind, "kind", message, hint);
                (None, None)
            }
        }
    }

    /// Access rules that nobody enforces are worse than none: the coverage tables refuse them aloud, so that `check` fails.
    fn read_security(
        &mut self,
        kind: &str,
        version: &str,
        value: Value,
    ) -> (Option<Identity>, Option<Object>) {
        const KINDS: [&str; 3] = ["AuthorizationPolicy", "PeerAuthentication", "RequestAuthentication"];
        const VERSIONS: [&str; 2] = ["v1", "v1beta1"];
        if !VERSIONS.contains(&version) {
            let message = format!("security.istio.io has no version {version:?}");
            let hint = format!("known versions: {}", VERSIONS.join(", "));
            self.error(Code::UnsupportedApiVersion, "apiVersion", message, hint);
        }
        match kind {
            "AuthorizationPolicy" => istio!(self, value, AuthorizationPolicy),
            "PeerAuthentication" => istio!(self, value, PeerAuthentication),
            "RequestAuthentication" => istio!(self, value, RequestAuthentication),
            _ => {
                let message = format!("security.istio.io has no kind {kind:?}");
                let hint =
                    nearest(kind, KINDS).map(|kind| format!("did you mean {kind:?}?")).unwrap_or_default();
                self.error(Code::UnknownKind, "kind", message, hint);
                (None, None)
            }
        }
    }

    /// The text at `field` of the object, or a diagnostic.
    fn text(&mut self, object: &Map<String, Value>, field: &str) -> Option<String> {
        match object.get(field) {
            Some(Value::String(text)) if !text.is_empty() => Some(text.clone()),
            None | Some(Value::Null | Value::String(_)) => {
                self.error(Code::NotAnObject, field, format!("{field} is missing"), "");
                None
            }
            Some(_) => {
                self.error(Code::WrongType, field, format!("{field} must be a string"), "");
                None
            }
        }
    }

    /// Whether there is metadata to go on with.
    fn read_meta(&mut self, object: &mut Map<String, Value>) -> bool {
        let metadata = match object.get("metadata") {
            Some(Value::Object(metadata)) => metadata.clone(),
            None | Some(Value::Null) => Map::new(),
            Some(_) => {
                self.error(Code::WrongType, "metadata", "metadata must be a mapping", "");
                return false;
            }
        };
        let Some(name) = self.meta_text(&metadata, "name") else { return false };
        let Some(namespace) = self.meta_text(&metadata, "namespace") else { return false };
        if name.is_empty() {
            let message = format!("{} has no metadata.name", self.head.kind);
            self.error(Code::NotAnObject, "metadata.name", message, "");
            return false;
        }
        self.head.meta.name = name.into();
        self.head.meta.namespace = if namespace.is_empty() { "default".into() } else { namespace.into() };
        self.head.meta.labels = self.meta_map(&metadata, "labels").into();
        self.head.meta.annotations = self.meta_map(&metadata, "annotations");
        if let Some(time) = self.meta_text(&metadata, "creationTimestamp").filter(|time| !time.is_empty()) {
            match time.parse() {
                Ok(time) => self.head.meta.creation_timestamp = Some(time),
                Err(error) => {
                    self.error(
                        Code::WrongType,
                        "metadata.creationTimestamp",
                        format!("{time:?}: {error}"),
                        "",
                    );
                }
            }
        }
        true
    }

    fn meta_text(&mut self, metadata: &Map<String, Value>, field: &str) -> Option<String> {
        match metadata.get(field) {
            None | Some(Value::Null) => Some(String::new()),
            Some(Value::String(text)) => Some(text.clone()),
            Some(_) => {
                let field = format!("metadata.{field}");
                let message = format!("{field} must be a string");
                self.error(Code::WrongType, &field, message, "put it in quotes");
                None
            }
        }
    }

    fn meta_map(&mut self, metadata: &Map<String, Value>, field: &str) -> BTreeMap<String, String> {
        let path = format!("metadata.{field}");
        match metadata.get(field) {
            None | Some(Value::Null) => BTreeMap::new(),
            Some(Value::Object(entries)) => {
                let mut map = BTreeMap::new();
                for (key, value) in entries {
                    if let Value::String(value) = value {
                        map.insert(key.clone(), value.clone());
                        continue;
                    }
                    let mut path = path.clone();
                    push_key(&mut path, key);
                    self.error(
                        Code::WrongType,
                        &path,
                        format!("{field} values must be strings"),
                        "put it in quotes",
                    );
                }
                map
            }
            Some(_) => {
                self.error(Code::WrongType, &path, format!("{path} must be a mapping"), "");
                BTreeMap::new()
            }
        }
    }

    fn istio<T: for<'de> Deserialize<'de>>(&mut self, value: Value, schema: &Schema) -> Option<T> {
        let Value::Object(mut object) = value else { return None };
        self.check_names();
        const TOP: [&str; 5] = ["apiVersion", "kind", "metadata", "spec", "status"];
        let metadata = object.get("metadata").and_then(Value::as_object);
        let wrong_meta: Vec<_> = metadata
            .into_iter()
            .flat_map(Map::keys)
            .filter(|key| !META_FIELDS.contains(&key.as_str()))
            .cloned()
            .collect();
        for key in wrong_meta {
            self.unknown("metadata", &key, &META_FIELDS);
        }
        for key in object.keys().filter(|key| !TOP.contains(&key.as_str())).cloned().collect::<Vec<_>>() {
            self.unknown("", &key, &TOP);
        }
        let spec =
            object.remove("spec").filter(|spec| !spec.is_null()).unwrap_or_else(|| Value::Object(Map::new()));
        self.typed(spec, schema, "spec", Strictness::Istio)
    }

    fn unknown(&mut self, parent: &str, key: &str, known: &[&str]) {
        let mut path = parent.to_owned();
        push_key(&mut path, key);
        let hint = nearest(key, known.iter().copied()).map(|field| format!("did you mean {field:?}?"));
        self.error(Code::UnknownField, &path, format!("unknown field {key:?}"), hint.unwrap_or_default());
    }

    fn check_names(&mut self) {
        let ObjectMeta { name, namespace, .. } = &self.head.meta;
        let hint = "lower-case letters, digits and '-'";
        let mut wrong = Vec::new();
        if !is_dns_subdomain(name) {
            wrong.push(("metadata.name", format!("Kubernetes would refuse the name {name:?}")));
        }
        if !is_dns_label(namespace) {
            wrong
                .push(("metadata.namespace", format!("Kubernetes would refuse the namespace {namespace:?}")));
        }
        for (field, message) in wrong {
            self.say(Severity::Warning, Code::InvalidName, field, message, hint);
        }
    }

    fn kubernetes<R: Raw>(&mut self, value: Value, schema: &Schema) -> Option<R::Kept> {
        let raw: R = self.typed(value, schema, "", Strictness::Kubernetes)?;
        match raw.keep(&self.head.meta) {
            Ok(kept) => {
                if !R::KEEPS_LABELS {
                    self.head.meta.labels = Labels::default();
                }
                Some(kept)
            }
            Err(unfit) => {
                self.error(Code::InvalidKubernetesField, &unfit.field, unfit.message, "");
                None
            }
        }
    }

    fn typed<T: for<'de> Deserialize<'de>>(
        &mut self,
        mut value: Value,
        schema: &Schema,
        root: &str,
        strictness: Strictness,
    ) -> Option<T> {
        let mut findings = Vec::new();
        let mut path = root.to_owned();
        normalize(&mut value, schema, &mut path, &mut |path, finding| {
            findings.push((path.to_owned(), finding));
        });
        let is_misshapen = findings.iter().any(|(_, finding)| matches!(finding, Finding::Shape { .. }));
        for (path, finding) in findings {
            match (strictness, finding) {
                (_, Finding::Shape { found, expected }) => {
                    self.error(
                        Code::WrongType,
                        &path,
                        format!("invalid type: {found}, expected {expected}"),
                        "",
                    );
                }
                (Strictness::Kubernetes, _) | (Strictness::Mesh, Finding::SnakeCase(_)) => {}
                (Strictness::Istio, Finding::Unknown(hint)) => {
                    self.error(
                        Code::UnknownField,
                        &path,
                        format!("unknown field {:?}", last_key(&path)),
                        hint,
                    );
                }
                (Strictness::Mesh, Finding::Unknown(_)) => {
                    let message = "this mesh setting is not read: it has no effect here";
                    self.say(Severity::Warning, Code::UnreadMeshSetting, &path, message, "");
                }
                (_, Finding::Null) => {
                    self.error(
                        Code::NullValue,
                        &path,
                        "must not be null",
                        "give it a value, or leave it out",
                    );
                }
                (Strictness::Istio, Finding::SnakeCase(name)) => {
                    let message = "protobuf spelling of a field name, which Kubernetes does not know";
                    self.say(
                        Severity::Warning,
                        Code::SnakeCaseField,
                        &path,
                        message,
                        format!("write {name:?}"),
                    );
                }
            }
        }
        if is_misshapen {
            return None;
        }
        let kind = match strictness {
            Strictness::Istio => self.head.kind.as_str(),
            Strictness::Mesh => coverage::MESH_CONFIG,
            Strictness::Kubernetes => "",
        };
        let uncovered = coverage::uncovered(kind, &value, schema);
        match serde_path_to_error::deserialize(value) {
            Ok(typed) => {
                for found in uncovered {
                    self.say_uncovered(root, &found);
                }
                Some(typed)
            }
            Err(error) => {
                let mut path = root.to_owned();
                push_segments(&mut path, error.path());
                let (message, hint) = explain(&error.inner().to_string());
                self.error(Code::WrongType, &path, message, hint);
                None
            }
        }
    }

    fn say_uncovered(&mut self, root: &str, found: &Uncovered) {
        let field = match (root.is_empty(), found.path.is_empty()) {
            (true, _) => found.path.clone(),
            (_, true) => root.to_owned(),
            _ => format!("{root}.{}", found.path),
        };
        match found.coverage {
            Coverage::Enforced => {}
            Coverage::Warned(why) => self.say(Severity::Warning, Code::NotEnforced, &field, why, ""),
            Coverage::Refused(why) => self.error(Code::Refused, &field, why, ""),
        }
    }

    fn identity<T: Kinded>(&self) -> Option<Identity> {
        Some(Identity { kind: T::KIND, key: self.head.meta.key() })
    }

    fn resource<T>(&mut self, spec: T) -> Resource<T> {
        Resource { meta: std::mem::take(&mut self.head.meta), spec, origin: Arc::clone(&self.origin) }
    }

    /// Of Kubernetes objects there are thousands, and compile has little to say about them: their fields' lines go, and
    /// annotations that are others' business, of which some are larger than the object.
    fn shallow<T>(&mut self, spec: T) -> Resource<T> {
        let origin = Arc::new(self.origin.shallow());
        let mut meta = std::mem::take(&mut self.head.meta);
        let is_ours = |key: &str| {
            let domain = key.split_once('/').map_or("", |(domain, _)| domain);
            domain.ends_with("istio.io") || domain.ends_with("undermesh.io")
        };
        // Collected anew: a map that has become empty keeps the memory of its entries.
        meta.annotations =
            std::mem::take(&mut meta.annotations).into_iter().filter(|(key, _)| is_ours(key)).collect();
        Resource { meta, spec, origin }
    }

    fn error(&mut self, code: Code, field: &str, message: impl Into<String>, hint: impl Into<String>) {
        self.say(Severity::Error, code, field, message, hint);
    }

    fn say(
        &mut self,
        severity: Severity,
        code: Code,
        field: &str,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) {
        self.diagnostics.push(Diagnostic {
            severity,
            code,
            kind: self.head.kind.clone(),
            namespace: self.head.meta.namespace.to_string(),
            name: self.head.meta.name.to_string(),
            field: field.to_owned(),
            file: self.origin.file().map(str::to_owned),
            line: self.origin.line(field),
            message: message.into(),
            hint: hint.into(),
        });
    }
}

fn last_key(path: &str) -> &str {
    path.rsplit_once('.').map_or(path, |(_, key)| key)
}

fn push_segments(path: &mut String, segments: &serde_path_to_error::Path) {
    use serde_path_to_error::Segment;
    for segment in segments {
        match segment {
            Segment::Map { key } => push_key(path, key),
            Segment::Seq { index } => push_index(path, *index),
            Segment::Enum { .. } | Segment::Unknown => {}
        }
    }
}

/// Rust's names of types mean nothing to the author of a YAML file.
fn explain(error: &str) -> (String, &'static str) {
    let Some((what, expected)) = error.rsplit_once(", expected ") else { return (error.to_owned(), "") };
    let plain = match expected {
        "u32" => "a whole number from 0 to 4294967295",
        "u64" | "i64" | "i32" => "a whole number",
        "f64" => "a number",
        "a boolean" => "true or false",
        "a string" => "a string",
        "a map" => "a mapping",
        "a sequence" => "a list",
        other if other.starts_with("struct ") => "a mapping",
        other => other,
    };
    let hint = match (what.starts_with("invalid type: string"), plain) {
        (true, "a number" | "a whole number" | "a whole number from 0 to 4294967295" | "true or false")
            if is_quoted_plain(what) =>
        {
            "write it without quotes"
        }
        (true, "a list") => "begin the line with '- '",
        (false, "a string") => "put it in quotes",
        _ => "",
    };
    (format!("{what}, expected {plain}"), hint)
}

/// Whether the string of a message `invalid type: string "..."` would be something else without its quotes.
fn is_quoted_plain(what: &str) -> bool {
    let text = what.split_once('"').and_then(|(_, rest)| rest.strip_suffix('"')).unwrap_or_default();
    text.parse::<f64>().is_ok() || matches!(text, "true" | "false")
}

#[cfg(test)]
#[path = "parse/tests.rs"]
mod tests;
