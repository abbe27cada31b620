//! A pod as `kubectl get -o yaml` would print it, as far as a mesh looks at it, with the annotations that tell a
//! file-mode agent where the pod's namespace and cgroup are.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::pod::Pod;

/// What the owner of a pod writes; the rest of the manifest comes from the [`Pod`] itself.
#[derive(Debug, Clone, Default)]
pub struct PodSpec {
    /// `metadata.labels`
    pub labels: BTreeMap<String, String>,
    /// `metadata.annotations`, besides those of the harness.
    pub annotations: BTreeMap<String, String>,
    /// `spec.serviceAccountName`
    pub service_account: Option<String>,
    /// `spec.containers[0].ports`
    pub ports: Vec<Port>,
    /// Names of containers besides `main`.
    pub more_containers: Vec<String>,
    /// It says nothing of where it is on its node: it is to be found by its uid, as in a cluster.
    pub is_unannotated: bool,
    /// It has no addresses yet, and is pending.
    pub is_pending: bool,
}

/// A container port.
#[derive(Debug, Clone)]
pub struct Port {
    /// Its name, which a Service's `targetPort` may use.
    pub name: String,
    /// Its number.
    pub number: u16,
}

impl PodSpec {
    /// With these labels and no ports.
    pub fn labelled<const N: usize>(labels: [(&str, &str); N]) -> Self {
        let labels = labels.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
        Self { labels, ..Self::default() }
    }

    /// And this port.
    #[must_use]
    pub fn port(mut self, name: &str, number: u16) -> Self {
        self.ports.push(Port { name: name.to_owned(), number });
        self
    }

    /// And this container.
    #[must_use]
    pub fn container(mut self, name: &str) -> Self {
        self.more_containers.push(name.to_owned());
        self
    }

    /// As in a cluster: see [`PodSpec::is_unannotated`].
    #[must_use]
    pub fn unannotated(self) -> Self {
        Self { is_unannotated: true, ..self }
    }

    /// Just made: see [`PodSpec::is_pending`].
    #[must_use]
    pub fn pending(self) -> Self {
        Self { is_pending: true, ..self }
    }

    /// And this annotation.
    #[must_use]
    pub fn annotation(mut self, key: &str, value: &str) -> Self {
        self.annotations.insert(key.to_owned(), value.to_owned());
        self
    }
}

impl Pod {
    /// The YAML of this running, ready pod.
    pub fn manifest(&self, spec: &PodSpec) -> String {
        let mut annotations = spec.annotations.clone();
        if !spec.is_unannotated {
            annotations.insert("undermesh.io/netns".into(), self.netns().path().display().to_string());
            annotations.insert("undermesh.io/cgroup".into(), self.cgroup().display().to_string());
        }
        let [v4, v6] = self.addresses();
        let mut out = String::new();
        let mut line = |indent: usize, text: &str| {
            // Writing to a String cannot fail.
            let _ = writeln!(out, "{:indent$}{text}", "");
        };
        line(0, "apiVersion: v1");
        line(0, "kind: Pod");
        line(0, "metadata:");
        line(2, &format!("name: {}", quoted(self.name())));
        line(2, &format!("namespace: {}", quoted(self.namespace())));
        line(2, &format!("uid: {}", quoted(self.uid())));
        for (key, map) in [("labels", &spec.labels), ("annotations", &annotations)] {
            if !map.is_empty() {
                line(2, &format!("{key}:"));
                for (k, v) in map {
                    line(4, &format!("{}: {}", quoted(k), quoted(v)));
                }
            }
        }
        line(0, "spec:");
        line(2, &format!("nodeName: {}", quoted(self.node().name())));
        line(
            2,
            &format!("serviceAccountName: {}", quoted(spec.service_account.as_deref().unwrap_or("default"))),
        );
        if self.host_network() {
            line(2, "hostNetwork: true");
        }
        line(2, "containers:");
        line(4, "- name: main");
        line(4, "  image: local");
        if !spec.ports.is_empty() {
            line(4, "  ports:");
            for port in &spec.ports {
                line(8, &format!("- name: {}", quoted(&port.name)));
                line(8, &format!("  containerPort: {}", port.number));
            }
        }
        for name in &spec.more_containers {
            line(4, &format!("- name: {}", quoted(name)));
            line(4, "  image: local");
        }
        line(0, "status:");
        if spec.is_pending {
            line(2, "phase: Pending");
            return out;
        }
        line(2, "phase: Running");
        line(2, &format!("hostIP: {}", self.node().address()));
        line(2, &format!("podIP: {v4}"));
        line(2, "podIPs:");
        line(4, &format!("- ip: {v4}"));
        line(4, &format!("- ip: {}", quoted(&v6.to_string())));
        line(2, "conditions:");
        line(4, "- type: Ready");
        line(4, "  status: \"True\"");
        out
    }
}

/// A JSON string, which is a YAML string too, whatever is in it.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
