//! A cluster of the tables with its live state: what a request that has found its route works with.

use std::collections::HashSet;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use undermesh_core::balance;
use undermesh_core::cluster::{Cluster, Discovery};
use undermesh_core::outlier::Sign;
use undermesh_core::retry_budget::Window;

use crate::live::{EndpointPool, Neighbour};
use crate::metrics::Shard;
use crate::outlier::Watch;
use crate::resolution::Resolution;
use crate::warmup::Warming;

/// The clusters of an outlet that were asked for, by their place in memory: a gateway's port may lead to thousands.
#[derive(Default)]
pub(super) struct BoundClusters(Vec<(usize, Rc<Bound>)>);

impl BoundClusters {
    fn find(&self, of: &Arc<Cluster>) -> Result<usize, usize> {
        let place = Arc::as_ptr(of) as usize;
        self.0.binary_search_by_key(&place, |&(known, _)| known)
    }

    pub(super) fn get(&self, of: &Arc<Cluster>) -> Option<&Rc<Bound>> {
        let at = self.find(of).ok()?;
        self.0.get(at).map(|(_, bound)| bound)
    }

    /// Puts it in the place of the one that was there for its cluster.
    pub(super) fn insert(&mut self, bound: Rc<Bound>) {
        // Each keeps its cluster, so the place is nobody else's.
        let entry = (Arc::as_ptr(&bound.of) as usize, bound);
        match self.find(&entry.1.of) {
            Ok(at) => self.0[at] = entry,
            Err(at) => self.0.insert(at, entry),
        }
    }

    pub(super) fn remove<'a>(&mut self, clusters: impl Iterator<Item = &'a Arc<Cluster>>) {
        let places: HashSet<usize> = clusters.map(|of| Arc::as_ptr(of) as usize).collect();
        self.0.retain(|(place, _)| !places.contains(place));
    }
}

/// A cluster with its live state.
pub(crate) struct Bound {
    /// As the tables have it.
    pub(super) of: Arc<Cluster>,
    /// With the endpoints it has now.
    pub cluster: Arc<Cluster>,
    pub neighbour: Rc<Neighbour>,
    /// In the order of the cluster's endpoints.
    pub pools: Vec<Rc<EndpointPool>>,
    /// Outlier detection, where the cluster asks for it.
    pub(super) watch: Option<Watch>,
    /// Where its retry budget looks back over an interval.
    pub(super) window: Option<Arc<Window>>,
    /// Where its new endpoints come to their share slowly.
    pub(super) warming: Option<Warming>,
    /// Where its endpoints have only names.
    pub(super) resolution: Option<Resolution>,
    pub(super) preparing: tokio::sync::Mutex<()>,
}

impl Bound {
    /// Whether it has no endpoint yet, but may soon: see [`LocalCaller::settled`].
    pub(crate) fn is_pending(&self) -> bool {
        self.pools.is_empty() && self.resolution.as_ref().is_some_and(Resolution::is_pending)
    }

    /// Picks an endpoint for one try.
    pub(crate) fn pick(&self, ask: &balance::Ask<'_>, rng: &mut impl rand_core::RngCore) -> Option<usize> {
        if matches!(self.cluster.discovery, Discovery::OriginalDestination) {
            return (!self.pools.is_empty()).then_some(0);
        }
        let now = self.warming.as_ref().and_then(Warming::now);
        let mut cursor = self.neighbour.cursor.get();
        let picked = balance::pick(&self.cluster, ask, &Picture { bound: self, now }, &mut cursor, rng);
        self.neighbour.cursor.set(cursor);
        picked.ok().filter(|&index| index < self.pools.len())
    }

    /// Whether [`Self::prepare`] has something to do before a pick.
    pub(crate) fn is_unprepared(&self) -> bool {
        self.cluster.spread.unmade().is_some()
    }

    /// Has large hash tables made by another thread, once for all of this worker who wait for them: making one takes as long
    /// as thousands of requests, and those are not to wait.
    pub(crate) async fn prepare(&self) {
        let _turn = self.preparing.lock().await;
        if let Some(unmade) = self.cluster.spread.unmade() {
            // What is not made then is made by the pick.
            let _ = tokio::task::spawn_blocking(move || unmade.make()).await;
        }
    }

    /// A try has a connection; `now` is when.
    pub(crate) fn begin_try(&self, now: Instant) {
        if let Some(window) = &self.window {
            window.count(now);
        }
    }

    /// How many retries the cluster may have at once.
    pub(crate) fn retry_limit(&self) -> u32 {
        let policy = &self.cluster.policy;
        let Some(budget) = &policy.retry_budget else { return policy.connection_pool.max_retries };
        let gauges = &self.neighbour.gauges;
        let in_progress = || {
            let waiting = gauges.backing_off.load(Ordering::Relaxed);
            u64::from(gauges.requests.load(Ordering::Relaxed).saturating_sub(waiting))
        };
        budget.allows(self.window.as_ref().map_or_else(in_progress, |window| window.requests(Instant::now())))
    }

    /// A try at `endpoint` told this.
    pub(crate) fn report(&self, shard: &Shard, endpoint: usize, sign: Sign) {
        if let (Some(watch), Some(pool)) = (&self.watch, self.pools.get(endpoint)) {
            watch.report(shard, endpoint, pool.address, sign);
        }
    }
}

struct Picture<'a> {
    bound: &'a Bound,
    /// If some endpoint may be in its warm-up window.
    now: Option<Instant>,
}

impl balance::Live for Picture<'_> {
    fn active(&self, endpoint: usize) -> u32 {
        self.bound.pools.get(endpoint).map_or(0, |pool| pool.active.get())
    }

    fn is_available(&self, endpoint: usize) -> bool {
        self.bound.watch.as_ref().is_none_or(|watch| watch.is_available(endpoint))
    }

    fn are_all_available(&self) -> bool {
        self.bound.watch.as_ref().is_none_or(Watch::are_all_available)
    }

    fn is_warming(&self) -> bool {
        self.now.is_some()
    }

    fn age(&self, endpoint: usize) -> Duration {
        self.now.map_or(Duration::MAX, |now| {
            self.bound.warming.as_ref().map_or(Duration::MAX, |it| it.age(endpoint, now))
        })
    }
}
