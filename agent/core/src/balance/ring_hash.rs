//! Ring hash: every endpoint has many places on a circle of hashes, a key belongs to the next place clockwise.
//!
//! Envoy's ring to the bit (`RingHashLoadBalancer::Ring`): places are the xxHash64 of `<address>_<n>`, as many as the weight
//! asks for and at least the minimum ring size together. Envoy builds a new ring without an endpoint that is ejected; here a
//! key walks on to the next place whose endpoint is available, which is where that new ring would have sent it.

use std::io::Write;
use std::net::SocketAddr;

use super::xxhash;

/// Envoy: `maximum_ring_size`. Its default is eight times as much, 128 MiB for one service; who writes rules must not be able
/// to take a node's memory with a few of those, and a key's chances are as good with a million places.
pub(crate) const MAX_SIZE: u64 = 1 << 20;

/// How many places a ring for `hosts` has: the endpoint with the least weight gets a whole number of them.
pub(super) fn places(hosts: &[(SocketAddr, f64)], minimum_size: u64) -> f64 {
    let minimum_size = minimum_size.clamp(1, MAX_SIZE) as f64;
    let smallest = hosts.iter().map(|&(_, share)| share).fold(1.0, f64::min);
    if smallest <= 0.0 { 0.0 } else { ((smallest * minimum_size).ceil() / smallest).min(MAX_SIZE as f64) }
}

/// Places in the order of their hashes, with the position of the endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ring(Box<[(u64, u32)]>);

impl Ring {
    /// `hosts` with their shares, which sum up to 1.
    pub(super) fn new(hosts: &[(SocketAddr, f64)], minimum_size: u64) -> Self {
        let scale = places(hosts, minimum_size);
        let mut places = Vec::with_capacity(scale.ceil() as usize);
        // Sums over all endpoints, so that fractions of places are not lost.
        let (mut current, mut target) = (0.0, 0.0);
        let mut text = Vec::with_capacity(64);
        for (index, (address, share)) in (0u32..).zip(hosts) {
            target += scale * share;
            for number in 0u64.. {
                if current >= target {
                    break;
                }
                text.clear();
                // Writing to a Vec cannot fail.
                let _ = write!(text, "{address}_{number}");
                places.push((xxhash::hash(&text, 0), index));
                current += 1.0;
            }
        }
        places.sort_unstable();
        Self(places.into())
    }

    /// The endpoints from a key's own one on, `attempt` places further for a retry that is to go elsewhere.
    pub(super) fn from(&self, hash: u64, attempt: u32) -> impl Iterator<Item = usize> {
        let place = self.0.partition_point(|&(at, _)| at < hash) + attempt as usize;
        let place = place.checked_rem(self.0.len()).unwrap_or(0);
        let (before, after) = self.0.split_at(place);
        after.iter().chain(before).map(|&(_, index)| index as usize)
    }
}
