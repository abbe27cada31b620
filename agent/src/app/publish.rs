//! From a source to a snapshot in force: load, compile, number, swap. One writer.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use arc_swap::ArcSwap;
use undermesh_core::compile::compile;
use undermesh_core::diagnostic::{Diagnostic, Severity};
use undermesh_core::inputs::Inputs;
use undermesh_core::snapshot::Snapshot;

use crate::source::files::Loaded;

/// What is in force, as admin and the roles read it.
pub struct Published {
    /// For the proxy.
    pub snapshot: Arc<ArcSwap<Snapshot>>,
    /// For people.
    pub config: ArcSwap<Config>,
}

/// The configuration that the snapshot was made of.
#[derive(Debug, Default)]
pub struct Config {
    /// The objects in force.
    pub inputs: Inputs,
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
        Self { snapshot: Arc::default(), config: ArcSwap::default() }
    }

    /// Compiles and swaps. Diagnostics that were not there before are logged, once each.
    pub fn publish(&self, loaded: Loaded) -> Arc<Snapshot> {
        let before = self.config.load_full();
        let generation = before.generation + 1;
        let started = Instant::now();
        let compiled = compile(&loaded.inputs);
        let compile_us = started.elapsed().as_micros() as u64;
        let mut diagnostics = loaded.diagnostics;
        diagnostics.extend(compiled.diagnostics);
        log_new(&before.diagnostics, &diagnostics);
        let snapshot = Arc::new(compiled.snapshot.with_generation(generation));
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

fn log_new(before: &[Diagnostic], now: &[Diagnostic]) {
    let known: HashSet<String> = before.iter().map(ToString::to_string).collect();
    for diagnostic in now {
        let text = diagnostic.to_string();
        if known.contains(&text) {
            continue;
        }
        match diagnostic.severity {
            Severity::Error => tracing::error!("{text}"),
            Severity::Warning => tracing::warn!("{text}"),
            Severity::Info => tracing::info!("{text}"),
        }
    }
}
