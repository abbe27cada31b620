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
        tracing::info!(
            generation,
            compile_us,
            errors,
            services = snapshot.services().len(),
            "configuration in force"
        );
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
    use undermesh_core::diagnostic::Code;

    use super::*;

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
