//! Consistent hashing: the same key, the same endpoint, and few keys move when endpoints come or go.
//!
//! Tables are made when the first key asks for one, and shared by all clusters of a snapshot that have the same endpoints with
//! the same weights: a large Maglev table is made once, not once for each client. The next snapshot takes over what was made.
//! Who must not be kept waiting asks for large tables first ([`Spread::unmade`]) and has them made elsewhere.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use super::maglev;
use super::ring_hash::{self, Ring};
use super::{Live, NoEndpoint, Run, Spread};
use crate::policy::HashTable;

/// How many unavailable endpoints' places are stepped over before one of the available is chosen by count.
const STEPS: usize = 64;
/// Tables of more places take more than a few milliseconds to make. Envoy's defaults are below.
const LARGE: u64 = 100_000;

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

    pub(super) fn is_made(&self) -> bool {
        self.made.get().is_some()
    }

    fn is_large(&self) -> bool {
        let places = match self.kind {
            HashTable::Ring { minimum_size } => ring_hash::places(&self.hosts, minimum_size) as u64,
            HashTable::Maglev { size } => size,
        };
        places > LARGE
    }

    fn make(&self) -> Made {
        match self.kind {
            HashTable::Ring { minimum_size } => Made::Ring(Ring::new(&self.hosts, minimum_size)),
            HashTable::Maglev { size } => Made::Maglev(maglev::Table::new(&self.hosts, size)),
        }
    }
}

/// Large tables that are still to be made.
#[derive(Debug)]
pub struct Unmade(Vec<Hashing>);

impl Unmade {
    /// Makes them: up to seconds of work.
    pub fn make(&self) {
        for table in &self.0 {
            table.made.get_or_init(|| table.make());
        }
    }
}

impl Spread {
    /// The large tables that a pick would have to make first, if there are any.
    pub fn unmade(&self) -> Option<Unmade> {
        let unmade = |table: &&Hashing| !table.is_made() && table.is_large();
        if !self.tables.iter().any(|table| unmade(&table)) {
            return None;
        }
        Some(Unmade(self.tables.iter().filter(unmade).cloned().collect()))
    }
}

/// The tables of one snapshot.
#[derive(Debug, Default)]
pub(crate) struct Tables {
    all: Mutex<HashMap<Key, Hashing>>,
    /// What the snapshot before had made.
    earlier: OnceLock<HashMap<Key, Hashing>>,
}

/// What a table is made of. Shares by their bits.
type Key = (HashTable, Vec<(SocketAddr, u64)>);

impl Tables {
    fn all(&self) -> MutexGuard<'_, HashMap<Key, Hashing>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes over what `earlier` has made: most changes concern other endpoints. Only the first time.
    pub(crate) fn inherit(&self, earlier: &Self) {
        let made = earlier
            .all()
            .iter()
            .filter(|(_, table)| table.is_made())
            .map(|(key, it)| (key.clone(), it.clone()))
            .collect();
        // A second time changes nothing.
        let _ = self.earlier.set(made);
    }

    /// The table for endpoints at these addresses with these shares, which sum up to 1.
    pub(super) fn of(&self, kind: HashTable, hosts: Vec<(SocketAddr, f64)>) -> Hashing {
        let key: Key = (kind, hosts.iter().map(|&(address, share)| (address, share.to_bits())).collect());
        let mut all = self.all();
        if let Some(known) = all.get(&key) {
            return known.clone();
        }
        let earlier = self.earlier.get().and_then(|earlier| earlier.get(&key)).cloned();
        let table = earlier.unwrap_or_else(|| Hashing { kind, hosts: hosts.into(), made: Arc::default() });
        all.insert(key, table.clone());
        table
    }
}
