//! JSON schemas for kubeconform, made of what a running API server publishes (`kubectl get --raw /openapi/v2`): of the kinds
//! that Kubernetes has and of the CRDs that are installed.
//!
//! They are strict: what the server would only warn about, a field that it does not know, is an error. The published document
//! says less than the CRDs (no `oneOf`, no CEL rules), and some types of Kubernetes itself as they are in Go and not as they
//! are written; those are in [`LOOSE`].

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Context as _;
use serde_json::{Map, Value, json};

/// kubeconform's template for the file of a kind. Its group of a core kind is `v1`.
pub const TEMPLATE: &str = "{{.Group}}_{{.ResourceAPIVersion}}_{{.ResourceKind}}.json";
const DEFINITIONS: &str = "#/definitions/";

/// Ends of definitions' names that are published as another type than they are written in, and what they may be.
const LOOSE: [(&str, &[&str]); 6] = [
    (".api.resource.Quantity", &["string", "number"]),
    (".util.intstr.IntOrString", &["string", "integer"]),
    // JSON of any kind, and schemas within schemas.
    (".JSON", &[]),
    (".JSONSchemaPropsOrBool", &[]),
    (".JSONSchemaPropsOrArray", &[]),
    (".JSONSchemaPropsOrStringArray", &[]),
];

/// A file for each kind, by its name.
///
/// # Errors
/// It is not such a document.
pub fn files(published: &Value) -> anyhow::Result<BTreeMap<String, Value>> {
    let definitions = published.get("definitions").and_then(Value::as_object);
    let definitions = definitions.context("there are no definitions in it")?;
    let all: Map<String, Value> =
        definitions.iter().map(|(name, schema)| (name.clone(), definition(name, schema))).collect();
    let mut files = BTreeMap::new();
    for (name, schema) in &all {
        // What is of several kinds, such as DeleteOptions, is not an object to apply.
        let [kind] = schema["x-kubernetes-group-version-kind"].as_array().map_or(&[][..], Vec::as_slice)
        else {
            continue;
        };
        let text = |key: &str| kind[key].as_str().unwrap_or_default();
        let (group, version, kind) = (text("group"), text("version"), text("kind"));
        let mut needed = BTreeSet::from([name.as_str()]);
        references(schema, &all, &mut needed);
        let mut own: Map<String, Value> =
            needed.iter().filter_map(|name| Some(((*name).to_owned(), all.get(*name)?.clone()))).collect();
        if let Some(properties) = own.get_mut(name).and_then(|it| it.get_mut("properties")) {
            let separator = if group.is_empty() { "" } else { "/" };
            properties["apiVersion"] = json!({"const": format!("{group}{separator}{version}")});
            properties["kind"] = json!({ "const": kind });
        }
        let group = if group.is_empty() { version } else { group };
        let file = format!("{group}_{version}_{}.json", kind.to_ascii_lowercase());
        files.insert(file, json!({"$ref": format!("{DEFINITIONS}{name}"), "definitions": own}));
    }
    Ok(files)
}

fn definition(name: &str, schema: &Value) -> Value {
    match LOOSE.iter().find(|(end, _)| name.ends_with(end)) {
        Some((_, types)) => any_of(types),
        None => strict(schema),
    }
}

fn any_of(types: &[&str]) -> Value {
    if types.is_empty() { json!({}) } else { json!({ "type": types }) }
}

/// The same, refusing unknown fields.
fn strict(schema: &Value) -> Value {
    let Some(fields) = schema.as_object() else {
        return schema.as_array().map_or_else(|| schema.clone(), |all| all.iter().map(strict).collect());
    };
    let is = |key: &str| fields.get(key) == Some(&Value::Bool(true));
    if is("x-kubernetes-int-or-string") || fields.get("format") == Some(&json!("int-or-string")) {
        return any_of(&["string", "integer"]);
    }
    let mut strict: Map<String, Value> = fields
        .iter()
        // Formats are Go's (int32, byte), which a validator does not know.
        .filter(|(key, value)| *key != "format" || !value.is_string())
        .map(|(key, value)| (key.clone(), if key == "properties" { each(value) } else { strict(value) }))
        .collect();
    let is_open = fields.contains_key("additionalProperties") || is("x-kubernetes-preserve-unknown-fields");
    if fields.contains_key("properties") && !is_open {
        strict.insert("additionalProperties".to_owned(), Value::Bool(false));
    }
    Value::Object(strict)
}

/// Below `properties` the keys are fields of the kind, whatever they are called.
fn each(properties: &Value) -> Value {
    let properties = properties.as_object().into_iter().flatten();
    properties.map(|(name, schema)| (name.clone(), strict(schema))).collect()
}

fn references<'a>(schema: &'a Value, all: &'a Map<String, Value>, found: &mut BTreeSet<&'a str>) {
    match schema {
        Value::Object(fields) => {
            let to = fields.get("$ref").and_then(Value::as_str).and_then(|it| it.strip_prefix(DEFINITIONS));
            if let Some(name) = to
                && found.insert(name)
                && let Some(schema) = all.get(name)
            {
                references(schema, all, found);
            }
            fields.values().for_each(|it| references(it, all, found));
        }
        Value::Array(items) => items.iter().for_each(|it| references(it, all, found)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn published() -> Value {
        json!({"definitions": {
            "io.k8s.api.core.v1.Thing": {
                "type": "object",
                "x-kubernetes-group-version-kind": [{"group": "", "version": "v1", "kind": "Thing"}],
                "properties": {
                    "apiVersion": {"type": "string"},
                    "kind": {"type": "string"},
                    "format": {"type": "string", "format": "byte"},
                    "size": {"$ref": "#/definitions/io.k8s.apimachinery.pkg.api.resource.Quantity"},
                    "parts": {"type": "array", "items": {"$ref": "#/definitions/io.example.Part"}},
                    "any": {"type": "object", "additionalProperties": {"type": "string"}},
                },
            },
            "io.example.Part": {"type": "object", "properties": {
                "port": {"x-kubernetes-int-or-string": true},
                "part": {"$ref": "#/definitions/io.example.Part"},
                "open": {"type": "object", "x-kubernetes-preserve-unknown-fields": true, "properties": {"a": {}}},
            }},
            "io.k8s.apimachinery.pkg.api.resource.Quantity": {"type": "string"},
            "io.k8s.Unused": {"type": "string"},
            "io.k8s.DeleteOptions": {"x-kubernetes-group-version-kind": [
                {"group": "a", "version": "v1", "kind": "DeleteOptions"}, {"group": "b", "version": "v1", "kind": "DeleteOptions"}]},
        }})
    }

    #[test]
    fn a_file_has_all_that_its_kind_needs_and_no_more() {
        let files = files(&published()).unwrap();
        assert_eq!(files.keys().collect::<Vec<_>>(), ["v1_v1_thing.json"]);
        let file = &files["v1_v1_thing.json"];
        assert_eq!(file["$ref"], "#/definitions/io.k8s.api.core.v1.Thing");
        let names: Vec<_> = file["definitions"].as_object().unwrap().keys().collect();
        assert_eq!(names.len(), 3, "{names:?}");
        assert!(!names.iter().any(|name| name.contains("Unused")), "{names:?}");
    }

    #[test]
    fn unknown_fields_are_refused_where_the_kind_is_closed_and_only_there() {
        let files = files(&published()).unwrap();
        let definitions = &files["v1_v1_thing.json"]["definitions"];
        let thing = &definitions["io.k8s.api.core.v1.Thing"];
        assert_eq!(thing["additionalProperties"], false);
        assert_eq!(thing["properties"]["any"]["additionalProperties"]["type"], "string");
        let part = &definitions["io.example.Part"];
        assert_eq!(part["additionalProperties"], false);
        assert!(part["properties"]["open"]["additionalProperties"].is_null());
    }

    #[test]
    fn types_are_those_that_one_writes_and_a_field_may_be_called_format() {
        let files = files(&published()).unwrap();
        let definitions = &files["v1_v1_thing.json"]["definitions"];
        let thing = &definitions["io.k8s.api.core.v1.Thing"]["properties"];
        assert_eq!(thing["format"], json!({"type": "string"}));
        assert_eq!(thing["apiVersion"], json!({"const": "v1"}));
        let quantity = &definitions["io.k8s.apimachinery.pkg.api.resource.Quantity"];
        assert_eq!(quantity["type"], json!(["string", "number"]));
        let part = &definitions["io.example.Part"]["properties"];
        assert_eq!(part["port"]["type"], json!(["string", "integer"]));
    }
}
