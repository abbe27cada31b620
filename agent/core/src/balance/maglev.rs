//! Maglev: a table of a prime number of entries that the endpoints fill in turn, each by a permutation of its own
//! ([paper](https://research.google/pubs/pub44824/), section 3.4).
//!
//! Envoy's table (`MaglevTable`): the same permutations, the same order of filling, the same way of weighting. As for the ring, an
//! endpoint that is ejected does not change the table: its keys go to the entries after theirs.

use std::net::SocketAddr;

use super::xxhash;

/// For each entry the position of its endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Table(Box<[u32]>);

struct Filler {
    host: u32,
    offset: u64,
    skip: u64,
    next: u64,
    weight: f64,
    target: f64,
}

impl Table {
    /// `hosts` with their shares; `size` is prime (admission sees to it).
    pub(super) fn new(hosts: &[(SocketAddr, f64)], size: u64) -> Self {
        const FREE: u32 = u32::MAX;
        let size = size.max(2);
        let largest = hosts.iter().map(|&(_, share)| share).fold(0.0, f64::max);
        if largest <= 0.0 {
            return Self(Box::from([]));
        }
        let mut named: Vec<_> =
            (0u32..).zip(hosts).map(|(host, (address, share))| (address.to_string(), host, *share)).collect();
        // The order of filling must not depend on the order of endpoints.
        named.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        let mut fillers: Vec<_> = named
            .iter()
            .map(|(name, host, share)| Filler {
                host: *host,
                offset: xxhash::hash(name.as_bytes(), 0) % size,
                skip: xxhash::hash(name.as_bytes(), 1) % (size - 1) + 1,
                next: 0,
                weight: *share,
                target: 0.0,
            })
            .collect();
        let mut table = vec![FREE; size as usize];
        let mut filled = 0;
        for iteration in 1u64.. {
            for filler in &mut fillers {
                if filled == size {
                    return Self(table.into());
                }
                // One with a third of the largest weight has its turn every third time.
                if (iteration as f64) * filler.weight < filler.target {
                    continue;
                }
                filler.target += largest;
                // A permutation of a prime number of entries meets a free one; the bound only guards the loop.
                for _ in 0..size {
                    let entry = (filler.offset + filler.skip * filler.next) % size;
                    filler.next += 1;
                    if let Some(entry @ &mut FREE) = table.get_mut(entry as usize) {
                        *entry = filler.host;
                        break;
                    }
                }
                filled += 1;
            }
        }
        Self(table.into())
    }

    /// The endpoints from a key's own one on; a retry that is to go elsewhere has another key.
    pub(super) fn from(&self, hash: u64, attempt: u32) -> impl Iterator<Item = usize> {
        let hash = if attempt == 0 { hash } else { hash ^ (u64::MAX - u64::from(attempt) + 1) };
        let entry = hash.checked_rem(self.0.len() as u64).unwrap_or(0) as usize;
        let (before, after) = self.0.split_at(entry);
        after.iter().chain(before).map(|&host| host as usize)
    }
}
