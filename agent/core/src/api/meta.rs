//! What every object has: its metadata, and the envelope that keeps metadata, content and origin together.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use super::origin::Origin;
use super::timestamp::Timestamp;
use crate::diagnostic::{Code, Diagnostic, Severity};

/// The part of Kubernetes' `ObjectMeta` that has a meaning here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ObjectMeta {
    /// Unique per kind and namespace.
    pub name: Arc<str>,
    /// Empty for cluster-scoped kinds (Node, Namespace); `default` if the user wrote none.
    pub namespace: Arc<str>,
    /// Labels.
    pub labels: Labels,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
    /// When the API server accepted the object; files mostly have none.
    pub creation_timestamp: Option<Timestamp>,
}

impl ObjectMeta {
    /// Which of two conflicting objects wins: the older, then the lower name, then the lower namespace (Istio:
    /// `configCompareByCreationTime`). An object without a time is younger than one with.
    pub fn cmp_by_age(&self, other: &Self) -> Ordering {
        let age = |meta: &Self| (meta.creation_timestamp.is_none(), meta.creation_timestamp);
        age(self)
            .cmp(&age(other))
            .then_with(|| self.name.cmp(&other.name))
            .then_with(|| self.namespace.cmp(&other.namespace))
    }

    /// The key of this object in [`crate::inputs::Inputs`].
    pub fn key(&self) -> Key {
        Key { namespace: self.namespace.clone(), name: self.name.clone() }
    }
}

/// Labels, or a selector for them. Those of the pods of one Deployment are the same; whoever keeps many has them once
/// ([`crate::pool`]).
pub type Labels = Arc<BTreeMap<String, String>>;

/// Namespace and name. Ordered by namespace first.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Empty for cluster-scoped kinds.
    pub namespace: Arc<str>,
    /// The object's name.
    pub name: Arc<str>,
}

impl Key {
    /// A key from borrowed parts.
    pub fn new(namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            f.write_str(&self.name)
        } else {
            write!(f, "{}/{}", self.namespace, self.name)
        }
    }
}

/// A type that is the content of one kind of object.
pub trait Kinded {
    /// The kind as users write it.
    const KIND: &'static str;
}

/// An object: metadata, content, and where it was written. Cheap to share by `Arc`, never changed.
#[derive(Debug, Clone, PartialEq)]
pub struct Resource<T> {
    /// Name, namespace, labels.
    pub meta: ObjectMeta,
    /// The content: Istio's `spec`, or our reading of a Kubernetes object.
    pub spec: T,
    /// File and lines.
    pub origin: Arc<Origin>,
}

impl<T: Kinded> Resource<T> {
    /// A diagnostic about `field` (`spec.hosts[0]`) of this object, with the file and line filled in.
    pub fn diagnostic(
        &self,
        severity: Severity,
        code: Code,
        field: &str,
        message: impl Into<String>,
    ) -> Diagnostic {
        Diagnostic {
            severity,
            code,
            kind: T::KIND.to_owned(),
            namespace: self.meta.namespace.to_string(),
            name: self.meta.name.to_string(),
            field: field.to_owned(),
            file: self.origin.file().map(str::to_owned),
            line: self.origin.line(field),
            message: message.into(),
            hint: String::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meta(name: &str, namespace: &str, seconds: Option<i64>) -> ObjectMeta {
        ObjectMeta {
            name: name.into(),
            namespace: namespace.into(),
            creation_timestamp: seconds.map(Timestamp::from_unix_seconds),
            ..Default::default()
        }
    }

    #[test]
    fn the_older_wins_then_name_then_namespace_and_no_time_is_youngest() {
        let mut all = [
            meta("a", "z", None),
            meta("a", "b", None),
            meta("b", "a", Some(5)),
            meta("c", "a", Some(5)),
            meta("z", "a", Some(1)),
        ];
        let want: Vec<_> = [4, 2, 3, 1, 0].iter().map(|&i: &usize| all[i].clone()).collect();
        all.sort_by(ObjectMeta::cmp_by_age);
        assert_eq!(all.to_vec(), want);
    }
}
