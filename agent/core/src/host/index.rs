//! What was written for which hosts, found by host without looking at everything.

use std::collections::HashMap;

use super::HostKey;

/// Positions in a list, by the hosts that its entries are for.
#[derive(Debug, Clone, Default)]
pub(crate) struct HostIndex {
    exact: HashMap<Box<str>, Vec<u32>>,
    /// By suffix, with its dot.
    suffix: HashMap<Box<str>, Vec<u32>>,
    any: Vec<u32>,
}

impl HostIndex {
    /// Adds a position for a host.
    pub(crate) fn insert(&mut self, host: &HostKey, position: u32) {
        match host {
            HostKey::Exact(name) => self.exact.entry(name.clone()).or_default().push(position),
            HostKey::Suffix(suffix) => self.suffix.entry(suffix.clone()).or_default().push(position),
            HostKey::Any => self.any.push(position),
        }
    }

    /// The positions for hosts that cover `host`: a list for each such host, the most specific first; each list in the order
    /// of insertion.
    pub(crate) fn covering<'a>(&'a self, host: &HostKey) -> impl Iterator<Item = &'a [u32]> {
        let exact = match host {
            HostKey::Exact(name) => self.exact.get(name),
            HostKey::Suffix(_) | HostKey::Any => None,
        };
        let suffixes = domains(host).filter_map(|domain| self.suffix.get(domain));
        exact.into_iter().chain(suffixes).chain(Some(&self.any)).map(Vec::as_slice)
    }
}

/// The suffixes (`.example.com`) that cover a host, longest first.
pub(crate) fn domains(host: &HostKey) -> impl Iterator<Item = &str> {
    let (text, first) = match host {
        // `.example.com` does not cover itself as a name, but does as a wildcard.
        HostKey::Exact(name) => (&**name, 1),
        HostKey::Suffix(suffix) => (&**suffix, 0),
        HostKey::Any => ("", 0),
    };
    text.match_indices('.').filter(move |(at, _)| *at >= first).filter_map(|(at, _)| text.get(at..))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_covers_a_host_is_found_most_specific_first() {
        const HOSTS: [&str; 11] = [
            "*",
            "*.com",
            "*.a.com",
            "x.a.com",
            "a.com",
            "*.b.a.com",
            "y.b.a.com",
            "x",
            ".com",
            "com",
            "*..",
        ];
        let keys: Vec<_> = HOSTS.iter().map(|host| HostKey::parse(host)).collect();
        let mut index = HostIndex::default();
        // Twice each: the order of equals counts.
        for (position, key) in (0..).zip(keys.iter().chain(&keys)) {
            index.insert(key, position);
        }
        for host in &keys {
            let mut want: Vec<_> = keys.iter().filter(|key| key.covers(host)).collect();
            want.sort();
            let have: Vec<_> = index.covering(host).filter(|list| !list.is_empty()).collect();
            let have_keys: Vec<_> = have.iter().map(|list| &keys[list[0] as usize % keys.len()]).collect();
            assert_eq!(have_keys, want, "{host}");
            assert!(have.iter().all(|list| list.is_sorted()), "{have:?}");
        }
    }
}
