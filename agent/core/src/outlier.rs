//! Outlier detection: endpoints that keep failing are left out for a while, with Envoy's arithmetic.
//!
//! ```text
//!   a try ended ── Health::record (atomics, shared by all workers) ── a row of failures is long enough?
//!                                                                          │ rare
//!   Detector (behind the caller's lock) ◀── eject: not too many at once? ──┘
//!            └── sweep, once per interval: who has been out for long enough returns; who behaved is forgiven
//! ```
//!
//! Source: istio-semantics sections 0.3 and 3.3; Envoy's `DetectorImpl`. Success-rate ejection is off in Istio and absent
//! here. Whether the rest of the cluster is used when too many are out (`minHealthPercent`) is the balancer's business.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::policy::OutlierDetection;
use crate::route::GrpcStatus;

/// Envoy's `max_ejection_time`, which Istio leaves at its default.
const MAX_EJECTION: Duration = Duration::from_secs(300);
/// How long a row of failures is remembered of an endpoint that nobody uses: addresses of names come and go.
const MEMORY: Duration = Duration::from_secs(3600);

/// What a try told about its endpoint (Envoy: `Outlier::Result`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sign {
    /// There is a connection, and an answer has yet to come (HTTP).
    Connected,
    /// There is a connection, and no more will be known (TCP).
    Opened,
    /// The head of an answer.
    Answered {
        /// Its HTTP status.
        status: u16,
        /// Its gRPC status, if it is the answer to a gRPC call and has one in its head.
        grpc_status: Option<u32>,
    },
    /// Refused, unreachable, reset, or no valid answer: counts as 503.
    Failed,
    /// No connection or no answer in time: counts as 504.
    TimedOut,
}

/// Which row of failures became long enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cause {
    /// `consecutiveGatewayErrors`
    GatewayErrors,
    /// `consecutive5xxErrors`
    Consecutive5xx,
    /// `consecutiveLocalOriginFailures`
    LocalOriginFailures,
}

impl Cause {
    /// For logs and metric labels; Envoy's names.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::GatewayErrors => "consecutive_gateway_failure",
            Self::Consecutive5xx => "consecutive_5xx",
            Self::LocalOriginFailures => "consecutive_local_origin_failure",
        }
    }
}

/// What all tries of one client have in common about one endpoint. Changed by any worker, without locks.
#[derive(Debug, Default)]
pub struct Health {
    is_ejected: AtomicBool,
    errors_5xx: AtomicU32,
    gateway_errors: AtomicU32,
    local_failures: AtomicU32,
}

impl Health {
    /// Whether the endpoint is to be left out.
    pub fn is_ejected(&self) -> bool {
        self.is_ejected.load(Ordering::Relaxed)
    }

    /// Takes in how a try ended. What comes back is to be handed to [`Detector::eject`], in order.
    pub fn record(&self, settings: &OutlierDetection, sign: Sign) -> impl Iterator<Item = Cause> + use<> {
        let split = settings.split_local_origin;
        let causes = match sign {
            Sign::Answered { status, grpc_status } => {
                self.status(settings, charged(settings, status, grpc_status))
            }
            Sign::Connected | Sign::Opened if split => {
                reset(&self.local_failures);
                [None, None]
            }
            Sign::Connected => [None, None],
            Sign::Opened => self.status(settings, 200),
            Sign::Failed | Sign::TimedOut if split => {
                let limit = settings.consecutive_local_origin_failures;
                [grow(&self.local_failures, limit).then_some(Cause::LocalOriginFailures), None]
            }
            Sign::Failed => self.status(settings, 503),
            Sign::TimedOut => self.status(settings, 504),
        };
        causes.into_iter().flatten()
    }

    fn status(&self, settings: &OutlierDetection, status: u16) -> [Option<Cause>; 2] {
        if !(500..600).contains(&status) {
            reset(&self.errors_5xx);
            reset(&self.gateway_errors);
            return [None, None];
        }
        let mut causes = [None, None];
        if matches!(status, 502..=504) {
            let is_due = grow(&self.gateway_errors, settings.consecutive_gateway_errors);
            causes[0] = is_due.then_some(Cause::GatewayErrors);
        } else {
            reset(&self.gateway_errors);
        }
        causes[1] = grow(&self.errors_5xx, settings.consecutive_5xx).then_some(Cause::Consecutive5xx);
        causes
    }

    fn row(&self, cause: Cause) -> &AtomicU32 {
        match cause {
            Cause::GatewayErrors => &self.gateway_errors,
            Cause::Consecutive5xx => &self.errors_5xx,
            Cause::LocalOriginFailures => &self.local_failures,
        }
    }

    fn has_rows(&self) -> bool {
        [&self.errors_5xx, &self.gateway_errors, &self.local_failures]
            .iter()
            .any(|row| row.load(Ordering::Relaxed) != 0)
    }

    fn forget_rows(&self) {
        reset(&self.errors_5xx);
        reset(&self.gateway_errors);
        reset(&self.local_failures);
    }
}

/// Most answers are good and find nothing to forget: then the line of the cache stays shared between the workers.
fn reset(row: &AtomicU32) {
    if row.load(Ordering::Relaxed) != 0 {
        row.store(0, Ordering::Relaxed);
    }
}

/// Whether the row has just become as long as `limit`; 0 never is.
fn grow(row: &AtomicU32, limit: u32) -> bool {
    row.fetch_add(1, Ordering::Relaxed).wrapping_add(1) == limit
}

/// The status an answer is charged with. A list of codes replaces the 5xx: what is on it counts as an error (500 unless it is
/// a 5xx itself), the rest as success. A gRPC status counts as the HTTP status it stands for.
fn charged(settings: &OutlierDetection, status: u16, grpc_status: Option<u32>) -> u16 {
    if settings.error_codes.is_empty() {
        return grpc_status.map_or(status, |code| GrpcStatus(code).to_http());
    }
    match settings.error_codes.contains(&status) {
        true if (500..600).contains(&status) => status,
        true => 500,
        false => 200,
    }
}

/// What became of a request to eject.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is out, for so long at least; the sweep after that lets it in.
    Ejected {
        /// How long.
        length: Duration,
        /// How often it has been ejected, this time included.
        ejections: u32,
    },
    /// `maxEjectionPercent` forbids it.
    TooMany,
    /// It is out already, or no longer an endpoint.
    Nothing,
}

/// An endpoint that is out, for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ejected {
    /// The endpoint.
    pub address: SocketAddr,
    /// Why.
    pub cause: Cause,
    /// When it may return, at the earliest.
    pub until: Instant,
    /// How often it has been ejected, this time included.
    pub ejections: u32,
}

/// The endpoints of one cluster as one client has met them.
#[derive(Debug)]
pub struct Detector {
    settings: OutlierDetection,
    generation: u64,
    next_sweep: Instant,
    endpoints: BTreeMap<SocketAddr, Entry>,
}

#[derive(Debug, Default)]
struct Entry {
    health: Arc<Health>,
    /// The newest generation that has this endpoint.
    generation: u64,
    ejections: u32,
    /// Factor of the next ejection's length, less one; Envoy: `eject_time_backoff`.
    back_off: u32,
    out: Option<(Instant, Cause)>,
    returned: Option<Instant>,
    /// Since when nobody holds its health.
    unwatched: Option<Instant>,
}

impl Entry {
    /// Whether an ejection is not forgotten yet.
    fn was_ejected(&self) -> bool {
        self.out.is_some() || self.back_off > 0
    }
}

impl Detector {
    /// Knows no endpoint yet.
    pub fn new(settings: OutlierDetection, now: Instant) -> Self {
        let next_sweep = later(now, settings.interval);
        Self { settings, generation: 0, next_sweep, endpoints: BTreeMap::new() }
    }

    /// The health of `addresses`, the endpoints of the cluster as of `generation`. Those known before keep their history.
    pub fn join(
        &mut self,
        settings: &OutlierDetection,
        generation: u64,
        addresses: impl Iterator<Item = SocketAddr>,
        now: Instant,
    ) -> Box<[Arc<Health>]> {
        if self.settings != *settings && generation >= self.generation {
            // A row that is longer than its new limit would never meet it.
            self.endpoints.values().for_each(|entry| entry.health.forget_rows());
            self.next_sweep = self.next_sweep.min(later(now, settings.interval));
            self.settings = settings.clone();
        }
        self.generation = self.generation.max(generation);
        addresses
            .map(|address| {
                let entry = self.endpoints.entry(address).or_default();
                entry.generation = entry.generation.max(generation);
                entry.health.clone()
            })
            .collect()
    }

    /// Leaves `address` out, if not too many of `members` (the endpoints of its cluster) are out already:
    /// `(ejected + 1) / members * 100 <= maxEjectionPercent`, so that the default of 10 per cent ejects none of nine.
    pub fn eject(
        &mut self,
        address: SocketAddr,
        cause: Cause,
        members: &[Arc<Health>],
        now: Instant,
    ) -> Verdict {
        let longest = self.longest();
        let Some(entry) = self.endpoints.get_mut(&address) else { return Verdict::Nothing };
        if entry.out.is_some() {
            return Verdict::Nothing;
        }
        // Another row as long, and it is asked again; also without a success in between.
        reset(entry.health.row(cause));
        let ejected = members.iter().filter(|health| health.is_ejected()).count() as u64;
        if (ejected + 1) * 100 > u64::from(self.settings.max_ejection_percent) * members.len() as u64 {
            return Verdict::TooMany;
        }
        let base = self.settings.base_ejection_time;
        if base.saturating_mul(entry.back_off) < longest.saturating_add(base) {
            entry.back_off += 1;
        }
        entry.ejections = entry.ejections.saturating_add(1);
        entry.out = Some((now, cause));
        entry.health.is_ejected.store(true, Ordering::Relaxed);
        let length = base.saturating_mul(entry.back_off).min(longest);
        Verdict::Ejected { length, ejections: entry.ejections }
    }

    /// To be called often; acts once per `interval`. Gives back the endpoints that have returned.
    pub fn sweep(&mut self, now: Instant) -> Vec<SocketAddr> {
        if now < self.next_sweep {
            return Vec::new();
        }
        let (interval, base, longest) =
            (self.settings.interval, self.settings.base_ejection_time, self.longest());
        self.next_sweep = later(now, interval);
        // As in Envoy, an endpoint that left and comes back is a new one.
        let generation = self.generation;
        self.endpoints.retain(|_, entry| {
            if Arc::strong_count(&entry.health) > 1 {
                entry.unwatched = None;
                return entry.generation == generation;
            }
            let unwatched = now.saturating_duration_since(*entry.unwatched.get_or_insert(now));
            let is_remembered = entry.was_ejected() || entry.health.has_rows() && unwatched < MEMORY;
            entry.generation == generation && is_remembered
        });
        let mut returned = Vec::new();
        for (address, entry) in &mut self.endpoints {
            if let Some((since, _)) = entry.out {
                let length = base.saturating_mul(entry.back_off).min(longest);
                if now.saturating_duration_since(since) < length {
                    continue;
                }
                entry.out = None;
                entry.returned = Some(now);
                entry.health.forget_rows();
                entry.health.is_ejected.store(false, Ordering::Relaxed);
                returned.push(*address);
            }
            if entry.returned.is_some_and(|returned| now.saturating_duration_since(returned) >= interval) {
                entry.back_off = entry.back_off.saturating_sub(1);
            }
        }
        returned
    }

    /// The endpoints that are out.
    pub fn ejected(&self) -> impl Iterator<Item = Ejected> {
        let longest = self.longest();
        self.endpoints.iter().filter_map(move |(address, entry)| {
            let (since, cause) = entry.out?;
            let length = self.settings.base_ejection_time.saturating_mul(entry.back_off).min(longest);
            Some(Ejected {
                address: *address,
                cause,
                until: later(since, length),
                ejections: entry.ejections,
            })
        })
    }

    /// Whether it remembers anything that a new one would not know.
    pub fn has_history(&self) -> bool {
        self.endpoints.values().any(|entry| entry.was_ejected() || entry.health.has_rows())
    }

    fn longest(&self) -> Duration {
        MAX_EJECTION.max(self.settings.base_ejection_time)
    }
}

/// A time that a clock cannot hold is a year ahead.
fn later(from: Instant, by: Duration) -> Instant {
    from.checked_add(by).unwrap_or_else(|| from + Duration::from_secs(365 * 24 * 3600))
}

#[cfg(test)]
mod tests;
