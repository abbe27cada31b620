//! Since when endpoints are known, for those that come to their share slowly.
//!
//! The process remembers it, over snapshots and for all workers, but only of services that some DestinationRule gives a
//! warm-up: an endpoint that comes is new, whoever its clients are. When the process starts, or a rule first asks for a
//! warm-up, all are new, as in Envoy.

use std::cell::Cell;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use undermesh_core::policy::Warmup;
use undermesh_core::snapshot::Snapshot;

/// Since when endpoints are known.
#[derive(Default)]
pub(crate) struct Acquaintances(Mutex<Known>);

#[derive(Default)]
struct Known {
    generation: u64,
    since: HashMap<SocketAddr, Instant>,
}

impl Acquaintances {
    /// Takes in a snapshot that has come into force.
    pub(crate) fn follow(&self, snapshot: &Snapshot, now: Instant) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // A worker may be behind the others.
        if snapshot.generation() <= known.generation {
            return;
        }
        known.generation = snapshot.generation();
        let before = std::mem::take(&mut known.since);
        let endpoints =
            snapshot.warming_up().flat_map(|service| &service.ports).flat_map(|port| &*port.endpoints);
        known.since = endpoints
            .map(|endpoint| (endpoint.address, before.get(&endpoint.address).copied().unwrap_or(now)))
            .collect();
    }

    /// The windows of a cluster's endpoints.
    pub(crate) fn warming(
        &self,
        warmup: &Warmup,
        addresses: impl Iterator<Item = SocketAddr>,
        now: Instant,
    ) -> Warming {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let since: Box<[_]> =
            addresses.map(|address| known.since.get(&address).copied().unwrap_or(now)).collect();
        let until = since.iter().max().and_then(|youngest| youngest.checked_add(warmup.duration));
        Warming { since, until: Cell::new(until) }
    }
}

/// The ages of a cluster's endpoints, in its order.
pub(crate) struct Warming {
    since: Box<[Instant]>,
    /// The end of the last window; `None` once it is over.
    until: Cell<Option<Instant>>,
}

impl Warming {
    /// The time, while some endpoint is in its window.
    pub(crate) fn now(&self) -> Option<Instant> {
        let until = self.until.get()?;
        let now = Instant::now();
        if now >= until {
            self.until.set(None);
            return None;
        }
        Some(now)
    }

    /// How long the endpoint has been known.
    pub(crate) fn age(&self, endpoint: usize, now: Instant) -> Duration {
        self.since.get(endpoint).map_or(Duration::MAX, |since| now.saturating_duration_since(*since))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use undermesh_core::api::{origin::Origin, parse};
    use undermesh_core::compile::compile;
    use undermesh_core::inputs::Inputs;

    use super::*;

    fn snapshot(generation: u64, addresses: &[&str], warms_up: bool) -> Snapshot {
        let endpoints: Vec<_> = addresses.iter().map(|it| json!({"addresses": [it]})).collect();
        let metadata = |name: &str| json!({"name": name, "namespace": "shop"});
        let mut slice = metadata("a-1");
        slice["labels"] = json!({"kubernetes.io/service-name": "a"});
        let mut inputs = Inputs::default();
        let mut objects = vec![
            json!({"apiVersion": "v1", "kind": "Service", "metadata": metadata("a"),
                "spec": {"clusterIP": "10.96.0.1", "ports": [{"name": "http", "port": 80}]}}),
            json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": slice, "addressType": "IPv4",
                "endpoints": endpoints, "ports": [{"name": "http", "port": 80}]}),
        ];
        if warms_up {
            objects.push(json!({"apiVersion": "networking.istio.io/v1", "kind": "DestinationRule", "metadata": metadata("a"),
                "spec": {"host": "a", "trafficPolicy": {"loadBalancer": {"warmup": {"duration": "60s"}}}}}));
        }
        for object in objects {
            inputs.insert(parse(object, Origin::default()).object.unwrap());
        }
        compile(&inputs).snapshot.with_generation(generation)
    }

    fn ages(known: &Acquaintances, now: Instant) -> Vec<u64> {
        let warmup = Warmup { duration: Duration::from_secs(60), minimum_percent: 10.0, aggression: 1.0 };
        let addresses = [([10, 0, 0, 1], 80).into(), ([10, 0, 0, 2], 80).into()];
        let warming = known.warming(&warmup, addresses.into_iter(), now);
        (0..2).map(|index| warming.age(index, now).as_secs()).collect()
    }

    #[test]
    fn an_endpoint_keeps_its_age_over_snapshots_and_loses_it_when_it_goes() {
        let (known, start) = (Acquaintances::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        known.follow(&snapshot(1, &["10.0.0.1"], true), start);
        known.follow(&snapshot(2, &["10.0.0.1", "10.0.0.2"], true), at(10));
        assert_eq!(ages(&known, at(30)), [30, 20]);
        known.follow(&snapshot(3, &["10.0.0.2"], true), at(40));
        known.follow(&snapshot(4, &["10.0.0.1", "10.0.0.2"], true), at(50));
        // An older snapshot comes too late.
        known.follow(&snapshot(3, &["10.0.0.2"], true), at(51));
        assert_eq!(ages(&known, at(60)), [10, 50]);
    }

    #[test]
    fn nothing_is_remembered_where_nobody_asks_for_it() {
        let known = Acquaintances::default();
        known.follow(&snapshot(1, &["10.0.0.1"], false), Instant::now());
        assert!(known.0.lock().unwrap().since.is_empty());
    }
}
