//! Consistent hashing: the same key, the same endpoint, and few keys move when endpoints come or go.
//!
//! Tables are made when the first key asks for one, and shared by all clusters of a snapshot that have the same endpoints with
//! the same weights: a large Maglev table is made once, not once for each client.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use super::maglev;
use super::ring_hash::Ring;
use super::{Live, NoEndpoint, Run};
use crate::policy::HashTable;

/// How many unavailable endpoints' places are stepped over before one of the available is chosen by count.
const STEPS: usize = 64;

/// The table of some endpoints, made when first asked for.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Hashing {
    kind: HashTable,
    /// Addresses with their shares, in the order of the endpoints.
    hosts: Arc<[(SocketAddr, f64)]>,
    made: Arc<OnceLock<Made>>,
}

#[derive(Debug, PartialEq)]
enum Made {
    Ring(Ring),
    Maglev(maglev::Table),
}

impl Hashing {
    /// An endpoint for `hash`.
    pub(super) fn pick(
        &self,
        run: &Run<'_, impl Live>,
        hash: u64,
        attempt: u32,
    ) -> Result<usize, NoEndpoint> {
        let usable = |index: &usize| *index < run.len() && run.is_available(*index);
        let found = match self.made.get_or_init(|| self.make()) {
            Made::Ring(ring) => ring.from(hash, attempt).take(STEPS).find(usable),
            Made::Maglev(table) => table.from(hash, attempt).take(STEPS).find(usable),
        };
        found.map_or_else(|| run.nth_available((hash >> 1) as usize), Ok)
    }

    #[cfg(test)]
    pub(super) fn is_made(&self) -> bool {
        self.made.get().is_some()
    }

    fn make(&self) -> Made {
        match self.kind {
            HashTable::Ring { minimum_size } => Made::Ring(Ring::new(&self.hosts, minimum_size)),
            HashTable::Maglev { size } => Made::Maglev(maglev::Table::new(&self.hosts, size)),
        }
    }
}

/// The tables of one snapshot.
#[derive(Debug, Default)]
pub(crate) struct Tables(Mutex<HashMap<Key, Hashing>>);

/// What a table is made of. Shares by their bits.
type Key = (HashTable, Vec<(SocketAddr, u64)>);

impl Tables {
    /// The table for endpoints at these addresses with these shares, which sum up to 1.
    pub(super) fn of(&self, kind: HashTable, hosts: Vec<(SocketAddr, f64)>) -> Hashing {
        let key = (kind, hosts.iter().map(|&(address, share)| (address, share.to_bits())).collect());
        let mut tables = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        tables
            .entry(key)
            .or_insert_with(|| Hashing { kind, hosts: hosts.into(), made: Arc::default() })
            .clone()
    }
}
