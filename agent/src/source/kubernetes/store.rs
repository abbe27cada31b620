//! What was read so far: the objects in force, and what is wrong with those that are not.

use std::collections::{BTreeMap, HashSet};

use serde_json::{Value, json};
use undermesh_core::api::mesh_config::MeshConfig;
use undermesh_core::api::meta::{Key, Kinded, ObjectMeta};
use undermesh_core::api::origin::Origin;
use undermesh_core::api::{self, Identity, MESH_CONFIG_MAP, Parsed};
use undermesh_core::diagnostic::{Code, Diagnostic, Severity};
use undermesh_core::inputs::Inputs;
use undermesh_core::pool::Pool;

use super::kinds::Kind;
use super::wire;
use crate::source::{Loaded, yaml};

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct Store {
    inputs: Inputs,
    /// What the objects have in common.
    pool: Pool,
    /// Of the objects about which there is something to say.
    remarks: BTreeMap<Identity, Vec<Diagnostic>>,
}

/// Where an object of the server has its name; `None` if it has none.
pub(super) fn key(kind: &Kind, object: &Value) -> Option<Key> {
    let name = wire::text(object, "name");
    let namespace = if kind.is_cluster_scoped { "" } else { wire::text(object, "namespace") };
    let is_whole = !name.is_empty() && kind.is_cluster_scoped == namespace.is_empty();
    is_whole.then(|| Key::new(namespace, name))
}

impl Store {
    /// What a source hands out.
    pub(super) fn loaded(&self) -> Loaded {
        Loaded {
            inputs: self.inputs.clone(),
            diagnostics: self.remarks.values().flatten().cloned().collect(),
            trusts_annotations: false,
        }
    }

    /// How many objects of a kind are in force.
    pub(super) fn count(&self, kind: &Kind) -> usize {
        self.inputs.count_of(kind.identity)
    }

    /// An object as it is now. Refused, it leaves its last good version in force. Whether anything changed.
    pub(super) fn apply(&mut self, kind: &Kind, version: &str, key: Key, object: Value) -> bool {
        let identity = Identity { kind: kind.identity, key };
        let Parsed { object, diagnostics, .. } = if kind.identity == MeshConfig::KIND {
            match mesh_config(&object) {
                Some(parsed) => parsed,
                None => return self.remove(&identity),
            }
        } else {
            parse(kind, version, object)
        };
        let mut remarks = diagnostics;
        let mut has_changed = false;
        match object {
            Some(mut object) => {
                self.pool.share(&mut object);
                has_changed = self.inputs.put(object);
            }
            None if self.inputs.contains(&identity) => remarks.push(kept(&identity)),
            None => {}
        }
        let before = if remarks.is_empty() {
            self.remarks.remove(&identity)
        } else {
            self.remarks.insert(identity.clone(), remarks)
        };
        has_changed || self.remarks.get(&identity) != before.as_ref()
    }

    /// An object is gone. Whether anything changed.
    pub(super) fn delete(&mut self, kind: &Kind, key: Key) -> bool {
        self.remove(&Identity { kind: kind.identity, key })
    }

    /// After a complete list: what was not on it is gone. Whether anything changed.
    pub(super) fn keep_only(&mut self, kind: &Kind, listed: &HashSet<Key>) -> bool {
        let refused = self.remarks.keys().filter(|it| it.kind == kind.identity).map(|it| it.key.clone());
        let known: HashSet<Key> = self.inputs.keys_of(kind.identity).into_iter().chain(refused).collect();
        let gone = known.into_iter().filter(|key| !listed.contains(key));
        let mut has_changed = false;
        for key in gone {
            has_changed |= self.delete(kind, key);
        }
        has_changed
    }

    fn remove(&mut self, identity: &Identity) -> bool {
        let had_remarks = self.remarks.remove(identity).is_some();
        self.inputs.remove(identity) || had_remarks
    }
}

fn parse(kind: &Kind, version: &str, mut object: Value) -> Parsed {
    // The items of a list do not say what they are: the list does.
    if let Value::Object(fields) = &mut object {
        fields.insert("apiVersion".into(), json!(kind.api_version(version)));
        fields.insert("kind".into(), json!(kind.name));
    }
    api::parse(object, Origin::default()).validated()
}

/// The settings within the ConfigMap; `None` if it has none.
fn mesh_config(object: &Value) -> Option<Parsed> {
    let (namespace, name, key) = MESH_CONFIG_MAP;
    let text = object.get("data")?.get(key)?.as_str()?;
    let meta = ObjectMeta { name: name.into(), namespace: namespace.into(), ..Default::default() };
    Some(match yaml::parse_document(yaml::Chunk { first_line: 1, text }) {
        Ok(document) => {
            let value = document.map_or(Value::Null, |document| document.value);
            api::parse_mesh_config(value, &meta, Origin::default()).validated()
        }
        Err(error) => {
            let identity = Identity { kind: MeshConfig::KIND, key: meta.key() };
            let message = format!("line {}: {}", error.line, error.message);
            let field = format!("data.{key}");
            let diagnostics = vec![about(&identity, Severity::Error, Code::Syntax, field, message)];
            Parsed { object: None, identity: Some(identity), diagnostics }
        }
    })
}

fn kept(identity: &Identity) -> Diagnostic {
    let message = "refused as it is now; the last good version stays in force".to_owned();
    about(identity, Severity::Warning, Code::LastGoodKept, String::new(), message)
}

fn about(identity: &Identity, severity: Severity, code: Code, field: String, message: String) -> Diagnostic {
    Diagnostic {
        severity,
        code,
        kind: identity.kind.to_owned(),
        namespace: identity.key.namespace.to_string(),
        name: identity.key.name.to_string(),
        field,
        file: None,
        line: None,
        message,
        hint: String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::kinds::KINDS;
    use super::*;

    fn kind(name: &str) -> &'static Kind {
        KINDS.iter().find(|kind| kind.name == name).unwrap()
    }

    fn rule(timeout: &str) -> Value {
        json!({"metadata": {"name": "a", "namespace": "n"}, "spec": {"hosts": ["a.example"], "http": [
            {"timeout": timeout, "directResponse": {"status": 200}}]}})
    }

    fn apply(store: &mut Store, kind: &Kind, object: Value) -> bool {
        let key = key(kind, &object).unwrap();
        store.apply(kind, "v1", key, object)
    }

    fn codes(store: &Store) -> Vec<Code> {
        store.loaded().diagnostics.iter().map(|said| said.code).collect()
    }

    #[test]
    fn a_refused_object_leaves_its_last_good_version_and_says_so() {
        let (mut store, kind) = (Store::default(), kind("VirtualService"));
        assert!(apply(&mut store, kind, rule("5s")) && codes(&store).is_empty());
        let good = store.loaded().inputs;
        assert!(apply(&mut store, kind, rule("five")));
        assert_eq!(store.loaded().inputs, good);
        let said = store.loaded().diagnostics;
        assert_eq!(said.last().map(|said| said.code), Some(Code::LastGoodKept), "{said:?}");
        assert!(said.iter().all(|said| said.file.is_none() && said.name == "a" && said.namespace == "n"));
        assert!(!apply(&mut store, kind, rule("five")), "nothing new");
        assert!(apply(&mut store, kind, rule("6s")) && codes(&store).is_empty());
        assert_ne!(store.loaded().inputs, good);
    }

    #[test]
    fn a_refused_object_that_was_never_good_is_only_spoken_of_and_gone_when_it_is() {
        let (mut store, kind) = (Store::default(), kind("VirtualService"));
        assert!(apply(&mut store, kind, rule("five")));
        assert_eq!(store.count(kind), 0);
        assert!(!codes(&store).is_empty() && !codes(&store).contains(&Code::LastGoodKept));
        assert!(store.keep_only(kind, &HashSet::new()) && codes(&store).is_empty());
    }

    #[test]
    fn what_a_list_does_not_have_is_gone_and_other_kinds_stay() {
        let mut store = Store::default();
        apply(&mut store, kind("VirtualService"), rule("5s"));
        apply(&mut store, kind("Node"), json!({"metadata": {"name": "n1"}}));
        let listed = HashSet::from([Key::new("n", "a")]);
        assert!(!store.keep_only(kind("VirtualService"), &listed));
        assert!(store.keep_only(kind("VirtualService"), &HashSet::new()));
        assert_eq!((store.count(kind("VirtualService")), store.count(kind("Node"))), (0, 1));
        assert!(
            !store.delete(kind("Node"), Key::new("", "n2")) && store.delete(kind("Node"), Key::new("", "n1"))
        );
    }

    #[test]
    fn mesh_settings_come_from_the_config_map_and_go_with_their_key() {
        let (mut store, kind) = (Store::default(), kind("ConfigMap"));
        let map =
            |data: Value| json!({"metadata": {"name": "istio", "namespace": "istio-system"}, "data": data});
        assert!(apply(
            &mut store,
            kind,
            map(json!({"mesh": "outboundTrafficPolicy: {mode: REGISTRY_ONLY}"}))
        ));
        let settings = store.loaded().inputs.mesh_config();
        assert!(apply(&mut store, kind, map(json!({"mesh": "a: [b"}))));
        assert_eq!(store.loaded().inputs.mesh_config(), settings);
        assert_eq!(codes(&store), [Code::Syntax, Code::LastGoodKept]);
        assert!(apply(&mut store, kind, map(json!({"other": "x"}))));
        assert!(store.loaded().inputs.mesh.is_none() && codes(&store).is_empty());
    }

    #[test]
    fn only_what_has_a_whole_name_is_an_object() {
        for (name, object, want) in [
            ("Pod", json!({"metadata": {"name": "a", "namespace": "n"}}), Some(Key::new("n", "a"))),
            ("Pod", json!({"metadata": {"name": "a"}}), None),
            ("Node", json!({"metadata": {"name": "a"}}), Some(Key::new("", "a"))),
            ("Node", json!({"metadata": {"name": 1}}), None),
            ("Pod", json!({"metadata": "x"}), None),
            ("Pod", Value::Null, None),
        ] {
            assert_eq!(key(kind(name), &object), want, "{object}");
        }
    }
}
