//! Outlier detection at work: what each try told is taken in, endpoints go out and return, people can see it.
//!
//! The rules are `core::outlier`'s. The state belongs to one client and one cluster (by key, so it outlives snapshots) and is
//! shared by the workers: rows of failures are atomics, the rest is behind a lock that is taken when a row is long enough,
//! when a cluster is bound, and by the sweep. A cluster without `outlierDetection` has nothing of this.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use undermesh_core::cluster::{Cluster, ClusterKey};
use undermesh_core::outlier::{Cause, Detector, Health, Sign, Verdict};
use undermesh_core::policy::OutlierDetection;

use crate::metrics::{Counter, Shard};

/// An endpoint that one client leaves out, for people.
#[derive(Debug, Clone)]
pub struct OutlierRow {
    /// `namespace/pod` of the client.
    pub source: Arc<str>,
    /// The cluster it left it out of.
    pub cluster: ClusterKey,
    /// The endpoint.
    pub address: SocketAddr,
    /// Why.
    pub cause: Cause,
    /// Until it may return, at the earliest.
    pub left: Duration,
    /// How often it has been ejected, this time included.
    pub ejections: u32,
}

/// The detectors of all clients towards all clusters.
#[derive(Default)]
pub(crate) struct OutlierRegistry(Mutex<Detectors>);

type Detectors = HashMap<(Arc<str>, ClusterKey), Arc<Shared>>;

/// A detector and whose it is.
struct Shared {
    source: Arc<str>,
    cluster: ClusterKey,
    detector: Mutex<Detector>,
    /// How many endpoints are out.
    out: AtomicUsize,
}

impl Shared {
    fn detector(&self) -> MutexGuard<'_, Detector> {
        self.detector.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn count(&self, detector: &Detector) {
        self.out.store(detector.ejected().count(), Ordering::Relaxed);
    }
}

impl OutlierRegistry {
    fn all(&self) -> MutexGuard<'_, Detectors> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Watches the endpoints at `addresses`, which are those of `cluster` as of `generation`, if it asks for that.
    pub(crate) fn watch(
        &self,
        source: &Arc<str>,
        cluster: &Cluster,
        generation: u64,
        addresses: impl Iterator<Item = SocketAddr>,
    ) -> Option<Watch> {
        let settings = cluster.policy.outlier_detection.clone()?;
        let now = Instant::now();
        let key = (source.clone(), cluster.key.clone());
        let new = || {
            let detector = Mutex::new(Detector::new(settings.clone(), now));
            let out = AtomicUsize::new(0);
            Arc::new(Shared { source: source.clone(), cluster: cluster.key.clone(), detector, out })
        };
        let shared = self.all().entry(key).or_insert_with(new).clone();
        let members = shared.detector().join(&settings, generation, addresses, now);
        Some(Watch { settings, shared, members })
    }

    /// Lets endpoints return whose time is over; forgets detectors that nobody uses and that remember nothing.
    pub(crate) fn sweep(&self, now: Instant) {
        let mut returned = Vec::new();
        self.all().retain(|_, shared| {
            let mut detector = shared.detector();
            returned.extend(detector.sweep(now).into_iter().map(|address| (shared.clone(), address)));
            if shared.out.load(Ordering::Relaxed) > 0 {
                shared.count(&detector);
            }
            Arc::strong_count(shared) > 1 || detector.has_history()
        });
        for (shared, address) in returned {
            let (source, cluster) = (&*shared.source, Cluster::outbound_name(&shared.cluster));
            tracing::info!(source, cluster = &*cluster, %address, "endpoint returned");
        }
    }

    /// Forgets what a client that is gone has met.
    pub(crate) fn forget(&self, source: &Arc<str>) {
        self.all().retain(|(of, _), _| of != source);
    }

    /// The endpoints that are out.
    pub(crate) fn rows(&self, now: Instant) -> Vec<OutlierRow> {
        let mut rows = Vec::new();
        for shared in self.all().values() {
            rows.extend(shared.detector().ejected().map(|ejected| OutlierRow {
                source: shared.source.clone(),
                cluster: shared.cluster.clone(),
                address: ejected.address,
                cause: ejected.cause,
                left: ejected.until.saturating_duration_since(now),
                ejections: ejected.ejections,
            }));
        }
        rows.sort_by(|a, b| (&a.cluster, a.address, &a.source).cmp(&(&b.cluster, b.address, &b.source)));
        rows
    }
}

/// The endpoints of one cluster under watch, in its order.
pub(crate) struct Watch {
    settings: OutlierDetection,
    shared: Arc<Shared>,
    members: Box<[Arc<Health>]>,
}

impl Watch {
    /// Whether the endpoint is not left out.
    pub(crate) fn is_available(&self, endpoint: usize) -> bool {
        self.members.get(endpoint).is_none_or(|health| !health.is_ejected())
    }

    /// Whether nobody is left out.
    pub(crate) fn are_all_available(&self) -> bool {
        self.shared.out.load(Ordering::Relaxed) == 0
    }

    /// A try at `endpoint`, which is at `address`, told this.
    pub(crate) fn report(&self, shard: &Shard, endpoint: usize, address: SocketAddr, sign: Sign) {
        let Some(health) = self.members.get(endpoint) else { return };
        for cause in health.record(&self.settings, sign) {
            self.eject(shard, address, cause);
        }
    }

    #[cold]
    fn eject(&self, shard: &Shard, address: SocketAddr, cause: Cause) {
        let mut detector = self.shared.detector();
        let verdict = detector.eject(address, cause, &self.members, Instant::now());
        self.shared.count(&detector);
        drop(detector);
        match verdict {
            Verdict::Ejected { length, ejections } => {
                shard.count(match cause {
                    Cause::GatewayErrors => Counter::EjectedGatewayErrors,
                    Cause::Consecutive5xx => Counter::Ejected5xx,
                    Cause::LocalOriginFailures => Counter::EjectedLocalOrigin,
                });
                let (source, cluster) = (&*self.shared.source, Cluster::outbound_name(&self.shared.cluster));
                tracing::info!(source, cluster = &*cluster, %address, cause = cause.as_str(), ?length, ejections,
                    "endpoint ejected");
            }
            Verdict::TooMany => shard.count(Counter::EjectionsPrevented),
            Verdict::Nothing => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use undermesh_core::policy::Policy;

    use super::*;

    fn cluster(settings: Option<OutlierDetection>) -> Cluster {
        let key = ClusterKey { host: "a".into(), port: 80, subset: "".into() };
        Cluster {
            name: Cluster::outbound_name(&key),
            key,
            protocol: undermesh_core::cluster::UpstreamProtocol::Http1,
            use_client_protocol: false,
            discovery: undermesh_core::cluster::Discovery::Endpoints,
            endpoints: Arc::from([]),
            excluded: Arc::from([]),
            policy: Policy { outlier_detection: settings, ..Policy::default() },
            spread: undermesh_core::balance::Spread::default(),
            availability: undermesh_core::cluster::Availability::Known,
            service: None,
        }
    }

    fn settings() -> OutlierDetection {
        OutlierDetection {
            consecutive_5xx: 1,
            consecutive_gateway_errors: 0,
            split_local_origin: false,
            consecutive_local_origin_failures: 5,
            interval: Duration::from_secs(1),
            base_ejection_time: Duration::from_secs(30),
            max_ejection_percent: 100,
            min_health_percent: 0,
            error_codes: Arc::from([]),
        }
    }

    const ADDRESS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 80);

    #[test]
    fn what_one_worker_ejects_is_out_for_all_of_the_client_and_for_nobody_else() {
        let registry = OutlierRegistry::default();
        let cluster = cluster(Some(settings()));
        let watch =
            |source: &str| registry.watch(&source.into(), &cluster, 1, [ADDRESS].into_iter()).unwrap();
        let (mine, also_mine, theirs) = (watch("default/a"), watch("default/a"), watch("default/b"));
        mine.report(&Shard::default(), 0, ADDRESS, Sign::Failed);
        assert!(!mine.is_available(0) && !also_mine.is_available(0) && theirs.is_available(0));
        assert!(!also_mine.are_all_available() && theirs.are_all_available());
        let rows = registry.rows(Instant::now());
        assert_eq!(rows.iter().map(|row| &*row.source).collect::<Vec<_>>(), ["default/a"]);
    }

    #[test]
    fn a_cluster_that_asks_for_nothing_is_not_watched() {
        let registry = OutlierRegistry::default();
        assert!(registry.watch(&"default/a".into(), &cluster(None), 1, [ADDRESS].into_iter()).is_none());
        assert!(registry.all().is_empty());
    }

    #[test]
    fn history_outlives_its_users_until_it_has_faded() {
        let registry = OutlierRegistry::default();
        let cluster = cluster(Some(settings()));
        let watch = registry.watch(&"default/a".into(), &cluster, 1, [ADDRESS].into_iter()).unwrap();
        watch.report(&Shard::default(), 0, ADDRESS, Sign::Failed);
        drop(watch);
        let start = Instant::now();
        registry.sweep(start + Duration::from_secs(2));
        let again = registry.watch(&"default/a".into(), &cluster, 2, [ADDRESS].into_iter()).unwrap();
        assert!(!again.is_available(0));
        registry.sweep(start + Duration::from_secs(40));
        assert!(again.is_available(0));
        drop(again);
        registry.sweep(start + Duration::from_secs(42));
        assert!(registry.all().is_empty());
    }

    #[test]
    fn a_client_that_is_gone_is_forgotten() {
        let registry = OutlierRegistry::default();
        let cluster = cluster(Some(settings()));
        let watch = registry.watch(&"default/a".into(), &cluster, 1, [ADDRESS].into_iter()).unwrap();
        watch.report(&Shard::default(), 0, ADDRESS, Sign::Failed);
        registry.forget(&"default/a".into());
        assert!(registry.rows(Instant::now()).is_empty());
    }
}
