//! From the recorded shape of a type to a structural OpenAPI v3 schema.

use anyhow::{Context as _, bail, ensure};
use serde_json::{Map, Value, json};
use undermesh_core::api::schema::{Scalar, Schema};

use super::descriptions::Descriptions;
use super::rules;

/// The schema of the spec of `kind`.
///
/// # Errors
/// A rule is not of the form that its place needs.
pub fn spec(kind: &str, schema: &Schema, descriptions: &Descriptions) -> anyhow::Result<Value> {
    Walk { descriptions }.value(kind, schema)
}

/// The status: Istio's conditions and messages, and what else a controller writes there.
#[must_use]
pub fn status() -> Value {
    let number_or_text =
        json!({"anyOf": [{"type": "integer"}, {"type": "string"}], "x-kubernetes-int-or-string": true});
    let time = json!({"type": "string", "format": "date-time"});
    json!({
        "type": "object",
        "x-kubernetes-preserve-unknown-fields": true,
        "properties": {
            "observedGeneration": number_or_text,
            "conditions": {"type": "array", "items": {"type": "object", "properties": {
                "type": {"type": "string"},
                "status": {"type": "string"},
                "reason": {"type": "string"},
                "message": {"type": "string"},
                "lastProbeTime": time,
                "lastTransitionTime": time,
                "observedGeneration": number_or_text,
            }}},
            "validationMessages": {"type": "array", "items": {"type": "object", "properties": {
                "documentationUrl": {"type": "string"},
                "level": {"type": "string", "enum": ["UNKNOWN", "ERROR", "WARNING", "INFO"]},
                "type": {"type": "object", "properties": {
                    "code": {"type": "string"},
                    "name": {"type": "string"},
                }},
            }}},
        },
    })
}

struct Walk<'a> {
    descriptions: &'a Descriptions,
}

impl Walk<'_> {
    /// `path` is `Kind.field[].field`.
    fn value(&self, path: &str, schema: &Schema) -> anyhow::Result<Value> {
        let mut value = match schema {
            Schema::Leaf(scalar) => of_scalar(*scalar),
            Schema::List(item) => {
                json!({"type": "array", "items": self.value(&format!("{path}[]"), item)?})
            }
            Schema::Map(inner) => {
                let inner = self.value(&format!("{path}{{}}"), inner)?;
                json!({"type": "object", "additionalProperties": inner})
            }
            Schema::Struct(name, fields) => {
                let mut properties = Map::new();
                for (field, schema) in fields {
                    let path = format!("{path}.{field}");
                    let mut value = self.value(&path, schema)?;
                    if let Some(text) = self.descriptions.of(name, field)
                        && let Some(value) = value.as_object_mut()
                    {
                        value.insert("description".to_owned(), text.into());
                    }
                    if let Some(other) = rules::other_name(&path) {
                        properties.insert(other.to_owned(), value.clone());
                    }
                    properties.insert((*field).to_owned(), value);
                }
                json!({"type": "object", "properties": properties})
            }
        };
        for rule in rules::of(path) {
            let rule: Map<String, Value> =
                serde_json::from_str(rule).with_context(|| format!("the rule of {path}: {rule}"))?;
            let value = value.as_object_mut().context("a schema is an object")?;
            for (key, rule) in rule {
                if rule.is_null() {
                    ensure!(value.remove(&key).is_some(), "{path}: there is no {key} to take away");
                    continue;
                }
                let is_narrower = matches!(key.as_str(), "minimum" | "maximum" | "enum");
                match (value.get_mut(&key), rule) {
                    (Some(Value::Array(have)), Value::Array(more)) if !is_narrower => have.extend(more),
                    (Some(_), _) if !is_narrower => bail!("{path}: {key} twice"),
                    (_, rule) => {
                        value.insert(key, rule);
                    }
                }
            }
        }
        Ok(value)
    }
}

fn of_scalar(scalar: Scalar) -> Value {
    match scalar {
        Scalar::Any => json!({"x-kubernetes-preserve-unknown-fields": true}),
        Scalar::Bool => json!({"type": "boolean"}),
        Scalar::Integer { min, .. } if min == i64::from(i32::MIN) => {
            json!({"type": "integer", "format": "int32"})
        }
        // Beyond 2^63 an API server has no numbers.
        Scalar::Integer { min, max } if max > i64::MAX.unsigned_abs() => {
            json!({"type": "integer", "minimum": min})
        }
        Scalar::Integer { min, max } => json!({"type": "integer", "minimum": min, "maximum": max}),
        Scalar::Number => json!({"type": "number", "format": "double"}),
        Scalar::Text => json!({"type": "string"}),
        Scalar::Duration => json!({
            "type": "string",
            "x-kubernetes-validations": [{
                "rule": "duration(self) >= duration('1ms')",
                "message": "must be a valid duration greater than 1ms",
            }],
        }),
        Scalar::Enum(words) => json!({"type": "string", "enum": words}),
    }
}
