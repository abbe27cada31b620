//! The objects, every change of them, and the revisions that number the changes.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::resource::{Definition, Selector};

/// Namespace (empty if there is none) and name.
pub(crate) type Key = (String, String);
/// Group and plural.
pub(crate) type Resource = (String, String);

/// A refusal, as the API server words it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) code: u16,
    pub(crate) reason: &'static str,
    pub(crate) message: String,
}

impl Refusal {
    pub(crate) fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self { code, reason, message: message.into() }
    }

    pub(crate) fn not_found(what: &str) -> Self {
        Self::new(404, "NotFound", format!("{what} not found"))
    }

    pub(crate) fn gone() -> Self {
        Self::new(410, "Expired", "too old resource version")
    }

    pub(crate) fn status(&self) -> Value {
        json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "reason": self.reason, "code": self.code})
    }
}

/// One change.
struct Change {
    revision: u64,
    resource: Resource,
    before: Option<Value>,
    /// For a removal the last version, with the revision of the removal.
    after: Value,
    is_removal: bool,
}

/// See the module's text.
pub(crate) struct Store {
    pub(crate) definitions: Vec<Definition>,
    objects: BTreeMap<Resource, BTreeMap<Key, Value>>,
    changes: Vec<Change>,
    revision: u64,
    /// Changes up to this one are forgotten.
    compacted: u64,
    created: u64,
}

impl Store {
    pub(crate) fn new() -> Self {
        Self {
            definitions: Definition::built_in(),
            objects: BTreeMap::new(),
            changes: Vec::new(),
            revision: 100,
            compacted: 0,
            created: 0,
        }
    }

    pub(crate) fn revision(&self) -> u64 {
        self.revision
    }

    /// Forgets all changes: who watches from an earlier revision has to list anew.
    pub(crate) fn compact(&mut self) {
        self.revision += 1;
        self.compacted = self.revision;
        self.changes.clear();
    }

    pub(crate) fn is_gone(&self, revision: u64) -> bool {
        revision < self.compacted
    }

    /// The definition by the parts of a path, and only if that version is served.
    pub(crate) fn definition(&self, group: &str, version: &str, plural: &str) -> Option<&Definition> {
        self.definitions
            .iter()
            .find(|it| it.group == group && it.plural == plural && it.versions.iter().any(|it| it == version))
    }

    pub(crate) fn definition_of(&self, object: &Value) -> Option<(&Definition, String)> {
        let api_version = object.get("apiVersion")?.as_str()?;
        let kind = object.get("kind")?.as_str()?;
        let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));
        let definition = self.definitions.iter().find(|it| it.group == group && it.kind == kind)?;
        Some((definition, version.to_owned()))
    }

    pub(crate) fn get(&self, resource: &Resource, key: &Key) -> Option<&Value> {
        self.objects.get(resource)?.get(key)
    }

    /// Objects after `after`, in order of their keys.
    pub(crate) fn list<'a>(
        &'a self,
        resource: &Resource,
        namespace: Option<&'a str>,
        selector: &'a Selector,
        after: Option<&Key>,
    ) -> impl Iterator<Item = (&'a Key, &'a Value)> + use<'a> {
        let after = after.cloned();
        let all = self.objects.get(resource).into_iter().flatten();
        all.filter(move |(key, object)| {
            namespace.is_none_or(|it| it == key.0)
                && after.as_ref().is_none_or(|after| *key > after)
                && selector.means(object)
        })
    }

    /// Writes an object as it is, whatever it is; gives it a new revision if it has metadata.
    pub(crate) fn put(&mut self, resource: &Resource, key: Key, mut object: Value) -> Value {
        self.revision += 1;
        let revision = self.revision;
        let before = self.get(resource, &key).cloned();
        if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.insert("resourceVersion".into(), json!(revision.to_string()));
            match &before {
                Some(before) => {
                    for field in ["uid", "creationTimestamp"] {
                        if let Some(value) = before.pointer(&format!("/metadata/{field}")) {
                            metadata.insert(field.into(), value.clone());
                        }
                    }
                }
                None => {
                    self.created += 1;
                    metadata.entry("uid").or_insert_with(|| json!(format!("uid-{}", self.created)));
                    let second = self.created % 60;
                    let time = format!("2026-01-01T00:00:{second:02}Z");
                    metadata.entry("creationTimestamp").or_insert_with(|| json!(time));
                }
            }
        }
        self.objects.entry(resource.clone()).or_default().insert(key, object.clone());
        let change =
            Change { revision, resource: resource.clone(), before, after: object.clone(), is_removal: false };
        self.changes.push(change);
        object
    }

    pub(crate) fn remove(&mut self, resource: &Resource, key: &Key) -> Option<Value> {
        let before = self.objects.get_mut(resource)?.remove(key)?;
        self.revision += 1;
        let mut after = before.clone();
        if let Some(metadata) = after.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.insert("resourceVersion".into(), json!(self.revision.to_string()));
        }
        self.changes.push(Change {
            revision: self.revision,
            resource: resource.clone(),
            before: Some(before.clone()),
            after,
            is_removal: true,
        });
        Some(before)
    }

    /// Takes a kind away with all of its objects.
    pub(crate) fn undefine(&mut self, group: &str, plural: &str) {
        self.definitions.retain(|it| !(it.group == group && it.plural == plural));
        let resource = (group.to_owned(), plural.to_owned());
        let keys: Vec<Key> =
            self.objects.get(&resource).map(|all| all.keys().cloned().collect()).unwrap_or_default();
        for key in keys {
            self.remove(&resource, &key);
        }
    }

    /// What a watch sends for the changes after `revision`: type and object.
    pub(crate) fn changes_after(
        &self,
        revision: u64,
        resource: &Resource,
        namespace: Option<&str>,
        selector: &Selector,
    ) -> Vec<(&'static str, Value)> {
        let first = self.changes.partition_point(|change| change.revision <= revision);
        let later = self.changes.get(first..).unwrap_or_default();
        later
            .iter()
            .filter(|change| change.resource == *resource)
            .filter(|change| {
                let of = change.after.pointer("/metadata/namespace").and_then(Value::as_str);
                namespace.is_none_or(|it| of == Some(it))
            })
            .filter_map(|change| {
                let was = change.before.as_ref().is_some_and(|before| selector.means(before));
                let is = !change.is_removal && selector.means(&change.after);
                let kind = match (was, is) {
                    (false, false) => return None,
                    (false, true) => "ADDED",
                    (true, true) => "MODIFIED",
                    (true, false) => "DELETED",
                };
                Some((kind, change.after.clone()))
            })
            .collect()
    }
}

/// Where an object belongs.
pub(crate) fn key(definition: &Definition, object: &Value) -> Key {
    let text = |field: &str| {
        object.pointer(&format!("/metadata/{field}")).and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    let namespace = match (definition.is_namespaced, text("namespace")) {
        (false, _) => String::new(),
        (true, given) if given.is_empty() => "default".to_owned(),
        (true, given) => given,
    };
    (namespace, text("name"))
}

pub(crate) fn resource(definition: &Definition) -> Resource {
    (definition.group.clone(), definition.plural.clone())
}
