//! Who sees what: `exportTo` of an object, and a Sidecar's egress hosts as a filter on its clients' view.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::client::Client;
use crate::host::HostKey;

/// The namespaces that see an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Visibility {
    All,
    Namespaces(Vec<Arc<str>>),
}

impl Visibility {
    /// From `exportTo` of an object in `own`. Empty: `default`, which may say `.` too. `*` beats all others; `~` is nobody; an
    /// explicit list does not imply the own namespace.
    pub(crate) fn of(export_to: &[String], own: &str, default: &Self) -> Self {
        if export_to.is_empty() {
            return match default {
                Self::All => Self::All,
                Self::Namespaces(list) => Self::Namespaces(
                    list.iter().map(|it| if &**it == "." { own.into() } else { it.clone() }).collect(),
                ),
            };
        }
        if export_to.iter().any(|it| it == "*") {
            return Self::All;
        }
        let names = export_to.iter().filter(|it| *it != "~");
        Self::Namespaces(names.map(|it| if it == "." { own.into() } else { it.as_str().into() }).collect())
    }

    /// From a mesh-wide default, in which `.` is kept for [`Visibility::of`].
    pub(crate) fn mesh_default(export_to: &[String]) -> Self {
        if export_to.is_empty() || export_to.iter().any(|it| it == "*") {
            return Self::All;
        }
        Self::Namespaces(export_to.iter().filter(|it| *it != "~").map(|it| it.as_str().into()).collect())
    }

    pub(crate) fn sees(&self, namespace: &str) -> bool {
        match self {
            Self::All => true,
            Self::Namespaces(list) => list.iter().any(|it| &**it == namespace),
        }
    }

    /// Whether some namespace sees both.
    pub(crate) fn meets(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::All, Self::All) => true,
            (Self::All, Self::Namespaces(list)) | (Self::Namespaces(list), Self::All) => !list.is_empty(),
            (Self::Namespaces(a), Self::Namespaces(b)) => a.iter().any(|it| b.contains(it)),
        }
    }

    /// Whether only `namespace` sees it.
    pub(crate) fn is_private_to(&self, namespace: &str) -> bool {
        matches!(self, Self::Namespaces(list) if list.iter().all(|it| &**it == namespace) && !list.is_empty())
    }
}

/// A Sidecar: what its clients may reach.
#[derive(Debug, Clone)]
pub(crate) struct Scope {
    pub(crate) namespace: Arc<str>,
    pub(crate) selector: Option<BTreeMap<String, String>>,
    /// Empty: everything is in scope.
    pub(crate) egress: Vec<EgressListener>,
    /// `None`: the mesh's.
    pub(crate) registry_only: Option<bool>,
}

#[derive(Debug, Clone)]
pub(crate) struct EgressListener {
    pub(crate) port: Option<u16>,
    pub(crate) hosts: Vec<EgressHost>,
}

/// `namespace/host`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct EgressHost {
    /// `None`: any.
    pub(crate) namespace: Option<Arc<str>>,
    pub(crate) host: HostKey,
    /// `~ns/host`: taken out again.
    pub(crate) excludes: bool,
}

impl EgressHost {
    /// `own` is the Sidecar's namespace.
    pub(crate) fn parse(text: &str, own: &str) -> Option<Self> {
        let (namespace, host) = text.split_once('/')?;
        let (namespace, excludes) = match namespace.strip_prefix('~') {
            // `~/*` alone imports nothing.
            Some("") => return None,
            Some(rest) => (rest, true),
            None => (namespace, false),
        };
        let namespace = match namespace {
            "*" => None,
            "." => Some(own.into()),
            name => Some(name.into()),
        };
        Some(Self { namespace, host: HostKey::parse(host), excludes })
    }

    fn has(&self, namespace: &str, host: &HostKey) -> bool {
        self.namespace.as_deref().is_none_or(|it| it == namespace) && self.host.intersection(host).is_some()
    }
}

impl Scope {
    /// The scope of a client: the Sidecar that selects it, else its namespace's, else the root namespace's. `scopes` are the
    /// oldest first.
    pub(crate) fn of<'a>(scopes: &'a [Self], client: &Client, root_namespace: &str) -> Option<&'a Self> {
        let selecting = scopes.iter().find(|scope| {
            scope.namespace == client.namespace
                && scope.selector.as_ref().is_some_and(|it| client.has_labels(it))
        });
        let of_namespace = |namespace: &str| {
            scopes.iter().find(|scope| &*scope.namespace == namespace && scope.selector.is_none())
        };
        selecting.or_else(|| of_namespace(&client.namespace)).or_else(|| of_namespace(root_namespace))
    }

    /// Whether a service or VirtualService host of `namespace` is imported for connections to `port`.
    pub(crate) fn imports(&self, namespace: &str, host: &HostKey, port: u16) -> bool {
        if self.egress.is_empty() {
            return true;
        }
        let own = |listener: &&EgressListener| listener.port == Some(port);
        let has_own = self.egress.iter().any(|listener| own(&listener));
        let hosts = self
            .egress
            .iter()
            .filter(|listener| if has_own { own(listener) } else { listener.port.is_none() })
            .flat_map(|listener| &listener.hosts);
        let mut imported = false;
        for entry in hosts.filter(|entry| entry.has(namespace, host)) {
            if entry.excludes {
                return false;
            }
            imported = true;
        }
        imported
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(names: &[&str]) -> Vec<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    #[test]
    fn export_to_names_who_sees_an_object() {
        for (export_to, own, other) in [
            (&[][..], true, true),
            (&["."][..], true, false),
            (&["*"][..], true, true),
            (&["other"][..], false, true),
            (&["~"][..], false, false),
            (&[".", "*"][..], true, true),
        ] {
            let visibility = Visibility::of(&list(export_to), "own", &Visibility::All);
            assert_eq!((visibility.sees("own"), visibility.sees("other")), (own, other), "{export_to:?}");
        }
    }

    #[test]
    fn a_default_of_dot_means_each_objects_own_namespace() {
        let default = Visibility::mesh_default(&list(&["."]));
        let visibility = Visibility::of(&[], "own", &default);
        assert!(visibility.sees("own") && !visibility.sees("other"));
    }

    #[test]
    fn a_sidecar_imports_what_it_lists_and_nothing_else() {
        let hosts = ["./*", "ops/log.ops.svc.cluster.local", "~ops/*"];
        let hosts = hosts.iter().filter_map(|host| EgressHost::parse(host, "shop")).collect();
        let listener = EgressListener { port: None, hosts };
        let scope =
            Scope { namespace: "shop".into(), selector: None, egress: vec![listener], registry_only: None };
        for (namespace, host, want) in [
            ("shop", "catalog.shop.svc.cluster.local", true),
            ("ops", "log.ops.svc.cluster.local", false),
            ("red", "x.red.svc.cluster.local", false),
        ] {
            assert_eq!(scope.imports(namespace, &HostKey::parse(host), 80), want, "{host}");
        }
    }
}
