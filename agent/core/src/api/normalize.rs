//! From the JSON a user wrote to the JSON that our types take, with remarks on the way.
//!
//! * A field that does not exist is reported, with a hint, and taken out.
//! * `snake_case` names of protobuf fields, which proto JSON takes, become `camelCase`.
//! * A null field is an absent one. A null in a list or as a map's value is reported: leaving it out would widen a match.

use serde_json::{Map, Value};

use super::origin::{push_index, push_key};
use super::schema::Schema;
use super::spelling::nearest;

/// Something found on the way.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Finding {
    /// No such field, with advice (may be empty).
    Unknown(String),
    /// The protobuf name of this field.
    SnakeCase(&'static str),
    /// A null where a value must be.
    Null,
    /// A mapping or list where another shape (named here) must be. Serde by itself takes a list for a struct, field by
    /// field in the order of the declaration, and a mapping for an enum.
    Shape { found: &'static str, expected: &'static str },
}

/// Brings `value` into the form of `schema`. `path` is that of `value`; findings come with the path of theirs.
pub(super) fn normalize(
    value: &mut Value,
    schema: &Schema,
    path: &mut String,
    report: &mut impl FnMut(&str, Finding),
) {
    walk(value, schema, None, path, report);
}

fn walk(
    value: &mut Value,
    schema: &Schema,
    parent: Option<&Schema>,
    path: &mut String,
    report: &mut impl FnMut(&str, Finding),
) {
    let end = path.len();
    match (schema, value) {
        (Schema::Struct(_, fields), Value::Object(object)) => {
            let mut known = Map::new();
            for (key, mut value) in std::mem::take(object) {
                push_key(path, &key);
                if let Some((&name, field)) = fields.get_key_value(key.as_str()) {
                    if !value.is_null() {
                        walk(&mut value, field, Some(schema), path, report);
                        known.insert(name.to_owned(), value);
                    }
                } else if let Some((&name, field)) =
                    camel_case(&key).and_then(|key| fields.get_key_value(key.as_str()))
                {
                    report(path, Finding::SnakeCase(name));
                    if !value.is_null() && !known.contains_key(name) {
                        walk(&mut value, field, Some(schema), path, report);
                        known.insert(name.to_owned(), value);
                    }
                } else {
                    report(path, Finding::Unknown(advice(&key, fields.keys().copied(), parent)));
                }
                path.truncate(end);
            }
            *object = known;
        }
        (Schema::Map(inner), Value::Object(object)) => object.retain(|key, value| {
            push_key(path, key);
            let is_null = value.is_null();
            if is_null {
                report(path, Finding::Null);
            } else {
                walk(value, inner, None, path, report);
            }
            path.truncate(end);
            !is_null
        }),
        (Schema::List(inner), Value::Array(items)) => {
            for (index, item) in items.iter_mut().enumerate() {
                push_index(path, index);
                if item.is_null() {
                    report(path, Finding::Null);
                } else {
                    walk(item, inner, parent, path, report);
                }
                path.truncate(end);
            }
            items.retain(|item| !item.is_null());
        }
        (Schema::Struct(..), value @ Value::Array(_)) => {
            report(path, Finding::Shape { found: "a list", expected: "a mapping" });
            *value = Value::Object(Map::new());
        }
        (Schema::Leaf(_), value @ (Value::Array(_) | Value::Object(_))) => {
            let found = if value.is_array() { "a list" } else { "a mapping" };
            report(path, Finding::Shape { found, expected: "a single value" });
        }
        // A value of another type: deserialising will say so.
        _ => {}
    }
}

fn advice<'a>(key: &str, fields: impl Iterator<Item = &'a str>, parent: Option<&Schema>) -> String {
    if let Some(Schema::Struct(_, outer)) = parent
        && outer.contains_key(key)
    {
        return format!("{key:?} belongs one level up; check the indentation");
    }
    let fields: Vec<_> = fields.collect();
    match nearest(key, fields.iter().copied()) {
        Some(field) => format!("did you mean {field:?}?"),
        None if fields.is_empty() => String::new(),
        None => format!("fields here: {}", fields.join(", ")),
    }
}

fn camel_case(key: &str) -> Option<String> {
    if !key.contains('_') {
        return None;
    }
    let mut camel = String::with_capacity(key.len());
    let mut upper = false;
    for c in key.chars() {
        if c == '_' {
            upper = true;
        } else {
            camel.push(if upper { c.to_ascii_uppercase() } else { c });
            upper = false;
        }
    }
    Some(camel)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::api::virtual_service::VirtualService;

    fn run(mut value: Value) -> (Value, Vec<(String, Finding)>) {
        let mut findings = Vec::new();
        let mut path = "spec".to_owned();
        normalize(&mut value, &Schema::of::<VirtualService>(), &mut path, &mut |path, finding| {
            findings.push((path.to_owned(), finding));
        });
        assert_eq!(path, "spec");
        (value, findings)
    }

    #[test]
    fn unknown_fields_are_taken_out_with_advice() {
        let (value, findings) =
            run(json!({"hosts": ["a"], "http": [{"timeoutt": "1s", "banana": 1}], "x.y": 1}));
        assert_eq!(value, json!({"hosts": ["a"], "http": [{}]}));
        let unknown: Vec<_> = findings.iter().map(|(path, _)| path.as_str()).collect();
        assert_eq!(unknown, ["spec.http[0].banana", "spec.http[0].timeoutt", "spec[\"x.y\"]"]);
        assert_eq!(findings[1].1, Finding::Unknown("did you mean \"timeout\"?".into()));
    }

    #[test]
    fn a_field_of_the_parent_is_an_indentation_error() {
        let (_, findings) = run(json!({"http": [{"route": [{"destination": {"host": "a", "weight": 1}}]}]}));
        let advice = "\"weight\" belongs one level up; check the indentation".to_owned();
        assert_eq!(findings, [("spec.http[0].route[0].destination.weight".into(), Finding::Unknown(advice))]);
    }

    #[test]
    fn protobuf_names_are_taken() {
        let (value, findings) =
            run(json!({"export_to": ["."], "http": [{"direct_response": {"status": 200}}]}));
        assert_eq!(value, json!({"exportTo": ["."], "http": [{"directResponse": {"status": 200}}]}));
        assert_eq!(findings.len(), 2);
        assert_eq!(findings[0], ("spec.export_to".into(), Finding::SnakeCase("exportTo")));
    }

    #[test]
    fn a_null_field_is_absent_but_a_null_condition_is_reported() {
        let (value, findings) =
            run(json!({"http": [{"match": [{"uri": null, "headers": {"x": null}}, null]}]}));
        assert_eq!(value, json!({"http": [{"match": [{"headers": {}}]}]}));
        assert_eq!(
            findings,
            [
                ("spec.http[0].match[0].headers.x".into(), Finding::Null),
                ("spec.http[0].match[1]".into(), Finding::Null)
            ]
        );
    }

    #[test]
    fn lists_are_no_structs_and_mappings_no_enums() {
        let list = Finding::Shape { found: "a list", expected: "a mapping" };
        let (_, findings) =
            run(json!({"http": [{"match": [["name"]], "redirect": {"derivePort": {"X": null}}}]}));
        let mapping = Finding::Shape { found: "a mapping", expected: "a single value" };
        assert_eq!(
            findings,
            [("spec.http[0].match[0]".into(), list), ("spec.http[0].redirect.derivePort".into(), mapping)]
        );
    }

    #[test]
    fn values_of_other_types_are_left_to_deserialising() {
        let value = json!({"hosts": "a", "http": {"x": 1}, "tls": [1], "tcp": 1});
        assert_eq!(run(value.clone()), (value, vec![]));
    }
}
