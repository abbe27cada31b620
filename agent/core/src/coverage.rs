//! Which fields we act on: each field of each kind is enforced, refused or warned about; none is ignored in silence.
//!
//! One table per kind ([`table`]). A test asks the types themselves for their fields and fails if one is missing here, so a
//! new field cannot be added without an answer. What is refused or warned about covers all below it; what is enforced is
//! only the field itself.
//!
//! *Refused* means: to act without it would be unsafe, so what it is about gets no traffic (`compile` sees to that), and
//! `check` fails. *Warned* means: traffic goes as if it were not there.

use serde::Serialize;
use serde_json::Value;

use crate::api::destination_rule::DestinationRule;
use crate::api::gateway::Gateway;
use crate::api::mesh_config::MeshConfig;
use crate::api::meta::Kinded;
use crate::api::origin::{push_index, push_key};
use crate::api::schema::Schema;
use crate::api::security::{AuthorizationPolicy, PeerAuthentication, RequestAuthentication};
use crate::api::service_entry::{ServiceEntry, WorkloadEntry};
use crate::api::sidecar::Sidecar;
use crate::api::virtual_service::VirtualService;

mod table;

/// What we do about a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coverage {
    /// It does what Istio says it does.
    Enforced,
    /// It has no effect here, for this reason.
    Warned(&'static str),
    /// What it is about gets no traffic, for this reason.
    Refused(&'static str),
}

/// A field that is written and not enforced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Uncovered {
    /// Its path below the content: `http[0].mirror`.
    pub(crate) path: String,
    pub(crate) coverage: Coverage,
}

/// The fields of `value` (in the form that [`Schema`] describes) that are not enforced. Of several in one mapping with the
/// same reason, the first.
pub(crate) fn uncovered(kind: &str, value: &Value, schema: &Schema) -> Vec<Uncovered> {
    let mut walk = Walk { kind, pattern: String::new(), path: String::new(), found: Vec::new() };
    walk.value(value, schema);
    // The answer for the object as such is said once, and not beside a graver one about a field.
    let whole = table::of_kind(kind);
    walk.found.retain(|one| one.coverage != whole);
    let is_refused = walk.found.iter().any(|one| matches!(one.coverage, Coverage::Refused(_)));
    if whole != Coverage::Enforced && !is_refused {
        walk.found.insert(0, Uncovered { path: String::new(), coverage: whole });
    }
    walk.found
}

struct Walk<'a> {
    kind: &'a str,
    /// `http[].route[].weight`
    pattern: String,
    /// `http[0].route[1].weight`
    path: String,
    found: Vec<Uncovered>,
}

impl Walk<'_> {
    fn value(&mut self, value: &Value, schema: &Schema) {
        match (schema, value) {
            (Schema::Struct(_, fields), Value::Object(object)) => {
                let mut said: Vec<Coverage> = Vec::new();
                for (name, value) in object {
                    let Some(field) = fields.get(name.as_str()).filter(|_| !is_default(value)) else {
                        continue;
                    };
                    let ends = (self.pattern.len(), self.path.len());
                    if !self.pattern.is_empty() {
                        self.pattern.push('.');
                    }
                    self.pattern.push_str(name);
                    push_key(&mut self.path, name);
                    match of_value(self.kind, &self.pattern, value) {
                        Some(Coverage::Enforced) | None => self.value(value, field),
                        Some(coverage) if said.contains(&coverage) => {}
                        Some(coverage) => {
                            said.push(coverage);
                            self.found.push(Uncovered { path: self.path.clone(), coverage });
                        }
                    }
                    self.pattern.truncate(ends.0);
                    self.path.truncate(ends.1);
                }
            }
            (Schema::Map(inner), Value::Object(object)) => {
                for (key, value) in object {
                    let ends = (self.pattern.len(), self.path.len());
                    self.pattern.push_str("{}");
                    push_key(&mut self.path, key);
                    match table::of_key(self.kind, &self.pattern, key) {
                        Some(coverage) => self.found.push(Uncovered { path: self.path.clone(), coverage }),
                        None => self.value(value, inner),
                    }
                    self.pattern.truncate(ends.0);
                    self.path.truncate(ends.1);
                }
            }
            (Schema::List(inner), Value::Array(items)) => {
                for (index, item) in items.iter().enumerate() {
                    let ends = (self.pattern.len(), self.path.len());
                    self.pattern.push_str("[]");
                    push_index(&mut self.path, index);
                    self.value(item, inner);
                    self.pattern.truncate(ends.0);
                    self.path.truncate(ends.1);
                }
            }
            _ => {}
        }
    }
}

/// Written, but as good as not written.
fn is_default(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        // A message that is there may be all that is asked for (`outlierDetection: {}`).
        _ => false,
    }
}

/// What we do about objects of a kind as such, whatever is in them.
pub fn of_kind(kind: &str) -> Coverage {
    table::of_kind(kind)
}

/// What we do about the field at `pattern` (`http[].mirror`), whatever its value. `None`: no such field.
pub fn of_field(kind: &str, pattern: &str) -> Option<Coverage> {
    table::of_field(kind, pattern)
}

fn of_value(kind: &str, pattern: &str, value: &Value) -> Option<Coverage> {
    table::of_value(kind, pattern, value).or_else(|| table::of_field(kind, pattern))
}

/// The kinds, with the fields of each.
fn kinds() -> [(&'static str, Schema); 10] {
    [
        (VirtualService::KIND, Schema::of::<VirtualService>()),
        (DestinationRule::KIND, Schema::of::<DestinationRule>()),
        (Gateway::KIND, Schema::of::<Gateway>()),
        (ServiceEntry::KIND, Schema::of::<ServiceEntry>()),
        (WorkloadEntry::KIND, Schema::of::<WorkloadEntry>()),
        (Sidecar::KIND, Schema::of::<Sidecar>()),
        (AuthorizationPolicy::KIND, Schema::of::<AuthorizationPolicy>()),
        (PeerAuthentication::KIND, Schema::of::<PeerAuthentication>()),
        (RequestAuthentication::KIND, Schema::of::<RequestAuthentication>()),
        (MESH_CONFIG, Schema::of::<MeshConfig>()),
    ]
}

/// How the tables call the mesh settings, whose objects are ConfigMaps.
pub(crate) const MESH_CONFIG: &str = "MeshConfig";

/// What we do about a field, or about single values of it: a line of the matrix.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Row {
    /// `VirtualService`
    pub kind: &'static str,
    /// `http[].route[].weight`; empty: objects of the kind as such.
    pub field: String,
    /// The values it is about; empty: all others.
    pub values: Vec<&'static str>,
    /// `enforced`, `warned`, `refused`.
    pub answer: &'static str,
    /// Why it is not enforced.
    pub why: &'static str,
}

impl Row {
    fn new(kind: &'static str, field: &str, values: &[&'static str], coverage: Coverage) -> Self {
        let (answer, why) = match coverage {
            Coverage::Enforced => ("enforced", ""),
            Coverage::Warned(why) => ("warned", why),
            Coverage::Refused(why) => ("refused", why),
        };
        Self { kind, field: field.to_owned(), values: values.to_vec(), answer, why }
    }
}

/// The matrix: every field of every kind. What is below a refused or warned field shares its line.
pub fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    for (kind, schema) in kinds() {
        let whole = of_kind(kind);
        if whole != Coverage::Enforced {
            rows.push(Row::new(kind, "", &[], whole));
        }
        let mut answered: Option<(String, Coverage)> = None;
        schema.each_field(&mut |path| {
            let Some(coverage) = of_field(kind, path) else { return };
            let is_below = answered.as_ref().is_some_and(|(above, of)| {
                *of == coverage
                    && *of != Coverage::Enforced
                    && path.strip_prefix(above.as_str()).is_some_and(|rest| rest.starts_with(['.', '[', '{']))
            });
            if is_below {
                return;
            }
            rows.push(Row::new(kind, path, &[], coverage));
            for (values, coverage) in table::values_of(kind, path) {
                rows.push(Row::new(kind, path, values, coverage));
            }
            answered = Some((path.to_owned(), coverage));
        });
    }
    rows
}

/// All tables as Markdown: docs/coverage.md, and `check --coverage`.
pub fn markdown() -> String {
    let mut text = String::from(
        "# Coverage\n\nGenerated from the code; `undermesh check --coverage` prints it. Each field of each kind is *enforced*, \
         *refused* (`undermesh check` fails, and what it is about gets no traffic; for the security kinds, traffic is not \
         restricted) or *warned* about (traffic goes as if it were not there). Fields below a refused or warned one share its \
         answer. What is refused or warned about in an object is said with file and line by `check`, in the log (once), in \
         `undermesh status` and in the metric `undermesh_config_diagnostics`.\n",
    );
    let mut kind = "";
    for row in rows() {
        if row.kind != kind {
            kind = row.kind;
            text.push_str(&format!("\n## {kind}\n\n| field | | why |\n|---|---|---|\n"));
        }
        let field = match (row.field.as_str(), row.values.as_slice()) {
            ("", _) => "all of it".to_owned(),
            (field, []) => format!("`{field}`"),
            (field, values) => format!("`{field}`: `{}`", values.join("`, `")),
        };
        text.push_str(&format!("| {field} | {} | {} |\n", row.answer, row.why));
    }
    text
}

#[cfg(test)]
mod tests;
