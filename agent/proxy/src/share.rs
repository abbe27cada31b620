//! What one client pod may take of what all share: the process's file descriptors.
//!
//! With a sidecar each pod has its own; here a pod that opens connections without end would leave none for its neighbours.
//! Counted once per connection, so a lock is cheap enough.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// The open connections of each client.
pub(crate) struct Shares {
    limit: usize,
    open: Mutex<HashMap<Arc<str>, usize>>,
}

impl Shares {
    /// With at most `limit` connections for a client.
    pub(crate) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { limit, open: Mutex::default() })
    }

    /// One more connection of `client`; `None` if it has as many as it may.
    pub(crate) fn take(self: &Arc<Self>, client: &Arc<str>) -> Option<Share> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        match open.get_mut(client) {
            Some(count) if *count >= self.limit => return None,
            Some(count) => *count += 1,
            None if self.limit == 0 => return None,
            None => drop(open.insert(client.clone(), 1)),
        }
        Some(Share { shares: self.clone(), client: client.clone() })
    }
}

/// One connection's part; given back when dropped.
pub(crate) struct Share {
    shares: Arc<Shares>,
    client: Arc<str>,
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut open = self.shares.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = open.get_mut(&self.client) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.client);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_has_its_share_and_no_more_and_others_have_theirs() {
        let shares = Shares::new(2);
        let (a, b): (Arc<str>, Arc<str>) = ("ns/a".into(), "ns/b".into());
        let first = shares.take(&a).expect("the first");
        let _second = shares.take(&a).expect("the second");
        assert!(shares.take(&a).is_none());
        assert!(shares.take(&b).is_some(), "its neighbour does not pay for it");
        drop(first);
        assert!(shares.take(&a).is_some(), "what has ended is given back");
    }

    #[test]
    fn nothing_is_kept_of_clients_without_connections() {
        let shares = Shares::new(1);
        drop(shares.take(&"ns/a".into()));
        assert!(shares.open.lock().expect("no panic").is_empty());
    }
}
