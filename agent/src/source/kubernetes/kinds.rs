//! The kinds that are read, and how the API server is asked for them.

use undermesh_core::api::MESH_CONFIG_MAP;
use undermesh_core::api::mesh_config::MeshConfig;
use undermesh_core::api::meta::Kinded;

/// A kind of the API. Equal addresses are equal kinds: there is one table.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Kind {
    /// Empty: the core group.
    pub(super) group: &'static str,
    /// Preferred first. More than one: whichever the server has is asked for.
    pub(super) versions: &'static [&'static str],
    /// As in objects.
    pub(super) name: &'static str,
    /// As in [`undermesh_core::api::Identity`].
    pub(super) identity: &'static str,
    /// As in paths.
    pub(super) plural: &'static str,
    /// Only this namespace.
    pub(super) namespace: Option<&'static str>,
    /// Objects have no namespace.
    pub(super) is_cluster_scoped: bool,
    /// What the server leaves out, so that it is never sent.
    pub(super) field_selector: Option<&'static str>,
    /// It is always there: no discovery.
    pub(super) is_built_in: bool,
}

const NETWORKING: &[&str] = &["v1", "v1beta1", "v1alpha3"];
const SECURITY: &[&str] = &["v1", "v1beta1"];

const fn built_in(group: &'static str, name: &'static str, plural: &'static str) -> Kind {
    Kind {
        group,
        versions: &["v1"],
        name,
        identity: name,
        plural,
        namespace: None,
        is_cluster_scoped: false,
        field_selector: None,
        is_built_in: true,
    }
}

const fn istio(name: &'static str, plural: &'static str) -> Kind {
    Kind { versions: NETWORKING, is_built_in: false, ..built_in("networking.istio.io", name, plural) }
}

const fn security(name: &'static str, plural: &'static str) -> Kind {
    Kind { versions: SECURITY, is_built_in: false, ..built_in("security.istio.io", name, plural) }
}

/// All of them.
pub(super) static KINDS: [Kind; 15] = [
    Kind { is_cluster_scoped: true, ..built_in("", "Namespace", "namespaces") },
    Kind { is_cluster_scoped: true, ..built_in("", "Node", "nodes") },
    // What has ended neither sends nor receives; Jobs leave thousands of it.
    Kind {
        field_selector: Some("status.phase!=Succeeded,status.phase!=Failed"),
        ..built_in("", "Pod", "pods")
    },
    built_in("", "Service", "services"),
    built_in("discovery.k8s.io", "EndpointSlice", "endpointslices"),
    Kind {
        identity: MeshConfig::KIND,
        namespace: Some(MESH_CONFIG_MAP.0),
        field_selector: Some("metadata.name=istio"),
        ..built_in("", "ConfigMap", "configmaps")
    },
    istio("VirtualService", "virtualservices"),
    istio("DestinationRule", "destinationrules"),
    istio("Gateway", "gateways"),
    istio("ServiceEntry", "serviceentries"),
    istio("WorkloadEntry", "workloadentries"),
    istio("Sidecar", "sidecars"),
    security("AuthorizationPolicy", "authorizationpolicies"),
    security("PeerAuthentication", "peerauthentications"),
    security("RequestAuthentication", "requestauthentications"),
];

impl Kind {
    /// `v1`, `networking.istio.io/v1`
    pub(super) fn api_version(&self, version: &str) -> String {
        if self.group.is_empty() { version.to_owned() } else { format!("{}/{version}", self.group) }
    }

    /// The path of all objects.
    pub(super) fn path(&self, version: &str) -> String {
        let root = if self.group.is_empty() { "/api" } else { "/apis" };
        let namespace = self.namespace.map(|name| format!("/namespaces/{name}")).unwrap_or_default();
        format!("{root}/{}{namespace}/{}", self.api_version(version), self.plural)
    }

    /// For messages: `pods`, `virtualservices.networking.istio.io`.
    pub(super) fn resource(&self) -> String {
        if self.group.is_empty() { self.plural.to_owned() } else { format!("{}.{}", self.plural, self.group) }
    }
}

/// The groups whose kinds may be missing, and come and go.
pub(super) fn optional_groups() -> impl Iterator<Item = &'static str> {
    ["networking.istio.io", "security.istio.io"].into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_the_api_servers() {
        for (kind, version, want) in [
            ("Pod", "v1", "/api/v1/pods"),
            ("EndpointSlice", "v1", "/apis/discovery.k8s.io/v1/endpointslices"),
            ("ConfigMap", "v1", "/api/v1/namespaces/istio-system/configmaps"),
            ("Gateway", "v1beta1", "/apis/networking.istio.io/v1beta1/gateways"),
        ] {
            let kind = KINDS.iter().find(|it| it.name == kind).unwrap();
            assert_eq!(kind.path(version), want);
        }
    }

    #[test]
    fn what_may_be_missing_is_looked_for_in_its_group() {
        for kind in &KINDS {
            assert_eq!(
                kind.is_built_in,
                !optional_groups().any(|group| group == kind.group),
                "{}",
                kind.name
            );
        }
        assert_eq!(KINDS[5].field_selector, Some(format!("metadata.name={}", MESH_CONFIG_MAP.1).as_str()));
    }
}
