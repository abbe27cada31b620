//! From a source to a snapshot in force: load, compile, number, swap. One writer.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Instant, SystemTime};

use arc_swap::ArcSwap;
use undermesh_core::compile::Compiler;
use undermesh_core::diagnostic::{Diagnostic, Severity};
use undermesh_core::inputs::Inputs;
use undermesh_core::snapshot::Snapshot;

use crate::source::Loaded;

/// What is in force, as admin and the roles read it.
pub struct Published {
    /// For the proxy.
    pub snapshot: Arc<ArcSwap<Snapshot>>,
    /// For people.
    pub config: ArcSwap<Config>,
    /// Remembers what it made, so that a change costs what it changes.
    compiler: Mutex<Compiler>,
}

/// The configuration that the snapshot was made of.
#[derive(Debug, Default)]
pub struct Config {
    /// The objects in force.
    pub inputs: Inputs,
    /// As of [`Loaded`].
    pub trusts_annotations: bool,
    /// All that is wrong with them, and with those that are not.
    pub diagnostics: Vec<Diagnostic>,
    /// The generation made of it.
    pub generation: u64,
    /// When it came into force.
    pub since: Option<SystemTime>,
    /// CPU-bound time from the objects to the snapshot, microseconds.
    pub compile_us: u64,
}

impl Published {
    /// An empty snapshot, generation 0.
    pub fn new() -> Self {
        Self { snapshot: Arc::default(), config: ArcSwap::default(), compiler: Mutex::default() }
    }

    /// Compiles and swaps. Diagnostics that were not there before are logged, once each.
    pub fn publish(&self, loaded: Loaded) -> Arc<Snapshot> {
        let before = self.config.load_full();
        let started = Instant::now();
        let compiled = self.compiler.lock().unwrap_or_else(PoisonError::into_inner).compile(&loaded.inputs);
        let compile_us = started.elapsed().as_micros() as u64;
        let mut diagnostics = loaded.diagnostics;
        diagnostics.extend(compiled.diagnostics);
        log_new(&before.diagnostics, &diagnostics);
        let snapshot = Arc::new(compiled.snapshot.following(&self.snapshot.load()));
        let generation = snapshot.generation();
        self.snapshot.store(snapshot.clone());
        let errors = diagnostics.iter().filter(|diagnostic| diagnostic.severity == Severity::Error).count();
        let services = snapshot.services().len();
        // Endpoints come and go ten times a second in a large cluster; what people wrote is what they look for in the log.
        if is_same_but_for_endpoints(&before.inputs, &loaded.inputs) && before.generation > 0 {
            tracing::debug!(generation, compile_us, errors, services, "endpoints in force");
        } else {
            tracing::info!(generation, compile_us, errors, services, "configuration in force");
        }
        self.config.store(Arc::new(Config {
            inputs: loaded.inputs,
            trusts_annotations: loaded.trusts_annotations,
            diagnostics,
            generation,
            since: Some(SystemTime::now()),
            compile_us,
        }));
        snapshot
    }
}

impl Default for Published {
    fn default() -> Self {
        Self::new()
    }
}

/// Whether nothing changed but what says where things run.
fn is_same_but_for_endpoints(before: &Inputs, after: &Inputs) -> bool {
    let Inputs {
        mesh,
        virtual_services,
        destination_rules,
        gateways,
        service_entries,
        workload_entries: _,
        sidecars,
        authorization_policies,
        peer_authentications,
        request_authentications,
        services,
        endpoint_slices: _,
        pods: _,
        nodes: _,
        namespaces,
    } = before;
    mesh.as_ref().map(Arc::as_ptr) == after.mesh.as_ref().map(Arc::as_ptr)
        && virtual_services.is_same(&after.virtual_services)
        && destination_rules.is_same(&after.destination_rules)
        && gateways.is_same(&after.gateways)
        && service_entries.is_same(&after.service_entries)
        && sidecars.is_same(&after.sidecars)
        && authorization_policies.is_same(&after.authorization_policies)
        && peer_authentications.is_same(&after.peer_authentications)
        && request_authentications.is_same(&after.request_authentications)
        && services.is_same(&after.services)
        && namespaces.is_same(&after.namespaces)
}

/// What is new: a remark that has only moved to another line has been logged.
fn log_new(before: &[Diagnostic], now: &[Diagnostic]) {
    if before == now {
        return;
    }
    for diagnostic in fresh(before, now) {
        let text = diagnostic.to_string();
        match diagnostic.severity {
            Severity::Error => tracing::error!("{text}"),
            Severity::Warning => tracing::warn!("{text}"),
            Severity::Info => tracing::info!("{text}"),
        }
    }
}

fn fresh<'a>(before: &[Diagnostic], now: &'a [Diagnostic]) -> Vec<&'a Diagnostic> {
    let what = |it: &Diagnostic| Diagnostic { line: None, ..it.clone() }.to_string();
    let known: HashSet<String> = before.iter().map(what).collect();
    now.iter().filter(|it| !known.contains(&what(it))).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use undermesh_core::api;
    use undermesh_core::diagnostic::Code;

    use super::*;

    #[test]
    fn endpoints_alone_are_no_news_and_whatever_somebody_wrote_is() {
        let object = |text: Value| api::parse(text, Default::default()).object.unwrap();
        let meta = json!({"name": "a", "namespace": "n"});
        let mut before = Inputs::default();
        before.insert(object(json!({"apiVersion": "v1", "kind": "Service", "metadata": meta})));
        assert!(is_same_but_for_endpoints(&before, &before.clone()));
        for (version, kind, is_quiet) in [
            ("v1", "Pod", true),
            ("v1", "Node", true),
            ("discovery.k8s.io/v1", "EndpointSlice", true),
            ("v1", "Service", false),
            ("v1", "Namespace", false),
            ("networking.istio.io/v1", "VirtualService", false),
            ("networking.istio.io/v1", "Sidecar", false),
        ] {
            let mut after = before.clone();
            after.insert(object(json!({"apiVersion": version, "kind": kind, "metadata": meta})));
            assert_eq!(is_same_but_for_endpoints(&before, &after), is_quiet, "{kind}");
        }
    }

    #[test]
    fn what_stays_is_logged_once_and_what_changes_again() {
        let at = |line, message: &str| {
            Diagnostic::of_file(Severity::Warning, Code::Syntax, "a.yaml", Some(line), message)
        };
        let before = [at(1, "x"), at(2, "y")];
        let now = [at(7, "x"), at(2, "z")];
        let messages: Vec<_> = fresh(&before, &now).iter().map(|it| it.message.as_str()).collect();
        assert_eq!(messages, ["z"]);
        assert_eq!(fresh(&[], &now).len(), 2);
    }
}
