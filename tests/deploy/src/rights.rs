//! What the manifests grant, right by right; and the same manifests with one right less, under another name.
//!
//! A rule is a product of groups, resources, names and verbs. Each element of it is a [`Right`]: the smallest thing that can be
//! taken away.

use std::collections::BTreeSet;

use serde_json::{Value, json};

/// One verb on one resource.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Right {
    /// The component that has it: `agent`, `gateway`.
    pub who: String,
    /// In its own namespace only.
    pub is_local: bool,
    /// Empty: the core group.
    pub group: String,
    /// With a subresource after `/`.
    pub resource: String,
    /// Only the object of this name.
    pub name: Option<String>,
    /// `list`
    pub verb: String,
}

impl Right {
    /// The words by which the API server refuses who does not have it.
    #[must_use]
    pub fn refusal(&self) -> String {
        format!("cannot {} resource \"{}\" in API group \"{}\"", self.verb, self.resource, self.group)
    }

    fn rule(&self) -> Value {
        let mut rule = json!({"apiGroups": [self.group], "resources": [self.resource], "verbs": [self.verb]});
        if let Some(name) = &self.name {
            rule["resourceNames"] = json!([name]);
        }
        rule
    }
}

impl std::fmt::Display for Right {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let place = if self.is_local { "in its namespace" } else { "everywhere" };
        let dot = if self.group.is_empty() { "" } else { "." };
        let name = self.name.as_deref().unwrap_or("*");
        write!(f, "{} {place} {} {}{dot}{} {name}", self.who, self.verb, self.resource, self.group)
    }
}

/// All rights that `objects` grant.
#[must_use]
pub fn of(objects: &[Value]) -> BTreeSet<Right> {
    objects.iter().filter(|it| is_role(it)).flat_map(of_role).collect()
}

fn of_role(role: &Value) -> Vec<Right> {
    let mut rights = Vec::new();
    for rule in role["rules"].as_array().into_iter().flatten() {
        let mut names: Vec<_> = texts(&rule["resourceNames"]).into_iter().map(Some).collect();
        if names.is_empty() {
            names.push(None);
        }
        for group in texts(&rule["apiGroups"]) {
            for resource in texts(&rule["resources"]) {
                for name in &names {
                    rights.extend(texts(&rule["verbs"]).into_iter().map(|verb| Right {
                        who: component(role).to_owned(),
                        is_local: role["kind"] == "Role",
                        group: group.clone(),
                        resource: resource.clone(),
                        name: name.clone(),
                        verb,
                    }));
                }
            }
        }
    }
    rights
}

/// The account of component `who` with all that is granted to it but `without`: in the namespace `place`, and with that name at
/// the end of the names of what has no namespace. The namespace, and a token in a Secret labelled `rights: <place>`, are among
/// the objects.
#[must_use]
pub fn account(objects: &[Value], who: &str, without: Option<&Right>, place: &str) -> Vec<Value> {
    let of_rbac = objects.iter().filter(|it| {
        let kind = it["kind"].as_str().unwrap_or_default();
        let is_rbac = is_role(it) || kind.ends_with("Binding") || kind == "ServiceAccount";
        is_rbac && component(it) == who
    });
    let mut all = vec![json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": place}})];
    for object in of_rbac {
        let mut object = object.clone();
        if object["metadata"]["namespace"].is_string() {
            object["metadata"]["namespace"] = place.into();
        } else {
            rename(&mut object["metadata"]["name"], place);
        }
        if is_role(&object) {
            let kept = of_role(&object).into_iter().filter(|right| Some(right) != without);
            object["rules"] = kept.map(|right| right.rule()).collect();
        }
        if object.pointer("/roleRef/kind").is_some_and(|kind| kind == "ClusterRole") {
            rename(&mut object["roleRef"]["name"], place);
        }
        for subject in object.get_mut("subjects").and_then(Value::as_array_mut).into_iter().flatten() {
            subject["namespace"] = place.into();
        }
        if object["kind"] == "ServiceAccount" {
            let account = &object["metadata"]["name"];
            all.push(json!({
                "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/service-account-token",
                "metadata": {
                    "name": "token", "namespace": place, "labels": {"rights": place},
                    "annotations": {"kubernetes.io/service-account.name": account},
                },
            }));
        }
        all.push(object);
    }
    // The account before its token, which would be removed without it.
    all.sort_by_key(|it| it["kind"] == "Secret");
    all
}

fn rename(name: &mut Value, place: &str) {
    *name = format!("{}-{place}", name.as_str().unwrap_or_default()).into();
}

fn is_role(object: &Value) -> bool {
    matches!(object["kind"].as_str(), Some("Role" | "ClusterRole"))
}

fn component(object: &Value) -> &str {
    object["metadata"]["labels"]["app.kubernetes.io/component"].as_str().unwrap_or_default()
}

fn texts(list: &Value) -> Vec<String> {
    list.as_array().into_iter().flatten().filter_map(|it| it.as_str().map(str::to_owned)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifests() -> Vec<Value> {
        let labels = json!({"app.kubernetes.io/component": "agent"});
        vec![
            json!({"kind": "ServiceAccount", "metadata": {"name": "a", "namespace": "s", "labels": labels}}),
            json!({"kind": "ClusterRole", "metadata": {"name": "r", "labels": labels}, "rules": [
                {"apiGroups": ["", "g"], "resources": ["x", "y/status"], "verbs": ["get", "list"]}]}),
            json!({"kind": "Role", "metadata": {"name": "l", "namespace": "s", "labels": labels}, "rules": [
                {"apiGroups": ["g"], "resources": ["x"], "verbs": ["get"], "resourceNames": ["n"]}]}),
            json!({"kind": "ClusterRoleBinding", "metadata": {"name": "b", "labels": labels},
                "roleRef": {"kind": "ClusterRole", "name": "r"}, "subjects": [{"name": "a", "namespace": "s"}]}),
            json!({"kind": "DaemonSet", "metadata": {"name": "d", "namespace": "s", "labels": labels}}),
        ]
    }

    #[test]
    fn rules_are_taken_apart_into_single_rights() {
        let rights = of(&manifests());
        assert_eq!(rights.len(), 9, "{rights:?}");
        let text: Vec<_> = rights.iter().map(ToString::to_string).collect();
        assert!(text.contains(&"agent everywhere list y/status.g *".to_owned()), "{text:?}");
        assert!(text.contains(&"agent in its namespace get x.g n".to_owned()), "{text:?}");
    }

    #[test]
    fn an_account_with_one_right_less_has_all_others_under_its_own_name() {
        let rights = of(&manifests());
        for without in &rights {
            let objects = account(&manifests(), "agent", Some(without), "e1");
            let mut want = rights.clone();
            want.remove(without);
            assert_eq!(of(&objects), want);
            assert!(objects.iter().all(|it| it["kind"] != "DaemonSet"));
            let binding = objects.iter().find(|it| it["kind"] == "ClusterRoleBinding").unwrap();
            assert_eq!(binding["roleRef"]["name"], "r-e1");
            assert_eq!(binding["subjects"][0]["namespace"], "e1");
        }
        assert_eq!(of(&account(&manifests(), "agent", None, "e1")), rights);
        assert_eq!(account(&manifests(), "gateway", None, "e1").len(), 1);
    }
}
