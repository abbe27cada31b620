//! How it is with the connection to the API server: for `status`, the metrics, and one log line for each change.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use serde_json::{Value, json};

use super::kinds::{KINDS, Kind};

/// See the module's text.
#[derive(Debug)]
pub struct Link {
    server: String,
    /// In bytes of answers, all kinds together.
    bytes: AtomicU64,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    kinds: BTreeMap<&'static str, OfKind>,
    is_connected: bool,
    /// Of `is_connected`.
    since: Instant,
    /// When the server sent anything last.
    contact: Option<Instant>,
}

#[derive(Debug, Default, Clone)]
struct OfKind {
    phase: Phase,
    version: String,
    objects: usize,
    lists: u64,
    watches: u64,
    events: u64,
    failures: u64,
    malformed: u64,
}

/// What becomes of a kind.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
enum Phase {
    /// Not asked for yet.
    #[default]
    Starting,
    /// The server does not have it.
    NotServed,
    Listing,
    Watching,
    Failing(Trouble),
}

/// Why a kind cannot be read now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Trouble {
    /// No answer.
    Unreachable(String),
    /// An answer, and it is no.
    Refused { status: u16, message: String },
}

impl Trouble {
    /// Whether somebody has to do something about it: what a server says while it starts or has too much to do passes.
    fn is_lasting(&self) -> bool {
        matches!(self, Self::Refused { status: 400..500, .. })
            && !matches!(self, Self::Refused { status: 404 | 408 | 410 | 429, .. })
    }

    fn text(&self) -> String {
        match self {
            Self::Unreachable(why) => why.clone(),
            Self::Refused { status, message } => format!("{status}: {message}"),
        }
    }
}

impl Link {
    pub(super) fn new(server: String) -> Self {
        let state = State {
            kinds: KINDS.iter().map(|kind| (kind.name, OfKind::default())).collect(),
            is_connected: false,
            since: Instant::now(),
            contact: None,
        };
        Self { server, bytes: AtomicU64::new(0), state: Mutex::new(state) }
    }

    /// Whether all kinds can be read now.
    pub fn is_connected(&self) -> bool {
        self.with(|state| state.is_connected)
    }

    /// A list began.
    pub(super) fn lists(&self, kind: &Kind, version: &str) {
        self.of(kind, |it| {
            it.lists += 1;
            it.version = version.to_owned();
        });
    }

    /// A watch began.
    pub(super) fn watches(&self, kind: &Kind) {
        self.of(kind, |it| it.watches += 1);
    }

    /// The server sent something.
    pub(super) fn received(&self, bytes: usize) {
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        self.with(|state| state.contact = Some(Instant::now()));
    }

    /// An object was sent.
    pub(super) fn event(&self, kind: &Kind) {
        self.of(kind, |it| it.events += 1);
    }

    /// Something was sent that is no object, and left out.
    pub(super) fn malformed(&self, kind: &Kind, why: &str) {
        tracing::debug!(kind = kind.name, why, "the API server sent something that cannot be read");
        self.of(kind, |it| it.malformed += 1);
    }

    /// So many objects are in force.
    pub(super) fn objects(&self, kind: &Kind, count: usize) {
        self.of(kind, |it| it.objects = count);
    }

    /// The server answers, and sends all objects.
    pub(super) fn listing(&self, kind: &Kind) {
        self.phase(kind, Phase::Listing);
    }

    /// The server answers, and sends changes.
    pub(super) fn watching(&self, kind: &Kind) {
        self.phase(kind, Phase::Watching);
    }

    /// The server does not know the kind.
    pub(super) fn not_served(&self, kind: &Kind) {
        self.phase(kind, Phase::NotServed);
    }

    /// It cannot be read; what was read stays in force.
    pub(super) fn failed(&self, kind: &Kind, trouble: Trouble) {
        tracing::debug!(kind = kind.name, why = trouble.text(), "cannot be read from the API server");
        self.of(kind, |it| it.failures += 1);
        self.phase(kind, Phase::Failing(trouble));
    }

    fn phase(&self, kind: &Kind, phase: Phase) {
        self.with(|state| {
            let Some(it) = state.kinds.get_mut(kind.name) else { return };
            let before = std::mem::replace(&mut it.phase, phase);
            if let Phase::Failing(trouble) = &it.phase
                && trouble.is_lasting()
                && before != it.phase
            {
                let (resource, why) = (kind.resource(), trouble.text());
                tracing::error!(resource, why, "the API server refuses; what was read of it stays in force");
            }
            let mut all_failing = state.kinds.values().filter_map(|it| match &it.phase {
                Phase::Failing(trouble) => Some(trouble),
                _ => None,
            });
            let failing = all_failing.next();
            let is_first = all_failing.next().is_none() && !matches!(before, Phase::Failing(_));
            let is_connected =
                failing.is_none() && state.kinds.values().all(|it| it.phase != Phase::Starting);
            // The others fail by and by for the same reason.
            if let Some(trouble) = failing
                && !trouble.is_lasting()
                && is_first
            {
                let why = trouble.text();
                tracing::warn!(
                    server = self.server,
                    why,
                    "the API server cannot be read; what is in force stays"
                );
            }
            if is_connected && !state.is_connected {
                tracing::info!(server = self.server, "the API server answers");
            }
            if is_connected != state.is_connected {
                state.is_connected = is_connected;
                state.since = Instant::now();
            }
        });
    }

    /// What cannot be read, and why, for people.
    pub fn trouble(&self) -> String {
        let failing: Vec<String> = self.with(|state| {
            let row = |(name, it): (&&str, &OfKind)| match &it.phase {
                Phase::Failing(trouble) => Some(format!("{name}: {}", trouble.text())),
                _ => None,
            };
            state.kinds.iter().filter_map(row).collect()
        });
        match failing.as_slice() {
            [] => format!("{} does not answer", self.server),
            [one] => one.clone(),
            [first, rest @ ..] => format!("{first} (and {} more)", rest.len()),
        }
    }

    /// For `status`.
    pub fn status(&self) -> Value {
        let bytes = self.bytes.load(Ordering::Relaxed);
        self.with(|state| {
            let kinds: Vec<Value> = state
                .kinds
                .iter()
                .map(|(name, it)| {
                    let (phase, error) = match &it.phase {
                        Phase::Starting => ("starting", None),
                        Phase::NotServed => ("not served", None),
                        Phase::Listing => ("listing", None),
                        Phase::Watching => ("watching", None),
                        Phase::Failing(trouble) => ("failing", Some(trouble.text())),
                    };
                    json!({
                        "kind": name, "version": it.version, "state": phase, "error": error, "objects": it.objects,
                        "lists": it.lists, "watches": it.watches, "events": it.events, "failures": it.failures,
                        "malformed": it.malformed,
                    })
                })
                .collect();
            json!({
                "type": "kubernetes",
                "server": self.server,
                "connected": state.is_connected,
                "since_seconds": state.since.elapsed().as_secs(),
                "last_contact_seconds": state.contact.map(|at| at.elapsed().as_secs()),
                "bytes": bytes,
                "kinds": kinds,
            })
        })
    }

    /// In Prometheus' text format.
    pub fn render(&self, out: &mut String) {
        let bytes = self.bytes.load(Ordering::Relaxed);
        self.with(|state| {
            let mut series = |name: &str, kind: &str, help: &str, rows: &[(String, u64)]| {
                // Writing to a String cannot fail.
                let _ = writeln!(
                    out,
                    "# HELP undermesh_source_{name} {help}\n# TYPE undermesh_source_{name} {kind}"
                );
                for (labels, value) in rows {
                    let _ = writeln!(out, "undermesh_source_{name}{labels} {value}");
                }
            };
            let one = |value: u64| [(String::new(), value)];
            let age = state.contact.map_or(0, |at| at.elapsed().as_secs());
            series(
                "connected",
                "gauge",
                "Whether all kinds can be read from the API server.",
                &one(state.is_connected.into()),
            );
            series("last_contact_seconds", "gauge", "Time since the API server sent anything.", &one(age));
            series("received_bytes_total", "counter", "Bytes of the API server's answers.", &one(bytes));
            type Get = fn(&OfKind) -> u64;
            let of_kinds: [(&str, &str, &str, Get); 6] = [
                ("objects", "gauge", "Objects in force.", |it| it.objects as u64),
                ("lists_total", "counter", "Lists of all objects of a kind that were begun.", |it| it.lists),
                ("watches_total", "counter", "Watches that were begun.", |it| it.watches),
                ("events_total", "counter", "Objects and changes that were sent.", |it| it.events),
                ("failures_total", "counter", "Requests that failed.", |it| it.failures),
                ("malformed_total", "counter", "Objects and events that were left out.", |it| it.malformed),
            ];
            for (name, kind, help, get) in of_kinds {
                let rows: Vec<_> =
                    state.kinds.iter().map(|(kind, it)| (format!("{{kind=\"{kind}\"}}"), get(it))).collect();
                series(name, kind, help, &rows);
            }
        });
    }

    fn of(&self, kind: &Kind, change: impl FnOnce(&mut OfKind)) {
        self.with(|state| state.kinds.get_mut(kind.name).map(change));
    }

    fn with<T>(&self, with: impl FnOnce(&mut State) -> T) -> T {
        with(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_connected_while_every_kind_can_be_read_or_is_not_there() {
        let link = Link::new("https://x".into());
        assert!(!link.is_connected());
        for kind in &KINDS {
            assert!(!link.is_connected());
            if kind.is_built_in { link.watching(kind) } else { link.not_served(kind) }
        }
        assert!(link.is_connected());
        link.failed(&KINDS[0], Trouble::Unreachable("down".into()));
        assert!(!link.is_connected());
        assert_eq!(link.status().pointer("/connected"), Some(&json!(false)));
        link.listing(&KINDS[0]);
        assert!(link.is_connected());
    }

    #[test]
    fn what_passes_by_itself_is_told_from_what_lasts() {
        for status in [400, 401, 403, 422] {
            assert!(Trouble::Refused { status, message: String::new() }.is_lasting(), "{status}");
        }
        for status in [404, 410, 429, 500, 503] {
            assert!(!Trouble::Refused { status, message: String::new() }.is_lasting(), "{status}");
        }
        assert!(!Trouble::Unreachable(String::new()).is_lasting());
    }

    #[test]
    fn metrics_name_every_kind() {
        let link = Link::new("https://x".into());
        link.event(&KINDS[2]);
        link.received(12);
        let mut out = String::new();
        link.render(&mut out);
        for line in [
            "undermesh_source_connected 0",
            "undermesh_source_received_bytes_total 12",
            "undermesh_source_events_total{kind=\"Pod\"} 1",
            "undermesh_source_events_total{kind=\"Node\"} 0",
        ] {
            assert!(out.lines().any(|it| it == line), "{line}: {out}");
        }
    }
}
