//! One worker's counts.
//!
//! ```text
//! place (endpoint, cluster, table) ─ SeriesCache ─ (outcome, series) ──┐
//!                                                                      ▼
//! Shard ─ by label text ─────────────────────────────────────────── series
//! ```
//!
//! Workloads come and go, and so do their series: one that no place has any more, and that has not been added to for an hour
//! ([`Shard::sweep`]), is forgotten, as the series of a restarted Envoy are. Should it come again it begins at nothing, which
//! Prometheus takes for what it is.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{COUNTERS, Counter, HttpSeries, Metrics, TcpSeries};
use crate::flags::ResponseFlags;

/// A series that nobody adds to is kept for so long.
const KEEP: Duration = Duration::from_secs(3600);

/// What, besides the workloads, tells series of requests apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub status: u16,
    pub flags: ResponseFlags,
    /// gRPC status, from the head or the trailers.
    pub grpc_status: Option<u32>,
    pub is_grpc: bool,
}

/// How many outcomes a place has series of its own for. Servers seldom use more than ten; one that went through every status
/// there is would make thousands of series for each of its clients.
const MAX_OUTCOMES: usize = 64;

impl Outcome {
    /// Whatever is beyond [`MAX_OUTCOMES`].
    pub(crate) const OTHER: Self =
        Self { status: u16::MAX, flags: ResponseFlags::NONE, grpc_status: None, is_grpc: false };
}

/// The series that one place (an endpoint, a cluster, a table) has met; a handful, so a list.
#[derive(Default)]
pub(crate) struct SeriesCache(RefCell<Vec<(Outcome, Rc<RefCell<HttpSeries>>)>>);

/// A series, and what is needed to tell whether it is of the past.
struct Kept<T> {
    series: T,
    /// How many events it had when somebody last looked, and since when it has had so many.
    seen: Option<(u64, Instant)>,
}

impl<T> Kept<T> {
    fn new(series: T) -> Self {
        Self { series, seen: None }
    }

    /// Whether it has had `events` for too long. To be asked now and then.
    fn is_past(&mut self, events: u64, now: Instant) -> bool {
        match self.seen {
            Some((seen, since)) if seen == events => now.saturating_duration_since(since) >= KEEP,
            _ => {
                self.seen = Some((events, now));
                false
            }
        }
    }
}

impl<T: Default> Default for Kept<T> {
    fn default() -> Self {
        Self::new(T::default())
    }
}

/// Series by their label text, or by the id of a rule.
type ByLabels<T> = RefCell<HashMap<Arc<str>, Kept<T>>>;

/// One worker's counts.
pub(crate) struct Shard {
    http: ByLabels<Rc<RefCell<HttpSeries>>>,
    tcp: ByLabels<TcpSeries>,
    rules: ByLabels<u64>,
    counters: [Cell<i64>; COUNTERS.len()],
}

// Not derived: arrays of more than 32 have no default.
impl Default for Shard {
    fn default() -> Self {
        Self {
            http: RefCell::default(),
            tcp: RefCell::default(),
            rules: RefCell::default(),
            counters: [const { Cell::new(0) }; COUNTERS.len()],
        }
    }
}

impl Shard {
    pub(crate) fn count(&self, counter: Counter) {
        self.change(counter, 1);
    }

    pub(crate) fn change(&self, counter: Counter, by: i64) {
        let cell = &self.counters[counter as usize];
        cell.set(cell.get() + by);
    }

    /// Records one request. `labels` is called only when the place behind `cache` sees `outcome` for the first time.
    pub(crate) fn request(
        &self,
        cache: &SeriesCache,
        outcome: Outcome,
        duration: Duration,
        received: u64,
        sent: u64,
        labels: impl FnOnce(Outcome) -> String,
    ) {
        let mut cache = cache.0.borrow_mut();
        let met = |outcome: Outcome| cache.iter().position(|(met, _)| *met == outcome);
        let (outcome, at) = match met(outcome) {
            None if cache.len() >= MAX_OUTCOMES => (Outcome::OTHER, met(Outcome::OTHER)),
            at => (outcome, at),
        };
        let at = at.unwrap_or_else(|| {
            cache.push((outcome, self.http_series(labels(outcome))));
            cache.len() - 1
        });
        if let Some((_, series)) = cache.get(at) {
            let mut series = series.borrow_mut();
            series.requests += 1;
            series.duration_ms.observe(duration.as_secs_f64() * 1e3);
            series.request_bytes.observe(received as f64);
            series.response_bytes.observe(sent as f64);
        }
    }

    fn http_series(&self, labels: String) -> Rc<RefCell<HttpSeries>> {
        self.http.borrow_mut().entry(labels.into()).or_default().series.clone()
    }

    /// Counts a request for the rule with this id.
    pub(crate) fn rule(&self, id: &Arc<str>) {
        let mut rules = self.rules.borrow_mut();
        match rules.get_mut(id) {
            Some(count) => count.series += 1,
            None => drop(rules.insert(id.clone(), Kept::new(1))),
        }
    }

    pub(crate) fn tcp_opened(&self, labels: &Arc<str>) {
        self.tcp.borrow_mut().entry(labels.clone()).or_default().series.opened += 1;
    }

    pub(crate) fn tcp_closed(&self, labels: &Arc<str>, received: u64, sent: u64) {
        let mut all = self.tcp.borrow_mut();
        let series = &mut all.entry(labels.clone()).or_default().series;
        series.closed += 1;
        series.received_bytes += received;
        series.sent_bytes += sent;
    }

    /// Forgets series of the past. Looks at all of them, so not to be called often.
    pub(crate) fn sweep(&self, now: Instant) {
        self.http.borrow_mut().retain(|_, kept| {
            let requests = kept.series.borrow().requests;
            // Ours alone: no place would go on adding to a series that nobody sees.
            !(kept.is_past(requests, now) && Rc::strong_count(&kept.series) == 1)
        });
        self.tcp.borrow_mut().retain(|_, kept| {
            let TcpSeries { opened, closed, .. } = kept.series;
            !(kept.is_past(closed, now) && opened == closed)
        });
        self.rules.borrow_mut().retain(|_, kept| {
            let requests = kept.series;
            !kept.is_past(requests, now)
        });
    }

    pub(crate) fn collect(&self) -> Metrics {
        Metrics {
            http: sums(&self.http, |series| series.borrow().clone()),
            tcp: sums(&self.tcp, |series| *series),
            rules: sums(&self.rules, |count| *count),
            counters: self.counters.iter().map(Cell::get).enumerate().collect(),
        }
    }
}

fn sums<T, S>(of: &ByLabels<T>, sum: fn(&T) -> S) -> BTreeMap<Arc<str>, S> {
    of.borrow().iter().map(|(labels, kept)| (labels.clone(), sum(&kept.series))).collect()
}

#[cfg(test)]
mod tests;
