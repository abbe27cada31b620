//! A cluster whose endpoints have only names, with the addresses they have at the moment.

use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use undermesh_core::balance::Spread;
use undermesh_core::client::Client;
use undermesh_core::cluster::{Cluster, DnsEndpoint, Endpoint, Workload};

use crate::inlet::Caller;
use crate::metrics::{Counter, Shard};
use crate::names::{Name, Names};

/// How long a request waits for the first answer to a name.
const FIRST_ANSWER: Duration = Duration::from_secs(5);

/// The names behind a cluster, as of one moment.
pub(crate) struct Resolution {
    names: Vec<Arc<Name>>,
    /// Of all names together, at that moment.
    version: u64,
    /// A name could not be taken up; to be tried again with the next request.
    is_partial: bool,
}

impl Resolution {
    /// Whether nothing has changed since.
    pub(crate) fn is_current(&self) -> bool {
        self.version == version(&self.names) && !self.is_partial
    }

    /// Whether an answer may still be the first one.
    pub(crate) fn is_pending(&self) -> bool {
        self.names.iter().any(|name| name.is_pending())
    }

    /// Waits for the first addresses, or until it is clear that there are none.
    pub(crate) async fn settled(&self) {
        let first = async {
            for name in &self.names {
                name.settled().await;
                if name.addresses().is_some() {
                    return;
                }
            }
        };
        // Who waited in vain sees a cluster without endpoints.
        let _ = tokio::time::timeout(FIRST_ANSWER, first).await;
    }
}

fn version(names: &[Arc<Name>]) -> u64 {
    names.iter().map(|name| name.version()).fold(0, u64::wrapping_add)
}

/// `cluster` with an endpoint for each address that `endpoints` have now.
pub(crate) fn resolve(
    cluster: &Cluster,
    endpoints: &[DnsEndpoint],
    names: &Arc<Names>,
    caller: &Caller,
    shard: &Rc<Shard>,
) -> (Cluster, Resolution) {
    let looked_up: Vec<Option<Arc<Name>>> = endpoints
        .iter()
        .map(|endpoint| match endpoint.host.parse::<IpAddr>() {
            Ok(_) => None,
            Err(_) => names.name(&endpoint.host, shard),
        })
        .collect();
    let names: Vec<Arc<Name>> = looked_up.iter().flatten().cloned().collect();
    // Before the addresses: a change in between makes this one outdated, not missed.
    let version = version(&names);
    let mut is_partial = false;
    let mut found: Vec<Endpoint> = Vec::new();
    for (endpoint, name) in endpoints.iter().zip(&looked_up) {
        let literal = endpoint.host.parse::<IpAddr>().ok();
        is_partial |= name.is_none() && literal.is_none();
        let answer = name.as_ref().and_then(|name| name.addresses());
        let addresses = match &literal {
            Some(address) => std::slice::from_ref(address),
            None => answer.as_deref().unwrap_or_default(),
        };
        let usable = one_family(addresses, &caller.client);
        let count = if endpoint.first_only { 1 } else { usize::MAX };
        for address in usable.take(count) {
            let address = SocketAddr::new(address, endpoint.port);
            if caller.sockets.is_own_listener(address) {
                shard.count(Counter::LoopsRefused);
            } else if !found.iter().any(|other| other.address == address) {
                found.push(at(endpoint, address));
            }
        }
    }
    let spread = Spread::flat(&cluster.policy, &found);
    let resolved = Cluster { endpoints: found.into(), spread, ..cluster.clone() };
    (resolved, Resolution { names, version, is_partial })
}

fn at(endpoint: &DnsEndpoint, address: SocketAddr) -> Endpoint {
    Endpoint {
        address,
        id: endpoint.host.clone(),
        // Names are of the outside world: Istio knows no workload behind them.
        workload: Arc::new(Workload::default()),
        labels: endpoint.labels.clone(),
        locality: endpoint.locality.clone(),
        weight: endpoint.weight,
    }
}

/// Of an answer with addresses of both families those that the client can dial; IPv4 if it can dial either, as in Istio.
fn one_family(addresses: &[IpAddr], client: &Client) -> impl Iterator<Item = IpAddr> {
    let only_v6 = !client.addresses.is_empty() && client.addresses.iter().all(IpAddr::is_ipv6);
    let has = |v6: bool| addresses.iter().any(|address| address.is_ipv6() == v6);
    let wants_v6 = if only_v6 { has(true) } else { !has(false) };
    addresses.iter().copied().filter(move |address| address.is_ipv6() == wants_v6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_family_of_an_answer_is_used() {
        let client = |addresses: &[&str]| Client {
            addresses: addresses.iter().map(|it| it.parse().expect("an address")).collect(),
            ..Client::default()
        };
        for (answer, own, want) in [
            (&["192.0.2.1", "2001:db8::1"][..], &["10.0.0.1"][..], "192.0.2.1"),
            (&["2001:db8::1", "192.0.2.1"], &[], "192.0.2.1"),
            (&["2001:db8::1", "192.0.2.1"], &["fd00::1", "10.0.0.1"], "192.0.2.1"),
            (&["2001:db8::1", "192.0.2.1"], &["fd00::1"], "2001:db8::1"),
            (&["2001:db8::1"], &["10.0.0.1"], "2001:db8::1"),
            (&["192.0.2.1"], &["fd00::1"], "192.0.2.1"),
        ] {
            let answer: Vec<IpAddr> = answer.iter().map(|it| it.parse().expect("an address")).collect();
            let used: Vec<_> = one_family(&answer, &client(own)).map(|it| it.to_string()).collect();
            assert_eq!(used, [want], "{answer:?} {own:?}");
        }
    }
}
