//! `undermesh check --against-cluster`: what applying files would change.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::io::Write;

use serde_json::{Value, json};
use undermesh_core::api::{Identity, Object};
use undermesh_core::client::Client;
use undermesh_core::diagnostic::{Diagnostic, printable};
use undermesh_core::inputs::Inputs;
use undermesh_core::snapshot::Snapshot;

use super::super::output::{Output, document};
use super::compiled;
use crate::admin::routes;
use crate::source::Loaded;

/// The routes of one client, as far as they would be other than they are.
struct Rerouted {
    /// `namespace`, or `gateway` and its selector.
    client: String,
    come: Vec<Value>,
    go: Vec<Value>,
}

/// The difference between the cluster as it is and as it would be.
pub(super) struct Change {
    /// Objects that would be other than they are; `true`: there is none yet.
    objects: BTreeMap<Identity, bool>,
    /// Objects of the files that are in the cluster as they are.
    same: usize,
    /// Hosts that the objects are about.
    hosts: BTreeSet<String>,
    /// What it means for whom.
    routes: Vec<Rerouted>,
    /// Remarks that there would be, and are not.
    pub(super) come: Vec<Diagnostic>,
    /// Remarks that there are, and would not be.
    go: Vec<Diagnostic>,
}

impl Change {
    /// What `files` would change of `cluster`. What is refused would not: the API server, or the mesh, leaves the object as
    /// it is.
    pub(super) fn of(cluster: Loaded, files: Loaded) -> Self {
        let mut after = cluster.clone();
        let (mut objects, mut hosts, mut same) = (BTreeMap::new(), BTreeSet::new(), 0);
        // What is said about an object as it is in the cluster is not said about the one that takes its place.
        let mut replaced = BTreeSet::new();
        for object in files.inputs.objects() {
            let identity = Identity { kind: object.kind(), key: object.key() };
            replaced.insert(identity.clone());
            let there = cluster.inputs.get(&identity);
            let applied = match &there {
                Some(there) => object.applied_over(there),
                None => Some(object),
            };
            match applied {
                Some(applied) => {
                    hosts.extend(hosts_of(&applied));
                    hosts.extend(there.iter().flat_map(hosts_of));
                    objects.insert(identity, there.is_none());
                    after.inputs.put(applied);
                }
                None => same += 1,
            }
        }
        after.diagnostics.retain(|it| !replaced.iter().any(|of| is_about(it, of)));
        after.diagnostics.extend(files.diagnostics);
        let clients = clients(objects.keys(), [&cluster.inputs, &after.inputs]);
        let ((was, before), (will, after)) = (compiled(cluster), compiled(after));
        let routes =
            clients.into_iter().filter_map(|(name, client)| Rerouted::of(name, &client, &was, &will));
        let routes = routes.collect();
        let without = |all: &[Diagnostic], others: &[Diagnostic]| {
            let known: BTreeSet<String> = others.iter().map(essence).collect();
            all.iter().filter(|it| !known.contains(&essence(it))).cloned().collect()
        };
        Self { objects, same, hosts, routes, come: without(&after, &before), go: without(&before, &after) }
    }

    pub(super) fn print(&self, output: Output) -> anyhow::Result<()> {
        let mut out = std::io::BufWriter::new(std::io::stdout().lock());
        match output {
            Output::Table => self.text(&mut out)?,
            Output::Json | Output::Yaml => document(&mut out, output, &self.json())?,
        }
        out.flush()?;
        Ok(())
    }

    fn text(&self, out: &mut impl Write) -> std::io::Result<()> {
        for (identity, is_new) in &self.objects {
            let (sign, word) = if *is_new { ("+", "new") } else { ("~", "changed") };
            writeln!(out, "{sign} {} {} ({word})", identity.kind, identity.key)?;
        }
        for Rerouted { client, come, go } in &self.routes {
            writeln!(out, "routes of {client}:")?;
            for (sign, rows) in [("-", go), ("+", come)] {
                for row in rows {
                    writeln!(out, "  {sign} {}", printable(&routes::line(row)))?;
                }
            }
        }
        for (heading, remarks) in [("would be said:", &self.come), ("would not be said any more:", &self.go)]
        {
            if !remarks.is_empty() {
                writeln!(out, "{heading}")?;
            }
            for remark in remarks {
                writeln!(out, "  {remark}")?;
            }
        }
        if !self.hosts.is_empty() {
            writeln!(out, "hosts: {}", self.hosts.iter().cloned().collect::<Vec<_>>().join(", "))?;
        }
        let new = self.objects.values().filter(|is_new| **is_new).count();
        let changed = self.objects.len() - new;
        writeln!(out, "{new} new, {changed} changed, {} as in the cluster", self.same)
    }

    fn json(&self) -> Value {
        let objects: Vec<Value> = self
            .objects
            .iter()
            .map(|(identity, is_new)| {
                json!({"kind": identity.kind, "namespace": &*identity.key.namespace, "name": &*identity.key.name,
                    "change": if *is_new { "new" } else { "changed" }})
            })
            .collect();
        let routes = self.routes.iter().map(|it| json!({"client": it.client, "come": it.come, "go": it.go}));
        let routes: Vec<Value> = routes.collect();
        json!({"version": 1, "objects": objects, "same": self.same, "hosts": self.hosts, "routes": routes, "come": self.come,
            "go": self.go})
    }
}

impl Rerouted {
    /// `None` if nothing would be other than it is. A route that only moves says so by the number of its rule.
    fn of(name: String, client: &Client, was: &Snapshot, will: &Snapshot) -> Option<Self> {
        let (was, will) = (routes::rows(was, client, ""), routes::rows(will, client, ""));
        let without = |all: &[Value], others: &[Value]| -> Vec<Value> {
            let known: HashSet<String> = others.iter().map(Value::to_string).collect();
            all.iter().filter(|row| !known.contains(&row.to_string())).cloned().collect()
        };
        let (come, go) = (without(&will, &was), without(&was, &will));
        (!come.is_empty() || !go.is_empty()).then_some(Self { client: name, come, go })
    }
}

/// Whose routes are looked at: a client without labels in each namespace of an object that would be other, and the gateways.
fn clients<'a>(
    changed: impl Iterator<Item = &'a Identity>,
    states: [&Inputs; 2],
) -> BTreeMap<String, Client> {
    let mesh = changed.map(|identity| {
        let namespace = &*identity.key.namespace;
        (format!("a client in {namespace}"), Client::mesh(namespace, []))
    });
    let gateways = states.into_iter().flat_map(|inputs| &inputs.gateways).map(|(_, gateway)| {
        let selector = &gateway.spec.selector;
        let labels: Vec<String> = selector.iter().map(|(key, value)| format!("{key}={value}")).collect();
        (
            format!("the gateway {}", labels.join(",")),
            Client::gateway(&gateway.meta.namespace, selector.clone()),
        )
    });
    mesh.chain(gateways).collect()
}

fn is_about(diagnostic: &Diagnostic, identity: &Identity) -> bool {
    diagnostic.kind == identity.kind
        && *diagnostic.name == *identity.key.name
        && *diagnostic.namespace == *identity.key.namespace
}

/// What is said, wherever the object was read.
fn essence(diagnostic: &Diagnostic) -> String {
    Diagnostic { file: None, line: None, ..diagnostic.clone() }.to_string()
}

/// The hosts whose traffic an object is about, as it writes them.
fn hosts_of(object: &Object) -> Vec<String> {
    match object {
        Object::VirtualService(it) => it.spec.hosts.clone(),
        Object::DestinationRule(it) => vec![it.spec.host.clone()],
        Object::ServiceEntry(it) => it.spec.hosts.clone(),
        Object::Gateway(it) => it.spec.servers.iter().flat_map(|server| server.hosts.clone()).collect(),
        Object::Service(it) => vec![format!("{}.{}.svc", it.meta.name, it.meta.namespace)],
        _ => Vec::new(),
    }
}
