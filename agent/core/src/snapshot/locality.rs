//! Which endpoints a client uses first, and in which shares: localities laid out as priorities and groups, once per client and
//! cluster.
//!
//! The setting in force is the first of: the rule's `zoneAwareLbSetting`, the rule's `localityLbSetting`, the service's
//! `trafficDistribution`, the mesh's two (Istio: `GetEffectiveLbSetting`). Priorities need outlier detection, without which
//! nobody would ever leave the first; `distribute`, `trafficDistribution` and `zoneAwareLbSetting` do not.

use std::collections::BTreeMap;

use super::Mesh;
use crate::api::load_balancer::{
    Distribute, Failover, LoadBalancerSettings, LocalityLbSetting, ZoneAwareLbSetting,
};
use crate::balance::levels::{Group, Level, Levels, MAX_LEVELS};
use crate::balance::zones::Zones;
use crate::client::Client;
use crate::cluster::Endpoint;
use crate::inventory::TrafficDistribution;

const NETWORK: &str = "topology.istio.io/network";
const REGION: &str = "topology.kubernetes.io/region";
const ZONE: &str = "topology.kubernetes.io/zone";
const SUBZONE: &str = "topology.istio.io/subzone";
const HOSTNAME: &str = "kubernetes.io/hostname";

/// What an endpoint is left out for.
pub(super) const NOT_DISTRIBUTED: &str = "no share for its locality in localityLbSetting.distribute";

/// The setting that is in force.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Setting<'a> {
    /// Places do not matter.
    Off,
    /// `localityLbSetting`.
    Locality(&'a LocalityLbSetting),
    /// `trafficDistribution`.
    Preference(&'static [&'static str]),
    /// `zoneAwareLbSetting`.
    ZoneAware(&'a ZoneAwareLbSetting),
}

impl<'a> Setting<'a> {
    pub(super) fn in_force(
        rule: Option<&'a LoadBalancerSettings>,
        preference: Option<TrafficDistribution>,
        mesh: &'a Mesh,
    ) -> Self {
        if let Some(setting) = rule.and_then(|rule| rule.zone_aware_lb_setting.as_ref()) {
            return Self::zone_aware(setting);
        }
        if let Some(setting) = rule.and_then(|rule| rule.locality_lb_setting.as_ref()) {
            return Self::locality(setting);
        }
        match preference {
            Some(TrafficDistribution::PreferSameZone) => return Self::Preference(&[NETWORK, REGION, ZONE]),
            Some(TrafficDistribution::PreferSameNode) => {
                return Self::Preference(&[NETWORK, REGION, ZONE, SUBZONE, HOSTNAME]);
            }
            Some(TrafficDistribution::Any) | None => {}
        }
        match &mesh.zone_aware {
            Some(setting) => Self::zone_aware(setting),
            None => Self::locality(&mesh.locality),
        }
    }

    fn zone_aware(setting: &'a ZoneAwareLbSetting) -> Self {
        if setting.enabled == Some(false) { Self::Off } else { Self::ZoneAware(setting) }
    }

    fn locality(setting: &'a LocalityLbSetting) -> Self {
        if setting.enabled == Some(false) { Self::Off } else { Self::Locality(setting) }
    }

    /// Whether it matters how many clients each zone has.
    pub(super) fn counts_clients(&self) -> bool {
        matches!(self, Self::ZoneAware(_))
    }
}

/// Endpoints in the order that the levels speak of; of no meaning where all are equal and none is left out.
#[derive(Debug, Default)]
pub(super) struct Layout {
    pub(super) endpoints: Vec<Endpoint>,
    /// `None`: all are equal.
    pub(super) levels: Option<Levels>,
    /// Left out, by [`NOT_DISTRIBUTED`].
    pub(super) left_out: Vec<Endpoint>,
}

/// An endpoint with its place: what it is sorted by, first.
struct Placed {
    priority: usize,
    /// The position of its locality among all; the client's own is 0.
    locality: usize,
    endpoint: Endpoint,
}

/// Lays out the endpoints for `client`. `panic_percent`: of outlier detection, if there is any. `clients`: the localities of
/// the pods like the client, for zone-aware balancing.
pub(super) fn lay_out(
    setting: Setting<'_>,
    endpoints: &[Endpoint],
    client: &Client,
    panic_percent: Option<u32>,
    clients: &[&str],
) -> Layout {
    let has_outlier_detection = panic_percent.is_some();
    let place = Place { labels: &client.labels, locality: &client.locality, node: &client.node };
    let mut priorities = vec![0; endpoints.len()];
    let mut weights = None;
    let mut by_groups = false;
    match setting {
        Setting::Off => {}
        Setting::Locality(setting) if !setting.distribute.is_empty() => {
            let shares = setting.distribute.iter().find(|it| matches(&client.locality, &it.from));
            weights = shares.map(|shares| locality_weights(shares, endpoints));
            by_groups = true;
        }
        Setting::Locality(_) if !has_outlier_detection => {}
        Setting::Locality(setting) => {
            if !setting.failover_priority.is_empty() {
                by_labels(&mut priorities, endpoints, place, &setting.failover_priority);
            }
            if setting.failover_priority.is_empty() || !setting.failover.is_empty() {
                by_distance(&mut priorities, endpoints, place, &setting.failover);
            }
            by_groups = !setting.failover_priority.is_empty() || !setting.failover.is_empty();
        }
        Setting::Preference(labels) => {
            by_labels(&mut priorities, endpoints, place, labels);
            by_groups = true;
        }
        Setting::ZoneAware(setting) => {
            if !setting.failover_priority.is_empty() {
                by_labels(&mut priorities, endpoints, place, &setting.failover_priority);
            }
            by_region(&mut priorities, endpoints, place, &setting.failover);
            by_groups = true;
        }
    }
    let panics = panic_percent.is_some_and(|percent| percent > 0);
    if !by_groups && !panics && priorities.iter().all(|&priority| priority == 0) {
        return Layout::default();
    }
    let mut localities = vec![&*client.locality];
    let mut placed = Vec::with_capacity(endpoints.len());
    let mut left_out = Vec::new();
    for (endpoint, &priority) in endpoints.iter().zip(&priorities) {
        if weights.as_ref().is_some_and(|weights| !weights.contains_key(&*endpoint.locality)) {
            left_out.push(endpoint.clone());
            continue;
        }
        let known = localities.iter().position(|it| *it == &*endpoint.locality);
        let locality = known.unwrap_or_else(|| {
            localities.push(&endpoint.locality);
            localities.len() - 1
        });
        placed.push(Placed { priority: priority.min(MAX_LEVELS - 1), locality, endpoint: endpoint.clone() });
    }
    let is_one_level = placed.windows(2).all(|pair| matches!(pair, [a, b] if a.priority == b.priority));
    let is_one_group = placed.windows(2).all(|pair| matches!(pair, [a, b] if a.locality == b.locality));
    if is_one_level && (is_one_group || !by_groups) && !panics {
        let endpoints = placed.into_iter().map(|it| it.endpoint).collect();
        return Layout { endpoints, levels: None, left_out };
    }
    placed.sort_by_key(|it| (it.priority, it.locality));
    let own = match setting {
        Setting::ZoneAware(setting) => zones(setting, &placed, &localities, clients),
        _ => None,
    };
    // Zones are told apart in the first level only, and only if something is known of their clients.
    let by_groups = by_groups && (!matches!(setting, Setting::ZoneAware(_)) || own.is_some());
    let levels = levels(&placed, by_groups, weights.as_ref(), own.is_some());
    let levels = Levels { levels, panic_percent: panic_percent.unwrap_or(0), zones: own };
    Layout { endpoints: placed.into_iter().map(|it| it.endpoint).collect(), levels: Some(levels), left_out }
}

fn levels(
    placed: &[Placed],
    by_groups: bool,
    weights: Option<&BTreeMap<&str, u32>>,
    keeps_first: bool,
) -> Box<[Level]> {
    let mut levels = Vec::new();
    let mut start = 0;
    for chunk in placed.chunk_by(|a, b| a.priority == b.priority) {
        let range = start..start + chunk.len();
        let mut groups = Vec::new();
        let mut group_start = start;
        // The first group is the client's own locality, even if nobody is there.
        if keeps_first && chunk.first().is_some_and(|it| it.locality != 0) {
            groups.push(Group { range: start..start, weight: 0, is_even: true });
        }
        for group in chunk.chunk_by(|a, b| a.locality == b.locality) {
            let range = group_start..group_start + group.len();
            group_start = range.end;
            let sum = || group.iter().fold(0u32, |sum, it| sum.saturating_add(it.endpoint.weight.max(1)));
            let weight = match (weights, group.first()) {
                (Some(weights), Some(first)) => weights.get(&*first.endpoint.locality).copied().unwrap_or(0),
                _ => sum(),
            };
            groups.push(Group { range, weight, is_even: is_even(group) });
        }
        start = range.end;
        let groups = if by_groups && groups.len() > 1 { groups.into() } else { Box::from([]) };
        levels.push(Level { range, groups, is_even: is_even(chunk) });
    }
    levels.into()
}

fn is_even(placed: &[Placed]) -> bool {
    placed.windows(2).all(|pair| matches!(pair, [a, b] if a.endpoint.weight == b.endpoint.weight))
}

/// A client's or an endpoint's place.
#[derive(Clone, Copy)]
struct Place<'a> {
    labels: &'a BTreeMap<String, String>,
    locality: &'a str,
    node: &'a str,
}

impl<'a> Place<'a> {
    fn of(endpoint: &'a Endpoint) -> Self {
        Self { labels: &endpoint.labels, locality: &endpoint.locality, node: &endpoint.workload.node }
    }

    /// Region, zone, subzone; empty where unknown.
    fn parts(self) -> [&'a str; 3] {
        let mut parts = self.locality.splitn(3, '/');
        [(); 3].map(|()| parts.next().unwrap_or(""))
    }

    fn region(self) -> &'a str {
        self.parts()[0]
    }

    /// A label, or a fact under the name of the label that Istio has for it.
    fn label(self, name: &str) -> &'a str {
        let [region, zone, subzone] = self.parts();
        let fact = match name {
            REGION => region,
            ZONE => zone,
            SUBZONE => subzone,
            HOSTNAME => self.node,
            _ => "",
        };
        if fact.is_empty() { self.labels.get(name).map_or("", |it| it) } else { fact }
    }
}

/// Whether a locality is within `pattern`: `region/zone/subzone`, whose last part may be `*` and whose end may be missing.
fn matches(locality: &str, pattern: &str) -> bool {
    let mut parts = locality.splitn(3, '/');
    pattern.splitn(3, '/').enumerate().all(|(index, wanted)| {
        let part = parts.next().unwrap_or("");
        wanted == "*" || index > 0 && wanted.is_empty() || part == wanted
    })
}

/// What each locality named in `shares` weighs; one pattern's share goes to its localities by their weights (Istio:
/// `applyLocalityWeights`, rounding up).
fn locality_weights<'a>(shares: &Distribute, endpoints: &'a [Endpoint]) -> BTreeMap<&'a str, u32> {
    let mut all: BTreeMap<&str, u64> = BTreeMap::new();
    for endpoint in endpoints {
        *all.entry(&endpoint.locality).or_default() += u64::from(endpoint.weight.max(1));
    }
    let mut weights = BTreeMap::new();
    for (pattern, &share) in &shares.to {
        let within: Vec<_> = all
            .iter()
            .filter(|(locality, _)| matches(locality, pattern) && !weights.contains_key(*locality))
            .map(|(&locality, &weight)| (locality, weight))
            .collect();
        let total: u64 = within.iter().map(|(_, weight)| weight).sum();
        for (locality, weight) in within {
            let weight = (weight * u64::from(share)).div_ceil(total.max(1));
            weights.insert(locality, u32::try_from(weight).unwrap_or(u32::MAX));
        }
    }
    weights
}

/// The first label that differs counts: the earlier in the list, the further away. The network, as first label, is a penalty
/// of its own (Istio: `applyFailoverPriorityPerLocality`).
fn by_labels(
    priorities: &mut [usize],
    endpoints: &[Endpoint],
    client: Place<'_>,
    labels: &[impl AsRef<str>],
) {
    let lowest = labels.len();
    for (priority, endpoint) in priorities.iter_mut().zip(endpoints) {
        let endpoint = Place::of(endpoint);
        let differs = |label: &str| {
            let (name, wanted) = match label.split_once('=') {
                Some((name, value)) => (name, value),
                None => (label, client.label(label)),
            };
            endpoint.label(name) != wanted
        };
        *priority = 0;
        let mut labels = labels.iter().map(AsRef::as_ref).enumerate().peekable();
        if labels.next_if(|&(_, label)| label == NETWORK).is_some_and(|(_, label)| differs(label)) {
            *priority = lowest;
        }
        if let Some((index, _)) = labels.find(|(_, label)| differs(label)) {
            *priority += lowest - index;
        }
    }
    compact(priorities);
}

/// Same subzone, zone, region, elsewhere; with a rule for the client's region, the region it names comes before all others
/// (Istio: `applyLocalityFailover`).
fn by_distance(priorities: &mut [usize], endpoints: &[Endpoint], client: Place<'_>, failover: &[Failover]) {
    const STEPS: usize = 5;
    let [region, zone, subzone] = client.parts();
    let next = failover.iter().find(|it| it.from == region).map(|it| &*it.to);
    for (priority, endpoint) in priorities.iter_mut().zip(endpoints) {
        let place = Place::of(endpoint).parts();
        let distance = if place[0] != region {
            if next.is_some_and(|next| next != place[0]) { 4 } else { 3 }
        } else if place[1] != zone {
            2
        } else {
            usize::from(place[2] != subzone)
        };
        *priority = *priority * STEPS + distance;
    }
    compact(priorities);
}

/// The client's region, the region that a rule names for it, all others (Istio: `applyZoneAwareRegionalFailover`).
fn by_region(priorities: &mut [usize], endpoints: &[Endpoint], client: Place<'_>, failover: &[Failover]) {
    const STEPS: usize = 3;
    let next = failover.iter().find(|it| it.from == client.region()).map(|it| &*it.to);
    for (priority, endpoint) in priorities.iter_mut().zip(endpoints) {
        let region = Place::of(endpoint).region();
        let distance = match region {
            region if region == client.region() => 0,
            region if next == Some(region) => 1,
            _ => 2,
        };
        *priority = *priority * STEPS + distance;
    }
    compact(priorities);
}

/// 0, 1, 2 ... without gaps.
fn compact(priorities: &mut [usize]) {
    let mut used = priorities.to_vec();
    used.sort_unstable();
    used.dedup();
    for priority in priorities {
        *priority = used.binary_search(priority).unwrap_or(0);
    }
}

/// The shares of clients in the localities of the first level. `None`: not enough is known of them.
fn zones(
    setting: &ZoneAwareLbSetting,
    placed: &[Placed],
    localities: &[&str],
    clients: &[&str],
) -> Option<Zones> {
    let count = |locality: &str| clients.iter().filter(|it| **it == locality).count();
    let own = localities.first().map_or(0, |locality| count(locality));
    // Clients of one locality only have nobody to make room for; a client that is not among them knows nothing.
    if own == 0 || own == clients.len() {
        return None;
    }
    let mut first: Vec<usize> = placed.iter().filter(|it| it.priority == 0).map(|it| it.locality).collect();
    first.dedup();
    if first.first() != Some(&0) {
        first.insert(0, 0);
    }
    let share = |&index: &usize| {
        let clients_there = localities.get(index).map_or(0, |locality| count(locality)) as u64;
        10_000 * clients_there / clients.len() as u64
    };
    let minimum = setting.min_cluster_size.map_or(6, |size| usize::try_from(size).unwrap_or(usize::MAX));
    Some(Zones { clients: first.iter().map(share).collect(), minimum })
}

#[cfg(test)]
mod tests;
