//! Zone-aware balancing: a client stays in its zone as far as that leaves no zone with more than its share (Envoy:
//! `ZoneAwareLoadBalancerBase`; Istio: `zoneAwareLbSetting`).
//!
//! Which share a zone's endpoints would get depends on how many clients the zone has: the pods of the client's own service are
//! counted. Of a client that belongs to no service nothing is known, and requests go to all zones alike, as Istio's do
//! unless its proxies discover themselves.

use super::levels::Count;
use super::random::scaled;

/// What is known of the zones' clients. Positions are those of a level's groups; the first is the client's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Zones {
    /// The share of clients in each group's locality, in units of 1/10000.
    pub(crate) clients: Box<[u64]>,
    /// Istio: `minClusterSize`.
    pub(crate) minimum: usize,
}

const ALL: u64 = 10_000;

/// Chances of the groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Plan {
    /// Zones do not matter.
    Off,
    /// Everything stays.
    Direct,
    /// So much of 10000 stays; the rest goes where there is room: so much in all.
    Residual { stays: u64, room: u64 },
}

impl Zones {
    pub(super) fn plan(&self, groups: impl Iterator<Item = Count> + Clone) -> Plan {
        let healthy: usize = groups.clone().map(|group| group.healthy).sum();
        if self.clients.len() < 2 || healthy < self.minimum.max(1) {
            return Plan::Off;
        }
        let servers = groups.clone().next().map_or(0, |own| share(own, healthy));
        let clients = self.clients.first().copied().unwrap_or(0);
        if servers > 0 && servers >= clients {
            return Plan::Direct;
        }
        let stays = (servers * ALL).checked_div(clients).unwrap_or(0);
        let room = self.rooms(groups, healthy).map(|(_, room)| room).sum();
        Plan::Residual { stays, room }
    }

    /// How much more than their own clients ask the other groups can take.
    fn rooms(
        &self,
        groups: impl Iterator<Item = Count>,
        healthy: usize,
    ) -> impl Iterator<Item = (usize, u64)> {
        let other = groups.zip(&self.clients).enumerate().skip(1);
        other.map(move |(index, (group, clients))| (index, share(group, healthy).saturating_sub(*clients)))
    }

    /// The group for two draws; `None`: any endpoint.
    pub(super) fn group(
        &self,
        groups: impl Iterator<Item = Count> + Clone,
        stay: u64,
        place: u64,
    ) -> Option<usize> {
        match self.plan(groups.clone()) {
            Plan::Off => None,
            Plan::Direct => Some(0),
            Plan::Residual { stays, .. } if stay % ALL < stays => Some(0),
            Plan::Residual { room: 0, .. } => None,
            Plan::Residual { room, .. } => {
                let healthy = groups.clone().map(|group| group.healthy).sum();
                let mut left = scaled(place, room);
                for (index, room) in self.rooms(groups, healthy) {
                    if left < room {
                        return Some(index);
                    }
                    left -= room;
                }
                None
            }
        }
    }

    /// The chance of each group, of 1; `None`: as if there were none.
    pub(super) fn shares(&self, groups: impl Iterator<Item = Count> + Clone) -> Option<Vec<f64>> {
        let healthy = groups.clone().map(|group| group.healthy).sum();
        let mut shares = vec![0.0; groups.clone().count()];
        let (stays, room) = match self.plan(groups.clone()) {
            Plan::Off | Plan::Residual { room: 0, .. } => return None,
            Plan::Direct => (ALL, 1),
            Plan::Residual { stays, room } => (stays, room),
        };
        let stays = stays as f64 / ALL as f64;
        for (index, own) in self.rooms(groups, healthy) {
            if let Some(share) = shares.get_mut(index) {
                *share = (1.0 - stays) * own as f64 / room as f64;
            }
        }
        if let Some(share) = shares.first_mut() {
            *share = stays;
        }
        Some(shares)
    }
}

fn share(group: Count, healthy: usize) -> u64 {
    (ALL * group.healthy as u64).checked_div(healthy as u64).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(healthy: &[usize]) -> Vec<Count> {
        healthy.iter().map(|&healthy| Count { healthy, all: healthy }).collect()
    }

    fn zones(clients: &[u64]) -> Zones {
        Zones { clients: clients.into(), minimum: 6 }
    }

    #[test]
    fn a_zone_with_its_share_of_servers_keeps_its_clients() {
        let plan = |clients: &[u64], servers: &[usize]| zones(clients).plan(counts(servers).into_iter());
        assert_eq!(plan(&[5000, 5000], &[3, 3]), Plan::Direct);
        assert_eq!(plan(&[3000, 7000], &[3, 3]), Plan::Direct);
        // Too few servers, or only one zone: zones do not matter.
        assert_eq!(plan(&[5000, 5000], &[2, 2]), Plan::Off);
        assert_eq!(plan(&[10_000], &[9]), Plan::Off);
    }

    #[test]
    fn what_a_zone_cannot_take_goes_where_there_is_room() {
        // Envoy's example: 40 40 20 per cent of clients, 25 50 25 of servers: room for 0 10 5.
        let zones = zones(&[4000, 4000, 2000]);
        let servers = counts(&[5, 10, 5]);
        let plan = zones.plan(servers.iter().copied());
        assert_eq!(plan, Plan::Residual { stays: 6250, room: 1500 });
        let shares = zones.shares(servers.iter().copied()).expect("shares");
        for (got, want) in shares.iter().zip([0.625, 0.25, 0.125]) {
            assert!((got - want).abs() < 1e-9, "{shares:?}");
        }
        let group = |stay, place| zones.group(servers.iter().copied(), stay, place);
        assert_eq!(group(6249, 0), Some(0));
        assert_eq!(group(6250, 0), Some(1));
        assert_eq!(group(9999, u64::MAX / 3 * 2 - 5), Some(1));
        assert_eq!(group(9999, u64::MAX / 3 * 2 + 5), Some(2));
    }

    #[test]
    fn a_zone_without_servers_sends_everything_away() {
        let zones = zones(&[5000, 5000]);
        assert_eq!(zones.group(counts(&[0, 6]).into_iter(), 0, 0), Some(1));
    }
}
