//! What kinds there are, and which objects of them a selector means.

use serde_json::Value;

/// A kind that is served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Definition {
    /// Empty: the core group.
    pub group: String,
    /// All of them, preferred first.
    pub versions: Vec<String>,
    /// As in objects.
    pub kind: String,
    /// As in paths.
    pub plural: String,
    /// Objects are in namespaces.
    pub is_namespaced: bool,
    /// `status` is written by a path of its own only.
    pub has_status: bool,
}

impl Definition {
    /// A kind of objects in namespaces, without a status of its own.
    pub fn new(group: &str, versions: &[&str], kind: &str, plural: &str) -> Self {
        Self {
            group: group.to_owned(),
            versions: versions.iter().map(|&version| version.to_owned()).collect(),
            kind: kind.to_owned(),
            plural: plural.to_owned(),
            is_namespaced: true,
            has_status: false,
        }
    }

    fn cluster_scoped(self) -> Self {
        Self { is_namespaced: false, ..self }
    }

    fn with_status(self) -> Self {
        Self { has_status: true, ..self }
    }

    /// What every API server has, as far as tests ask for it.
    pub fn built_in() -> Vec<Self> {
        vec![
            Self::new("", &["v1"], "Namespace", "namespaces").cluster_scoped().with_status(),
            Self::new("", &["v1"], "Node", "nodes").cluster_scoped().with_status(),
            Self::new("", &["v1"], "Pod", "pods").with_status(),
            Self::new("", &["v1"], "Service", "services").with_status(),
            Self::new("", &["v1"], "ConfigMap", "configmaps"),
            Self::new("", &["v1"], "Event", "events"),
            Self::new("discovery.k8s.io", &["v1"], "EndpointSlice", "endpointslices"),
            Self::new("coordination.k8s.io", &["v1"], "Lease", "leases"),
            Self::new("events.k8s.io", &["v1"], "Event", "events"),
        ]
    }

    /// Istio's, in these versions.
    pub fn istio(versions: &[&str]) -> Vec<Self> {
        let networking =
            |kind, plural| Self::new("networking.istio.io", versions, kind, plural).with_status();
        let without_alpha: Vec<&str> = versions.iter().copied().filter(|it| *it != "v1alpha3").collect();
        let security =
            |kind, plural| Self::new("security.istio.io", &without_alpha, kind, plural).with_status();
        let mut all = vec![
            networking("VirtualService", "virtualservices"),
            networking("DestinationRule", "destinationrules"),
            networking("Gateway", "gateways"),
            networking("ServiceEntry", "serviceentries"),
            networking("WorkloadEntry", "workloadentries"),
            networking("Sidecar", "sidecars"),
        ];
        if !without_alpha.is_empty() {
            all.extend([
                security("AuthorizationPolicy", "authorizationpolicies"),
                security("PeerAuthentication", "peerauthentications"),
                security("RequestAuthentication", "requestauthentications"),
            ]);
        }
        all
    }
}

/// `fieldSelector`: paths that must or must not have a value.
#[derive(Debug, Clone, Default)]
pub(crate) struct Selector(Vec<(String, bool, String)>);

impl Selector {
    pub(crate) fn parse(text: &str) -> Self {
        let terms = text.split(',').filter(|term| !term.is_empty()).map(|term| {
            let (path, is_equal, value) = match term.split_once("!=") {
                Some((path, value)) => (path, false, value),
                None => {
                    let (path, value) = term.split_once('=').unwrap_or((term, ""));
                    (path, true, value.trim_start_matches('='))
                }
            };
            (format!("/{}", path.replace('.', "/")), is_equal, value.to_owned())
        });
        Self(terms.collect())
    }

    pub(crate) fn means(&self, object: &Value) -> bool {
        self.0.iter().all(|(path, is_equal, value)| {
            let has = object.pointer(path).and_then(Value::as_str).unwrap_or_default();
            (has == value) == *is_equal
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn selectors_mean_what_kubernetes_says() {
        let pod = |phase: &str| json!({"metadata": {"name": "a"}, "status": {"phase": phase}});
        let lives = Selector::parse("status.phase!=Succeeded,status.phase!=Failed");
        assert!(lives.means(&pod("Running")) && lives.means(&json!({})));
        assert!(!lives.means(&pod("Failed")) && !lives.means(&pod("Succeeded")));
        for text in ["metadata.name=a", "metadata.name==a", ""] {
            assert!(Selector::parse(text).means(&pod("Running")), "{text}");
        }
        assert!(!Selector::parse("metadata.name=b").means(&pod("Running")));
    }
}
